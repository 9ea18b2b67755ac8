"""The lists of models and of devices, and the choices that are made for the user."""

import errno
import json
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from MRFUNetSegmentationLib.checkpoints.card import InputSpec, ModelCard
from MRFUNetSegmentationLib.errors import InputError
from MRFUNetSegmentationLib.gui import model_list
from MRFUNetSegmentationLib.gui.checkpoint_import import card_beside
from MRFUNetSegmentationLib.gui.device_list import device_entries, gpu_remark
from MRFUNetSegmentationLib.gui.export_choices import (
    ALL_SAMPLES,
    ALL_VOLUMES,
    DICOM,
    FILE_FORMATS,
    LABEL_MAP_NODE,
    SAMPLE,
    SEGMENTATION,
    export_choices,
)
from MRFUNetSegmentationLib.gui.model_folder import ModelFolder
from MRFUNetSegmentationLib.gui.model_list import (
    ModelEntry,
    describe_model,
    found,
    listed,
    model_entries,
    qualities,
    searched,
)
from MRFUNetSegmentationLib.gui.suitability import suitability
from MRFUNetSegmentationLib.inference.suitability import cautions
from MRFUNetSegmentationLib.inference.volume import Geometry
from mrml_scene import CLASSES, add_volume
from sequence_tools import (
    add_sequence,
    browser_of,
    shown_volume,
)

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


@pytest.mark.parametrize("model", ["/locked/mine.safetensors", "~nobody-here/a", "long" * 99])
def test_file_that_cannot_be_looked_up_leaves_the_list_usable(bundled, model, monkeypatch):
    is_file = Path.is_file

    def locked(path):
        if "locked" in path.parts:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", locked)
    tiny, unknown = model_entries(model)
    assert tiny.problem is None
    assert model in unknown.problem and "choose" in unknown.problem


def test_damaged_bundled_model_leaves_files_usable(monkeypatch, tmp_path, tiny_checkpoint):
    from MRFUNetSegmentationLib.checkpoints import header

    (tmp_path / "damaged.safetensors").write_bytes(b"123")
    monkeypatch.setattr(header, "BUNDLED_FOLDER", tmp_path)
    entries = model_entries(str(tiny_checkpoint))
    assert [e.model for e in entries] == [str(tiny_checkpoint)]
    assert "truncated" in describe_model("damaged").problem


def test_models_are_searched_by_title_structure_and_modality():
    entries = model_entries("brain-tissue")
    names = {e.model for e in entries if e.matches("FLAIR lesion")}
    assert names == {"white-matter-lesions"}
    assert {e.model for e in entries if e.matches("ventricles")} == {
        "brain-tissue",
        "brain-tissue-fast",
    }
    assert all(entry.matches("  ") for entry in entries)
    assert found(entries, " ") == ""
    assert found(entries, "flair lesion") == "1 of 2 models. Return opens the list."
    assert found(entries, "knee") == "No model is for that."


def test_fast_variant_is_a_quality_of_its_model(tiny_checkpoint):
    entries = model_entries("brain-tissue", [str(tiny_checkpoint)])
    both = {"normal": "brain-tissue", "fast": "brain-tissue-fast"}
    assert qualities("brain-tissue", entries) == qualities("brain-tissue-fast", entries) == both
    assert qualities("white-matter-lesions", entries) == {"normal": "white-matter-lesions"}
    lines = ["brain-tissue", "white-matter-lesions", str(tiny_checkpoint)]
    assert [e.model for e in listed(entries)] == lines
    assert [e.model for e in searched(entries, "fast")] == ["brain-tissue"]


def test_fast_model_without_the_other_is_a_line():
    alone = [ModelEntry("small-fast", "Small")]
    assert listed(alone) == alone
    assert qualities("small-fast", alone) == {"normal": "small-fast"}


def test_folder_of_imported_models(tmp_path):
    folder = ModelFolder(tmp_path / "Models")
    assert folder.models() == []
    folder.clear([])
    first = folder.place_for(Path("/elsewhere/mine.pth"))
    assert first == tmp_path / "Models" / "mine.safetensors"
    first.parent.mkdir()
    first.touch()
    second = folder.place_for(Path("/elsewhere/mine.pth"))
    assert second.name == "mine-2.safetensors"
    second.touch()
    (tmp_path / "Models" / "notes.txt").touch()
    assert folder.models() == [str(second), str(first)]
    link = tmp_path / "link"
    link.symlink_to(folder.path)
    folder.clear([str(link / second.name)])
    assert sorted(path.name for path in folder.path.iterdir()) == [
        "mine-2.safetensors",
        "notes.txt",
    ]


def test_checkpoint_of_published_code_needs_a_card(tmp_path):
    checkpoint = tmp_path / "weights.pth"
    with pytest.raises(InputError, match=r"as weights\.json") as caught:
        card_beside(checkpoint)
    example = json.loads(str(caught.value).partition("\n")[2])
    ModelCard.from_dict({**example, "format_version": 1, "architecture": {"type": "mrf-unet"}})
    (tmp_path / "weights.json").write_text(json.dumps(example))
    assert card_beside(checkpoint) == example
    (tmp_path / "weights.json").write_text("[]")
    with pytest.raises(InputError, match="JSON object"):
        card_beside(checkpoint)


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


