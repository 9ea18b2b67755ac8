"""The private temporary folder of one worker process: its log, and the arrays of the running job.

Whoever lives longest removes it: the client when the worker ends, the worker when its client has
died, or the next client to start. The worker's log stays open for as long as the worker (or a
child of it) lives, and that marks the folder as in use.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from . import sampled

PREFIX = "mrfunet-worker-"
LOG = "worker.log"
# Of a log, shown after an error.
_LOG_LINES = 20
# How the names of sampling runs' folders begin.
SAMPLED = "sampled-"
# A folder younger than this may belong to a client that has yet to open the log.
_GRACE_SECONDS = 60.0


def create() -> Path:
    """Make a new folder that only this user can read, and remove those that dead workers left."""
    remove_stale()
    return Path(tempfile.mkdtemp(prefix=PREFIX))


def open_log(folder: Path) -> BinaryIO:
    """Open the log for the worker to write to; while it is open the folder counts as in use."""
    log = (folder / LOG).open("wb")
    if os.name == "posix":
        import fcntl

        # The lock belongs to the open file, so the worker inherits it. (An open file cannot be
        # deleted on Windows, which serves as well.)
        with suppress(OSError):
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return log


def read_log_tail(folder: Path) -> str:
    """Return the last lines of the log, or nothing if there is none."""
    try:
        text = (folder / LOG).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-_LOG_LINES:])


def remove(folder: Path) -> None:
    """Remove the folder and what belongs in it, as far as the system lets us; nothing else."""
    for run in folder.glob(f"{SAMPLED}*"):
        remove_sampled(run)
    _remove(folder, [*folder.glob("*.npy"), folder / LOG])


def remove_sampled(folder: Path) -> None:
    """Remove the folder of a sampling run, likewise."""
    _remove(folder, [f for pattern in sampled.FILES for f in folder.glob(pattern)])


def _remove(folder: Path, files: Iterable[Path]) -> None:
    for file in files:
        with suppress(OSError):
            file.unlink()
    with suppress(OSError):
        folder.rmdir()


def remove_stale() -> None:
    """Remove the folders of workers that have died together with their clients."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if folder.is_symlink():  # none of ours: it may lead anywhere
            continue
        with suppress(OSError):
            old = time.time() - folder.stat().st_mtime > _GRACE_SECONDS
            if old and not _in_use(folder):
                remove(folder)


def _in_use(folder: Path) -> bool:
    log = folder / LOG
    if not log.exists():
        return False
    if os.name != "posix":
        try:
            log.unlink()
        except OSError:
            return True
        return False
    import fcntl

    with log.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
