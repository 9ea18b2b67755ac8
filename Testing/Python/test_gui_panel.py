"""The panel with real widgets (PySide6), a real scene and a real worker."""

import gc
import json
import os
import shutil
import sys
import time
import types

import numpy as np
import pytest
import SimpleITK as sitk
from gui_tools import ParameterNode, load_ui
from MRFUNetSegmentationLib.checkpoints.load import build_network, save_checkpoint
from mrml_scene import OBLIQUE, add_volume
from sampling_tools import write_model
from sequence_tools import add_sequence, browser_of, shown_volume
from test_checkpoints_convert import card, random_seg_mrf_net, saved

MATRIX = OBLIQUE @ np.diag([6.0, 4.8, 3.0, 1.0])


def blobs(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 30, (12, 16, 20)).astype(np.int16)


class Logic:
    """The module's logic, but that it lends the worker to the next test."""

    def __init__(self, worker):
        from MRFUNetSegmentationLib.logic import SegmentationLogic

        self._logic = SegmentationLogic(worker)
        self.worker, self.cleanup = worker, self._logic.cleanup
        self.segment, self.sample = self._logic.segment, self._logic.sample
        self.explore = self._logic.explore


class Harness:
    """A panel, its widgets and parameters, and the user's clicks."""

    def __init__(self, qt, worker, model):
        from MRFUNetSegmentationLib.gui import panel

        self.qt = qt
        self.widget, self.ui = load_ui(qt)
        self.widget.show()
        self.logic = Logic(worker)
        self.panel = panel.Panel(self.ui, self.logic)
        self.parameters = ParameterNode(model=str(model), device="cpu")
        self.parameters._observers.append(self.panel.refresh)
        self.panel.set_parameters(self.parameters)

    def apply(self):
        self.ui.applyButton.click()

    def wait(self, condition, seconds=60.0):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"still waiting; message: {self.message}"
            self.qt.application.processEvents()
            time.sleep(0.01)

    def wait_for_end(self):
        self.wait(lambda: self.ui.applyButton.text() == "Apply" and self.ui.applyButton.isEnabled())

    @property
    def message(self):
        return self.ui.messageLabel.text()

    @property
    def looks_wrong(self):
        return "color" in self.ui.messageLabel.styleSheet()


@pytest.fixture
def harness(qt, scene, worker, tiny_checkpoint, library, monkeypatch, tmp_path):
    from MRFUNetSegmentationLib.gui import panel
    from MRFUNetSegmentationLib.gui.model_folder import ModelFolder

    monkeypatch.setattr(panel, "ensure_installed", lambda: None)
    monkeypatch.setattr(panel, "_model_folder", lambda: ModelFolder(tmp_path / "Models"))
    harness = Harness(qt, worker, tiny_checkpoint)
    yield harness
    harness.panel.close()


@pytest.fixture
def volume(scene):
    return add_volume(scene, blobs(), MATRIX, "Scan")


def test_empty_scene_says_what_to_do(harness):
    assert not harness.ui.applyButton.isEnabled()
    assert "Load an MRI" in harness.message
    assert not harness.looks_wrong


def test_one_click_from_a_loaded_volume_to_a_segmentation(harness, volume):
    harness.panel.follow_scene()
    assert harness.parameters.inputVolume is volume
    assert harness.ui.applyButton.isEnabled()
    assert harness.message == ""
    harness.apply()
    assert harness.ui.applyButton.text() == "Cancel"
    assert harness.ui.progressBar.isVisible()
    assert not harness.ui.inputSection.isEnabled()
    harness.wait_for_end()
    assert "4 structures segmented" in harness.message
    assert not harness.looks_wrong
    assert not harness.ui.progressBar.isVisible()
    assert harness.ui.inputSection.isEnabled()
    output = harness.parameters.outputSegmentation
    assert output.GetSegmentation().GetNumberOfSegments() == 4
    assert output.GetNodeReference("referenceImageGeometryRef") is volume


def test_devices_are_listed_after_the_first_run(harness, volume):
    assert [harness.ui.deviceSelector.itemText(i) for i in range(2)] == ["Automatic", "CPU"]
    harness.panel.follow_scene()
    harness.apply()
    harness.wait(lambda: "threads" in harness.ui.deviceSelector.itemText(1))
    assert harness.ui.deviceSelector.currentIndex() == 1


