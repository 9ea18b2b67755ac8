"""The panel's sections on results, with real widgets (PySide6), a real scene and a real worker."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
from mrml_scene import add_volume
from sampling_tools import write_model
from sequence_tools import (
    add_sequence,
    browser_of,
    shown_volume,
)
from test_gui_panel import MATRIX, blobs, harness, volume  # noqa: F401 - fixtures


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny_card):
    return write_model(tmp_path_factory.mktemp("model"), tiny_card)


@pytest.fixture
def segmented(harness, volume):
    """The panel after a run with the small MRF-UNet."""
    harness.panel.follow_scene()
    harness.apply()
    harness.wait_for_end()
    return harness


@pytest.fixture
def sampled(harness, model, volume, sequences):
    """The panel after a run that drew five samples."""
    harness.parameters.model = str(model)
    harness.parameters.samples = 5
    harness.panel.follow_scene()
    harness.apply()
    harness.wait_for_end()
    assert "5 plausible segmentations drawn" in harness.message
    return harness


@pytest.fixture
def views(scene):
    """A slice view's node, as the application has them."""
    import slicer

    composite = slicer.vtkMRMLSliceCompositeNode()
    composite.SetLayoutName("Red")
    return scene.AddNode(composite)


def process(harness):
    for _ in range(3):
        harness.qt.application.processEvents()


def rows(harness) -> list[list[str]]:
    tree = harness.ui.structuresTree
    items = [tree.topLevelItem(n) for n in range(tree.topLevelItemCount())]
    return [[item.text(column) for column in range(3)] for item in items]


def choose(harness, selector, text):
    texts = [selector.itemText(i) for i in range(selector.count())]
    (index,) = [i for i, entry in enumerate(texts) if text in entry]
    selector.setCurrentIndex(index)
    selector.activated.emit(index)
    process(harness)


def test_nothing_to_show_shows_nothing(harness, volume):
    harness.panel.follow_scene()
    process(harness)
    for section in ("results", "samples", "uncertainty", "explore", "export"):
        assert getattr(harness.ui, f"{section}Section").isHidden()
    assert harness.ui.samplesSpinBox.isHidden()
    assert not harness.ui.mapUncertaintyCheckBox.isHidden()


def test_remark_on_the_volume_follows_it(harness, volume):
    harness.panel.follow_scene()
    assert "The model is made for: any MRI contrast" in harness.ui.inputRemark.text()
    assert "thick" in harness.ui.inputRemark.text()
    volume.SetSpacing(2.5, 2.5, 2.5)
    assert "2.5 x 2.5 x 2.5 mm voxels, 50 x 40 x 30 mm" in harness.ui.inputRemark.text()
    assert "thick" not in harness.ui.inputRemark.text()


def test_structures_have_the_volumes_of_the_result(segmented):
    result = segmented.panel._controller.last.result
    segments = result.card.segments
    counts = np.bincount(result.labels.ravel(), minlength=6)
    voxel_ml = np.prod(segmented.parameters.inputVolume.GetSpacing()) / 1000
    expected = [[c.name, f"{counts[c.value] * voxel_ml:.1f}", ""] for c in segments]
    assert rows(segmented) == expected
    assert segmented.ui.samplesSection.isHidden()
    assert segmented.ui.exploreSection.isHidden()


def test_volumes_follow_edits(segmented):
    from MRFUNetSegmentationLib.mrml.volumes import voxels

    node = segmented.parameters.outputSegmentation
    segment_id = node.GetSegmentation().GetNthSegmentID(1)
    before = rows(segmented)[1]
    segment = node.GetSegmentation().GetSegment(segment_id)
    image = segment.GetRepresentation("Binary labelmap")
    array = voxels(image)
    array[array == segment.GetLabelValue()] = 0
    image.GetPointData().GetScalars().Modified()
    image.Modified()
    segment.SetName("Edited")
    process(segmented)
    assert rows(segmented)[1][0] == "Edited"
    assert before[1] != "0.0"
    assert rows(segmented)[1][:2] == ["Edited", "0.0"]


def test_structures_are_hidden_and_styled(segmented, qt):
    node = segmented.parameters.outputSegmentation
    display = node.GetDisplayNode()
    segment_id = node.GetSegmentation().GetNthSegmentID(0)
    segmented.ui.structuresTree.topLevelItem(0).setCheckState(0, qt.Qt.Unchecked)
    assert not display.GetSegmentVisibility(segment_id)
    display.SetSegmentVisibility(segment_id, True)
    process(segmented)
    assert segmented.ui.structuresTree.topLevelItem(0).checkState(0) == qt.Qt.Checked
    choose(segmented, segmented.ui.resultStyleSelector, "Outline")
    assert (display.GetVisibility2DFill(), display.GetVisibility2DOutline()) == (0, 1)
    segmented.ui.resultOpacitySlider.setValue(40)
    assert display.GetOpacity() == pytest.approx(0.4)


