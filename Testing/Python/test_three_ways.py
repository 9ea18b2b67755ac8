"""The command line and the scene give the same label map of the same file, voxel by voxel."""

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("slicer")

from MRFUNetSegmentationLib.cli.main import main
from MRFUNetSegmentationLib.logic import SegmentationLogic
from MRFUNetSegmentationLib.mrml.export import export_file
from test_inference_engine import head

COS, SIN = np.cos(0.4), np.sin(0.4)
DIRECTIONS = {
    "right-handed": (1, 0, 0, 0, 1, 0, 0, 0, 1),
    "left-handed": (1, 0, 0, 0, 1, 0, 0, 0, -1),
    "left-handed, other axes": (0, 1, 0, 1, 0, 0, 0, 0, 1),
    "oblique": (COS, 0, -SIN, 0, 1, 0, SIN, 0, COS),
    "oblique and left-handed": (COS, 0, SIN, 0, 1, 0, SIN, 0, -COS),
}


@pytest.fixture(scope="module")
def logic():
    logic = SegmentationLogic()
    yield logic
    logic.cleanup()


def on_grid_of(label_map: sitk.Image, reference: sitk.Image) -> np.ndarray:
    """Look a label map up at the places of another's voxels."""
    found = sitk.Resample(label_map, reference, sitk.Transform(), sitk.sitkNearestNeighbor, 255)
    return sitk.GetArrayFromImage(found)


@pytest.mark.parametrize("name", DIRECTIONS)
def test_scene_and_command_line_agree(name, logic, load_volume, tiny_checkpoint, tmp_path):
    image = sitk.GetImageFromArray(head((19, 24, 21)))
    image.SetSpacing((7.0, 8.5, 9.0))
    image.SetOrigin((-60, 40, 25))
    image.SetDirection(DIRECTIONS[name])
    path = tmp_path / "scan.nii.gz"
    sitk.WriteImage(image, str(path))

    model = str(tiny_checkpoint)
    assert main(["segment", str(path), "-o", str(tmp_path / "cli"), "--model", model]) == 0
    from_command_line = sitk.ReadImage(str(tmp_path / "cli" / "segmentation.nii.gz"))

    volume_node = load_volume(path)
    segmentation_node = logic.segment(volume_node, model)
    exported = export_file(tmp_path / "scene.nrrd", segmentation_node, volume_node)
    from_scene = on_grid_of(sitk.ReadImage(str(exported)), from_command_line)
    expected = sitk.GetArrayFromImage(from_command_line)
    assert len(np.unique(expected)) > 2
    np.testing.assert_array_equal(from_scene, expected)