def test_second_run_replaces_the_first_and_another_volume_gets_its_own(harness, scene, volume):
    def run():
        harness.apply()
        harness.wait_for_end()
        return harness.parameters.outputSegmentation

    harness.panel.follow_scene()
    first = run()
    assert run() is first
    harness.parameters.inputVolume = add_volume(scene, blobs(1), MATRIX, "Other")
    assert harness.parameters.outputSegmentation is None
    assert harness.message.startswith("Takes about")
    second = run()
    assert second is not first
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 2
    harness.parameters.inputVolume = volume
    assert harness.parameters.outputSegmentation is first
    model = harness.parameters.model
    harness.parameters.model = "brain-tissue"
    assert harness.parameters.outputSegmentation is None
    assert not first.GetDisplayNode().GetVisibility()
    assert second.GetDisplayNode().GetVisibility()  # of the other volume: it covers nothing
    harness.parameters.model = model
    assert harness.parameters.outputSegmentation is first
    assert first.GetDisplayNode().GetVisibility()


def test_result_of_another_file_of_the_same_name_stays(harness, scene, volume, tmp_path, tiny_card):
    other = tmp_path / "mine.safetensors"
    save_checkpoint(other, build_network(tiny_card), tiny_card)
    harness.panel.follow_scene()
    first_model = harness.parameters.model
    harness.apply()
    harness.wait_for_end()
    first = harness.parameters.outputSegmentation
    harness.parameters.model = str(other)
    assert harness.parameters.outputSegmentation is None
    harness.parameters.model = first_model
    assert harness.parameters.outputSegmentation is first
    # The result's own model is chosen with it, not the one of the same name.
    harness.panel._model_section._files.append(first_model)
    harness.parameters.model = str(other)
    harness.parameters.inputVolume = None
    harness.panel.follow_scene()
    assert harness.parameters.model == first_model
    assert harness.parameters.outputSegmentation is first


def test_result_of_a_checkpoint_that_was_replaced_stays(harness, volume, tmp_path, tiny_card):
    """As where training goes on: the file is that of another network."""
    from MRFUNetSegmentationLib.mrml.segmentations import SHA256, read_provenance

    mine = tmp_path / "mine.safetensors"
    save_checkpoint(mine, build_network(tiny_card), tiny_card)
    harness.parameters.model = str(mine)
    harness.panel.follow_scene()
    harness.apply()
    harness.wait_for_end()
    first = harness.parameters.outputSegmentation
    save_checkpoint(mine, build_network(tiny_card), tiny_card)
    os.utime(mine, ns=(1, 1))
    harness.apply()
    harness.wait_for_end()
    second = harness.parameters.outputSegmentation
    assert second is not first and not harness.looks_wrong
    shas = [read_provenance(node)[SHA256] for node in (first, second)]
    assert len(set(shas)) == 2
    harness.apply()
    harness.wait_for_end()
    assert harness.parameters.outputSegmentation is second


def test_model_that_is_back_can_be_used(harness, volume, tmp_path, tiny_checkpoint):
    """Its drive was not there when the scene was loaded."""
    mine = tmp_path / "drive" / "mine.safetensors"
    harness.parameters.model = str(mine)
    harness.panel.follow_scene()
    assert not harness.ui.applyButton.isEnabled() and "neither a file" in harness.message
    mine.parent.mkdir()
    shutil.copy(tiny_checkpoint, mine)
    harness.panel.leave()
    harness.panel.set_parameters(harness.parameters)
    assert harness.ui.applyButton.isEnabled()


def test_stepping_while_away_does_not_overwrite(harness, scene, sequences):
    sequence = add_sequence(scene, [blobs(1), blobs(2)], [MATRIX] * 2)
    harness.parameters.inputVolume = shown_volume(sequence)
    harness.apply()
    harness.wait_for_end()
    first = harness.parameters.outputSegmentation
    harness.panel.leave()
    browser_of(sequence).SetSelectedItemNumber(1)
    harness.panel.set_parameters(harness.parameters)
    assert harness.parameters.outputSegmentation is None
    harness.apply()
    harness.wait_for_end()
    assert harness.parameters.outputSegmentation is not first
    harness.panel.leave()
    harness.panel.set_parameters(harness.parameters)
    assert harness.parameters.outputSegmentation is not None  # nothing has changed


