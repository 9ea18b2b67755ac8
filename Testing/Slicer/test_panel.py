"""The panel in the application: a user's way from a loaded scan to what is taken home."""

import sys
import time
from pathlib import Path

import numpy as np
import pytest
import slicer
from slicer_user import MODULE, Heartbeat, made_up_head, picture, process_events, slice_pixels


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
    before = segmentations()
    sampled.ui.keepSampleButton.click()
    process_events(0.1)
    (kept,) = [node for node in segmentations() if node not in before]
    assert kept.GetName() in sampled.message


def test_samples_side_by_side(sampled):
    layout = slicer.app.layoutManager().layout
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
        process_events(0.1)
        assert "ritten to" in sampled.message, sampled.message
    names = {path.name for path in Path(tmp_path).iterdir()}
    assert {"out.nii.gz", "out.seg.nrrd", "sample_001.nrrd", "sample_008.nrrd"} <= names
    assert parameters.exportFormat == ".nrrd"


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


def test_two_volumes_get_their_own_segmentations(segmented):
    first = segmented.parameters.outputSegmentation
    segmented.parameters.inputVolume = made_up_head("Other head")
    process_events(0.2)
    assert segmented.parameters.outputSegmentation is None
    assert not segmented.ui.resultsSection.visible
    segmented.apply_and_wait()
    assert segmented.parameters.outputSegmentation is not first
    assert len(segmentations()) == 2


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((20, 20, 20), 7, np.int16), "same value"),
        (np.ones((1, 20, 20), np.int16), "single slice"),
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


def test_sample_data_is_offered():
    (source,) = slicer.modules.sampleDataSources["MRF-UNet Segmentation"]
    assert source.nodeNames == ["MRHead"]
    assert source.checksums[0].startswith("SHA256:")
    assert Path(source.thumbnailFileName).is_file()


def test_self_test():
    slicer.util.getModule(MODULE)
    import MRFUNetSegmentation

    MRFUNetSegmentation.MRFUNetSegmentationTest().runTest()