def test_entropy_is_laid_over_the_views(views, segmented):
    ui = segmented.ui
    assert not ui.uncertaintySection.isHidden()
    display = segmented.parameters.outputSegmentation.GetDisplayNode()
    choose(segmented, ui.overlaySelector, "entropy")
    assert not display.GetVisibility2DFill()
    assert "sure, which is not the same as right" in ui.overlayRemark.text()
    assert views.GetForegroundVolumeID() is not None
    assert views.GetForegroundOpacity() == pytest.approx(0.6)
    ui.overlayOpacitySlider.setValue(25)
    assert views.GetForegroundOpacity() == pytest.approx(0.25)
    from MRFUNetSegmentationLib.mrml.overlays import legend_of, threshold

    (overlay,) = segmented.panel._uncertainty._overlays.values()
    ui.overlayThresholdSlider.setValue(50)
    assert threshold(overlay) == pytest.approx(0.5)
    ui.overlayLegendCheckBox.setChecked(False)
    assert not legend_of(overlay).GetVisibility()
    views.SetForegroundOpacity(0.75)  # by the view's own controls
    process(segmented)
    assert ui.overlayOpacitySlider.value() == 75
    choose(segmented, ui.overlaySelector, "None")
    assert views.GetForegroundVolumeID() is None
    assert display.GetVisibility2DFill()
    assert not ui.overlayOpacitySlider.isEnabled()


def test_map_goes_with_its_segmentation(views, segmented):
    choose(segmented, segmented.ui.overlaySelector, "entropy")
    assert views.GetForegroundVolumeID() is not None
    segmented.parameters.model = "brain-tissue"
    process(segmented)
    assert segmented.ui.uncertaintySection.isHidden()
    assert views.GetForegroundVolumeID() is None


def test_without_a_map_there_is_no_such_section(harness, volume):
    harness.parameters.mapUncertainty = False
    harness.panel.follow_scene()
    harness.apply()
    harness.wait_for_end()
    assert not harness.ui.resultsSection.isHidden()
    assert harness.ui.uncertaintySection.isHidden()


def test_last_run_is_taken_back(segmented):
    node = segmented.parameters.outputSegmentation
    assert segmented.ui.takeBackButton.isHidden()  # it was a new segmentation
    node.GetSegmentation().RemoveSegment(node.GetSegmentation().GetNthSegmentID(0))
    process(segmented)
    before = rows(segmented)
    segmented.apply()
    segmented.wait_for_end()
    process(segmented)
    assert len(rows(segmented)) == len(before) + 1
    segmented.ui.takeBackButton.click()
    process(segmented)
    assert rows(segmented) == before
    assert segmented.ui.takeBackButton.isHidden()
    assert "before the last run" in segmented.message


def test_run_is_not_taken_back_after_a_move(segmented):
    segmented.apply()
    segmented.wait_for_end()
    process(segmented)
    assert not segmented.ui.takeBackButton.isHidden()
    # The button is still there when only the scan has moved.
    segmented.parameters.inputVolume.SetOrigin(1, 2, 3)
    before = rows(segmented)
    segmented.ui.takeBackButton.click()
    process(segmented)
    assert "was moved" in segmented.message and segmented.looks_wrong
    assert segmented.ui.takeBackButton.isHidden()
    assert rows(segmented) == before


def test_samples_drawn_again_are_taken_back(views, sampled):
    node = sampled.parameters.outputSegmentation
    node.GetSegmentation().RemoveSegment(node.GetSegmentation().GetNthSegmentID(0))
    process(sampled)
    before = [row[:2] for row in rows(sampled)]
    sampled.apply()
    sampled.wait_for_end()
    process(sampled)
    choose(sampled, sampled.ui.overlaySelector, "entropy")
    sampled.ui.exploreButton.click()
    sampled.wait(lambda: not sampled.panel._explore.explorer.busy)
    sampled.ui.takeBackButton.click()
    process(sampled)
    assert rows(sampled) == [[*row, ""] for row in before]
    assert views.GetForegroundVolumeID() is None
    assert node.GetDisplayNode().GetVisibility() and node.GetDisplayNode().GetVisibility2DFill()
    for section in ("samples", "uncertainty", "explore"):
        assert getattr(sampled.ui, f"{section}Section").isHidden()
    assert sampled.ui.takeBackButton.isHidden()
    assert "before the last run" in sampled.message