def test_run_that_ends_while_a_file_is_chosen_for_export(
    harness, scene, sequences, tmp_path, tiny_card, monkeypatch
):
    from MRFUNetSegmentationLib.gui.sections import export
    from MRFUNetSegmentationLib.mrml.export import read_labels
    from MRFUNetSegmentationLib.mrml.results import samples_of

    volume = add_volume(scene, blobs(), MATRIX, "Scan")
    harness.parameters.model = str(write_model(tmp_path, tiny_card))
    harness.parameters.inputVolume, harness.parameters.samples = volume, 3
    harness.apply()
    harness.wait_for_end()
    samples = samples_of(harness.parameters.outputSegmentation)
    samples.show(3)
    shown = read_labels(samples.shown, volume).copy()
    harness.parameters.exportContent, harness.parameters.exportFormat = "sample", ".nii.gz"
    harness.panel.refresh()
    harness.parameters.seed = 9
    harness.apply()
    file = tmp_path / "sample3.nii.gz"

    def dialog(*_) -> str:
        end = time.monotonic() + 2  # the run takes a tenth of that
        harness.wait(lambda: time.monotonic() > end)
        return str(file)

    fake = types.SimpleNamespace(getSaveFileName=dialog)
    monkeypatch.setattr(export.qt, "QFileDialog", fake)
    harness.ui.exportButton.click()
    assert (sitk.GetArrayFromImage(sitk.ReadImage(str(file))) == shown).all()
    harness.wait_for_end()
    new = samples_of(harness.parameters.outputSegmentation)
    assert not (read_labels(new.shown, volume) == shown).all()


def test_what_was_hidden_during_a_run_is_seen_again_when_it_is_taken_back(harness, scene, volume):
    """By a comparison of samples, which ends with the run."""
    from MRFUNetSegmentationLib.mrml.hiding import hide, show_hidden

    harness.panel.follow_scene()
    harness.apply()
    harness.wait_for_end()
    display = harness.parameters.outputSegmentation.GetDisplayNode()
    harness.apply()
    hide([display])
    harness.wait_for_end()
    show_hidden(scene)
    harness.ui.takeBackButton.click()
    display = harness.parameters.outputSegmentation.GetDisplayNode()
    assert display.GetVisibility()


def test_checkpoint_is_hashed_again_only_if_it_has_changed(harness, tiny_card, tmp_path):
    path = tmp_path / "mine.safetensors"
    save_checkpoint(path, build_network(tiny_card), tiny_card)
    harness.parameters.model = str(path)
    section = harness.panel._model_section
    first = section.sha256
    modified = path.stat().st_mtime_ns
    save_checkpoint(path, build_network(tiny_card), tiny_card)
    os.utime(path, ns=(modified, modified))
    assert section.sha256 == first
    os.utime(path, ns=(modified + 1, modified + 1))
    assert section.sha256 not in (first, None)
    path.unlink()
    assert section.sha256 is None


def test_choosing_an_output_by_hand_is_respected(harness, scene, volume):
    harness.panel.follow_scene()
    harness.apply()
    harness.wait_for_end()
    other = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Mine")
    harness.parameters.outputSegmentation = other
    harness.apply()
    harness.wait_for_end()
    assert harness.parameters.outputSegmentation is other


def test_cancel(harness, scene, volume):
    harness.panel.follow_scene()
    harness.apply()
    harness.apply()
    assert not harness.ui.applyButton.isEnabled()
    assert "Cancelling" in harness.ui.progressBar.format()
    harness.wait_for_end()
    assert "cancelled" in harness.message
    assert not harness.looks_wrong
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0


def test_bad_volume_is_a_message_that_goes_with_the_next_choice(harness, scene, qt):
    harness.parameters.inputVolume = add_volume(scene, np.ones((8, 8, 8)), MATRIX, "Flat")
    harness.apply()
    harness.wait_for_end()
    assert "Flat" in harness.message
    assert harness.looks_wrong
    assert harness.ui.copyMessageButton.isVisible()
    harness.ui.copyMessageButton.click()
    assert qt.QApplication.clipboard().text() == harness.message
    harness.parameters.inputVolume = add_volume(scene, blobs(), MATRIX, "Scan")
    assert harness.message == ""
    assert not harness.looks_wrong
    assert not harness.ui.copyMessageButton.isVisible()


