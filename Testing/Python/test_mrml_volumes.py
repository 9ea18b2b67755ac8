"""Reading volume nodes: voxels, place in the world, and what cannot be read."""

import numpy as np
import pytest
import SimpleITK as sitk

slicer = pytest.importorskip("slicer")

from MRFUNetSegmentationLib.errors import InputError  # noqa: E402
from MRFUNetSegmentationLib.mrml.geometry import ijk_to_ras  # noqa: E402
from MRFUNetSegmentationLib.mrml.volumes import read_volume  # noqa: E402
from mrml_scene import (  # noqa: E402
    LEFT_HANDED,
    OBLIQUE,
    add_volume,
    put_under_linear_transform,
    put_under_warp,
    rotation,
    to_world,
    translation,
    voxel_positions,
    vtk_image,
)

RAS_TO_LPS = np.array([-1, -1, 1])


@pytest.fixture
def array() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(9, 10, 12)).astype(np.float32)


def ras_positions(geometry) -> np.ndarray:
    """RAS positions of all voxels in the order of a flattened array [k, j, i]."""
    ijk = np.argwhere(np.ones(geometry.size[::-1]))[:, ::-1]
    direction = np.reshape(geometry.direction, (3, 3))
    return (geometry.origin + (ijk * geometry.spacing) @ direction.T) * RAS_TO_LPS


def assert_at_own_place(volume, node) -> None:
    expected = voxel_positions(ijk_to_ras(node), np.ones(volume.array.shape))
    np.testing.assert_allclose(ras_positions(volume.geometry), expected, atol=1e-9)


@pytest.mark.parametrize("matrix", [np.eye(4), OBLIQUE, LEFT_HANDED])
def test_voxels_and_place_are_the_nodes(scene, array, matrix):
    node = add_volume(scene, array, matrix)
    volume = read_volume(node)
    np.testing.assert_array_equal(volume.array, array)
    assert_at_own_place(volume, node)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float64])
def test_keeps_the_type_of_the_voxels(scene, array, dtype):
    array = (100 * (array - array.min())).astype(dtype)
    volume = read_volume(add_volume(scene, array))
    assert volume.array.dtype == dtype
    np.testing.assert_array_equal(volume.array, array)


def test_array_cannot_be_written_to_and_outlives_the_node(scene, array):
    node = add_volume(scene, array)
    volume = read_volume(node)
    with pytest.raises(ValueError, match="read-only"):
        volume.array[0, 0, 0] = 1
    scene.RemoveNode(node)
    del node
    np.testing.assert_array_equal(volume.array, array)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
@pytest.mark.parametrize("handedness", [1, -1])
def test_every_voxel_of_a_file_is_where_the_file_says(
    load_volume, array, tmp_path, suffix, handedness
):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.0, 1.5, 2.0))
    image.SetOrigin((10.0, -20.0, 30.0))
    image.SetDirection((rotation(20, 1)[:3, :3] @ np.diag([1, 1, handedness])).ravel())
    path = tmp_path / f"scan{suffix}"
    sitk.WriteImage(image, str(path))
    volume = read_volume(load_volume(path))

    indices = [(0, 0, 0), (11, 0, 0), (0, 9, 0), (0, 0, 8), (3, 7, 2)]
    mine = volume.geometry.apply_to(sitk.GetImageFromArray(volume.array))
    for index in indices:
        point = image.TransformIndexToPhysicalPoint(index)
        found = mine.TransformPhysicalPointToIndex(point)
        offset = np.subtract(mine.TransformIndexToPhysicalPoint(found), point)
        assert np.linalg.norm(offset) < 1e-4
        assert mine[found] == image[index]


def test_linear_transform_is_part_of_the_place(scene, array):
    node = add_volume(scene, array, OBLIQUE)
    put_under_linear_transform(node, translation(10, -20, 5) @ rotation(30, 2))
    volume = read_volume(node)
    seen = to_world(node, voxel_positions(ijk_to_ras(node), np.ones(array.shape)))
    np.testing.assert_allclose(ras_positions(volume.geometry), seen, atol=1e-9)
    np.testing.assert_allclose(volume.geometry.spacing, [1, 1.25, 2.5])
    np.testing.assert_array_equal(volume.array, array)


