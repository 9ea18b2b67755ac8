"""A sequence of volumes from node to nodes, with a real worker."""

import shutil

import numpy as np
import pytest

slicer = pytest.importorskip("slicer")

from MRFUNetSegmentationLib.checkpoints.load import (  # noqa: E402
    build_network,
    load_checkpoint,
    save_checkpoint,
)
from MRFUNetSegmentationLib.errors import Cancelled, InputError  # noqa: E402
from MRFUNetSegmentationLib.inference.engine import Segmenter  # noqa: E402
from MRFUNetSegmentationLib.inference.segmentation import Segmentation  # noqa: E402
from MRFUNetSegmentationLib.logic.sequence_run import SequenceResult  # noqa: E402
from MRFUNetSegmentationLib.mrml.browsers import sequence_of  # noqa: E402
from MRFUNetSegmentationLib.mrml.export import read_labels  # noqa: E402
from MRFUNetSegmentationLib.mrml.volumes import read_volume, voxels  # noqa: E402
from mrml_scene import add_volume, put_under_linear_transform, rotation  # noqa: E402
from sampling_tools import write_model  # noqa: E402
from sequence_tools import add_sequence, browser_of, shown_volume  # noqa: E402
from test_logic import MATRIX, poll_to_the_end, state_of  # noqa: E402
from worker_tools import blobs  # noqa: E402


@pytest.fixture
def sequence(scene, sequences):
    arrays = [blobs(), blobs()[::-1], blobs((64, 72, 80))]
    return add_sequence(scene, arrays, [MATRIX] * 3)


@pytest.fixture
def start(logic, sequence, tiny_checkpoint):
    """Function that starts a run of the sequence without waiting."""
    return lambda **options: logic.segment(
        sequence, tiny_checkpoint, "cpu", waitForCompletion=False, **options
    )


def labels_of(node, sequence, item: int) -> np.ndarray:
    browser_of(sequence).SetSelectedItemNumber(item)
    return read_labels(node, shown_volume(sequence))


def test_each_volume_gets_the_engines_labels(logic, sequence, tiny_checkpoint):
    put_under_linear_transform(shown_volume(sequence), rotation(90, 2))
    seen = []
    node = logic.segment(
        sequence, tiny_checkpoint, "cpu", onProgress=lambda *progress: seen.append(progress)
    )
    segmenter = Segmenter(load_checkpoint(tiny_checkpoint), "cpu")
    for item in (2, 0, 1):
        found = labels_of(node, sequence, item)
        expected = segmenter.segment(read_volume(shown_volume(sequence)))
        np.testing.assert_array_equal(found, expected.labels)
        assert found.any()
    assert node.GetParentTransformNode() is shown_volume(sequence).GetParentTransformNode()
    stages, fractions = zip(*seen, strict=True)
    assert [f for f in fractions if not 0 <= f <= 1] == []
    assert list(fractions) == sorted(fractions)
    captions = list(dict.fromkeys(stage.partition(":")[0] for stage in stages))
    assert captions == ["Volume 1 of 3", "Volume 2 of 3", "Volume 3 of 3"]


def test_one_process_and_one_model_serve_all_volumes(start):
    run = start()
    run.wait()
    process = run._item._job._process
    run = start()
    run.wait()
    assert run._item._job._process is process
    assert "Loading the model" not in run.result.timings
    assert run.result.volumes == 3
    assert run.result.device


def test_model_that_is_replaced_during_the_run(
    logic, sequence, tiny_checkpoint, tiny_card, tmp_path
):
    """As where training goes on: some of the segmentations would be of another network."""
    model = tmp_path / "mine.safetensors"
    shutil.copy(tiny_checkpoint, model)
    before = state_of(sequence.GetScene())
    run = logic.segment(sequence, model, "cpu", waitForCompletion=False)
    while run._place == 0:
        run.poll()
    save_checkpoint(model, build_network(tiny_card), tiny_card)
    poll_to_the_end(run)
    assert run.state == "failed"
    assert "Volume 2 of 3" in str(run.error) or "Volume 3 of 3" in str(run.error)
    assert "two networks" in str(run.error)
    assert state_of(sequence.GetScene()) == before


def test_volumes_may_be_browsed_during_the_run(start, sequence):
    run = start()
    while run.state == "running":
        run.poll()
        browser = browser_of(sequence)
        browser.SetSelectedItemNumber((browser.GetSelectedItemNumber() + 1) % 3)
    assert run.state == "done", run.error


@pytest.mark.parametrize("stage", ["first", "between", "second"])
def test_cancel_keeps_nothing(scene, start, stage):
    before = state_of(scene)
    run = start()
    while run._place == 0 and stage != "first":
        run.poll()
    if stage == "second":
        run.poll()
    run.cancel()
    with pytest.raises(Cancelled):
        run.wait()
    assert state_of(scene) == before


def test_error_says_at_which_volume(scene, logic, sequence, tiny_checkpoint):
    voxels(sequence.GetNthDataNode(1).GetImageData())[:] = 7
    before = state_of(scene)
    with pytest.raises(InputError, match=r"Volume 2 of 3: .*same value"):
        logic.segment(sequence, tiny_checkpoint, "cpu")
    assert state_of(scene) == before