def test_volume_with_invalid_voxels_needs_the_check_box(harness, scene):
    array = blobs().astype(np.float32)
    array[1, 2, 3] = np.nan
    harness.parameters.inputVolume = add_volume(scene, array, MATRIX, "Holes")
    harness.apply()
    harness.wait_for_end()
    assert "not finite" in harness.message
    harness.parameters.replaceNonFinite = True
    harness.apply()
    harness.wait_for_end()
    assert "4 structures" in harness.message


def test_volume_that_is_removed_during_the_run(harness, scene, volume):
    harness.panel.follow_scene()
    harness.apply()
    harness.parameters.inputVolume = None
    scene.RemoveNode(volume)
    harness.wait(lambda: harness.ui.applyButton.text() == "Apply")
    assert "no longer in the scene" in harness.message
    assert not harness.ui.applyButton.isEnabled()
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0


def test_scene_that_closes_during_the_run(harness, scene, volume):
    harness.panel.follow_scene()
    harness.apply()
    harness.panel.forget_scene()
    scene.Clear()
    harness.wait(lambda: harness.ui.applyButton.text() == "Apply")
    assert "Load an MRI" in harness.message
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0


def test_closed_scene_leaves_no_volume_in_memory(harness, scene):
    import vtk

    known = vtk.vtkWeakReference()
    known.Set(add_volume(scene, blobs(), MATRIX, "Scan"))
    harness.panel.follow_scene()
    for _ in range(2):  # after the first the worker tells of devices, and forgets the run for that
        harness.apply()
        harness.wait_for_end()
    assert known.Get() is not None
    harness.panel.forget_scene()
    harness.parameters.inputVolume = None
    scene.Clear(False)
    gc.collect()
    assert known.Get() is None


def test_missing_installation_is_a_message(harness, volume, monkeypatch):
    from MRFUNetSegmentationLib.gui.torch_installation import InstallationError

    def refuse():
        raise InstallationError("PyTorch was not installed.")

    monkeypatch.setattr(harness.panel._controller, "_install", refuse)
    harness.panel.follow_scene()
    harness.apply()
    assert harness.message == "PyTorch was not installed."
    assert harness.ui.applyButton.isEnabled()


def test_click_during_the_installation_cancels(harness, scene, volume, monkeypatch):
    shown = []

    def install():
        ui = harness.ui
        shown.append((ui.applyButton.text(), ui.progressBar.isVisible(), ui.progressBar.format()))
        ui.applyButton.click()
        shown.append(ui.applyButton.isEnabled())

    monkeypatch.setattr(harness.panel._controller, "_install", install)
    harness.panel.follow_scene()
    harness.apply()
    assert shown == [("Cancel", True, "Installing PyTorch … 0 %"), False]
    harness.wait_for_end()
    assert "cancelled" in harness.message
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0


def choose(harness, selector, index):
    selector.setCurrentIndex(index)
    selector.activated.emit(index)


def test_choosing_a_device(harness):
    choose(harness, harness.ui.deviceSelector, 0)
    assert harness.parameters.device == "auto"
    assert harness.ui.deviceSelector.currentIndex() == 0


def test_loading_a_checkpoint_file(harness, tiny_checkpoint, tmp_path, monkeypatch):
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(tiny_checkpoint.read_bytes())
    selector, answers = harness.ui.modelSelector, [str(copy), ""]
    dialog = types.SimpleNamespace(getOpenFileName=lambda *_: answers.pop(0))
    monkeypatch.setattr(sys.modules["qt"], "QFileDialog", dialog)
    last = selector.count() - 1
    assert selector.itemText(last).startswith("Load checkpoint")
    choose(harness, selector, last)
    assert harness.parameters.model == str(copy)
    assert "copy.safetensors" in selector.currentText()
    assert "grey matter" in harness.ui.modelDescription.text()
    # Leaving the dialog without a file changes nothing.
    choose(harness, selector, selector.count() - 1)
    assert answers == []
    assert harness.parameters.model == str(copy)
    assert "copy.safetensors" in selector.currentText()


