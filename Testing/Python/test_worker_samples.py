"""Samples through a real worker: streamed, read without torch, and nothing left behind."""

import os
import subprocess
import sys
import tempfile
import time
import zlib
from dataclasses import replace

import numpy as np
import pytest
from MRFUNetSegmentationLib.checkpoints.load import load_checkpoint
from MRFUNetSegmentationLib.errors import Cancelled, InputError, OutputError, WorkerError
from MRFUNetSegmentationLib.inference.engine import Segmenter
from MRFUNetSegmentationLib.inference.volume import Geometry, Volume
from MRFUNetSegmentationLib.worker import client
from MRFUNetSegmentationLib.worker.client import Worker
from sampling_tools import write_model
from worker_tools import blobs, environment_with, small_volume, wait_until


@pytest.fixture(scope="module")
def model(tiny_card, tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"), tiny_card)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    path = tmp_path / "temporary"
    path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    return path


def files_of(worker: Worker) -> set[str]:
    """What is in the private folder, but for the log."""
    folder = worker._process.folder
    return {str(p.relative_to(folder)) for p in folder.rglob("*")} - {"worker.log"}


def test_result_is_that_of_the_engine(worker, model):
    volume = small_volume()
    expected = Segmenter(load_checkpoint(model)).sample(volume, 5, seed=3, consensus="majority")
    seen, progress = {}, []
    job = worker.sample(volume, model, 5, seed=3, consensus="majority")
    job.on_sample = seen.__setitem__
    job.on_progress = lambda stage, fraction: progress.append(fraction)

    result = job.wait(60)

    assert result.number == 5 and len(np.unique(result.labels(0))) > 1
    assert list(result.compressed) == list(expected.compressed)
    assert list(seen) == [0, 1, 2, 3, 4]
    for n, labels in seen.items():
        np.testing.assert_array_equal(labels, expected.labels(n))
    for name, values in expected.maps.items():
        np.testing.assert_array_equal(result.maps[name], values)
        assert result.maximum[name] == expected.maximum[name]
    np.testing.assert_array_equal(result.consensus, expected.consensus)
    for name in ("structures", "per_sample", "directions", "card", "sha256", "options", "seed",
                 "geometry", "consensus_method", "device", "warnings"):  # fmt: skip
        assert getattr(result, name) == getattr(expected, name), name
    assert progress == sorted(progress) and progress[-1] == 1
    assert files_of(worker) == set()


def test_same_volume_again_takes_features_and_prior_from_before(worker, model):
    known = small_volume()  # perhaps, to this worker
    volume = Volume(known.array + 1, known.geometry)
    first = worker.sample(volume, model, 3, seed=1)
    once, progress = first.wait(60), []
    job = worker.sample(volume, model, 5, seed=1)
    job.on_progress = lambda stage, fraction: progress.append(fraction)
    again = job.wait(60)
    assert {"Prior", "U-Net"} <= once.timings.keys()
    assert again.timings.keys() == {"Sampling", "Comparing the samples"}
    assert progress == sorted(progress) and progress[-1] == 1
    assert list(again.compressed)[:3] == list(once.compressed)
    assert len(worker.decode(job, [0.0, 0.0, 0.0]).wait(60).shape) == 3
    with pytest.raises(InputError, match="Draw the samples again"):
        worker.decode(first, [0.0, 0.0, 0.0]).wait(60)

    other = Volume(np.flip(volume.array).copy(), volume.geometry)
    for what, mrf in ((other, True), (volume, True), (volume, False)):
        assert "U-Net" in worker.sample(what, model, 2, mrf=mrf).wait(60).timings


def test_cancelled_run_leaves_the_features_of_the_last(worker, model):
    volume = small_volume()
    job = worker.sample(volume, model, 2)
    job.wait(60)
    cancelled = worker.sample(volume, model, 1000)
    cancelled.on_sample = lambda n, labels: cancelled.cancel()
    with pytest.raises(Cancelled):
        cancelled.wait(60)
    assert worker.decode(job, [0.0, 0.0, 0.0]).wait(60) is not None


def test_samples_come_while_others_are_drawn(worker, model):
    job, when = worker.sample(small_volume(), model, 12), []
    job.on_sample = lambda n, labels: when.append(job.state)
    while job.state == "running":
        job.poll()
        time.sleep(0.005)
    assert when[:-1] == ["running"] * 11


def test_other_latents_on_warm_features(worker, model):
    volume = small_volume()
    job = worker.sample(volume, model, 4)
    result = job.wait(60)
    epsilon = result.per_sample[2]["epsilon"]
    np.testing.assert_array_equal(worker.decode(job, epsilon).wait(60), result.labels(2))
    voxel = (30, 40, 20)
    slices = worker.decode(job, epsilon, voxel).wait(60)
    whole = result.labels(2)
    for found, expected in zip(slices, (whole[30], whole[:, 40], whole[:, :, 20]), strict=True):
        assert (found == expected).mean() > 0.9
    with pytest.raises(InputError, match="no voxel"):
        worker.decode(job, epsilon, (80, 0, 0)).wait(60)
    assert files_of(worker) == set()
    # Another volume takes their place.
    worker.submit(volume, model).wait(60)
    with pytest.raises(InputError, match="Draw the samples again"):
        worker.decode(job, epsilon).wait(60)


def test_next_move_of_a_slider_waits_for_the_last(worker, model):
    job = worker.sample(small_volume(), model, 2)
    job.wait(60)
    first = worker.decode(job, [0.0, 0.0, 0.0], (1, 2, 3))
    second = worker.decode(job, [1.0, 0.0, 0.0], (1, 2, 3))
    assert first.state == "done"
    assert len(second.wait(60)) == 3


def test_mrf_can_be_left_out_and_maps_asked_for(worker, model, tiny_checkpoint):
    volume = small_volume()
    assert worker.sample(volume, model, 2, mrf=False).wait(60).options["mrf"] is False
    assert worker.sample(volume, model, 2).wait(60).options["mrf"] is True
    result = worker.submit(volume, tiny_checkpoint, maps=("entropy", "variance")).wait(60)
    expected = Segmenter(load_checkpoint(tiny_checkpoint)).segment(
        volume, maps=("entropy", "variance")
    )
    assert result.maps.keys() == expected.maps.keys() == {"entropy", "variance"}
    for name, values in expected.maps.items():
        np.testing.assert_array_equal(result.maps[name], values)
    assert files_of(worker) == set()


@pytest.mark.parametrize(
    ("number", "consensus", "message"),
    [(0, "mean", "From 1 to 1000"), (10_000, "mean", "From 1 to 1000"), (2, "median", "consensus")],
)
def test_impossible_requests(worker, model, number, consensus, message):
    with pytest.raises(InputError, match=message):
        worker.sample(small_volume(), model, number, consensus=consensus).wait(60)
    assert files_of(worker) == set()


def test_model_without_samples(worker, tiny_checkpoint):
    with pytest.raises(InputError, match="Choose a Probabilistic U-Net"):
        worker.sample(small_volume(), tiny_checkpoint, 2).wait(60)


def slow_job(worker: Worker, model):
    """A run of many samples, of which two have been drawn."""
    array = blobs((96, 96, 96))
    volume = Volume(array, Geometry((96, 96, 96), (2.0, 2.0, 2.0)))
    drawn = []
    job = worker.sample(volume, model, 1000)
    job.on_sample = lambda n, labels: drawn.append(n)

    def two() -> bool:
        job.poll()
        return len(drawn) >= 2 or job.state != "running"

    assert wait_until(two, 60) and job.state == "running", job.error
    return job


def test_cancel_between_two_samples(worker, model):
    job = slow_job(worker, model)
    pid = worker._process.pid
    job.cancel()
    with pytest.raises(Cancelled):
        job.wait(10)
    assert files_of(worker) == set()
    assert worker.sample(small_volume(), model, 2).wait(60).number == 2
    assert worker._process.pid == pid


@pytest.mark.parametrize(
    ("error", "kind", "message", "same_process"),
    [
        (MemoryError(), InputError, "too little memory", True),
        (zlib.error("incorrect header"), WorkerError, "cannot be read .*incorrect header", False),
    ],
)
def test_sample_that_cannot_be_read_ends_the_job(
    worker, model, monkeypatch, error, kind, message, same_process
):
    def fail(*args):
        raise error

    job = slow_job(worker, model)
    pid = worker._process.pid
    with monkeypatch.context() as patch:
        patch.setattr(client, "decompress", fail)
        with pytest.raises(kind, match=message):
            job.wait(60)
    assert job.state == "failed" and not worker.busy
    assert worker.sample(small_volume(), model, 2).wait(20).number == 2, "drew 1000 before"
    assert files_of(worker) == set()
    assert (worker._process.pid == pid) == same_process


def test_error_of_the_callback_is_the_callers(worker, model):
    job = worker.sample(small_volume(), model, 2)
    job.on_sample = lambda n, labels: [][n]
    with pytest.raises(IndexError):
        job.wait(60)
    job.on_sample = None
    assert job.wait(60).number == 2


@pytest.mark.skipif(os.name != "posix", reason="sends signals to the worker")
def test_killed_between_two_samples(temporary, model):
    worker = Worker()
    job = slow_job(worker, model)
    os.killpg(worker._process.pid, 9)
    with pytest.raises(WorkerError, match="ended unexpectedly"):
        job.wait(10)
    assert list(temporary.iterdir()) == []
    # The next run gets a new process; the features of the last one are gone with the old one.
    result = worker.sample(small_volume(), model, 2).wait(60)
    assert result.number == 2
    with pytest.raises(InputError, match="Draw the samples again"):
        worker.decode(job, [0.0, 0.0, 0.0]).wait(60)
    worker.close()
    assert list(temporary.iterdir()) == []


_FULL = """
import pathlib
write = pathlib.Path.write_bytes
def write_bytes(self, data):
    if self.name == "sample-0003.zlib":
        raise OSError(28, "No space left on device")
    return write(self, data)
pathlib.Path.write_bytes = write_bytes
"""


def test_full_disk(temporary, tmp_path, model):
    """The third sample does not fit any more; the process lives on."""
    worker = Worker(environment=environment_with(tmp_path, sitecustomize=_FULL))
    job = worker.sample(small_volume(), model, 5)
    with pytest.raises(OutputError, match=r"No space left.*Free some disk space"):
        job.wait(60)
    assert files_of(worker) == set()
    assert worker.sample(small_volume(), model, 2).wait(60).number == 2
    worker.close()
    assert list(temporary.iterdir()) == []


def test_reading_a_result_needs_no_torch(model):
    """Neither does asking for it."""
    program = (
        f"import sys; sys.path[:0] = {[p for p in sys.path if p]}\n"
        "from MRFUNetSegmentationLib.worker.client import Worker\n"
        "from MRFUNetSegmentationLib.worker.sampled import SampledResult\n"
        "from worker_tools import small_volume\n"
        "worker = Worker()\n"
        f"result = worker.sample(small_volume(), {str(model)!r}, 2).wait(60)\n"
        "assert isinstance(result, SampledResult) and result.labels(1).any()\n"
        "assert result.title('variance') and result.maximum\n"
        "assert 'torch' not in sys.modules and 'safetensors' not in sys.modules\n"
        "worker.close()"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_same_voxels_of_another_size_are_encoded_anew(worker, model):
    """As where the user has corrected the spacing and runs again."""
    volume = small_volume()
    worker.sample(volume, model, 2).wait(60)
    other = Volume(volume.array, replace(volume.geometry, spacing=(4.0, 4.0, 4.0)))
    result = worker.sample(other, model, 2).wait(60)
    assert "U-Net" in result.timings
    expected = Segmenter(load_checkpoint(model)).sample(other, 2)
    assert list(result.compressed) == list(expected.compressed)
