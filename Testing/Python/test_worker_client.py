"""The worker's promises, each with a real process."""

import errno
import gc
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
from MRFUNetSegmentationLib.checkpoints.header import read_info
from MRFUNetSegmentationLib.checkpoints.load import load_checkpoint
from MRFUNetSegmentationLib.errors import (
    Cancelled,
    CheckpointError,
    DeviceError,
    InputError,
    WorkerError,
)
from MRFUNetSegmentationLib.inference.engine import Segmenter
from MRFUNetSegmentationLib.inference.volume import Geometry, Volume
from MRFUNetSegmentationLib.worker import folder, protocol
from MRFUNetSegmentationLib.worker.client import Worker
from test_checkpoints_convert import card, random_seg_mrf_net, saved
from worker_tools import (
    PACKAGE_PARENT,
    blobs,
    environment_with,
    is_running,
    large_volume,
    poll_until_progress,
    small_volume,
    wait_until,
)

posix = pytest.mark.skipif(os.name != "posix", reason="sends signals to the worker")

# Put into a worker's Python: waits until the worker has taken over its standard output.
_AFTER_START = """
import os, subprocess, sys, threading, time
def when_started(act):
    def wait():
        while os.fstat(1)[:3] != os.fstat(2)[:3]:
            time.sleep(0.01)
        act()
    if "MRFUNetSegmentationLib.worker" in sys.orig_argv:
        threading.Thread(target=wait, daemon=True).start()
"""


@pytest.fixture(scope="module")
def warm():
    """One worker for all tests that leave it alive."""
    worker = Worker()
    yield worker
    worker.close()


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """Empty folder that is the client's temporary one."""
    path = tmp_path / "temporary"
    path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    return path


@pytest.fixture
def worker(temporary):
    """A worker of the test's own."""
    worker = Worker()
    yield worker
    worker.close()


def pid_of(worker: Worker) -> int:
    return worker._process.pid


# --- What a run gives -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "direction"),
    [
        (blobs(dtype=np.int16), (1, 0, 0, 0, 1, 0, 0, 0, 1)),
        (np.asfortranarray(blobs(dtype=">f4")), (0, 0.6, 0.8, 1, 0, 0, 0, -0.8, 0.6)),
        (blobs((80, 72, 128), np.uint8)[:, :, ::2], (1, 0, 0, 0, -1, 0, 0, 0, 1)),
    ],
    ids=["plain", "oblique, big-endian, other memory order", "left-handed, strided"],
)
def test_result_is_that_of_the_engine(warm, tiny_checkpoint, array, direction):
    volume = Volume(array, Geometry((64, 72, 80), (3.0, 3.0, 2.5), (9.0, 8.0, 7.0), direction))
    expected = Segmenter(load_checkpoint(tiny_checkpoint)).segment(volume)

    result = warm.submit(volume, tiny_checkpoint).wait(60)

    assert len(np.unique(expected.labels)) > 2
    np.testing.assert_array_equal(result.labels, expected.labels)
    assert result.labels.dtype == np.uint8 and type(result.labels) is np.ndarray
    assert (result.card, result.sha256) == (expected.card, expected.sha256)
    assert result.device == expected.device and result.warnings == expected.warnings
    assert expected.timings.keys() <= result.timings.keys()


def test_second_run_finds_process_and_model_warm(warm, tiny_checkpoint, tmp_path):
    model = shutil.copy(tiny_checkpoint, tmp_path / "model.safetensors")
    first = warm.submit(small_volume(), model).wait(60)
    pid = pid_of(warm)
    second = warm.submit(small_volume(), model).wait(60)
    assert "Loading the model" in first.timings
    assert "Loading the model" not in second.timings
    assert pid_of(warm) == pid


def test_changed_checkpoint_is_loaded_again(warm, tiny_checkpoint, tmp_path):
    model = shutil.copy(tiny_checkpoint, tmp_path / "model.safetensors")
    before = warm.submit(small_volume(), model).wait(60)
    with open(model, "r+b") as file:  # one bit of the last weight
        file.seek(-4, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-4, os.SEEK_END)
        file.write(bytes([byte ^ 1]))
    after = warm.submit(small_volume(), model).wait(60)
    assert after.sha256 != before.sha256