def test_volumes_are_those_of_what_is_put_back(sampled):
    """No segment comes or goes: the label maps alone are others."""
    before = [row[:2] for row in rows(sampled)]
    sampled.parameters.seed = 5
    sampled.apply()
    sampled.wait_for_end()
    process(sampled)
    assert [row[:2] for row in rows(sampled)] != before
    sampled.ui.takeBackButton.click()
    process(sampled)
    assert [row[:2] for row in rows(sampled)] == before


def test_samples_are_stepped_through_and_ordered(sampled):
    ui = sampled.ui
    assert [row[2] != "" for row in rows(sampled)] == [True, True]
    assert ui.sampleLabel.text() == "Sample 1 of 5"
    assert (ui.sampleSlider.minimum(), ui.sampleSlider.maximum()) == (1, 5)
    ui.sampleSlider.setValue(4)
    process(sampled)
    assert ui.sampleLabel.text() == "Sample 4 of 5"
    ui.nextSampleButton.click()
    ui.nextSampleButton.click()
    process(sampled)
    assert ui.sampleLabel.text() == "Sample 1 of 5"
    ui.previousSampleButton.click()
    process(sampled)
    assert ui.sampleLabel.text() == "Sample 5 of 5"
    choose(sampled, ui.sampleOrderSelector, "likelihood")
    samples = sampled.panel._samples._samples
    assert ui.sampleLabel.text() == "Sample 5 of 5"
    assert ui.sampleSlider.value() == samples.samples.index(5) + 1
    samples.browser.SetSelectedItemNumber(0)  # by Slicer's own controls
    process(sampled)
    assert ui.sampleSlider.value() == 1


def test_order_by_a_table_that_was_edited_is_refused(sampled):
    samples = sampled.panel._samples._samples
    samples.samples_table.GetTable().RemoveColumnByName("Log density")
    choose(sampled, sampled.ui.sampleOrderSelector, "likelihood")
    process(sampled)
    assert "was edited" in sampled.message
    assert samples.order == "drawn"
    assert sampled.ui.sampleOrderSelector.currentIndex() == 0


def test_samples_that_the_user_removes(sampled):
    samples, ui = sampled.panel._samples._samples, sampled.ui
    samples.show(5)
    samples.sequence.RemoveDataNodeAtValue("5")
    process(sampled)
    assert ui.sampleLabel.text() == "Sample 4 of 4"
    ui.nextSampleButton.click()
    process(sampled)
    assert ui.sampleLabel.text() == "Sample 1 of 4"
    samples.sequence.RemoveAllDataNodes()
    process(sampled)
    assert not ui.samplesSection.isVisible()


def test_sample_is_kept(sampled, scene):
    sampled.ui.keepSampleButton.click()
    assert "Kept as the segmentation Scan sample 1" in sampled.message
    assert scene.GetFirstNodeByName("Scan sample 1") is not None


def test_without_views_samples_are_not_compared(sampled, scene):
    before = scene.GetNumberOfNodes()
    sampled.ui.compareSamplesButton.click()
    assert sampled.looks_wrong
    assert not sampled.ui.compareSamplesButton.isChecked()
    assert scene.GetNumberOfNodes() == before


def test_latent_space_is_explored(sampled, scene):
    ui, explore = sampled.ui, sampled.panel._explore
    assert not ui.exploreSection.isHidden()
    assert ui.latentSlider1.isHidden()
    samples = sampled.panel._samples._samples
    ui.exploreButton.click()
    sampled.wait(lambda: explore.explorer.preview.node is not None)
    assert not ui.latentSlider1.isHidden()
    assert not samples.consensus.GetDisplayNode().GetVisibility()
    ui.latentSlider1.setValue(150)
    sampled.wait(lambda: not explore.explorer.busy)
    assert explore.explorer.positions[0] == 1.5
    ui.latentResetButton.click()
    sampled.wait(lambda: not explore.explorer.busy)
    assert explore.explorer.positions[0] == 0
    assert ui.latentSlider1.value() == 0
    preview = explore.explorer.preview.node
    ui.exploreButton.click()
    assert not scene.IsNodePresent(preview)
    assert samples.consensus.GetDisplayNode().GetVisibility()
    assert ui.latentSlider1.isHidden()


def test_next_run_ends_the_exploration(sampled):
    sampled.ui.exploreButton.click()
    sampled.wait(lambda: not sampled.panel._explore.explorer.busy)
    sampled.apply()
    assert sampled.panel._explore.explorer is None
    assert not sampled.ui.exploreButton.isChecked()
    sampled.wait_for_end()
    assert "5 plausible" in sampled.message


