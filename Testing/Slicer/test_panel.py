"""The panel in the application: a user's way from a loaded scan to what is taken home."""

import sys
import time
from pathlib import Path

import numpy as np
import pytest
import slicer
from slicer_user import (
    MODULE,
    Heartbeat,
    complaints,
    look_at_data,
    made_up_head,
    made_up_series,
    picture,
    process_events,
    slice_pixels,
)


def segmentations() -> list:
    return slicer.util.getNodesByClass("vtkMRMLSegmentationNode")


@pytest.fixture
def segmented(panel, scan):
    """A scan that was segmented with the defaults."""
    panel.apply_and_wait()
    assert panel.parameters.outputSegmentation, panel.message
    return panel


@pytest.fixture
def sampled(panel, scan, sampling_model):
    """A scan of which eight samples were drawn."""
    panel.parameters.model = sampling_model
    panel.parameters.samples = 8
    process_events(0.1)
    panel.apply_and_wait()
    assert panel.parameters.outputSegmentation, panel.message
    return panel


def test_opens_at_once_and_without_torch(panel):
    slicer.util.selectModule("Data")
    begin = time.monotonic()
    slicer.util.reloadScriptedModule(MODULE)
    slicer.util.selectModule(MODULE)
    process_events()
    assert time.monotonic() - begin < 1
    assert "torch" not in sys.modules


def test_empty_scene_says_what_to_do(panel):
    assert not panel.ui.applyButton.enabled
    assert "Load an MRI" in panel.message
    for section in ("results", "samples", "uncertainty", "explore", "export"):
        assert not getattr(panel.ui, f"{section}Section").visible
    picture("1-empty")


def test_one_click_from_a_loaded_scan_to_volumes(panel, scan):
    assert panel.parameters.inputVolume is scan
    assert "mm voxels" in panel.ui.inputRemark.text
    with Heartbeat() as heartbeat:
        panel.apply()
        panel.wait(lambda: panel.ui.progressBar.value > 5 or panel.idle)
        picture("2-running")
        panel.wait(lambda: panel.idle)
    # The longest is the one in which the result goes into the scene, and a picture may be taken.
    gaps = sorted(heartbeat.gaps)[::-1]
    print(f"longest gaps of the event loop: {[f'{1000 * gap:.0f} ms' for gap in gaps[:5]]}")
    process_events(0.3)
    tree = panel.ui.structuresTree
    assert panel.ui.resultsSection.visible
    assert tree.topLevelItemCount == 4
    volumes = [float(tree.topLevelItem(row).text(1)) for row in range(4)]
    assert sum(volumes) > 0
    assert "torch" not in sys.modules
    picture("3-result")


def test_structures_are_hidden_and_shown(segmented):
    tree = segmented.ui.structuresTree
    node = segmented.parameters.outputSegmentation
    first = node.GetSegmentation().GetNthSegmentID(0)
    tree.topLevelItem(0).setCheckState(0, 0)
    process_events(0.1)
    assert not node.GetDisplayNode().GetSegmentVisibility(first)
    node.GetDisplayNode().SetSegmentVisibility(first, True)
    process_events(0.1)
    assert tree.topLevelItem(0).checkState(0) == 2


def test_style_and_opacity_change_the_slices(segmented):
    before = slice_pixels()
    segmented.choose(segmented.ui.resultStyleSelector, "Outline")
    outline = slice_pixels()
    assert (outline != before).any()
    segmented.ui.resultOpacitySlider.setValue(20)
    process_events(0.1)
    assert (slice_pixels() != outline).any()


def test_entropy_is_laid_over_the_scan(segmented):
    ui = segmented.ui
    assert ui.uncertaintySection.visible
    before = slice_pixels()
    segmented.choose(ui.overlaySelector, "entropy")
    shown = slice_pixels()
    assert (shown != before).any()
    assert not panel_fill(segmented)
    picture("4-entropy")
    ui.overlayLegendCheckBox.setChecked(False)
    process_events(0.1)
    without_legend = slice_pixels()
    assert (without_legend != shown).any()
    ui.overlayOpacitySlider.setValue(10)
    process_events(0.1)
    faint = slice_pixels()
    assert (faint != shown).any()
    ui.overlayThresholdSlider.setValue(95)
    process_events(0.1)
    assert (slice_pixels() != faint).any()
    segmented.choose(ui.overlaySelector, "None")
    assert panel_fill(segmented)
    np.testing.assert_array_equal(slice_pixels(), before)