def test_relative_path_is_the_clients(warm, tiny_checkpoint, monkeypatch):
    monkeypatch.chdir(tiny_checkpoint.parent)
    assert warm.submit(small_volume(), tiny_checkpoint.name).wait(60).card.name == "tiny"


def test_progress_rises_to_one(warm, tiny_checkpoint):
    seen = []
    job = warm.submit(small_volume(), tiny_checkpoint)
    job.on_progress = lambda stage, fraction: seen.append((stage, fraction))
    job.wait(60)
    fractions = [fraction for _, fraction in seen]
    assert len(seen) > 4 and fractions == sorted(fractions)
    assert fractions[0] < 0.2 and fractions[-1] == 1.0
    assert {stage for stage, _ in seen} >= {"Resampling", "U-Net", "Mean field"}


def test_callbacks_come_from_poll_only(warm, tiny_checkpoint):
    seen = []
    job = warm.submit(small_volume(), tiny_checkpoint)
    job.on_progress = lambda *progress: seen.append(progress)
    time.sleep(0.5)
    assert not seen and job.state == "running"
    job.wait(60)
    assert seen


def test_arrays_are_deleted_when_the_job_has_ended(warm, tiny_checkpoint):
    job = warm.submit(small_volume(), tiny_checkpoint)
    private = warm._process.folder
    assert [p.suffix for p in private.glob("volume*")] == [".npy"]
    job.wait(60)
    assert [p.name for p in private.iterdir()] == [folder.LOG]


def test_devices(warm):
    answer = warm.devices()
    assert "cpu" in [device["id"] for device in answer["devices"]]
    assert answer["torch"].startswith("2.")
    assert answer["why_no_gpu"] or len(answer["devices"]) > 1


def test_one_job_at_a_time(warm, tiny_checkpoint):
    job = warm.submit(small_volume(), tiny_checkpoint)
    with pytest.raises(WorkerError, match="Wait until it has ended"):
        warm.submit(small_volume(), tiny_checkpoint)
    assert job.wait(60).labels.any()


def test_run_waits_for_the_answer_on_devices(warm, tiny_checkpoint):
    question = warm.request_devices()
    job = warm.submit(small_volume(), tiny_checkpoint)
    assert question.state == "done" and "cpu" in [d["id"] for d in question.result["devices"]]
    assert job.wait(60).labels.any()


# --- Errors of the computation ----------------------------------------------------------------


@pytest.mark.parametrize("kind", [CheckpointError, InputError, DeviceError])
def test_error_is_that_of_the_engine(warm, tiny_checkpoint, tmp_path, kind):
    volume, model, device = small_volume(), tiny_checkpoint, "cpu"
    if kind is CheckpointError:
        model = tmp_path / "truncated.safetensors"
        model.write_bytes(tiny_checkpoint.read_bytes()[:-100])
    elif kind is InputError:
        volume = Volume(volume.array, Geometry(volume.geometry.size, (0.1, 0.1, 0.1)))
    else:
        device = "cuda:99"
    with pytest.raises(kind) as expected:
        Segmenter(load_checkpoint(model), device).segment(volume)

    job = warm.submit(volume, model, device)
    with pytest.raises(kind) as raised:
        job.wait(60)

    assert str(raised.value) == str(expected.value)
    assert job.state == "failed" and job.result is None
    pid = pid_of(warm)
    assert warm.submit(small_volume(), tiny_checkpoint).wait(60).labels.any()
    assert pid_of(warm) == pid, "an error of the input is no reason to start anew"


def test_missing_model_is_reported_at_once(warm):
    with pytest.raises(CheckpointError, match="Bundled models"):
        warm.submit(small_volume(), "no-such-model")


def test_model_that_goes_before_the_process_looks(warm, tiny_checkpoint, tmp_path):
    """Which starts with the import of torch, and that takes seconds."""
    model = Path(shutil.copy(tiny_checkpoint, tmp_path / "model.safetensors"))
    warm.devices()  # and so there is a process
    send = warm._process.send
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warm._process, "send", lambda request: (model.unlink(), send(request)))
        job = warm.submit(small_volume(), model)
    with pytest.raises(CheckpointError, match="neither a file nor a bundled model"):
        job.wait(60)
    assert warm._process.alive