def test_next_run_does_not_wait_for_a_slice_that_is_computed(sampled):
    sampled.ui.exploreButton.click()
    sampled.ui.latentSlider1.setValue(100)
    assert sampled.panel._explore.explorer.busy
    begin = time.monotonic()
    sampled.apply()
    assert time.monotonic() - begin < 0.1
    assert sampled.ui.applyButton.text() == "Cancel"
    sampled.wait_for_end()
    assert "5 plausible" in sampled.message


@pytest.mark.parametrize(
    ("content", "kind", "files"),
    [
        ("Consensus", ".nii.gz", ["out.nii.gz"]),
        ("shown", ".seg.nrrd", ["out.seg.nrrd"]),
        ("All", ".nrrd", [*(f"sample_00{n}.nrrd" for n in range(1, 6)), "volumes.csv"]),
    ],
)
def test_export_to_files(sampled, tmp_path, monkeypatch, content, kind, files):
    path = tmp_path / files[0] if len(files) == 1 else tmp_path
    monkeypatch.setattr(sampled.panel._export, "_ask_for_path", lambda: str(path))
    choose(sampled, sampled.ui.exportContentSelector, content)
    choose(sampled, sampled.ui.exportFormatSelector, f"({kind})")
    assert not sampled.ui.exportGridSelector.isHidden()
    sampled.ui.exportButton.click()
    sampled.wait(lambda: sampled.ui.exportProgressBar.isHidden())
    assert str(tmp_path) in sampled.message
    assert not sampled.looks_wrong
    assert sorted(file.name for file in tmp_path.iterdir()) == files


def test_export_to_the_scene(sampled, scene):
    sampled.ui.exportButton.click()
    assert scene.GetNumberOfNodesByClass("vtkMRMLLabelMapVolumeNode") == 1
    assert "was added" in sampled.message
    assert sampled.ui.exportGridSelector.isHidden()


def test_export_of_all_samples_goes_on_in_steps_and_is_cancelled(
    sampled, tmp_path, monkeypatch, scene
):
    ui, folder = sampled.ui, tmp_path / "new"
    monkeypatch.setattr(sampled.panel._export, "_ask_for_path", lambda: str(folder))
    choose(sampled, ui.exportContentSelector, "All")
    for kind in ("(.nrrd)", "in the scene"):
        choose(sampled, ui.exportFormatSelector, kind)
        ui.exportButton.click()
        assert not ui.exportProgressBar.isHidden()
        assert not ui.exportContentSelector.isEnabled()
        sampled.wait(lambda: ui.exportProgressBar.value() > 0)
        assert ui.exportButton.text().startswith("Cancel")
        sampled.panel.follow_scene()
        process(sampled)
        ui.exportButton.click()
        assert "nothing of it was kept" in sampled.message
        assert ui.exportProgressBar.isHidden()
        process(sampled)
        assert ui.exportButton.text().startswith("Export")
        assert ui.exportContentSelector.isEnabled()
    assert not folder.exists()
    assert scene.GetNumberOfNodesByClass("vtkMRMLLabelMapVolumeNode") == 0
    ui.exportButton.click()
    sampled.wait(lambda: ui.exportProgressBar.isHidden())
    assert "5 label maps were added" in sampled.message
    assert scene.GetNumberOfNodesByClass("vtkMRMLLabelMapVolumeNode") == 5


def test_samples_are_not_mixed_with_those_of_an_earlier_export(sampled, tmp_path, monkeypatch):
    (tmp_path / "sample_004.nrrd").write_bytes(b"earlier")
    monkeypatch.setattr(sampled.panel._export, "_ask_for_path", lambda: str(tmp_path))
    choose(sampled, sampled.ui.exportContentSelector, "All")
    choose(sampled, sampled.ui.exportFormatSelector, "(.nrrd)")
    sampled.ui.exportButton.click()
    sampled.wait(lambda: sampled.ui.exportProgressBar.isHidden())
    assert sampled.looks_wrong
    assert "Choose another folder" in sampled.message
    assert [path.name for path in tmp_path.iterdir()] == ["sample_004.nrrd"]


def test_scene_that_closes_during_an_export(sampled, scene):
    choose(sampled, sampled.ui.exportContentSelector, "All")
    sampled.ui.exportButton.click()
    sampled.wait(lambda: sampled.ui.exportProgressBar.value() > 0)
    sampled.panel.forget_scene()
    scene.Clear()
    process(sampled)
    assert sampled.ui.exportProgressBar.isHidden()
    assert scene.GetNumberOfNodesByClass("vtkMRMLLabelMapVolumeNode") == 0


