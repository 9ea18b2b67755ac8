"""Interpolation and blurring along one axis after the other."""

import numpy as np
import pytest
import torch
from MRFUNetSegmentationLib.inference.separable import (
    blur_weights,
    gaussian_blur,
    interpolation_weights,
    resize,
)
from scipy import ndimage


def test_weights_are_linear_interpolation_upwards():
    signal = torch.tensor([1.0, 3.0, 2.0])
    expected = torch.nn.functional.interpolate(
        signal[None, None], size=7, mode="linear", align_corners=False
    )[0, 0]
    torch.testing.assert_close(interpolation_weights(3, 7) @ signal, expected)


@pytest.mark.parametrize(("n_in", "n_out"), [(5, 5), (7, 3), (3, 7), (100, 13), (1, 4), (9, 1)])
def test_weights_keep_constants_and_the_centre_of_gravity(n_in, n_out):
    weights = interpolation_weights(n_in, n_out)
    torch.testing.assert_close(weights.sum(1), torch.ones(n_out))
    # A ramp stays a ramp, away from the ends where the edge repeats.
    positions = (torch.arange(n_in) + 0.5) / n_in
    expected = (torch.arange(n_out) + 0.5) / n_out
    inner = (expected > 2 / min(n_in, n_out)) & (expected < 1 - 2 / min(n_in, n_out))
    # To a fiftieth of a voxel: the triangle meets a grid that its width need not divide.
    difference = ((weights @ positions)[inner] - expected[inner]).abs()
    assert (difference < 0.02 / n_in).all()


def test_coarsening_averages_instead_of_skipping():
    stripes = torch.tensor([0.0, 1.0]).repeat(32)
    torch.testing.assert_close(resize(stripes, (16,))[1:-1], torch.full((14,), 0.5))


@pytest.mark.parametrize("shape", [(9, 30, 11), (20, 7, 40), (14, 12, 4)])
def test_a_window_is_that_part_of_the_whole(shape):
    volume = torch.rand(2, 14, 12, 16)
    window = (slice(2, 6), slice(0, 7), slice(1, 4))
    torch.testing.assert_close(
        resize(volume, shape, window), resize(volume, shape)[(slice(None), *window)]
    )


@pytest.mark.parametrize("sigma", [(0.6, 1.7, 0.25), (0.0, 9.0, 3.0)])
def test_blurring_is_a_gaussian_with_repeated_edges(sigma):
    """Against scipy, cut off at the same radius."""
    volume = np.random.default_rng(0).random((2, 14, 30, 9)).astype(np.float32)
    expected = volume
    for axis, width in enumerate(sigma, 1):
        if width:
            radius = max(1, int(np.ceil(2.5 * width)))
            expected = ndimage.gaussian_filter1d(
                expected, width, axis=axis, mode="nearest", radius=radius
            )
    found = gaussian_blur(torch.from_numpy(volume), sigma).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    torch.testing.assert_close(blur_weights(9, 1.3).sum(1), torch.ones(9))