def test_missing_torch_tells_what_to_do(temporary, tiny_checkpoint, tmp_path):
    broken = 'raise ImportError("libtorch_cpu.so: cannot open shared object file")'
    worker = Worker(environment=environment_with(tmp_path, torch=broken))
    job = worker.submit(small_volume(), tiny_checkpoint)
    with pytest.raises(WorkerError, match=r"(?s)libtorch_cpu.*PyTorch extension.*Traceback"):
        job.wait(60)
    assert not any(temporary.iterdir())


def test_defect_of_the_engine_is_reported_and_the_process_replaced(
    temporary, tiny_checkpoint, tmp_path
):
    broken = """
from MRFUNetSegmentationLib.inference import volume
def fail(self): raise ZeroDivisionError("of all things")
volume.Volume.__post_init__ = fail
"""
    worker = Worker(environment=environment_with(tmp_path, sitecustomize=broken))
    with pytest.raises(WorkerError, match="ZeroDivisionError: of all things") as raised:
        worker.submit(small_volume(), tiny_checkpoint).wait(60)
    assert "Traceback" in str(raised.value)
    assert not worker._process.alive


def test_too_little_memory_is_said_and_the_process_lives_on(tiny_checkpoint, tmp_path):
    scarce = """
from MRFUNetSegmentationLib.inference import volume
whole = volume.Volume.__post_init__
def fail_once(self):
    volume.Volume.__post_init__ = whole
    raise MemoryError("Unable to allocate 9 TiB")
volume.Volume.__post_init__ = fail_once
"""
    worker = Worker(environment=environment_with(tmp_path, sitecustomize=scarce))
    with pytest.raises(InputError, match=r"too little memory for the volume.*Crop Volume"):
        worker.submit(small_volume(), tiny_checkpoint).wait(60)
    pid = pid_of(worker)
    assert worker.submit(small_volume(), tiny_checkpoint).wait(60).labels.any()
    assert pid_of(worker) == pid
    worker.close()


# --- Results that cannot be read --------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind", "message", "same_process"),
    [
        (MemoryError("Unable to allocate 2 GiB"), InputError, "too little memory", True),
        (ValueError("cut off"), WorkerError, r"cannot be read \(cut off\)", False),
        (TypeError("of all things"), WorkerError, r"TypeError: of all things.*a defect", False),
    ],
)
def test_result_that_cannot_be_read_ends_the_job(
    worker, tiny_checkpoint, monkeypatch, caplog, error, kind, message, same_process
):
    def fail(*args, **kwargs):
        raise error

    job = worker.submit(small_volume(), tiny_checkpoint)
    private, pid = worker._process.folder, pid_of(worker)
    with monkeypatch.context() as patch:
        patch.setattr(np, "load", fail)
        with pytest.raises(kind, match=message):
            job.wait(60)
    assert job.state == "failed" and job.result is None
    assert not [*private.glob("*.npy")]
    assert ("Traceback" in caplog.text) == isinstance(error, TypeError), "a defect is logged"
    assert not worker.busy
    assert worker.submit(small_volume(), tiny_checkpoint).wait(60).labels.any()
    assert (pid_of(worker) == pid) == same_process


def test_job_that_has_ended_holds_nobody(warm, tiny_checkpoint):
    """Who asked for it may hold a volume; and its own result may be large."""

    class Asker:
        def report(self, *progress):
            pass

    asker = Asker()
    job = warm.submit(small_volume(), tiny_checkpoint)
    job.on_progress = job.on_sample = asker.report
    result = weakref.ref(job.wait(60))
    asker = weakref.ref(asker)
    gc.collect()
    assert asker() is None and result() is not None
    del job
    gc.collect()
    assert result() is None


# --- Cancel -----------------------------------------------------------------------------------


