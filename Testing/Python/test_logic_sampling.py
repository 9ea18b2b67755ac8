"""Plausible segmentations from node to nodes with a real worker; errors; the latent's sliders."""

import os
import time

import numpy as np
import pytest

slicer = pytest.importorskip("slicer")

from MRFUNetSegmentationLib.checkpoints.load import load_checkpoint, save_checkpoint  # noqa: E402
from MRFUNetSegmentationLib.errors import (  # noqa: E402
    Cancelled,
    CheckpointError,
    InputError,
    OutputError,
    WorkerError,
)
from MRFUNetSegmentationLib.inference.engine import Segmenter  # noqa: E402
from MRFUNetSegmentationLib.logic import run  # noqa: E402
from MRFUNetSegmentationLib.mrml.export import read_labels  # noqa: E402
from MRFUNetSegmentationLib.mrml.samples import sample_sets  # noqa: E402
from MRFUNetSegmentationLib.mrml.segmentations import read_provenance  # noqa: E402
from MRFUNetSegmentationLib.mrml.volumes import read_volume, voxels  # noqa: E402
from mrml_scene import OBLIQUE, add_volume  # noqa: E402
from sampling_tools import ambiguous_checkpoint  # noqa: E402
from test_logic import change_voxel, poll_to_the_end, remove_volume, state_of  # noqa: E402
from worker_tools import blobs, wait_until  # noqa: E402

MATRIX = OBLIQUE @ np.diag([3.0, 2.4, 1.0, 1.0])
NUMBER = 3


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny_card):
    checkpoint = ambiguous_checkpoint(tiny_card, 3, 3)
    path = tmp_path_factory.mktemp("checkpoints") / "ambiguous.safetensors"
    save_checkpoint(path, checkpoint.network, checkpoint.card)
    return path


@pytest.fixture
def volume_node(scene, sequences):
    return add_volume(scene, blobs((40, 36, 32)), MATRIX, "Scan")


@pytest.fixture
def start(logic, volume_node, model):
    """Function that starts to draw samples without waiting."""

    def start(**options):
        options = {"number": NUMBER, "seed": 5, "device": "cpu"} | options
        return logic.sample(volume_node, model, waitForCompletion=False, **options)

    return start


# --- Results --------------------------------------------------------------------------------------


def test_samples_are_the_engines(logic, volume_node, model):
    checkpoint = load_checkpoint(model)
    segmenter = Segmenter(checkpoint, "cpu")
    expected = [s.labels for s in segmenter.samples(read_volume(volume_node), NUMBER, seed=5)]
    drawn = {}
    samples = logic.sample(
        volume_node, model, NUMBER, 5, device="cpu", onSample=lambda *sample: drawn.update([sample])
    )
    assert samples.number == NUMBER and list(drawn) == [1, 2, 3]
    assert (expected[0] != expected[1]).any()
    for number, labels in enumerate(expected, 1):
        samples.show(number)
        np.testing.assert_array_equal(read_labels(samples.shown, volume_node), labels)
        np.testing.assert_array_equal(drawn[number], labels)
    provenance = read_provenance(samples.consensus)
    assert (provenance["SHA256"], provenance["Seed"]) == (checkpoint.sha256, "5")
    again = logic.sample(
        volume_node, model, NUMBER, 5, device="cpu", outputNode=samples.consensus, overlays=[]
    )
    assert sample_sets(volume_node.GetScene())[0].browser is again.browser
    assert len(sample_sets(volume_node.GetScene())) == 1
    again.show(2)
    np.testing.assert_array_equal(read_labels(again.shown, volume_node), expected[1])


def test_one_sample_has_no_variance(logic, volume_node, model):
    samples = logic.sample(volume_node, model, NUMBER, 5, device="cpu")
    variance = voxels(samples.overlays["variance"].GetImageData())
    assert variance.dtype == np.float32 and variance.max() > 0
    one = logic.sample(volume_node, model, 1, 5, device="cpu")
    assert voxels(one.overlays["variance"].GetImageData()).max() < 1e-6


def test_scene_is_untouched_until_the_end(start, scene):
    before = state_of(scene)
    seen = []
    run = start(onProgress=lambda *p: seen.append(p), onSample=lambda n, _: seen.append(n))
    while run.state == "running":
        assert state_of(scene) == before
        run.poll()
    assert run.state == "done" and run.outputNode is run.samples.consensus
    assert run.result.number == NUMBER and NUMBER in seen


