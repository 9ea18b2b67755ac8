"""From node to node with a real worker: results, errors, and a scene that changes in between."""

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

slicer = pytest.importorskip("slicer")
import vtk  # noqa: E402
from MRFUNetSegmentationLib.checkpoints.load import load_checkpoint  # noqa: E402
from MRFUNetSegmentationLib.errors import (  # noqa: E402
    Cancelled,
    CheckpointError,
    DeviceError,
    InputError,
    OutputError,
    WorkerError,
)
from MRFUNetSegmentationLib.inference.engine import Segmenter  # noqa: E402
from MRFUNetSegmentationLib.logic import SegmentationLogic, run  # noqa: E402
from MRFUNetSegmentationLib.mrml import posterior  # noqa: E402
from MRFUNetSegmentationLib.mrml.export import read_labels  # noqa: E402
from MRFUNetSegmentationLib.mrml.posterior import map_volumes  # noqa: E402
from MRFUNetSegmentationLib.mrml.segmentations import read_provenance  # noqa: E402
from MRFUNetSegmentationLib.mrml.volumes import read_volume, voxels  # noqa: E402
from mrml_scene import (  # noqa: E402
    OBLIQUE,
    add_volume,
    put_under_linear_transform,
    rotation,
    translation,
    vtk_image,
    vtk_matrix,
)
from test_mrml_segmentations import state as segmentation_state  # noqa: E402
from worker_tools import PACKAGE_PARENT, blobs, is_running, wait_until  # noqa: E402

MATRIX = OBLIQUE @ np.diag([3.0, 2.4, 1.0, 1.0])


@pytest.fixture
def volume_node(scene):
    return add_volume(scene, blobs(), MATRIX, "Scan")


@pytest.fixture
def start(logic, volume_node, tiny_checkpoint):
    """Function that starts a run of the volume node without waiting."""

    def start(**options):
        return logic.segment(volume_node, tiny_checkpoint, waitForCompletion=False, **options)

    return start


def state_of(scene) -> list[tuple[str, str, int]]:
    """What would change if any node or voxel of the scene did."""
    nodes = [scene.GetNthNode(n) for n in range(scene.GetNumberOfNodes())]
    return [(node.GetID(), node.GetName(), node.GetMTime()) for node in nodes]


def poll_to_the_end(run) -> None:
    def ended() -> bool:
        run.poll()
        return run.state != "running"

    assert wait_until(ended, 60)


# --- Results --------------------------------------------------------------------------------------


def test_segments_are_the_engines_labels(logic, volume_node, tiny_checkpoint):
    put_under_linear_transform(volume_node, rotation(90, 2) @ translation(5, 6, 7))
    checkpoint = load_checkpoint(tiny_checkpoint)
    expected = Segmenter(checkpoint).segment(read_volume(volume_node))

    node = logic.segment(volume_node, tiny_checkpoint)

    classes = checkpoint.card.segments
    assert list(node.GetSegmentation().GetSegmentIDs()) == [c.segment_id for c in classes]
    labels = read_labels(node, volume_node)
    assert len(np.unique(labels)) > 2
    np.testing.assert_array_equal(labels, expected.labels)
    provenance = read_provenance(node)
    assert (provenance["Model"], provenance["SHA256"]) == ("tiny", checkpoint.sha256)
    assert provenance["Device"].startswith(expected.device.split()[0])


def test_scene_is_untouched_until_the_poll_that_ends_the_run(start, scene):
    before = state_of(scene)
    seen = []
    run = start(onProgress=lambda *progress: seen.append(progress))
    time.sleep(1.0)
    assert run.state == "running" and not seen and state_of(scene) == before
    while run.state == "running":
        assert state_of(scene) == before
        run.poll()
    assert run.state == "done" and run.error is None
    assert run.outputNode.IsA("vtkMRMLSegmentationNode") and scene.IsNodePresent(run.outputNode)
    assert state_of(scene) != before
    assert run.result.labels.shape == (80, 72, 64)
    assert seen[-1][1] == 1.0 and [f for _, f in seen] == sorted(f for _, f in seen)


def test_maps_become_volumes(logic, volume_node, tiny_checkpoint, scene):
    node = logic.segment(volume_node, tiny_checkpoint, device="cpu", maps=["entropy", "variance"])
    entropy, variance = map_volumes(node)
    checkpoint = load_checkpoint(tiny_checkpoint)
    expected = Segmenter(checkpoint, "cpu").segment(
        read_volume(volume_node), maps=["entropy", "variance"]
    )
    for volume, name in ((entropy, "entropy"), (variance, "variance")):
        values = voxels(volume.GetImageData())
        np.testing.assert_allclose(values, expected.maps[name], atol=1e-6)
        assert values.max() > 0 and read_provenance(volume)["SHA256"] == checkpoint.sha256
    composite = scene.AddNewNodeByClass("vtkMRMLSliceCompositeNode", "Red")
    composite.SetForegroundVolumeID(entropy.GetID())
    composite.SetBackgroundVolumeID(variance.GetID())
    count = scene.GetNumberOfNodes()
    logic.segment(volume_node, tiny_checkpoint, device="cpu", maps=["entropy"], outputNode=node)
    (new,) = map_volumes(node)
    assert composite.GetForegroundVolumeID() == new.GetID() != entropy.GetID()
    assert composite.GetBackgroundVolumeID() is None
    # Volume, display and legend of the variance are gone.
    assert scene.GetNumberOfNodes() == count - 3