def test_cancel_ends_within_two_seconds_and_keeps_the_process(worker, tiny_checkpoint, monkeypatch):
    worker.submit(small_volume(), tiny_checkpoint).wait(60)
    pid = pid_of(worker)
    job = worker.submit(large_volume(), tiny_checkpoint)
    poll_until_progress(job)
    last_events = []
    handle = job._handle
    monkeypatch.setattr(job, "_handle", lambda event: (last_events.append(event), handle(event)))
    started = time.monotonic()
    job.cancel()
    with pytest.raises(Cancelled):
        job.wait(10)
    assert time.monotonic() - started < 2.0
    assert isinstance(last_events[-1], protocol.Failed), "it was not the computation that ended"
    assert job.state == "cancelled" and job.result is None
    assert worker.submit(small_volume(), tiny_checkpoint).wait(60).labels.any()
    assert pid_of(worker) == pid


def test_cancel_beats_a_result_that_is_on_its_way(warm, tiny_checkpoint):
    job = warm.submit(small_volume(), tiny_checkpoint)
    labels = job._files[1]
    assert wait_until(labels.exists)
    time.sleep(0.3)
    job.cancel()
    with pytest.raises(Cancelled):
        job.wait(10)
    assert job.result is None and not labels.exists()


def worker_with_child(folder: Path) -> Worker:
    """Return a worker whose process starts another one, when it has begun to compute."""
    child = _AFTER_START + (
        "when_started(lambda: open(os.environ['NOTE'], 'w')"
        ".write(str(subprocess.Popen(['sleep', '600']).pid)))"
    )
    note = str(folder / "child")
    return Worker(environment={**environment_with(folder, sitecustomize=child), "NOTE": note})


def pid_of_child(folder: Path) -> int:
    note = folder / "child"
    assert wait_until(lambda: note.exists() and note.read_text(encoding="utf-8"))
    return int(note.read_text(encoding="utf-8"))


@posix
def test_computation_that_ignores_cancel_is_killed_with_its_children(
    temporary, tiny_checkpoint, tmp_path
):
    worker = worker_with_child(tmp_path)
    job = worker.submit(large_volume(), tiny_checkpoint)
    poll_until_progress(job)
    pids = [pid_of(worker), pid_of_child(tmp_path)]
    assert all(map(is_running, pids))
    os.kill(pids[0], signal.SIGSTOP)

    started = time.monotonic()
    job.cancel()
    with pytest.raises(Cancelled):
        job.wait(10)

    assert 1.5 < time.monotonic() - started < 3.0
    assert wait_until(lambda: not any(map(is_running, pids)))
    assert not any(temporary.iterdir())
    assert worker.submit(small_volume(), tiny_checkpoint).wait(60).labels.any()
    assert pid_of(worker) != pids[0]
    worker.close()


# --- Crashes ----------------------------------------------------------------------------------


@posix
def test_killed_worker_is_reported_with_its_log_and_replaced(temporary, tiny_checkpoint, tmp_path):
    chatter = _AFTER_START + "when_started(lambda: print('the last words'))"
    worker = Worker(environment=environment_with(tmp_path, sitecustomize=chatter))
    job = worker.submit(large_volume(), tiny_checkpoint)
    poll_until_progress(job)
    assert wait_until(lambda: "the last words" in worker.log_tail())
    pid = pid_of(worker)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match=r"(?s)exit code -9.*memory.*the last words"):
        job.wait(10)
    assert job.state == "failed"
    assert "the last words" in worker.log_tail()
    assert not any(temporary.iterdir())
    assert worker.submit(small_volume(), tiny_checkpoint).wait(60).labels.any()
    assert pid_of(worker) != pid
    worker.close()


@posix
@pytest.mark.parametrize("seen_by", ["alive", "exit_code"])
def test_what_a_dead_worker_leaves_is_killed_at_once(
    temporary, tiny_checkpoint, tmp_path, monkeypatch, seen_by
):
    """Later another program may have its ID: nothing is killed by it any more."""
    worker = worker_with_child(tmp_path)
    worker.submit(small_volume(), tiny_checkpoint).wait(60)
    pids = [pid_of(worker), pid_of_child(tmp_path)]
    os.kill(pids[0], signal.SIGKILL)
    process = worker._process
    assert wait_until(lambda: not process.alive if seen_by == "alive" else process.exit_code())
    assert wait_until(lambda: not any(map(is_running, pids)))
    monkeypatch.setattr(os, "killpg", lambda *_: pytest.fail("another program was killed"))
    worker.close()
    assert not any(temporary.iterdir())