def test_result_is_replaced_by_one_of_the_same_volume_and_model_only(scene):
    from MRFUNetSegmentationLib.gui.preselection import fits, only_result

    one, other = (add_volume(scene, np.ones((2, 3, 4))) for _ in range(2))
    segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    assert fits(segmentation, one, "tiny")  # the user's own, empty or drawn by hand
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(one)
    assert fits(segmentation, one, "tiny")
    assert not fits(segmentation, other, "tiny")
    assert only_result(one) is None
    segmentation.SetAttribute("MRFUNetSegmentation.Model", "tiny")
    assert fits(segmentation, one, "tiny")
    assert not fits(segmentation, one, "large")
    assert not fits(segmentation, one, "tiny", of_sequence=True)
    assert only_result(one) is only_result(one, "tiny") is segmentation
    assert only_result(one, "large") is None
    assert only_result(other) is None
    assert fits(segmentation, one, "tiny", "ab" * 32)  # the file that made it is not known
    segmentation.SetAttribute("MRFUNetSegmentation.SHA256", "ab" * 32)
    assert fits(segmentation, one, "tiny", "ab" * 32)
    assert not fits(segmentation, one, "tiny", "cd" * 32)
    assert only_result(one, "tiny", "cd" * 32) is None


def test_result_of_one_item_is_not_replaced_by_that_of_another(scene, sequences):
    from MRFUNetSegmentationLib.gui.preselection import fits, only_result
    from MRFUNetSegmentationLib.mrml.segmentations import write_segmentation

    series = add_sequence(scene, [np.full((3, 4, 5), n) for n in range(3)], [np.eye(4)] * 3)
    volume, browser = shown_volume(series), browser_of(series)
    labels = np.ones((3, 4, 5), np.uint8)
    results = []
    for item in (0, 1):
        browser.SetSelectedItemNumber(item)
        results.append(write_segmentation(labels, CLASSES, volume, provenance={"Model": "tiny"}))
    for item, expected in enumerate([*results, None]):
        browser.SetSelectedItemNumber(item)
        assert [fits(result, volume, "tiny") for result in results] == [
            result is expected for result in results
        ]
        assert only_result(volume, "tiny") is expected
    new = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    assert fits(new, volume, "tiny") and fits(new, volume, "tiny", of_sequence=True)
    assert not fits(results[0], volume, "tiny", of_sequence=True)


def test_segmentations_of_a_sequence_are_not_replaced_by_that_of_one_volume(scene, sequences):
    from MRFUNetSegmentationLib.gui.preselection import fits, only_result
    from MRFUNetSegmentationLib.mrml.sequences import SegmentationSequence, VolumeSequence

    series = add_sequence(scene, [np.ones((3, 4, 5))] * 2, [np.eye(4)] * 2)
    volume = shown_volume(series)
    segmentations = SegmentationSequence(VolumeSequence.of(series), CLASSES, {"Model": "tiny"})
    for _ in range(2):
        segmentations.add(np.ones((3, 4, 5), np.uint8))
    with ExitStack() as undo:
        node = segmentations.put(None, undo)
        undo.pop_all()
    assert fits(node, volume, "tiny", of_sequence=True)
    assert not fits(node, volume, "tiny")
    assert only_result(volume, "tiny", of_sequence=True) is node
    assert only_result(volume, "tiny") is None


def test_suitability_tells_what_matters():
    t1 = InputSpec("T1", (1.0, 1.0, 1.0), "RAS", {"method": "none"})
    text = suitability(Geometry((192, 256, 160), (1.0, 1.0, 1.0)), t1)
    assert text == "1 x 1 x 1 mm voxels, 192 x 256 x 160 mm. The model is made for: T1."
    thick = Geometry((240, 240, 28), (0.9, 0.9, 5.5))
    assert suitability(thick, t1).splitlines()[1:] == cautions(thick, t1) != []
    assert "large" in suitability(Geometry((512, 512, 400), (0.5, 0.5, 0.5)), t1)


def test_export_choices():
    alone = {"from_dicom": False, "in_sequence": False}
    from_dicom = alone | {"from_dicom": True}
    plain = export_choices(False, 0, ALL_SAMPLES, DICOM, **alone)
    assert [value for value, _label in plain.contents] == [SEGMENTATION]
    assert DICOM not in dict(plain.formats)
    # What was chosen of another segmentation does not count where it is not offered.
    assert (plain.content, plain.format) == (SEGMENTATION, LABEL_MAP_NODE)
    sampled = export_choices(True, 0, SAMPLE, DICOM, **from_dicom)
    assert [value for value, _label in sampled.contents] == [SEGMENTATION, SAMPLE, ALL_SAMPLES]
    assert (sampled.content, sampled.format) == (SAMPLE, DICOM)
    every = export_choices(True, 0, ALL_SAMPLES, DICOM, **from_dicom)
    assert every.format == LABEL_MAP_NODE  # one file holds one segmentation
    sequence = export_choices(False, 5, ALL_VOLUMES, ".nrrd", **from_dicom)
    assert dict(sequence.contents)[ALL_VOLUMES] == "Segmentations of all 5 volumes"
    assert (sequence.content, sequence.format) == (ALL_VOLUMES, ".nrrd")
    assert DICOM not in dict(sequence.formats)


def test_grid_of_the_file_is_offered_only_where_there_is_one():
    alone = {"from_dicom": False, "in_sequence": False}
    for suffix in FILE_FORMATS:
        choices = export_choices(False, 0, SEGMENTATION, suffix, **alone)
        assert choices.has_grids
    others = (
        export_choices(False, 0, SEGMENTATION, LABEL_MAP_NODE, **alone),
        export_choices(False, 0, SEGMENTATION, ".nrrd", **alone | {"from_dicom": True}),
        export_choices(False, 0, SEGMENTATION, ".nrrd", **alone | {"in_sequence": True}),
        export_choices(False, 5, ALL_VOLUMES, ".nrrd", **alone),
    )
    assert not any(choices.has_grids for choices in others)


def test_card_is_told_in_full():
    card_text = describe_model("brain-tissue").card_text
    for part in ("Trained on: 16 label maps", "Scores: Dice of grey matter", "Licence: Apache-2.0"):
        assert part in card_text