@pytest.mark.parametrize("step", ["put_segmentation", "add_overlay", "set_provenance"])
def test_failure_to_write_maps_leaves_the_scene_as_it_was(
    logic, volume_node, tiny_checkpoint, scene, monkeypatch, step
):
    node = logic.segment(volume_node, tiny_checkpoint, device="cpu", maps=["entropy"])
    before = segmentation_state(scene)
    original = getattr(posterior, step)

    def failing(*args):
        original(*args)
        raise MemoryError(step)

    monkeypatch.setattr(posterior, step, failing)
    with pytest.raises(OutputError, match=step):
        logic.segment(
            volume_node, tiny_checkpoint, device="cpu", maps=["variance"], outputNode=node
        )
    assert segmentation_state(scene) == before
    assert [o.GetAttribute("MRFUNetSegmentation.Map") for o in map_volumes(node)] == ["entropy"]


def test_given_output_node_is_used_again(start, logic, volume_node, tiny_checkpoint, scene):
    node = logic.segment(volume_node, tiny_checkpoint)
    count = scene.GetNumberOfNodes()
    assert logic.segment(volume_node, tiny_checkpoint, outputNode=node) is node
    run = start(outputNode=node)
    assert run.wait() is node
    assert scene.GetNumberOfNodes() == count


def test_run_is_taken_back_only_where_it_was_made(start, volume_node):
    first = start().wait()
    before = read_labels(first, volume_node)
    run = start(outputNode=first)
    run.wait()
    transform = put_under_linear_transform(volume_node, translation(10, 0, 0))
    first.SetAndObserveTransformNodeID(transform.GetID())
    assert not run.can_take_back
    with pytest.raises(InputError, match="was moved or removed"):
        run.take_back()
    assert first.GetParentTransformNode() is transform
    for node in (volume_node, first):
        node.SetAndObserveTransformNodeID(None)
    assert run.can_take_back
    for node in (volume_node, first):
        node.SetAndObserveTransformNodeID(transform.GetID())
        node.HardenTransform()
    assert not run.can_take_back
    volume_node.SetIJKToRASMatrix(vtk_matrix(MATRIX))
    assert run.can_take_back
    run.take_back()
    np.testing.assert_array_equal(read_labels(first, volume_node), before)
    assert not run.can_take_back


def test_moving_the_volume_during_the_run_moves_the_result(start, volume_node):
    run = start()
    transform = put_under_linear_transform(volume_node, translation(10, 0, 0))
    assert run.wait().GetParentTransformNode() is transform


def test_voxels_that_are_not_finite(logic, scene, tiny_checkpoint):
    array = blobs(dtype=np.float32)
    array[3, 4, 5] = np.nan
    node = add_volume(scene, array, MATRIX)
    with pytest.raises(InputError, match=r"1 of .* not finite"):
        logic.segment(node, tiny_checkpoint)
    assert logic.segment(node, tiny_checkpoint, replaceNonFinite=True)
    assert np.isnan(voxels(node.GetImageData())[3, 4, 5])


# --- Errors and cancel ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [InputError, CheckpointError, DeviceError])
def test_error_leaves_the_scene_as_it_was(
    logic, volume_node, scene, tiny_checkpoint, tmp_path, kind
):
    options = {"model": tiny_checkpoint}
    if kind is InputError:
        volume_node.SetSpacing(0.01, 0.01, 0.01)
    elif kind is CheckpointError:
        options["model"] = tmp_path / "damaged.safetensors"
        options["model"].write_bytes(tiny_checkpoint.read_bytes()[:-8])
    else:
        options["device"] = "cuda:99"
    before = state_of(scene)
    with pytest.raises(kind):
        logic.segment(volume_node, **options)
    assert state_of(scene) == before


def test_cancel_leaves_the_scene_as_it_was(start, scene):
    before = state_of(scene)
    run = start()
    run.cancel()
    with pytest.raises(Cancelled):
        run.wait()
    assert run.state == "cancelled" and state_of(scene) == before
    assert start().wait()


def test_new_run_right_after_a_cancel(start, scene):
    cancelled = start()
    cancelled.cancel()
    assert start().wait()
    poll_to_the_end(cancelled)
    assert cancelled.state == "cancelled"
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 1


def test_failing_callback_cancels_a_run_that_is_waited_for(
    logic, volume_node, scene, tiny_checkpoint
):
    def interrupt(stage, fraction):
        raise KeyboardInterrupt

    before = state_of(scene)
    with pytest.raises(KeyboardInterrupt):
        logic.segment(volume_node, tiny_checkpoint, onProgress=interrupt)
    assert state_of(scene) == before
    assert logic.segment(volume_node, tiny_checkpoint)