def test_second_run_replaces_the_first_and_is_taken_back(scene, start, sequence, logic):
    node = start().wait()
    first, labels = sequence_of(node), labels_of(node, sequence, 1)
    count = scene.GetNumberOfNodes()
    voxels(sequence.GetNthDataNode(1).GetImageData())[:] = blobs()[:, ::-1]
    run = start(outputNode=node)
    assert run.wait() is node
    assert scene.GetNumberOfNodes() == count
    assert (labels_of(node, sequence, 1) != labels).any()
    assert run.can_take_back
    run.take_back()
    assert sequence_of(node) is first
    np.testing.assert_array_equal(labels_of(node, sequence, 1), labels)
    assert not run.can_take_back


def test_sequence_that_was_moved_is_not_taken_back(start, sequence):
    run = start(outputNode=start().wait())
    run.wait()
    volume, node = shown_volume(sequence), run.outputNode
    transform = put_under_linear_transform(volume, rotation(90, 2))
    node.SetAndObserveTransformNodeID(transform.GetID())
    assert not run.can_take_back
    volume.HardenTransform()
    node.HardenTransform()
    assert not run.can_take_back
    for item in (1, 0):  # what was hardened of a volume is not kept
        browser_of(sequence).SetSelectedItemNumber(item)
    assert run.can_take_back
    sequence.GetNthDataNode(2).SetOrigin(1, 2, 3)
    assert not run.can_take_back


def test_model_that_draws_samples_gives_one_segmentation_of_each(
    logic, sequence, tiny_card, tmp_path
):
    model = write_model(tmp_path, tiny_card)
    node = logic.segment(sequence, model, "cpu")
    single = logic.segment(shown_volume(sequence), model, "cpu")
    np.testing.assert_array_equal(
        labels_of(node, sequence, 0), read_labels(single, shown_volume(sequence))
    )


@pytest.mark.parametrize("gone", ["sequence", "browser", "volume", "output", "item"])
def test_result_is_dropped_when_nodes_go(scene, start, sequence, gone):
    output = start().wait()
    run = start(outputNode=output)
    if gone == "item":
        sequence.RemoveDataNodeAtValue("3.0")
    else:
        nodes = {"sequence": sequence, "browser": browser_of(sequence), "output": output}
        scene.RemoveNode(nodes.get(gone) or shown_volume(sequence))
    poll_to_the_end(run)
    assert run.state == "failed"
    assert isinstance(run.error, InputError)
    assert "run" in str(run.error)


def edit_voxel(volume_node) -> None:
    voxels(volume_node.GetImageData())[1, 2, 3] += 1


def move(volume_node) -> None:
    volume_node.SetOrigin(1.0, 2.0, 3.0)


@pytest.mark.parametrize("change", [edit_voxel, move])
def test_result_is_dropped_when_a_volume_that_is_done_changes(scene, start, sequence, change):
    run = start()
    while run._place < 2 and run.state == "running":
        run.poll()
    change(sequence.GetNthDataNode(1))
    before = state_of(scene)
    poll_to_the_end(run)
    assert run.state == "failed" and run.outputNode is None
    assert isinstance(run.error, InputError)
    assert str(run.error).startswith("Volume 2 of 3: The volume Scans 2 was changed during the run")
    assert state_of(scene) == before


def test_what_cannot_be_is_refused_at_once(scene, logic, sequence, tiny_checkpoint):
    with pytest.raises(InputError, match="Maps of uncertainty"):
        logic.segment(sequence, tiny_checkpoint, maps=["entropy"])
    other = logic.segment(add_volume(scene, blobs(), MATRIX), tiny_checkpoint)
    with pytest.raises(InputError, match="is one segmentation"):
        logic.segment(sequence, tiny_checkpoint, outputNode=other)
    node = logic.segment(sequence, tiny_checkpoint, "cpu")
    before = state_of(scene)
    for call in (logic.segment, logic.sample):
        with pytest.raises(InputError, match=r"one by one.*Choose another output"):
            call(shown_volume(sequence), tiny_checkpoint, outputNode=node, waitForCompletion=False)
    assert state_of(scene) == before and not logic.worker.busy


def test_browser_of_the_chosen_volume(logic, scene, sequence, tiny_checkpoint):
    second = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "Second")
    second.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    for browser in (browser_of(sequence), second):
        volume = browser.GetProxyNode(sequence)
        node = logic.segment(sequence, str(tiny_checkpoint), "cpu", shownBy=volume)
        assert browser.GetSequenceNode(node) is not None


def test_a_warning_of_several_volumes_is_said_once(tiny_card):
    summary = SequenceResult(tiny_card, "ab12", "cpu")
    for seconds in (1.0, 2.0):
        timings = {"U-Net": seconds}
        result = Segmentation(
            np.zeros((1, 1, 1)), None, tiny_card, "ab12", "cpu", {}, timings, ["Thick slices."]
        )
        summary = summary.and_of(result)
    assert summary.warnings == ["Thick slices."] and summary.volumes == 2
    assert summary.timings == {"U-Net": 3.0}