@posix
def test_worker_that_died_between_runs_is_replaced_silently(worker, tiny_checkpoint):
    worker.submit(small_volume(), tiny_checkpoint).wait(60)
    os.kill(pid_of(worker), signal.SIGKILL)
    assert wait_until(lambda: not worker._process.alive)
    stages = []
    job = worker.submit(small_volume(), tiny_checkpoint)
    job.on_progress = lambda stage, fraction: stages.append(stage)
    assert job.wait(60).labels.any()
    assert stages[:2] == ["Starting PyTorch", "Loading the model"]


@posix
def test_folder_that_was_cleaned_away_between_runs_is_replaced(worker, tiny_checkpoint):
    worker.submit(small_volume(), tiny_checkpoint).wait(60)
    pid, private = pid_of(worker), worker._process.folder
    shutil.rmtree(private)  # as systems do with what lies in /tmp for days
    assert worker.submit(small_volume(), tiny_checkpoint).wait(60).labels.any()
    assert pid_of(worker) != pid
    assert wait_until(lambda: not is_running(pid))


@posix
def test_launcher_ends_together_with_the_python_that_it_launched(temporary, tmp_path):
    launcher = tmp_path / "PythonLauncher"
    launcher.write_text(f'#!/bin/sh\n"{sys.executable}" "$@"\nexit $?\n', encoding="utf-8")
    launcher.chmod(0o755)
    worker = Worker(str(launcher))
    process = worker._ready_process()
    events = []
    assert wait_until(lambda: events.extend(process.receive()) or events)
    pids = [process.pid, events[0].pid]
    assert pids[0] != pids[1] and all(map(is_running, pids))
    worker.close()
    assert wait_until(lambda: not any(map(is_running, pids)))
    assert not any(temporary.iterdir())


def test_devices_do_not_wait_for_ever(worker):
    with pytest.raises(WorkerError, match="no answer within 0 s"):
        worker.devices(timeout=0)
    assert not worker._process.alive


def test_no_folder_for_temporary_files(temporary, tiny_checkpoint):
    """As where the system cleans the session's away."""
    temporary.rmdir()
    with pytest.raises(WorkerError, match=r"No temporary folder .* Check that the folder .* there"):
        Worker().submit(small_volume(), tiny_checkpoint)


def test_python_that_does_not_exist(temporary, tiny_checkpoint):
    with pytest.raises(WorkerError, match="no/such/python"):
        Worker("no/such/python").submit(small_volume(), tiny_checkpoint)
    assert not any(temporary.iterdir())


def test_python_that_is_something_else(temporary, tiny_checkpoint):
    job = Worker(shutil.which("echo")).submit(small_volume(), tiny_checkpoint)
    with pytest.raises(WorkerError, match="ended unexpectedly"):
        job.wait(10)


def test_other_version_of_the_protocol(worker, tiny_checkpoint, monkeypatch):
    monkeypatch.setattr(protocol, "VERSION", protocol.VERSION + 1)
    with pytest.raises(WorkerError, match="another version"):
        worker.submit(small_volume(), tiny_checkpoint).wait(60)


def test_full_disk(warm, tiny_checkpoint, monkeypatch):
    def full(file, *args, **kwargs):
        Path(file).write_bytes(b"some")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(WorkerError, match=r"No space left on device.*Free some"):
            warm.submit(small_volume(), tiny_checkpoint)
    assert warm.submit(small_volume(), tiny_checkpoint).wait(60).labels.any()


def test_stray_output_does_not_break_the_protocol(temporary, tiny_checkpoint, tmp_path):
    chatter = (
        _AFTER_START
        + """
def act():
    while True:
        print("stray print")
        os.write(1, b"stray bytes without an end of line")
        subprocess.run(["echo", "stray child"])
        time.sleep(0.01)
print("a launcher's own line")
when_started(act)
"""
    )
    worker = Worker(environment=environment_with(tmp_path, sitecustomize=chatter))
    for _ in range(2):
        assert worker.submit(small_volume(), tiny_checkpoint).wait(60).labels.any()
    for kind in ("print", "bytes", "child"):
        assert f"stray {kind}" in worker.log_tail()
    worker.close()