def test_failure_to_write_is_reported(start, scene, monkeypatch):
    def fail(*args):
        raise MemoryError("no room")

    monkeypatch.setattr(run, "write_with_maps", fail)
    before = state_of(scene)
    started = start()
    with pytest.raises(OutputError, match=r"MemoryError: no room"):
        started.wait()
    assert started.state == "failed" and state_of(scene) == before


def test_wrong_nodes_are_refused_at_once(logic, volume_node, scene, tiny_checkpoint):
    with pytest.raises(InputError, match="No volume"):
        logic.segment(None, tiny_checkpoint)
    with pytest.raises(InputError, match="is not a segmentation"):
        logic.segment(volume_node, tiny_checkpoint, outputNode=volume_node)
    output = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Result")
    scene.RemoveNode(output)
    with pytest.raises(InputError, match="output segmentation Result is no longer"):
        logic.segment(volume_node, tiny_checkpoint, outputNode=output)
    surfaces = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Skull")
    sphere = vtk.vtkSphereSource()
    sphere.Update()
    surfaces.AddSegmentFromClosedSurfaceRepresentation(sphere.GetOutput(), "Skull", (1, 0, 0))
    surfaces.GetSegmentation().SetSourceRepresentationName("Closed surface")
    with pytest.raises(InputError, match="Skull holds closed surface segments"):
        logic.segment(volume_node, tiny_checkpoint, outputNode=surfaces, waitForCompletion=False)


# --- A scene that changes during the run ----------------------------------------------------------


def remove_volume(scene, volume_node, output):
    scene.RemoveNode(volume_node)


def close_scene(scene, volume_node, output):
    scene.Clear(False)


def remove_output(scene, volume_node, output):
    scene.RemoveNode(output)


def change_voxel(scene, volume_node, output):
    voxels(volume_node.GetImageData())[1, 2, 3] += 1


def change_image(scene, volume_node, output):
    volume_node.SetAndObserveImageData(vtk_image(blobs((80, 72, 60))))


def remove_image(scene, volume_node, output):
    volume_node.SetAndObserveImageData(None)


def change_spacing(scene, volume_node, output):
    volume_node.SetSpacing(1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove_volume, "volume Scan is no longer in the scene"),
        (close_scene, "volume Scan is no longer in the scene"),
        (remove_output, "output segmentation Result is no longer in the scene"),
        (change_voxel, "volume Scan was changed"),
        (change_image, "volume Scan was changed"),
        (remove_image, "Scan has no voxels"),
        (change_spacing, "volume Scan was changed"),
    ],
)
def test_result_is_dropped_when_its_nodes_changed(start, scene, volume_node, change, message):
    output = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Result")
    started = start(outputNode=output)
    change(scene, volume_node, output)
    before = state_of(scene)
    poll_to_the_end(started)
    assert started.state == "failed" and started.outputNode is None
    assert isinstance(started.error, InputError) and message in str(started.error)
    assert state_of(scene) == before
    assert output.GetSegmentation().GetNumberOfSegments() == 0


# --- The worker -----------------------------------------------------------------------------------


def test_logics_share_a_worker_in_turns(worker, logic, start, volume_node, tiny_checkpoint):
    other = SegmentationLogic(worker)
    first = start()
    with pytest.raises(WorkerError, match="Another run is in progress"):
        other.segment(volume_node, tiny_checkpoint)
    first.wait()
    pid = worker._process.pid
    other.segment(volume_node, tiny_checkpoint)
    other.cleanup()
    assert worker._process.pid == pid and is_running(pid), "the worker is not the logic's own"


def test_cleanup_ends_the_logics_own_worker(volume_node, tiny_checkpoint):
    logic = SegmentationLogic()
    started = logic.segment(volume_node, tiny_checkpoint, waitForCompletion=False)
    process = logic.worker._process
    logic.cleanup()
    assert not is_running(process.pid) and not process.folder.exists()
    with pytest.raises(Cancelled):
        started.wait()


def test_never_imports_torch(tiny_checkpoint):
    code = """
    import sys
    import numpy as np, slicer, vtk
    from mrml_scene import add_volume
    from worker_tools import blobs
    from MRFUNetSegmentationLib.logic import SegmentationLogic
    scene = slicer.vtkMRMLScene()
    logic = SegmentationLogic()
    volume = add_volume(scene, blobs(), np.diag([3.0, 3.0, 2.5, 1.0]))
    node = logic.segment(volume, sys.argv[1])
    print(node.GetSegmentation().GetNumberOfSegments())
    print(sorted({"torch", "safetensors", "qt", "ctk", "PySide6"} & set(sys.modules)))
    """
    paths = os.pathsep.join([str(PACKAGE_PARENT), str(Path(__file__).parent)])
    output = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tiny_checkpoint)],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert output.stdout.split("\n")[:2] == ["4", "[]"], output.stderr
