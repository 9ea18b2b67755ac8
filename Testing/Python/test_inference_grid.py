"""Grids: axes, resampling, the way there and back."""

import itertools

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from MRFUNetSegmentationLib.inference import normalise
from MRFUNetSegmentationLib.inference.grid import ModelGrid
from MRFUNetSegmentationLib.inference.normalise import percentile_normalise
from MRFUNetSegmentationLib.inference.tiles import Tiling, blend
from MRFUNetSegmentationLib.inference.volume import Geometry

ORIENTATIONS = [
    "".join(letters)
    for axes in itertools.permutations(("LR", "PA", "IS"))
    for letters in itertools.product(*axes)
]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_orientation_reaches_ras_like_simpleitk(orientation):
    rng = np.random.default_rng(0)
    image = sitk.GetImageFromArray(rng.random((5, 6, 7)).astype(np.float32))
    turned = sitk.DICOMOrient(image, orientation)
    grid = ModelGrid.of(Geometry.from_image(turned), (1, 1, 1))
    ours = grid.to_model(sitk.GetArrayFromImage(turned))
    # SimpleITK names axes by where they come from or go to, depending on its version.
    canonical = max(
        ("RAS", "LPI"),
        key=lambda o: (
            -np.abs(
                np.array(sitk.DICOMOrient(image, o).GetDirection()).reshape(3, 3)
                - np.diag([-1, -1, 1])
            ).sum()
        ),
    )
    expected = sitk.GetArrayFromImage(sitk.DICOMOrient(turned, canonical)).transpose(2, 1, 0)
    np.testing.assert_array_equal(ours.numpy(), expected)
    np.testing.assert_array_equal(grid.to_input(ours).numpy(), sitk.GetArrayFromImage(turned))


def test_oblique_axes_are_taken_to_the_nearest():
    angle = np.deg2rad(40)
    c, s = np.cos(angle), np.sin(angle)
    # i runs to the right, j down, k forwards, the head tilted by 40 degrees.
    direction = np.array([[-1, 0, 0], [0, -s, -c], [0, -c, s]])
    grid = ModelGrid.of(
        Geometry((4, 5, 6), (1, 1, 1), (0, 0, 0), tuple(direction.ravel())), (1, 1, 1)
    )
    assert grid.axes == (0, 2, 1)
    assert grid.flips == (False, False, True)


def test_there_and_back_on_an_anisotropic_oblique_grid():
    """A smooth field survives the resampling within its own curvature."""
    geometry = Geometry((40, 36, 20), (0.9, 1.1, 2.5), (3, 4, 5), (0, 0, 1, -1, 0, 0, 0, -1, 0))
    k, j, i = np.meshgrid(*(np.linspace(0, 3, n) for n in (20, 36, 40)), indexing="ij")
    field = np.sin(k) + np.cos(j) * np.sin(i)
    grid = ModelGrid.of(geometry, (1, 1, 1))
    back = grid.to_input(grid.to_model(field)).numpy()
    assert back.shape == field.shape
    inner = (slice(2, -2),) * 3
    assert np.abs(back - field)[inner].max() < 0.02
    assert grid.spacing == pytest.approx((1, 1, 1), abs=0.03)


@pytest.mark.parametrize("dark", [-0.01, -1.0, -50.0])
def test_a_voxel_darker_than_the_background_changes_nothing(dark):
    """As a spline leaves it. The background is not 0 any more, and interpolation rounds it."""
    array = np.zeros((40, 44, 42))
    array[12:28, 12:30, 10:30] = 50 + 750 * np.random.default_rng(0).random((16, 18, 20))
    grid = ModelGrid.of(Geometry(array.shape[::-1], (0.868, 0.868, 1.0)), (1.3, 1.3, 1.3))
    expected = normalise.normalised(array, grid, {"method": "percentile"})
    array[2, 2, 2] = dark
    found = normalise.normalised(array, grid, {"method": "percentile"})
    empty = float((expected == 0).float().mean())
    assert empty > 0.5
    assert float((found == 0).float().mean()) == pytest.approx(empty, abs=0.01)
    torch.testing.assert_close(found, expected, atol=0.01, rtol=0)


def test_normalisation_ignores_contrast_scale_and_padding():
    torch.manual_seed(0)
    head = torch.rand(20, 20, 20) + 0.1
    padded = torch.zeros(60, 60, 60)
    padded[20:40, 20:40, 20:40] = head
    normalised = percentile_normalise(padded)[20:40, 20:40, 20:40]
    scaled = percentile_normalise(padded * 1234)[20:40, 20:40, 20:40]
    torch.testing.assert_close(normalised, scaled, atol=1e-5, rtol=0)
    torch.testing.assert_close(normalised, percentile_normalise(head), atol=0.02, rtol=0)
    assert percentile_normalise(padded)[0, 0, 0] == 0
    assert normalised.max() == 1


def test_normalisation_of_a_nearly_constant_image():
    image = torch.zeros(10, 10, 10)
    image[5, 5, 5] = 3
    normalised = percentile_normalise(image)
    assert normalised[5, 5, 5] == 1
    assert normalised.sum() == 1


@pytest.mark.parametrize("shape", [(100, 90, 80), (200, 130, 97), (64, 300, 64)])
def test_tiles_cover_and_blend_to_identity(shape):
    tiling = Tiling(shape, (96, 96, 96), 16)
    assert len(tiling) == len(list(tiling))
    whole = torch.rand(2, *shape)
    for place in tiling:
        for axis, span in enumerate(place):
            assert span.start % 16 == 0
            assert span.stop - span.start <= 96
            assert span.stop <= shape[axis]
    blended = blend(tiling, 2, lambda place: whole[(slice(None), *place)])
    torch.testing.assert_close(blended, whole)


def test_normalisation_of_a_constant_image():
    assert (percentile_normalise(torch.full((5, 5, 5), 7.0)) == 0).all()


def test_a_size_that_is_off_by_rounding_is_not_resampled():
    """Headers hold sizes in float32: 0.99999 mm is the model's 1 mm."""
    grid = ModelGrid.of(Geometry((181, 217, 181), (0.99999,) * 3), (1, 1, 1))
    assert grid.shape == (181, 217, 181)


def test_background_between_the_grey_values_does_not_count():
    """As where a brain without skull was brought to mean 0 and standard deviation 1."""
    torch.manual_seed(0)
    brain = torch.randn(20, 20, 20)
    padded = torch.zeros(60, 60, 60)
    padded[20:40, 20:40, 20:40] = brain
    inside = percentile_normalise(padded)[20:40, 20:40, 20:40]
    torch.testing.assert_close(inside, percentile_normalise(brain), atol=0.02, rtol=0)


def test_normalisation_of_an_image_of_two_values():
    image = torch.zeros(10, 10, 10)
    image[:4] = 5
    assert torch.equal(percentile_normalise(image), image / 5)