def test_legend_goes_with_its_map(segmented):
    before = slice_pixels()
    segmented.choose(segmented.ui.overlaySelector, "entropy")
    segmented.choose(segmented.ui.overlaySelector, "None")
    np.testing.assert_array_equal(slice_pixels(), before)


def panel_fill(panel) -> bool:
    return bool(panel.parameters.outputSegmentation.GetDisplayNode().GetVisibility2DFill())


def test_last_run_can_be_taken_back(segmented):
    node = segmented.parameters.outputSegmentation
    assert not segmented.ui.takeBackButton.visible
    segment_id = node.GetSegmentation().GetNthSegmentID(0)
    node.GetSegmentation().GetSegment(segment_id).SetName("Mine")
    volume = segmented.parameters.inputVolume
    edited = np.zeros(slicer.util.arrayFromVolume(volume).shape, np.uint8)
    edited[10:20, 10:20, 10:20] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(edited, node, segment_id, volume)
    process_events(0.3)
    segmented.apply_and_wait()
    assert segmented.parameters.outputSegmentation is node
    assert segmented.ui.takeBackButton.visible
    segmented.ui.takeBackButton.click()
    process_events(0.3)
    array = slicer.util.arrayFromSegmentBinaryLabelmap(node, segment_id, volume)
    np.testing.assert_array_equal(array, edited)
    assert not segmented.ui.takeBackButton.visible


def test_second_run_is_warm(segmented):
    begin = time.monotonic()
    segmented.apply_and_wait()
    timings = segmented.widget.panel._controller.last.result.timings
    print(f"second run: {time.monotonic() - begin:.2f} s, in the engine {timings}")
    assert len(segmentations()) == 1