# --- The private folder -------------------------------------------------------------------------


@posix
def test_folder_is_private(warm):
    warm.devices()
    assert stat.S_IMODE(warm._process.folder.stat().st_mode) == 0o700


def test_close_ends_process_run_and_folder(worker, temporary, tiny_checkpoint):
    job = worker.submit(large_volume(), tiny_checkpoint)
    poll_until_progress(job)
    pid = pid_of(worker)
    worker.close()
    assert not any(temporary.iterdir())
    assert wait_until(lambda: not is_running(pid))
    job.cancel()  # has nobody to tell
    with pytest.raises(Cancelled):
        job.wait(10)
    worker.close()  # once more does no harm


def test_garbage_collection_ends_process_and_folder(temporary, tiny_checkpoint):
    worker = Worker()
    job = worker.submit(small_volume(), tiny_checkpoint)
    pid = pid_of(worker)
    assert is_running(pid) and any(temporary.iterdir())
    del worker, job
    gc.collect()
    assert wait_until(lambda: not is_running(pid))
    assert not any(temporary.iterdir())


_CLIENT = """
import os, sys, time
from MRFUNetSegmentationLib.worker.client import Worker
from worker_tools import large_volume, poll_until_progress, small_volume
worker = Worker()
{act}
"""


def start_client(act: str, temporary: Path) -> subprocess.Popen:
    paths = os.pathsep.join([str(PACKAGE_PARENT), str(Path(__file__).parent)])
    return subprocess.Popen(
        [sys.executable, "-c", _CLIENT.format(act=act)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths, "TMPDIR": str(temporary), "TEMP": str(temporary)},
    )


@posix
@pytest.mark.parametrize("when", ["starting", "waiting", "computing"])
def test_worker_of_a_killed_client_ends_and_cleans_up(temporary, tiny_checkpoint, when):
    act = {
        "starting": "worker._ready_process()",
        "waiting": "process = worker._ready_process()\nwhile not list(process.receive()): pass",
        "computing": "job = worker.submit(large_volume(), "
        f"{str(tiny_checkpoint)!r})\npoll_until_progress(job)",
    }[when]
    client = start_client(
        f"{act}\nprint(worker._process.pid, flush=True)\ntime.sleep(600)", temporary
    )
    with client:
        pid = int(client.stdout.readline())
        assert is_running(pid) and any(temporary.iterdir())
        client.kill()
    assert wait_until(lambda: not is_running(pid))
    assert not any(temporary.iterdir())


def test_client_exits_cleanly_and_never_imports_torch(temporary, tiny_checkpoint):
    client = start_client(
        f"""
result = worker.submit(small_volume(), {str(tiny_checkpoint)!r}).wait(60)
heavy = sorted(set(sys.modules) & {{"torch", "safetensors", "slicer", "vtk", "qt"}})
print(worker._process.pid, len(result.labels), heavy)
""",
        temporary,
    )
    output, _ = client.communicate(timeout=180)
    pid, rest = output.split(maxsplit=1)
    assert rest.strip() == "80 []"
    assert client.returncode == 0
    assert wait_until(lambda: not is_running(int(pid)))
    assert not any(temporary.iterdir())


def test_checkpoint_of_published_code_is_converted(warm, tmp_path):
    checkpoint, target = saved(tmp_path, random_seg_mrf_net()), tmp_path / "new" / "out.safetensors"
    assert warm.convert(checkpoint, card(3), target).wait(60) == target
    info = read_info(target)
    assert info.card.name == "converted"
    assert warm.submit(small_volume(), target).wait(60).labels.max() < 3


def test_checkpoint_that_cannot_be_converted_is_an_error(warm, tmp_path):
    target = tmp_path / "out.safetensors"
    with pytest.raises(CheckpointError, match="names 4 classes"):
        warm.convert(saved(tmp_path, random_seg_mrf_net()), card(4), target).wait(60)
    assert not target.exists()