def test_export_that_fails_is_a_message(sampled, tmp_path, monkeypatch):
    path = tmp_path / "none" / "out.nrrd"
    monkeypatch.setattr(sampled.panel._export, "_ask_for_path", lambda: str(path))
    choose(sampled, sampled.ui.exportFormatSelector, "(.nrrd)")
    sampled.ui.exportButton.click()
    assert sampled.looks_wrong
    assert "there is no folder" in sampled.message


def test_removed_samples_leave_the_structures(sampled):
    sampled.panel._samples._samples.remove()
    sampled.panel.follow_scene()
    process(sampled)
    assert sampled.ui.samplesSection.isHidden()
    assert sampled.ui.exploreSection.isHidden()
    assert not sampled.ui.resultsSection.isHidden()


def test_panel_that_is_left_follows_nothing(sampled):
    sampled.panel.leave()
    sampled.panel._samples._samples.browser.SetSelectedItemNumber(2)
    process(sampled)
    assert sampled.ui.sampleLabel.text() == "Sample 1 of 5"
    sampled.panel.refresh()
    assert sampled.ui.sampleLabel.text() == "Sample 1 of 5"
    sampled.panel.set_parameters(sampled.parameters)
    assert sampled.ui.sampleLabel.text() == "Sample 3 of 5"


def test_other_volume_shows_nothing_of_the_first(sampled, scene):
    sampled.parameters.inputVolume = add_volume(scene, blobs(1), MATRIX, "Other")
    process(sampled)
    for section in ("results", "samples", "uncertainty", "explore", "export"):
        assert getattr(sampled.ui, f"{section}Section").isHidden()


def test_results_of_the_only_volume_are_chosen_with_it(sampled):
    """As after loading a scene, or `mrfunet view`."""
    volume, result = sampled.parameters.inputVolume, sampled.parameters.outputSegmentation
    sampled.parameters.outputSegmentation = None
    sampled.parameters.inputVolume = None
    sampled.panel.follow_scene()
    assert sampled.parameters.inputVolume is volume
    assert sampled.parameters.outputSegmentation is result
    process(sampled)
    assert not sampled.ui.samplesSection.isHidden()


def test_model_is_chosen_with_the_result_that_it_has_made(sampled):
    """Or Apply would put the result of another one in its place."""
    parameters = sampled.parameters
    model, volume, result = parameters.model, parameters.inputVolume, parameters.outputSegmentation
    parameters.inputVolume = parameters.outputSegmentation = None
    parameters.model = "brain-tissue"
    sampled.panel.follow_scene()
    assert (parameters.inputVolume, parameters.outputSegmentation) == (volume, None)
    sampled.panel._model_section._files.append(model)
    sampled.panel._model_section.show("brain-tissue")
    parameters.inputVolume = None
    sampled.panel.follow_scene()
    assert (parameters.inputVolume, parameters.outputSegmentation) == (volume, result)
    assert parameters.model == model


def test_outlines_of_samples_are_shown_and_hidden(sampled):
    ui = sampled.ui
    display = sampled.panel._samples._samples.shown.GetDisplayNode()
    assert not ui.showSampleCheckBox.isChecked()
    ui.playSamplesButton.click()
    process(sampled)
    assert display.GetVisibility()
    assert ui.showSampleCheckBox.isChecked()
    ui.playSamplesButton.click()
    ui.showSampleCheckBox.click()
    assert not display.GetVisibility()
    display.SetVisibility(True)
    process(sampled)
    assert ui.showSampleCheckBox.isChecked()


def test_interval_of_few_samples_is_called_what_it_is(sampled, monkeypatch):
    tree = sampled.ui.structuresTree
    assert tree.headerItem().text(2) == "Range [ml]"
    monkeypatch.setattr("MRFUNetSegmentationLib.gui.sections.results.FEWEST_FOR_INTERVAL", 5)
    sampled.parameters.outputSegmentation.Modified()
    process(sampled)
    assert tree.headerItem().text(2) == "5 to 95 % [ml]"


def test_segment_that_the_samples_know_nothing_of_has_no_interval(sampled):
    """VTK's tables would end the process."""
    segmentation = sampled.parameters.outputSegmentation.GetSegmentation()
    segmentation.GetNthSegment(0).SetName("Renamed")
    segmentation.AddEmptySegment("mine", "White matter")
    process(sampled)
    assert [row[0] for row in rows(sampled)] == ["Renamed", "White matter", "White matter"]
    assert [row[2] != "" for row in rows(sampled)] == [True, True, False]


def test_exploration_begins_again_after_it_was_ended_at_once(sampled):
    explore = sampled.panel._explore
    for _ in range(3):
        sampled.ui.exploreButton.click()
    sampled.wait(lambda: explore.explorer.preview.node is not None)


