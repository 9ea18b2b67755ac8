"""What `mrfunet view` shows in the scene is what the files hold."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("slicer")

import slicer
import vtk
from MRFUNetSegmentationLib.cli.main import main
from MRFUNetSegmentationLib.errors import InputError
from MRFUNetSegmentationLib.inference.result_files import read_result_folder
from MRFUNetSegmentationLib.logic.view import show_result_folder
from MRFUNetSegmentationLib.mrml.export import read_labels
from MRFUNetSegmentationLib.mrml.overlays import legend_of
from MRFUNetSegmentationLib.mrml.posterior import map_volumes
from MRFUNetSegmentationLib.mrml.samples import SampleSet
from MRFUNetSegmentationLib.mrml.segmentations import read_provenance
from sampling_tools import read, write_model, write_scan
from test_inference_engine import head
from test_inference_volume import write_dicom


@pytest.fixture(scope="module")
def model(tiny_card, tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"), tiny_card)


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    return write_scan(tmp_path_factory.mktemp("scan"))


@pytest.mark.parametrize("kept", [[], ["--keep-samples"]], ids=str)
def test_nodes_are_the_files(scan, model, tmp_path, sequences, kept):
    """The file is left-handed: the scene gets it with its last axis turned round."""
    out = tmp_path / "out"
    maps = "mutual_information,probability"
    assert main(["segment", str(scan), "-o", str(out), "--model", str(model), "--device", "cpu",
                 "--samples", "3", "--uncertainty", maps, *kept]) == 0  # fmt: skip
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    report["versions"]["mrfunet"] = "0.0.1"
    (out / "report.json").write_text(json.dumps(report), encoding="utf-8")
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
    written = read_result_folder(out)
    result = written.samples
    consensus = read(out / "segmentation.nii.gz")[::-1]
    (shown,) = (s for s in segmentations if "Sample" not in read_provenance(s))
    np.testing.assert_array_equal(read_labels(shown, node), consensus)
    provenance = read_provenance(shown)
    assert provenance["SHA256"] == written.sha256
    assert (provenance["Version"], provenance["Samples"]) == ("0.0.1", "3")
    assert (provenance["Seed"], provenance["Consensus"]) == ("0", "mean")
    browsers = slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode")
    assert len(browsers) == (1 if kept else 0)
    if kept:
        samples = SampleSet(browsers[0])
        samples.show(3)
        found = read_labels(samples.shown, node)
        np.testing.assert_array_equal(found, result.labels(2)[::-1])
        overlay = slicer.util.arrayFromVolume(samples.overlays["mutual_information"])
        np.testing.assert_array_equal(overlay, result.maps["mutual_information"][::-1])


def test_maps_of_an_mrf_unet_are_overlays(scan, tiny_checkpoint, tmp_path, scene):
    out, names = tmp_path / "out", ["entropy", "variance"]
    assert main(["segment", str(scan), "-o", str(out), "--model", str(tiny_checkpoint), "--device",
                 "cpu", "--uncertainty", ",".join(names)]) == 0  # fmt: skip
    composite = scene.AddNewNodeByClass("vtkMRMLSliceCompositeNode", "Red")
    node = show_result_folder(out)
    (segmentation,) = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    written = read_result_folder(out)
    labels = read_labels(segmentation, node)
    np.testing.assert_array_equal(labels, read(out / "segmentation.nii.gz")[::-1])
    provenance = read_provenance(segmentation)
    assert (provenance["Model"], provenance["SHA256"]) == ("tiny", written.sha256)
    assert (provenance["Device"], provenance["Version"]) == (written.device, written.version)
    overlays = map_volumes(segmentation)
    for overlay, name in zip(overlays, names, strict=True):
        expected = read(out / f"uncertainty_{name}.nii.gz")[::-1]
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(overlay), expected)
        assert legend_of(overlay).GetVisibility() and read_provenance(overlay)["Map"] == name
    assert composite.GetForegroundVolumeID() == overlays[0].GetID()
    assert composite.GetBackgroundVolumeID() == node.GetID()


def test_series_that_was_chosen_is_shown(tiny_checkpoint, tmp_path, sequences):
    array = np.repeat(np.repeat(head((17, 30, 25)).astype(np.int16), 5, axis=1), 5, axis=2)
    positions = [8.0 * n for n in range(17)]
    write_dicom(tmp_path / "dicom", array, positions, "1.2.3.5")
    write_dicom(tmp_path / "dicom", array[:, ::-1], positions, "1.2.3.6")
    for series, expected in (("1.2.3.5", array), ("1.2.3.6", array[:, ::-1])):
        out = tmp_path / series
        assert main(["segment", str(tmp_path / "dicom"), "-o", str(out), "--model",
                     str(tiny_checkpoint), "--series", series]) == 0  # fmt: skip
        found = slicer.util.arrayFromVolume(show_result_folder(out))
        np.testing.assert_array_equal(found, expected)


def test_result_of_which_a_sample_was_lost(scan, model, tmp_path):
    out = tmp_path / "out"
    assert main(["segment", str(scan), "-o", str(out), "--model", str(model), "--device", "cpu",
                 "--samples", "3", "--keep-samples"]) == 0  # fmt: skip
    (out / "samples" / "sample_002.nii.gz").unlink()
    with pytest.raises(InputError, match="1 of 3 samples are missing"):
        read_result_folder(out)


@pytest.mark.parametrize("change", ["moved", "cut"])
def test_a_scan_that_was_changed_since(scan, model, tmp_path, sequences, change):
    """Registered or exported anew under the same name: the result would lie beside it."""
    mine, out = tmp_path / "scan.nii.gz", tmp_path / "out"
    image = sitk.ReadImage(str(scan))
    sitk.WriteImage(image, str(mine))
    assert main(["segment", str(mine), "-o", str(out), "--model", str(model), "--device", "cpu",
                 "--samples", "1"]) == 0  # fmt: skip
    if change == "moved":
        image.SetOrigin([mm + 20 for mm in image.GetOrigin()])
    sitk.WriteImage(image[:, :, 1:] if change == "cut" else image, str(mine))
    before = slicer.mrmlScene.GetNumberOfNodes()
    with pytest.raises(InputError, match="other places for them"):
        show_result_folder(out)
    assert slicer.mrmlScene.GetNumberOfNodes() == before