def test_transforms_above_the_parent_count_too(scene, array):
    node = add_volume(scene, array, OBLIQUE)
    parent = put_under_linear_transform(node, rotation(30, 2))
    put_under_linear_transform(parent, translation(0, 50, 0) @ rotation(90, 0))
    seen = to_world(node, voxel_positions(ijk_to_ras(node), np.ones(array.shape)))
    np.testing.assert_allclose(ras_positions(read_volume(node).geometry), seen, atol=1e-9)


def test_scaling_transform_scales_the_spacing(scene, array):
    node = add_volume(scene, array, OBLIQUE)
    put_under_linear_transform(node, np.diag([2.0, 2.0, 2.0, 1]))
    volume = read_volume(node)
    np.testing.assert_allclose(volume.geometry.spacing, [2, 2.5, 5])
    seen = to_world(node, voxel_positions(ijk_to_ras(node), np.ones(array.shape)))
    np.testing.assert_allclose(ras_positions(volume.geometry), seen, atol=1e-9)


def test_shearing_transform_gives_the_nearest_orthonormal_axes(scene, array):
    node = add_volume(scene, array, OBLIQUE)
    shear = np.eye(4)
    shear[0, 1] = 0.1
    put_under_linear_transform(node, shear)
    geometry = read_volume(node).geometry
    direction = np.reshape(geometry.direction, (3, 3))
    np.testing.assert_allclose(direction.T @ direction, np.eye(3), atol=1e-12)
    seen = to_world(node, voxel_positions(ijk_to_ras(node), np.ones(array.shape)))
    offsets = ras_positions(geometry) - seen
    np.testing.assert_allclose(offsets.mean(axis=0), 0, atol=1e-9)
    assert 0 < np.abs(offsets).max() < 1.5


def test_non_linear_transform_is_left_out(scene, array):
    node = add_volume(scene, array, OBLIQUE)
    put_under_warp(node)
    assert_at_own_place(read_volume(node), node)


def test_no_volume():
    with pytest.raises(InputError, match="No volume was chosen"):
        read_volume(None)


def test_another_kind_of_node(scene):
    node = scene.AddNewNodeByClass("vtkMRMLModelNode", "Skull")
    with pytest.raises(InputError, match="Skull is not a volume"):
        read_volume(node)


def test_node_that_left_the_scene(scene, array):
    node = add_volume(scene, array)
    scene.RemoveNode(node)
    with pytest.raises(InputError, match="Scan is no longer in the scene"):
        read_volume(node)


def test_node_without_image(scene):
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Hollow")
    with pytest.raises(InputError, match="Hollow has no voxels"):
        read_volume(node)


def test_image_without_voxels(scene, array):
    node = add_volume(scene, array)
    node.SetAndObserveImageData(slicer.vtkOrientedImageData())
    with pytest.raises(InputError, match="Scan has no voxels"):
        read_volume(node)


def test_several_components(scene):
    node = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "Photo")
    node.SetAndObserveImageData(vtk_image(np.zeros((9, 9, 9, 3), np.uint8)))
    with pytest.raises(InputError, match="Photo has 3 components"):
        read_volume(node)


def test_single_slice(scene):
    """A 2D model takes it; what needs more of it says so."""
    node = add_volume(scene, np.eye(20)[None])
    assert read_volume(node).array.shape == (1, 20, 20)


def test_what_the_engine_refuses_is_reported_with_the_name(scene):
    node = add_volume(scene, np.full((9, 9, 9), 7.0), name="Flat")
    with pytest.raises(InputError, match="Flat: All voxels have the same value"):
        read_volume(node)


def test_values_that_are_not_finite(scene, array):
    array[1, 2, 3] = np.nan
    node = add_volume(scene, array)
    with pytest.raises(InputError, match="Scan: 1 of 1080 voxels are not finite"):
        read_volume(node)
    volume = read_volume(node, replace_non_finite=True)
    assert volume.array[1, 2, 3] == np.nanmin(array)
    assert "1 of 1080 voxels were not finite" in volume.warnings[0]


def test_transform_that_flattens_the_volume(scene, array):
    node = add_volume(scene, array)
    put_under_linear_transform(node, np.diag([1, 1, 0, 1]))
    with pytest.raises(InputError, match="Scan: The volume's axes are not independent"):
        read_volume(node)
