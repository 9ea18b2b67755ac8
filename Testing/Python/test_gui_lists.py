"""The lists of models and of devices, and the choices that are made for the user."""

import numpy as np
import pytest
from MRFUNetSegmentationLib.gui import model_list
from MRFUNetSegmentationLib.gui.device_list import device_entries, gpu_remark
from MRFUNetSegmentationLib.gui.export_choices import (
    ALL_SAMPLES,
    DICOM,
    LABEL_MAP_NODE,
    SAMPLE,
    SEGMENTATION,
    export_choices,
)
from MRFUNetSegmentationLib.gui.model_list import describe_model, model_entries
from MRFUNetSegmentationLib.gui.suitability import suitability
from mrml_scene import add_volume

ANSWER = {
    "devices": [
        {"id": "cuda:0", "name": "NVIDIA RTX A4000", "memory_gb": 16.9},
        {"id": "cpu", "name": "CPU, 8 threads", "memory_gb": 33.5},
    ],
    "why_no_gpu": None,
    "torch": "2.9.0",
}


@pytest.fixture
def bundled(monkeypatch, tiny_checkpoint):
    """The checkpoint as a bundled model of the name "tiny"."""
    from MRFUNetSegmentationLib.checkpoints import header

    monkeypatch.setattr(header, "BUNDLED_FOLDER", tiny_checkpoint.parent)


def test_bundled_model_is_described(bundled):
    entry = describe_model("tiny")
    assert entry.model == "tiny"
    assert entry.label == "Tiny network for tests"
    assert entry.problem is None
    assert "grey matter, white matter, ventricles, CSF outside" in entry.description
    assert "Other" not in entry.description
    assert "any MRI contrast" in entry.description
    assert "8\u00a0mm" in entry.description
    assert entry.intended_use == "tests"


def test_file_is_told_by_its_name(tiny_checkpoint):
    assert describe_model(str(tiny_checkpoint)).label == "Tiny network for tests (tiny.safetensors)"


def test_voxel_size_that_differs_between_axes():
    assert model_list._voxel_size((1.0, 1.0, 1.0)) == "1"
    assert model_list._voxel_size((0.8, 0.8, 2.5)) == "0.8 x 0.8 x 2.5"


def test_damaged_file_says_what_is_wrong(tmp_path):
    file = tmp_path / "short.safetensors"
    file.write_bytes(b"123")
    entry = describe_model(str(file))
    assert entry.label == "short.safetensors"
    assert "truncated" in entry.problem
    assert entry.description == ""


def test_list_holds_bundled_models_files_and_the_selected_one_once(bundled, tiny_checkpoint):
    file, gone = str(tiny_checkpoint), "/no/such.safetensors"
    assert [e.model for e in model_entries("tiny")] == ["tiny"]
    assert [e.model for e in model_entries(file, [file])] == ["tiny", file]
    entries = model_entries(gone, [file, file])
    assert [e.model for e in entries] == ["tiny", file, gone]
    assert [e.problem is None for e in entries] == [True, True, False]


def test_damaged_bundled_model_leaves_files_usable(monkeypatch, tmp_path, tiny_checkpoint):
    from MRFUNetSegmentationLib.checkpoints import header

    (tmp_path / "damaged.safetensors").write_bytes(b"123")
    monkeypatch.setattr(header, "BUNDLED_FOLDER", tmp_path)
    entries = model_entries(str(tiny_checkpoint))
    assert [e.model for e in entries] == [str(tiny_checkpoint)]
    assert "truncated" in describe_model("damaged").problem


def test_devices_before_the_worker_was_asked():
    assert device_entries("auto") == [("auto", "Automatic"), ("cpu", "CPU")]


def test_devices_of_the_machine():
    assert device_entries("cuda:0", ANSWER) == [
        ("auto", "Automatic"),
        ("cpu", "CPU, 8 threads, 33.5 GB"),
        ("cuda:0", "NVIDIA RTX A4000 (cuda:0), 16.9 GB"),
    ]


def test_device_without_known_memory():
    answer = {"devices": [{"id": "mps", "name": "Apple GPU", "memory_gb": None}]}
    assert device_entries("auto", answer)[-1] == ("mps", "Apple GPU (mps)")


def test_chosen_device_that_the_machine_lacks_is_listed():
    assert ("cuda:3", "cuda:3") in device_entries("cuda:3", ANSWER)


def test_remark_only_without_gpu():
    assert gpu_remark(None) == ""
    assert gpu_remark(ANSWER) == ""
    assert "for the CPU only" in gpu_remark({"why_no_gpu": "this build is for the CPU only."})


def test_the_only_volume_is_chosen(scene):
    from MRFUNetSegmentationLib.gui.preselection import only_volume

    assert only_volume(scene) is None
    scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode")
    hidden = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    hidden.SetHideFromEditors(True)
    assert only_volume(scene) is None
    volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    assert only_volume(scene) is volume
    scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    assert only_volume(scene) is None


def test_segmentation_belongs_to_its_reference_volume(scene):
    from MRFUNetSegmentationLib.gui.preselection import belongs_to_other_volume

    one, other = (add_volume(scene, np.ones((2, 3, 4))) for _ in range(2))
    segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    assert not belongs_to_other_volume(segmentation, one)
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(one)
    assert not belongs_to_other_volume(segmentation, one)
    assert belongs_to_other_volume(segmentation, other)


def test_suitability_tells_what_matters():
    text = suitability((192, 256, 160), (1.0, 1.0, 1.0), "T1")
    assert text == "1 x 1 x 1 mm voxels, 192 x 256 x 160 mm. The model is made for: T1."
    assert "slices are thick (5.5 mm)" in suitability((240, 240, 28), (0.9, 0.9, 5.5), "T1")
    assert "covers 60 mm" in suitability((192, 256, 60), (1.0, 1.0, 1.0), "T1")
    assert "large" in suitability((512, 512, 400), (0.5, 0.5, 0.5), "T1")


def test_export_choices():
    plain = export_choices(False, ALL_SAMPLES, DICOM, from_dicom=False)
    assert [value for value, _label in plain.contents] == [SEGMENTATION]
    assert DICOM not in dict(plain.formats)
    # What was chosen of another segmentation does not count where it is not offered.
    assert (plain.content, plain.format) == (SEGMENTATION, LABEL_MAP_NODE)
    sampled = export_choices(True, SAMPLE, DICOM, from_dicom=True)
    assert [value for value, _label in sampled.contents] == [SEGMENTATION, SAMPLE, ALL_SAMPLES]
    assert (sampled.content, sampled.format) == (SAMPLE, DICOM)
    every = export_choices(True, ALL_SAMPLES, DICOM, from_dicom=True)
    assert every.format == LABEL_MAP_NODE  # one file holds one segmentation


def test_card_is_told_in_full():
    card_text = describe_model("brain-tissue").card_text
    for part in ("Trained on: 16 label maps", "Scores: Dice of grey matter", "Licence: Apache-2.0"):
        assert part in card_text