def correct(node) -> None:
    """Empty a segment of a segmentation as a user would."""
    segment_id = node.GetSegmentation().GetNthSegmentID(0)
    segment = node.GetSegmentation().GetSegment(segment_id)
    values = voxels(segment.GetRepresentation("Binary labelmap"))
    values[values == segment.GetLabelValue()] = 0


def test_samples_drawn_again_are_taken_back(start, volume_node, scene):
    first = start()
    node = first.wait()
    assert not first.can_take_back  # it was a new segmentation
    correct(node)
    expected, provenance = read_labels(node, volume_node), read_provenance(node)
    run = start(outputNode=node, seed=6)
    assert run.wait() is node
    assert (read_labels(node, volume_node) != expected).any()
    assert run.can_take_back
    kept = run.samples.keep()
    run.take_back()
    np.testing.assert_array_equal(read_labels(node, volume_node), expected)
    assert read_provenance(node) == provenance
    # Neither samples nor maps, tables or plots of the run that was taken back.
    assert sample_sets(scene) == [] and scene.IsNodePresent(kept)
    assert scene.GetNumberOfNodesByClass("vtkMRMLTableNode") == 0
    assert not run.can_take_back


def test_samples_that_the_user_removed_are_taken_back(start, volume_node, scene):
    node = start().wait()
    correct(node)
    expected = read_labels(node, volume_node)
    run = start(outputNode=node)
    run.wait()
    run.samples.remove()
    assert run.can_take_back
    run.take_back()
    np.testing.assert_array_equal(read_labels(node, volume_node), expected)


# --- Errors and cancel ----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 10_000, -1])
def test_impossible_numbers(logic, volume_node, model, scene, number):
    before = state_of(scene)
    with pytest.raises(InputError, match=f"From 1 to 1000 samples can be drawn, not {number}"):
        logic.sample(volume_node, model, number)
    assert state_of(scene) == before


def test_model_without_samples(logic, volume_node, tiny_checkpoint, scene):
    before = state_of(scene)
    with pytest.raises((CheckpointError, InputError), match=r"tiny"):
        logic.sample(volume_node, tiny_checkpoint, NUMBER)
    assert state_of(scene) == before


def test_cancel_between_two_samples(start, scene, worker):
    before = state_of(scene)
    run = start(number=1000)
    run.onSample = lambda number, labels: run.cancel()
    with pytest.raises(Cancelled):
        run.wait()
    assert run.state == "cancelled" and state_of(scene) == before
    assert start().wait() is not None
    assert not [f for f in os.listdir(worker._process.folder) if f != "worker.log"]


def test_process_that_is_killed_between_two_samples(start, scene, worker):
    before = state_of(scene)
    run = start(number=1000)
    folder = worker._process.folder
    run.onSample = lambda number, labels: worker._process._popen.kill()
    with pytest.raises(WorkerError, match="ended unexpectedly"):
        run.wait()
    assert state_of(scene) == before and not folder.exists()
    assert start().wait() is not None


@pytest.mark.parametrize("change", [remove_volume, change_voxel])
def test_result_is_dropped_when_the_volume_changed(start, scene, volume_node, change):
    started = start()
    change(scene, volume_node, None)
    before = state_of(scene)
    poll_to_the_end(started)
    assert started.state == "failed" and isinstance(started.error, InputError)
    assert state_of(scene) == before and started.samples is None


def test_failure_to_write_is_reported(start, scene, monkeypatch):
    def fail(*args, **options):
        raise MemoryError("no room")

    monkeypatch.setattr(run, "write_samples", fail)
    before = state_of(scene)
    started = start()
    with pytest.raises(OutputError, match="MemoryError: no room"):
        started.wait()
    assert state_of(scene) == before


# --- The latent's sliders -------------------------------------------------------------------------


@pytest.fixture
def done(start):
    run = start()
    run.wait()
    return run


@pytest.fixture
def explorer(logic, done):
    explorer = logic.explore(done)
    yield explorer
    explorer.close()


def follow(explorer) -> None:
    def shown() -> bool:
        explorer.poll()
        return not explorer.busy

    assert wait_until(shown, 60)