def test_exploration_that_cannot_begin_is_a_message(sampled, scene):
    sampled.ui.exploreButton.click()
    sampled.wait(lambda: not sampled.panel._explore.explorer.busy)
    scene.RemoveNode(sampled.parameters.inputVolume)
    sampled.ui.latentSlider1.setValue(100)
    sampled.wait(lambda: sampled.panel._explore.explorer is None)
    assert "no longer in the scene" in sampled.message
    assert not sampled.ui.exploreButton.isChecked()


def test_scene_saved_while_exploring_shows_its_segmentation_again(sampled):
    sampled.ui.exploreButton.click()
    display = sampled.parameters.outputSegmentation.GetDisplayNode()
    assert not display.GetVisibility()
    sampled.panel._explore.explorer = None  # as in another session
    sampled.panel.set_parameters(sampled.parameters)
    assert display.GetVisibility()


def test_window_of_a_map_is_not_its_maximum(views, segmented):
    """Users change the window of the foreground with the mouse."""
    from MRFUNetSegmentationLib.mrml.overlays import threshold

    choose(segmented, segmented.ui.overlaySelector, "entropy")
    (overlay,) = segmented.panel._uncertainty._overlays.values()
    overlay.GetDisplayNode().SetWindowLevelMinMax(0.0, 0.0)
    segmented.ui.overlayThresholdSlider.setValue(50)
    assert threshold(overlay) == pytest.approx(0.5)
    assert overlay.GetDisplayNode().GetLowerThreshold() == pytest.approx(0.5 * np.log2(5))


def test_fill_returns_when_the_map_goes(views, segmented):
    display = segmented.parameters.outputSegmentation.GetDisplayNode()
    choose(segmented, segmented.ui.overlaySelector, "entropy")
    assert not display.GetVisibility2DFill()
    views.SetForegroundVolumeID(None)  # by the view's own controls
    process(segmented)
    assert display.GetVisibility2DFill()


def test_segmentation_that_was_a_consensus_leaves_its_samples(sampled, tiny_checkpoint):
    consensus = sampled.parameters.outputSegmentation
    sampled.parameters.model = str(tiny_checkpoint)
    sampled.parameters.outputSegmentation = consensus
    sampled.apply()
    sampled.wait_for_end()
    process(sampled)
    assert len(rows(sampled)) == 4
    assert {row[2] for row in rows(sampled)} == {""}
    assert sampled.ui.samplesSection.isHidden()
    entries = [sampled.ui.overlaySelector.itemText(i) for i in range(9)]
    assert [entry.partition("_")[0] for entry in entries if entry] == ["None", "Scan entropy"]


def test_export_is_on_the_grid_of_the_segmentations_own_volume(segmented, scene):
    first, node = segmented.parameters.inputVolume, segmented.parameters.outputSegmentation
    other = add_volume(scene, np.zeros((5, 6, 7), np.int16), MATRIX, "Other")
    segmented.parameters.inputVolume = other
    segmented.parameters.outputSegmentation = node
    process(segmented)
    segmented.ui.exportButton.click()
    labelmap = scene.GetFirstNodeByClass("vtkMRMLLabelMapVolumeNode")
    assert labelmap.GetImageData().GetDimensions() == first.GetImageData().GetDimensions()


def test_segmentation_of_a_removed_volume_is_not_written_to(segmented, scene):
    scene.RemoveNode(segmented.parameters.inputVolume)
    segmented.parameters.inputVolume = add_volume(scene, blobs(1), MATRIX, "Other")
    assert segmented.parameters.outputSegmentation is None


def test_error_said_during_a_run_is_not_lost(segmented, tmp_path, monkeypatch):
    path = tmp_path / "none" / "out.nrrd"
    monkeypatch.setattr(segmented.panel._export, "_ask_for_path", lambda: str(path))
    choose(segmented, segmented.ui.exportFormatSelector, "(.nrrd)")
    segmented.apply()
    segmented.ui.exportButton.click()
    assert "there is no folder" in segmented.message
    segmented.wait_for_end()
    assert "there is no folder" in segmented.message
    assert "structures segmented" in segmented.message


def test_installation_that_takes_long_does_not_stop_the_run(harness, volume, monkeypatch):
    """It asks with a dialog, in which the application goes on."""
    monkeypatch.setattr(harness.panel._controller, "_install", harness.panel._poll)
    harness.panel.follow_scene()
    harness.apply()
    harness.wait_for_end()
    assert "structures segmented" in harness.message


@pytest.fixture
def series(scene, sequences):
    """Three scans in a sequence."""
    return add_sequence(scene, [blobs(n) for n in range(3)], [MATRIX] * 3)