def test_samples_are_stepped_through(sampled):
    ui = sampled.ui
    assert ui.samplesSection.visible
    assert ui.sampleLabel.text == "Sample 1 of 8"
    before = slice_pixels()
    seconds = []
    for place in range(2, 9):
        begin = time.monotonic()
        ui.sampleSlider.setValue(place)
        seconds.append(time.monotonic() - begin)
        process_events(0.05)
    print(f"steps: {[f'{1000 * s:.1f} ms' for s in seconds]}")
    assert sorted(seconds)[len(seconds) // 2] < 0.05
    assert ui.sampleLabel.text == "Sample 8 of 8"
    assert (slice_pixels() != before).any()
    ui.nextSampleButton.click()
    process_events(0.1)
    assert ui.sampleLabel.text == "Sample 1 of 8"
    sampled.choose(ui.sampleOrderSelector, "likelihood")
    ui.previousSampleButton.click()
    process_events(0.1)
    assert ui.sampleLabel.text.endswith("of 8")
    picture("5-samples")


@pytest.mark.parametrize("again", [False, True])
def test_result_that_does_not_fit_leaves_the_scene(sampled, monkeypatch, again):
    """As where memory runs out while nodes are added: they go, and the application stays."""
    ui = sampled.ui
    if not again:
        sampled.parameters.outputSegmentation = None

    def without_memory(*_):
        process_events(0.2)  # the views show what there is by now
        raise MemoryError

    before = [node.GetID() for node in segmentations()]
    monkeypatch.setattr("MRFUNetSegmentationLib.mrml.samples.add_samples_table", without_memory)
    sampled.apply_and_wait()
    assert "could not be put into the scene" in sampled.message
    process_events(0.5)
    assert [node.GetID() for node in segmentations()] == before
    monkeypatch.undo()
    sampled.apply_and_wait()
    assert "8 plausible segmentations drawn" in sampled.message
    assert ui.sampleLabel.text == "Sample 1 of 8"


def test_samples_put_back_have_their_volumes(sampled):
    tree = sampled.ui.structuresTree
    before = tree.topLevelItem(0).text(1)
    sampled.parameters.seed = 5
    sampled.apply_and_wait()
    assert tree.topLevelItem(0).text(1) != before
    sampled.ui.takeBackButton.click()
    process_events(0.3)
    assert tree.topLevelItem(0).text(1) == before


def test_samples_play(sampled):
    labels = set()
    sampled.ui.playSamplesButton.click()
    end = time.monotonic() + 3
    while time.monotonic() < end:
        process_events(0.05)
        labels.add(sampled.ui.sampleLabel.text)
    sampled.ui.playSamplesButton.click()
    assert len(labels) > 2


def test_sample_is_kept(sampled):
    look_at_data()
    before, logged = segmentations(), complaints()
    sampled.ui.keepSampleButton.click()
    process_events(0.1)
    (kept,) = [node for node in segmentations() if node not in before]
    assert kept.GetName() in sampled.message
    assert complaints() == logged


def test_samples_side_by_side(sampled):
    look_at_data()
    layout, logged = slicer.app.layoutManager().layout, complaints()
    nodes = slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")
    sampled.ui.compareSamplesButton.click()
    process_events(0.5)
    names = sorted(slicer.app.layoutManager().sliceViewNames())
    assert [name for name in names if "MRFUNetSample" in name] == [
        f"MRFUNetSample{n}" for n in (1, 2, 3, 4)
    ]
    picture("6-side-by-side")
    pixels = [slice_pixels(f"MRFUNetSample{n}") for n in (1, 4)]
    assert pixels[0].shape == pixels[1].shape
    assert (pixels[0] != pixels[1]).any()
    sampled.ui.compareSamplesButton.click()
    process_events(0.3)
    assert slicer.app.layoutManager().layout == layout
    assert complaints() == logged
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == nodes


def test_latent_space_is_explored(sampled):
    ui = sampled.ui
    assert ui.exploreSection.visible
    before = segmentations()
    ui.exploreButton.click()
    sampled.wait(lambda: len(segmentations()) > len(before), 20)
    assert ui.latentSlider1.visible
    explorer = sampled.widget.panel._explore.explorer
    sampled.wait(lambda: not explorer.busy, 20)
    at_mean = slice_pixels()
    begin = time.monotonic()
    ui.latentSlider1.setSliderDown(True)
    ui.latentSlider1.setValue(250)
    sampled.wait(lambda: not explorer.busy, 20)
    print(f"from the move to the slices: {1000 * (time.monotonic() - begin):.0f} ms")
    assert (slice_pixels() != at_mean).any()
    ui.latentSlider1.setSliderDown(False)
    sampled.wait(lambda: not explorer.busy, 20)
    picture("7-explore")
    ui.exploreButton.click()
    process_events(0.2)
    assert segmentations() == before


def test_export_to_the_scene_and_to_files(sampled, tmp_path, monkeypatch):
    ui, parameters = sampled.ui, sampled.parameters
    ui.exportSection.collapsed = False
    ui.exportButton.click()
    (labelmap,) = slicer.util.getNodesByClass("vtkMRMLLabelMapVolumeNode")
    assert labelmap.GetName() in sampled.message
    export = sampled.widget.panel._export
    for kind, content in ((".nii.gz", "Consensus"), (".seg.nrrd", "shown"), (".nrrd", "All")):
        path = tmp_path / (f"out{kind}" if content != "All" else "")
        monkeypatch.setattr(export, "_ask_for_path", lambda path=path: str(path))
        sampled.choose(ui.exportContentSelector, content)
        sampled.choose(ui.exportFormatSelector, f"({kind})")
        ui.exportButton.click()
        sampled.wait(lambda: not ui.exportProgressBar.visible)
        assert "ritten to" in sampled.message, sampled.message
    names = {path.name for path in Path(tmp_path).iterdir()}
    assert {"out.nii.gz", "out.seg.nrrd", "sample_001.nrrd", "sample_008.nrrd"} <= names
    assert parameters.exportFormat == ".nrrd"


def test_export_of_many_samples_lets_the_application_go_on(sampled, tmp_path, monkeypatch):
    ui = sampled.ui
    ui.exportSection.collapsed = False
    monkeypatch.setattr(sampled.widget.panel._export, "_ask_for_path", lambda: str(tmp_path))
    sampled.choose(ui.exportContentSelector, "All")
    sampled.choose(ui.exportFormatSelector, "(.nii.gz)")
    with Heartbeat() as heartbeat:
        ui.exportButton.click()
        sampled.wait(lambda: ui.exportProgressBar.value > 10)
        ui.exportButton.click()
    print(f"longest gap during the export: {1000 * max(heartbeat.gaps):.0f} ms")
    assert "nothing of it was kept" in sampled.message
    assert list(tmp_path.iterdir()) == []
    process_events(0.1)
    assert ui.exportButton.text == "Export…"


def test_choices_and_samples_come_back_with_the_scene(sampled, tmp_path):
    sampled.parameters.seed = 7
    file = str(tmp_path / "scene.mrb")
    assert slicer.util.saveScene(file)
    slicer.mrmlScene.Clear()
    process_events(0.3)
    assert not sampled.ui.samplesSection.visible
    slicer.util.loadScene(file)
    process_events(0.5)
    assert sampled.parameters.seed == 7
    assert sampled.ui.samplesSection.visible
    assert sampled.ui.sampleLabel.text == "Sample 1 of 8"
    assert not sampled.ui.exploreSection.visible  # the samples are not of this session
    sampled.ui.nextSampleButton.click()
    process_events(0.1)
    assert sampled.ui.sampleLabel.text == "Sample 2 of 8"


def test_cancel_is_quick_and_leaves_the_scene(panel, scan):
    nodes = slicer.mrmlScene.GetNumberOfNodes()
    panel.apply()
    panel.wait(lambda: panel.ui.progressBar.value >= 1 or panel.idle)
    begin = time.monotonic()
    panel.ui.applyButton.click()
    panel.wait(lambda: not panel.running, 10)
    seconds = time.monotonic() - begin
    print(f"cancelled within {seconds:.2f} s")
    assert seconds < 2
    assert "cancelled" in panel.message
    assert segmentations() == []
    panel.wait(lambda: panel.idle)
    assert slicer.mrmlScene.GetNumberOfNodes() == nodes


def test_scene_may_close_during_a_run(panel, scan):
    panel.apply()
    process_events(0.5)
    slicer.mrmlScene.Clear()
    panel.wait(lambda: panel.idle, 20)
    assert segmentations() == []
    assert "Load an MRI" in panel.message


def test_volume_may_go_during_a_run(panel, scan):
    panel.apply()
    process_events(0.5)
    slicer.mrmlScene.RemoveNode(scan)
    panel.wait(lambda: panel.idle, 20)
    assert "no longer in the scene" in panel.message
    assert segmentations() == []


def test_module_may_be_reloaded_during_a_run(panel, scan):
    panel.apply()
    process_events(0.5)
    slicer.util.reloadScriptedModule(MODULE)
    process_events(0.5)
    assert segmentations() == []
    panel.apply_and_wait()
    assert len(segmentations()) == 1, panel.message


def test_another_module_may_be_shown_during_a_run(panel, scan):
    panel.apply()
    slicer.util.selectModule("Data")
    panel.wait(lambda: panel.idle)
    assert len(segmentations()) == 1
    slicer.util.selectModule(MODULE)
    process_events(0.3)
    assert panel.ui.resultsSection.visible


def test_two_models_get_their_own_segmentations(segmented, sampling_model):
    first, model = segmented.parameters.outputSegmentation, segmented.parameters.model
    segmented.parameters.model = sampling_model
    segmented.parameters.samples = 2
    process_events(0.2)
    assert segmented.parameters.outputSegmentation is None
    assert not first.GetDisplayNode().GetVisibility()
    segmented.apply_and_wait()
    second = segmented.parameters.outputSegmentation
    assert second is not first
    segmented.parameters.model = model
    process_events(0.2)
    assert segmented.parameters.outputSegmentation is first
    assert first.GetDisplayNode().GetVisibility()
    assert not second.GetDisplayNode().GetVisibility()
    assert segmented.ui.structuresTree.topLevelItemCount == 4


def test_structures_of_another_model_are_shown(segmented, sampling_model):
    node = segmented.parameters.outputSegmentation
    segmented.parameters.model = sampling_model
    segmented.parameters.samples = 2
    segmented.parameters.outputSegmentation = node
    process_events(0.2)
    segmented.apply_and_wait()
    segmentation = node.GetSegmentation()
    assert segmentation.GetNumberOfSegments() == 2
    for segment_id in segmentation.GetSegmentIDs():
        assert node.GetDisplayNode().GetSegmentVisibility(segment_id)


def test_two_volumes_get_their_own_segmentations(segmented):
    first = segmented.parameters.outputSegmentation
    segmented.parameters.inputVolume = made_up_head("Other head")
    process_events(0.2)
    assert segmented.parameters.outputSegmentation is None
    assert not segmented.ui.resultsSection.visible
    segmented.apply_and_wait()
    assert segmented.parameters.outputSegmentation is not first
    assert len(segmentations()) == 2


def test_sequence_is_segmented_browsed_and_exported(panel, tmp_path, monkeypatch):
    browser = made_up_series("Visit", 3)
    ui = panel.ui
    assert ui.wholeSequenceCheckBox.visible
    ui.wholeSequenceCheckBox.click()
    process_events(0.1)
    assert "Each of the 3 volumes" in ui.inputRemark.text
    with Heartbeat() as heartbeat:
        panel.apply()
        panel.wait(lambda: "Volume 2 of 3" in ui.progressBar.format or panel.idle)
        browser.SelectNextItem()
        panel.wait(lambda: panel.idle)
    print(f"longest gap during a sequence: {1000 * max(heartbeat.gaps):.0f} ms")
    assert "in 3 volumes" in panel.message
    assert len(segmentations()) == 1
    shown = []
    for item in range(3):
        ui.sequenceSlider.setValue(item + 1)
        process_events(0.3)
        assert browser.GetSelectedItemNumber() == item
        tree = ui.structuresTree
        volumes = [tree.topLevelItem(row).text(1) for row in range(tree.topLevelItemCount)]
        shown.append((tuple(volumes), slice_pixels().tobytes()))
    assert len(set(shown)) == 3
    assert len({volumes for volumes, _pixels in shown}) == 3
    picture("9-sequence")
    ui.exportSection.collapsed = False
    monkeypatch.setattr(panel.widget.panel._export, "_ask_for_path", lambda: str(tmp_path))
    panel.choose(ui.exportContentSelector, "all 3 volumes")
    panel.choose(ui.exportFormatSelector, "(.nrrd)")
    ui.exportButton.click()
    panel.wait(lambda: not ui.exportProgressBar.visible)
    assert "3 label maps and a table" in panel.message
    table = (tmp_path / "volumes.csv").read_text().splitlines()
    told = [[float(cell) for cell in row.split(",")[1:]] for row in table[1:]]
    assert [[f"{ml:.1f}" for ml in row] for row in told] == [list(ml) for ml, _pixels in shown]


def test_sequence_comes_back_with_the_scene(panel, tmp_path):
    browser = made_up_series("Visit", 2)
    panel.ui.wholeSequenceCheckBox.click()
    panel.apply_and_wait()
    (node,) = segmentations()
    display = node.GetDisplayNode()
    display.SetSegmentVisibility(node.GetSegmentation().GetNthSegmentID(0), False)
    file = str(tmp_path / "scene.mrb")
    assert slicer.util.saveScene(file)
    slicer.mrmlScene.Clear()
    process_events(0.3)
    slicer.util.loadScene(file)
    process_events(0.5)
    assert panel.parameters.wholeSequence
    assert panel.ui.wholeSequenceCheckBox.checked
    (node,) = segmentations()
    assert panel.parameters.outputSegmentation is node
    (browser,) = slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode")
    assert browser.GetSequenceNode(node).GetNumberOfDataNodes() == 2
    browser.SetSelectedItemNumber(1)
    process_events(0.3)
    assert float(panel.ui.structuresTree.topLevelItem(0).text(1)) > 0
    segment_id = node.GetSegmentation().GetNthSegmentID(0)
    assert not node.GetDisplayNode().GetSegmentVisibility(segment_id)


def test_cancel_in_the_middle_of_a_sequence_keeps_nothing(panel):
    made_up_series("Visit", 3)
    panel.ui.wholeSequenceCheckBox.click()
    nodes = slicer.mrmlScene.GetNumberOfNodes()
    panel.apply()
    panel.wait(lambda: "Volume 2 of 3" in panel.ui.progressBar.format or panel.idle)
    panel.ui.applyButton.click()
    panel.wait(lambda: panel.idle)
    assert "cancelled" in panel.message
    assert slicer.mrmlScene.GetNumberOfNodes() == nodes


def test_scene_may_close_in_the_middle_of_a_sequence(panel):
    made_up_series("Visit", 3)
    panel.ui.wholeSequenceCheckBox.click()
    panel.apply()
    panel.wait(lambda: "Volume 2 of 3" in panel.ui.progressBar.format or panel.idle)
    slicer.mrmlScene.Clear()
    panel.wait(lambda: panel.idle, 20)
    assert segmentations() == []
    assert "Load an MRI" in panel.message


def test_apply_does_not_wait_for_a_decode(sampled):
    sampled.ui.exploreButton.click()
    sampled.ui.latentSlider1.setValue(200)
    begin = time.monotonic()
    sampled.ui.applyButton.click()
    seconds = time.monotonic() - begin
    print(f"Apply during a decode returned after {1000 * seconds:.0f} ms")
    assert seconds < 0.3
    sampled.wait(lambda: sampled.idle)
    assert "8 plausible" in sampled.message


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((20, 20, 20), 7, np.int16), "same value"),
        (np.eye(20, dtype=np.int16)[None], "at least 8 along every axis"),
        (np.where(np.indices((20, 20, 20))[0] > 9, np.nan, 1.0), "finite"),
    ],
    ids=["constant", "slice", "NaN"],
)
def test_bad_volume_is_a_message(panel, array, message):
    slicer.util.addVolumeFromArray(array)
    process_events(0.2)
    panel.apply_and_wait()
    assert message in panel.message
    assert segmentations() == []