def test_sliders_show_slices_then_the_volume(explorer, volume_node, model, done):
    assert 1 <= explorer.sliders <= 4
    positions = [2.0] + [0.0] * (explorer.sliders - 1)
    explorer.move(positions)
    follow(explorer)
    assert explorer.error is None
    slices = read_labels(explorer.preview.node, volume_node)
    explorer.release(positions)
    follow(explorer)
    whole = read_labels(explorer.preview.node, volume_node)
    k, j, i = (n // 2 for n in whole.shape)
    for at in ((k,), (slice(None), j), (..., i)):
        assert (slices[at] == whole[at]).mean() > 0.99
    elsewhere = slices.copy()
    elsewhere[k], elsewhere[:, j], elsewhere[:, :, i] = 0, 0, 0
    assert not elsewhere.any() and whole.any()

    explorer.release([0.0] * explorer.sliders)
    follow(explorer)
    assert explorer.positions == [0.0] * explorer.sliders
    mean = Segmenter(load_checkpoint(model), "cpu").segment(read_volume(volume_node)).labels
    found = read_labels(explorer.preview.node, volume_node)
    np.testing.assert_array_equal(found, mean)
    assert (found != whole).any()


def test_positions_that_were_overtaken_are_left_out(explorer, volume_node, monkeypatch, worker):
    decoded = []
    decode = worker.decode
    monkeypatch.setattr(worker, "decode", lambda *a: decoded.append(a[1]) or decode(*a))
    rest = [0.0] * (explorer.sliders - 1)
    for position in np.linspace(0, 3, 200):
        explorer.move([position, *rest])
    follow(explorer)
    assert len(decoded) < 200
    np.testing.assert_allclose(decoded[-1], explorer.epsilon)
    np.testing.assert_allclose(explorer.epsilon, 3 * explorer._directions[0])


def test_sample_is_found_again_by_its_sliders(explorer, done, volume_node):
    """The directions span what the samples' latents differ in, if there are enough of them."""
    explorer._directions = list(np.eye(len(explorer.epsilon)))
    explorer.positions = [0.0] * len(explorer._directions)
    explorer.release(done.result.per_sample[1]["epsilon"])
    follow(explorer)
    labels = read_labels(explorer.preview.node, volume_node)
    np.testing.assert_array_equal(labels, done.result.labels(1))


def test_exploring_after_the_worker_has_ended(explorer, worker):
    worker.close()
    explorer.move([1.0] * explorer.sliders)
    follow(explorer)
    assert explorer.error is not None and explorer.preview.node is None


def test_closing_after_the_worker_has_ended_removes_the_preview(explorer, worker, scene):
    explorer.release([1.0] * explorer.sliders)
    follow(explorer)
    node = explorer.preview.node
    explorer.move([2.0] * explorer.sliders)
    assert explorer.busy and scene.IsNodePresent(node)
    worker.close()
    explorer.close()
    assert not scene.IsNodePresent(node)


def test_exploring_a_volume_that_was_removed(explorer, scene, volume_node):
    scene.RemoveNode(volume_node)
    explorer.move([1.0] * explorer.sliders)
    follow(explorer)
    assert isinstance(explorer.error, InputError)


def test_exploring_a_volume_whose_voxels_have_changed(explorer, scene, volume_node):
    explorer.move([1.0] * explorer.sliders)
    follow(explorer)
    assert explorer.error is None
    shown = read_labels(explorer.preview.node, volume_node)
    change_voxel(scene, volume_node, None)
    volume_node.GetImageData().Modified()
    explorer.move([2.0] * explorer.sliders)
    follow(explorer)
    assert isinstance(explorer.error, InputError)
    assert "Draw samples again" in str(explorer.error)
    np.testing.assert_array_equal(read_labels(explorer.preview.node, volume_node), shown)


def test_exploring_goes_on_where_the_volume_was_moved(explorer, volume_node):
    volume_node.SetOrigin([x + 5 for x in volume_node.GetOrigin()])
    volume_node.Modified()
    explorer.release([1.0] * explorer.sliders)
    follow(explorer)
    assert explorer.error is None
    assert read_labels(explorer.preview.node, volume_node).any()


def test_nothing_to_explore_yet(logic, start):
    run = start()
    with pytest.raises(InputError, match="no samples yet"):
        logic.explore(run)
    run.cancel()


def test_move_to_picture_is_fast(explorer):
    """Worker and scene together, on a small volume; the first move starts what is slow."""
    rest = [0.0] * (explorer.sliders - 1)
    explorer.move([0.5, *rest])
    follow(explorer)
    seconds = []
    for position in (1.0, 1.5, 2.0, 2.5, 3.0):
        begin = time.perf_counter()
        explorer.move([position, *rest])
        while explorer.busy:
            explorer.poll()
        seconds.append(time.perf_counter() - begin)
    print(f"median {np.median(seconds) * 1000:.0f} ms")
    assert min(seconds) < 0.1