def test_sequence_is_segmented_as_a_whole(harness, scene, series):
    ui, parameters = harness.ui, harness.parameters
    harness.panel.follow_scene()
    assert parameters.inputVolume is shown_volume(series)
    assert ui.wholeSequenceCheckBox.text() == "Segment all 3 volumes of its sequence"
    assert not ui.wholeSequenceCheckBox.isHidden()
    assert not ui.mapUncertaintyCheckBox.isHidden()
    parameters.wholeSequence = True
    assert "Each of the 3 volumes" in ui.inputRemark.text()
    assert ui.mapUncertaintyCheckBox.isHidden()
    harness.apply()
    harness.wait(lambda: "Volume 2 of 3" in ui.progressBar.format())
    harness.wait_for_end()
    assert "4 structures segmented in 3 volumes" in harness.message
    process(harness)
    shown = []
    for item in range(3):
        ui.sequenceSlider.setValue(item + 1)
        process(harness)
        assert browser_of(series).GetSelectedItemNumber() == item
        assert ui.sequenceLabel.text() == f"{item + 1} of 3:"
        shown.append(rows(harness))
    assert len({str(table) for table in shown}) == 3
    choose(harness, ui.exportContentSelector, "all 3 volumes")
    ui.exportButton.click()
    harness.wait(lambda: ui.exportProgressBar.isHidden())
    assert "3 label maps were added" in harness.message
    first = parameters.outputSegmentation
    harness.apply()
    harness.wait_for_end()
    assert parameters.outputSegmentation is first
    process(harness)
    assert not ui.takeBackButton.isHidden()
    ui.takeBackButton.click()
    process(harness)
    assert rows(harness) == shown[2]
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 1


def test_each_item_has_its_own_segmentation(harness, series):
    ui, parameters = harness.ui, harness.parameters
    harness.panel.follow_scene()
    made = []
    for item in (1, 2):
        ui.sequenceSlider.setValue(item)
        process(harness)
        assert parameters.outputSegmentation is None
        harness.apply()
        harness.wait_for_end()
        process(harness)
        made.append(parameters.outputSegmentation)
    assert made[0] is not made[1]
    for item in (1, 2):
        ui.sequenceSlider.setValue(item)
        process(harness)
        assert parameters.outputSegmentation is made[item - 1]
        visible = [bool(node.GetDisplayNode().GetVisibility()) for node in made]
        assert visible == [item == 1, item == 2]


def test_slider_follows_the_sequences_browser(harness, series):
    harness.panel.follow_scene()
    browser_of(series).SetSelectedItemNumber(2)
    process(harness)
    assert harness.ui.sequenceSlider.value() == 3
    assert harness.ui.sequenceLabel.text() == "3 of 3:"


def test_segmentation_of_another_item_is_remarked(harness, series):
    ui, parameters = harness.ui, harness.parameters
    harness.panel.follow_scene()
    browser_of(series).SetSelectedItemNumber(1)
    process(harness)
    harness.apply()
    harness.wait_for_end()
    process(harness)
    node = parameters.outputSegmentation
    remark = "The segmentation shown is of item 2 of the sequence"
    assert remark not in ui.inputRemark.text()
    ui.sequenceSlider.setValue(3)
    process(harness)
    parameters.outputSegmentation = node  # the user may choose it
    process(harness)
    assert remark in ui.inputRemark.text()
    ui.sequenceSlider.setValue(2)
    process(harness)
    assert remark not in ui.inputRemark.text()
    series.RemoveDataNodeAtValue("1.5")
    browser_of(series).SetSelectedItemNumber(0)
    process(harness)
    parameters.outputSegmentation = node
    process(harness)
    assert "The segmentation shown is of item 1.5" in ui.inputRemark.text()


def test_steps_to_other_items_are_told(harness, series):
    """So that the panel can look for the segmentation of the item."""
    from MRFUNetSegmentationLib.gui.sections.input import InputSection

    steps = []
    section = InputSection(harness.ui, lambda: steps.append(section.item))
    harness.panel.follow_scene()
    section.show(harness.parameters, harness.panel._model_section.chosen)
    shown_volume(series).SetSpacing(1, 1, 2)
    for item in (1, 2, 2):
        browser_of(series).SetSelectedItemNumber(item)
    assert steps == ["1.5", "3.0"]
    harness.parameters.wholeSequence = True
    browser_of(series).SetSelectedItemNumber(0)
    assert steps == ["1.5", "3.0", None]
    section.leave()