def test_model_that_cannot_be_read_is_a_message(panel, scan):
    panel.parameters.model = "/no/such.safetensors"
    process_events(0.2)
    assert "/no/such.safetensors" in panel.message
    assert not panel.ui.applyButton.enabled


def test_models_are_searched(panel):
    selector, search = panel.ui.modelSelector, panel.ui.modelSearchEdit
    before = selector.count
    search.setText("knee")
    process_events(0.1)
    assert selector.count < before
    search.setText("lesions flair")
    process_events(0.1)
    assert panel.ui.modelSearchRemark.text.startswith("1 of ")
    picture("10-search")
    panel.choose(selector, "White-matter lesions")
    assert panel.parameters.model == "white-matter-lesions"
    search.setText("")
    assert selector.count == before
    assert not panel.ui.modelSearchRemark.visible


def test_checkpoint_of_published_code_is_imported(
    panel, scan, published_checkpoint, tmp_path, monkeypatch
):
    section, selector = panel.widget.panel._model_section, panel.ui.modelSelector
    monkeypatch.setattr(section._folder, "path", tmp_path / "Models")
    monkeypatch.setattr(section, "_ask_for_file", lambda: str(published_checkpoint))
    panel.choose(selector, "Load checkpoint")
    panel.wait(lambda: panel.idle, 60)
    assert "upstream.pth was imported" in panel.message
    assert selector.currentText == "Converted (upstream.safetensors)"
    assert "torch" not in sys.modules
    picture("11-imported")
    panel.apply_and_wait()
    assert "2 structures segmented" in panel.message
    panel.choose(selector, "Brain tissue")
    panel.choose(panel.ui.qualitySelector, "Fast")
    assert panel.parameters.model == "brain-tissue-fast"
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text: True)
    panel.ui.clearModelFolderButton.click()
    process_events(0.1)
    assert section._folder.models() == []
    assert not panel.ui.clearModelFolderButton.visible


def test_import_without_a_card_says_what_is_needed(panel, tmp_path, monkeypatch):
    section = panel.widget.panel._model_section
    monkeypatch.setattr(section, "_ask_for_file", lambda: str(tmp_path / "weights.pth"))
    panel.choose(panel.ui.modelSelector, "Load checkpoint")
    assert "as weights.json" in panel.message
    picture("12-card-needed")


def test_sample_data_is_offered():
    (source,) = slicer.modules.sampleDataSources["MRF-UNet Segmentation"]
    assert source.nodeNames == ["MRHead"]
    assert source.checksums[0].startswith("SHA256:")
    assert Path(source.thumbnailFileName).is_file()


def test_self_test():
    slicer.util.getModule(MODULE)
    import MRFUNetSegmentation

    MRFUNetSegmentation.MRFUNetSegmentationTest().runTest()
