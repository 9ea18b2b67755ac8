"""The worker's parts that need no process: messages, the private folder, answers to requests."""

import os
import tempfile

import numpy as np
import pytest
import torch
from MRFUNetSegmentationLib import errors
from MRFUNetSegmentationLib.inference.volume import Geometry
from MRFUNetSegmentationLib.worker import folder, protocol
from MRFUNetSegmentationLib.worker.server import Server, _Progress
from test_checkpoints_convert import card, random_seg_mrf_net, saved


def test_messages_survive_the_way():
    geometry = Geometry((4, 5, 6), (1.0, np.float64(0.1), 3.0), (-1e-9, 2.0, 1 / 3))
    request = protocol.Segment(
        job=7,
        volume="v.npy",
        **vars(geometry),
        warnings=("hidden",),
        model="/Modèles/a.safetensors",
        device="cuda:1",
        mrf=True,
        labels="l.npy",
        maps={},
    )
    line = protocol.encode(request)
    assert line.isascii() and line.count(b"\n") == 1
    back = protocol.decode(line)
    assert back.geometry == geometry
    assert list(back.warnings) == ["hidden"]
    assert (back.job, back.model, back.device) == (7, "/Modèles/a.safetensors", "cuda:1")


@pytest.mark.parametrize(
    "line", [b"\n", b"hello\n", b"[1]\n", b'{"message": "Done"}\n', b'{"message": "X", "job": 1}\n']
)
def test_anything_else_is_no_message(line):
    with pytest.raises(ValueError, match="not a message"):
        protocol.decode(line)


@pytest.mark.parametrize("kind", errors.MRFUNetError.__subclasses__())
def test_errors_survive_the_way(kind):
    error = kind() if kind is errors.Cancelled else kind("two\nlines, é")
    back = protocol.decode(protocol.encode(protocol.Failed.of(1, error))).error()
    assert type(back) is kind and str(back) == str(error)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def leave_behind(temporary, name, age=3600):
    stale = temporary / f"{folder.PREFIX}{name}"
    stale.mkdir()
    (stale / "volume-1.npy").write_bytes(b"voxels")
    past = stale.stat().st_mtime - age
    os.utime(stale, (past, past))
    return stale


def test_folders_of_the_dead_are_removed(temporary):
    stale = leave_behind(temporary, "dead")
    (stale / folder.LOG).write_bytes(b"log")
    os.utime(stale, (0, 0))
    mine = folder.create()
    assert mine.is_dir() and not stale.exists()


def test_folders_of_the_living_are_kept(temporary):
    private = leave_behind(temporary, "living")
    young = leave_behind(temporary, "young", age=0)
    with folder.open_log(private):
        os.utime(private, (0, 0))
        folder.remove_stale()
        assert (private / "volume-1.npy").exists() and young.is_dir()
    folder.remove_stale()
    assert not private.exists()


def test_links_to_other_folders_are_not_followed(temporary, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (other / "precious.npy").write_bytes(b"years of work")
    os.utime(other, (0, 0))
    (temporary / f"{folder.PREFIX}link").symlink_to(other, target_is_directory=True)
    folder.remove_stale()
    assert (other / "precious.npy").exists()


def test_only_what_belongs_to_the_worker_is_deleted(temporary):
    stale = leave_behind(temporary, "with something else")
    (stale / "thesis.docx").write_bytes(b"years of work")
    folder.remove(stale)
    assert [p.name for p in stale.iterdir()] == ["thesis.docx"]
    folder.remove(temporary / "does not exist")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), errors.InputError),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB."), errors.InputError),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), errors.InputError),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tr"), errors.InputError),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried"), errors.InputError),
        (RuntimeError("sitk: Failed to allocate memory for image."), errors.InputError),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), errors.WorkerError),
        (ValueError("out of memory of where it was"), errors.WorkerError),
    ],
    ids=str,
)
def test_too_little_memory_is_told_from_defects(tmp_path, monkeypatch, error, kind):
    def fail(request):
        raise error

    server = Server(tmp_path, lambda event: None)
    monkeypatch.setattr(server, "_devices", fail)
    answer = server._answer(protocol.Devices(1)).error()
    assert type(answer) is kind
    assert ("Close other programs, or crop the volume" in str(answer)) == (
        kind is errors.InputError
    )


@pytest.mark.parametrize("cancelled", [False, True])
def test_cancelled_conversion_writes_nothing(tmp_path, cancelled):
    server, target = Server(tmp_path, lambda event: None), tmp_path / "out.safetensors"
    checkpoint = saved(tmp_path, random_seg_mrf_net())
    if cancelled:
        server.accept(protocol.Cancel(1))
    answer = server._answer(protocol.Convert(1, str(checkpoint), card(3), str(target)))
    assert isinstance(answer, protocol.Failed if cancelled else protocol.Done)
    assert target.exists() is not cancelled
    if cancelled:
        assert isinstance(answer.error(), errors.Cancelled)


def test_progress_never_falls():
    """A stage that begins again, as on another device, would take the bar back."""
    sent = []
    progress = _Progress(1, sent.append)
    for step in (("U-Net", 0.2), ("Mean field", 0.6), ("U-Net", 0.3), ("U-Net", 0.7)):
        progress(*step)
    assert [event.fraction for event in sent] == [0.2, 0.6, 0.6, 0.7]