def test_choosing_a_model_of_the_list(harness, tiny_checkpoint, monkeypatch):
    harness.parameters.model = "/no/such.safetensors"
    assert "/no/such.safetensors" in harness.message
    assert harness.looks_wrong
    assert harness.ui.modelDescription.isHidden()
    harness.panel._model_section._files.append(str(tiny_checkpoint))
    harness.panel._model_section.show(harness.parameters.model)
    names = [harness.ui.modelSelector.itemText(i) for i in range(9)]
    index = next(i for i, name in enumerate(names) if tiny_checkpoint.name in name)
    choose(harness, harness.ui.modelSelector, index)
    assert harness.parameters.model == str(tiny_checkpoint)
    assert not harness.looks_wrong


def entries(harness) -> list[str]:
    selector = harness.ui.modelSelector
    return [selector.itemText(i) for i in range(selector.count())]


def test_models_are_searched(harness):
    assert len(entries(harness)) == 4
    harness.ui.modelSearchEdit.setText("lesion flair")
    assert [e.partition(" (")[0] for e in entries(harness)] == [
        "White-matter lesions on FLAIR",
        "Tiny network for tests",
        "Load checkpoint from file…",
    ]
    assert "tiny" in harness.ui.modelSelector.currentText()
    assert harness.ui.modelSearchRemark.text().startswith("1 of 3 models")
    choose(harness, harness.ui.modelSelector, 0)
    assert harness.parameters.model == "white-matter-lesions"
    harness.ui.modelSearchEdit.setText("knee")
    assert harness.ui.modelSearchRemark.text() == "No model is for that."
    harness.ui.modelSearchEdit.clear()
    assert harness.ui.modelSearchRemark.isHidden()
    assert harness.ui.modelSelector.currentText().startswith("White-matter lesions")


