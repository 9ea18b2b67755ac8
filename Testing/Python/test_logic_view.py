"""What `mrfunet view` shows in the scene is what the files hold."""

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("slicer")

import slicer
import vtk
from MRFUNetSegmentationLib.cli.main import main
from MRFUNetSegmentationLib.inference.result_files import read_result_folder
from MRFUNetSegmentationLib.logic.view import show_result_folder
from MRFUNetSegmentationLib.mrml.export import read_labels
from MRFUNetSegmentationLib.mrml.samples import SampleSet
from sampling_tools import read, write_model, write_scan


@pytest.fixture(scope="module")
def model(tiny_card, tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"), tiny_card)


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    return write_scan(tmp_path_factory.mktemp("scan"))


@pytest.fixture
def sequences(scene):
    """The scene, with nodes of sequences and browsers in it."""
    logic = slicer.vtkSlicerSequencesLogic()
    logic.SetMRMLScene(scene)
    yield scene
    logic.SetMRMLScene(None)


@pytest.mark.parametrize("kept", [[], ["--keep-samples"]], ids=str)
def test_nodes_are_the_files(scan, model, tmp_path, sequences, kept):
    """The file is left-handed: the scene gets it with its last axis turned round."""
    out = tmp_path / "out"
    maps = "mutual_information,probability"
    assert main(["segment", str(scan), "-o", str(out), "--model", str(model), "--device", "cpu",
                 "--samples", "3", "--uncertainty", maps, *kept]) == 0  # fmt: skip
    node = show_result_folder(out)
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    assert matrix.Determinant() > 0
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(node), read(scan)[::-1])
    source = sitk.ReadImage(str(scan))
    place = source.TransformIndexToPhysicalPoint((3, 5, 2))
    found = matrix.MultiplyPoint((3, 5, 17 - 1 - 2, 1))
    assert (-found[0], -found[1], found[2]) == pytest.approx(place, abs=1e-3)

    segmentations = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    _, card, result = read_result_folder(out)
    consensus = read(out / "segmentation.nii.gz")[::-1]
    assert any(np.array_equal(read_labels(s, node, card.classes), consensus) for s in segmentations)
    browsers = slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode")
    assert len(browsers) == (1 if kept else 0)
    if kept:
        samples = SampleSet(browsers[0])
        samples.show(3)
        found = read_labels(samples.shown, node, card.classes)
        np.testing.assert_array_equal(found, result.labels(2)[::-1])
        overlay = slicer.util.arrayFromVolume(samples.overlays["mutual_information"])
        np.testing.assert_array_equal(overlay, result.maps["mutual_information"][::-1])