def test_grid_of_the_file_is_not_offered_where_there_is_none(segmented):
    ui = segmented.ui
    choose(segmented, ui.exportFormatSelector, "(.nrrd)")
    choose(segmented, ui.exportGridSelector, "file")
    assert not ui.exportGridSelector.isHidden()
    assert segmented.panel._export._chosen_grid == "file"
    segmented.parameters.inputVolume.SetAttribute("DICOM.instanceUIDs", "1.2.3")
    segmented.panel.refresh()
    assert ui.exportGridSelector.isHidden() and ui.exportGridLabel.isHidden()
    assert segmented.panel._export._chosen_grid == "volume"


def test_items_of_a_sequence_are_exported_on_their_own_grids(
    harness, series, tmp_path, monkeypatch
):
    ui, parameters = harness.ui, harness.parameters
    parameters.exportGrid = "file"  # chosen for another volume
    parameters.exportFormat = ".nrrd"
    monkeypatch.setattr(harness.panel._export, "_ask_for_path", lambda: str(tmp_path / "a.nrrd"))
    harness.panel.follow_scene()
    harness.apply()
    harness.wait_for_end()
    process(harness)
    assert ui.exportGridSelector.isHidden()
    ui.exportButton.click()
    assert not harness.looks_wrong
    assert (tmp_path / "a.nrrd").exists()


def test_segmentation_of_one_volume_does_not_become_those_of_all(harness, series):
    harness.panel.follow_scene()
    harness.apply()
    harness.wait_for_end()
    single = harness.parameters.outputSegmentation
    harness.parameters.wholeSequence = True
    assert harness.parameters.outputSegmentation is None
    harness.apply()
    harness.wait_for_end()
    assert harness.parameters.outputSegmentation not in (single, None)


def test_segmentations_of_all_volumes_do_not_become_that_of_one(harness, series):
    parameters = harness.parameters
    harness.panel.follow_scene()
    parameters.wholeSequence = True
    harness.apply()
    harness.wait_for_end()
    together = parameters.outputSegmentation
    parameters.wholeSequence = False
    assert parameters.outputSegmentation is None
    harness.apply()
    harness.wait_for_end()
    process(harness)
    assert parameters.outputSegmentation not in (together, None)
    parameters.wholeSequence = True
    assert parameters.outputSegmentation is together
    parameters.wholeSequence = False
    parameters.outputSegmentation = together  # by hand
    harness.apply()
    harness.wait_for_end()
    assert "one by one" in harness.message and harness.looks_wrong


def test_sequence_gets_no_samples(harness, model, series):
    harness.parameters.model = str(model)
    harness.panel.follow_scene()
    assert not harness.ui.samplesSpinBox.isHidden()
    harness.parameters.wholeSequence = True
    assert harness.ui.samplesSpinBox.isHidden()
    assert "No samples are drawn" in harness.ui.inputRemark.text()
    harness.apply()
    harness.wait_for_end()
    assert "2 structures segmented in 3 volumes" in harness.message


def test_volume_alone_has_no_sequence(harness, scene, sequences):
    harness.parameters.wholeSequence = True
    add_sequence(scene, [blobs()], [MATRIX])
    harness.panel.follow_scene()
    assert harness.ui.wholeSequenceCheckBox.isHidden()
    assert harness.ui.sequenceSlider.isHidden()
    harness.apply()
    harness.wait_for_end()
    assert "4 structures segmented in 1 s" in harness.message


def test_name_without_a_suffix_gets_that_of_the_format(sampled, tmp_path, monkeypatch):
    """The dialog has not asked about the file of that name: another question does."""
    import slicer
    from MRFUNetSegmentationLib.gui.sections import export

    asked, path = [], tmp_path / "labels.nrrd"
    dialog = SimpleNamespace(getSaveFileName=lambda *_: str(path.with_suffix("")))
    monkeypatch.setattr(export.qt, "QFileDialog", dialog)
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", asked.append, raising=False)
    choose(sampled, sampled.ui.exportFormatSelector, "(.nrrd)")
    sampled.ui.exportButton.click()
    assert path.is_file() and not asked
    path.write_bytes(b"precious")
    sampled.ui.exportButton.click()
    assert path.read_bytes() == b"precious" and str(path) in asked[0]


def test_name_that_is_offered_is_no_path(sampled, monkeypatch):
    """Series of DICOM are called "3: T1 W/WO CONTRAST"."""
    from MRFUNetSegmentationLib.gui.sections import export

    offered = []
    dialog = SimpleNamespace(getSaveFileName=lambda *asked: offered.append(asked[2]) or "")
    monkeypatch.setattr(export.qt, "QFileDialog", dialog)
    sampled.parameters.outputSegmentation.SetName("3: T1 W/WO CONTRAST segmentation")
    choose(sampled, sampled.ui.exportFormatSelector, "(.nrrd)")
    sampled.ui.exportButton.click()
    assert offered == ["3__T1_W_WO_CONTRAST_segmentation.nrrd"]