def test_quality_is_kept_from_model_to_model_where_there_is_a_choice(harness):
    selector, quality = harness.ui.modelSelector, harness.ui.qualitySelector
    assert quality.isHidden()
    harness.parameters.model = "brain-tissue"
    line = selector.currentText()
    assert not quality.isHidden()
    assert [quality.itemText(i) for i in range(quality.count())] == ["Normal", "Fast"]
    assert "at 1.3\u00a0mm and draws borders at 1\u00a0mm" in harness.ui.modelDescription.text()
    choose(harness, quality, 1)
    assert harness.parameters.model == "brain-tissue-fast"
    assert selector.currentText() == line
    assert "at 1.5\u00a0mm and draws borders at 1\u00a0mm" in harness.ui.modelDescription.text()
    choose(harness, selector, selector.currentIndex())
    assert harness.parameters.model == "brain-tissue-fast"
    choose(harness, selector, selector.findText("White-matter lesions on FLAIR"))
    assert harness.parameters.model == "white-matter-lesions"
    assert quality.isHidden()
    choose(harness, selector, selector.findText(line))
    assert harness.parameters.model == "brain-tissue"


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A checkpoint of published code, which the user chooses in the dialog."""
    file = saved(tmp_path, random_seg_mrf_net())
    dialog = types.SimpleNamespace(getOpenFileName=lambda *_: str(file))
    monkeypatch.setattr(sys.modules["qt"], "QFileDialog", dialog)
    return file


def load_checkpoint(harness):
    choose(harness, harness.ui.modelSelector, harness.ui.modelSelector.count() - 1)


def test_checkpoint_of_published_code_is_imported(harness, published, volume, scene, monkeypatch):
    import slicer

    published.with_suffix(".json").write_text(json.dumps(card(3)))
    assert harness.ui.openModelFolderButton.isHidden()
    load_checkpoint(harness)
    assert harness.ui.applyButton.text() == "Cancel"
    assert "Importing upstream.pth" in harness.ui.progressBar.format()
    harness.wait(lambda: harness.ui.applyButton.text() == "Apply")
    assert "upstream.pth was imported" in harness.message
    imported = harness.parameters.model
    assert imported.endswith("Models/upstream.safetensors")
    assert harness.ui.modelSelector.currentText() == "Converted (upstream.safetensors)"
    assert not harness.ui.openModelFolderButton.isHidden()
    harness.panel.follow_scene()
    harness.apply()
    harness.wait_for_end()
    assert "2 structures segmented" in harness.message
    load_checkpoint(harness)
    harness.wait(lambda: harness.ui.applyButton.text() == "Apply")
    asked = []
    monkeypatch.setattr(
        slicer.util, "confirmOkCancelDisplay", lambda text: asked.append(text) or len(asked) > 1
    )
    harness.ui.clearModelFolderButton.click()
    assert "imported models" in asked[0]
    assert len(harness.panel._model_folder.models()) == 2
    harness.ui.clearModelFolderButton.click()
    assert harness.panel._model_folder.models() == [harness.parameters.model]
    assert harness.parameters.model != imported


def test_import_says_what_is_needed(harness, published, qt):
    before = harness.parameters.model
    load_checkpoint(harness)
    assert "Put its model card beside it, as upstream.json" in harness.message
    assert harness.looks_wrong
    harness.ui.copyMessageButton.click()
    assert '"voxel_size"' in qt.QApplication.clipboard().text()
    published.with_suffix(".json").write_text(json.dumps(card(5)))
    load_checkpoint(harness)
    harness.wait(lambda: harness.ui.applyButton.text() == "Apply")
    assert "names 5 classes" in harness.message
    assert harness.parameters.model == before
    assert harness.panel._model_folder.models() == []


def test_import_is_cancelled(harness, published):
    published.with_suffix(".json").write_text(json.dumps(card(3)))
    load_checkpoint(harness)
    harness.apply()
    harness.wait(lambda: harness.ui.applyButton.text() == "Apply")
    assert "cancelled" in harness.message


def test_folder_of_imported_models_is_opened(harness, monkeypatch):
    opened = []
    services = types.SimpleNamespace(openUrl=lambda url: opened.append(url.toLocalFile()))
    monkeypatch.setattr(sys.modules["qt"], "QDesktopServices", services)
    harness.ui.openModelFolderButton.click()
    assert opened == [str(harness.panel._model_folder.path)]


def luminance(color) -> float:
    """Relative luminance as in the Web Content Accessibility Guidelines."""
    channels = [color.redF(), color.greenF(), color.blueF()]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("background", ["#f0f0f0", "#353535"])
def test_errors_are_readable_in_light_and_dark(harness, qt, background):
    before = qt.QApplication.palette()
    qt.QApplication.setPalette(qt.QPalette(qt.QColor(background)))
    try:
        harness.parameters.model = "/no/such.safetensors"
    finally:
        qt.QApplication.setPalette(before)
    text = qt.QColor(harness.ui.messageLabel.styleSheet().split()[-1])
    dark, light = sorted([luminance(text), luminance(qt.QColor(background))])
    assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_timer_runs_only_during_a_run(harness, volume):
    assert not harness.panel._timer.isActive()
    harness.panel.follow_scene()
    harness.apply()
    assert harness.panel._timer.isActive()
    harness.wait_for_end()
    harness.wait(lambda: not harness.panel._timer.isActive(), 2)


def test_scene_saved_at_another_item_does_not_overwrite(harness, scene, sequences):
    sequence = add_sequence(scene, [blobs(1), blobs(2)], [MATRIX] * 2)
    harness.parameters.inputVolume = shown_volume(sequence)
    harness.apply()
    harness.wait_for_end()
    assert harness.parameters.outputSegmentation is not None
    harness.panel.leave()
    browser_of(sequence).SetSelectedItemNumber(1)
    # As the scene that is saved now is closed, and loaded.
    harness.panel.forget_scene()
    harness.panel.set_parameters(harness.parameters)
    assert harness.parameters.outputSegmentation is None


@pytest.mark.parametrize("model_is_there", [True, False])
def test_loaded_scenes_output_stays_where_it_fits(harness, volume, model_is_there):
    harness.panel.follow_scene()
    harness.apply()
    harness.wait_for_end()
    output = harness.parameters.outputSegmentation
    harness.panel.leave()
    harness.panel.forget_scene()
    if not model_is_there:
        harness.parameters.model = "/no/such.safetensors"
        harness.parameters.outputSegmentation = output
    harness.panel.set_parameters(harness.parameters)
    assert harness.parameters.outputSegmentation is output
