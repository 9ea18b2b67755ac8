"""A running worker process, seen from its client: start, messages, end of the whole tree."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import BinaryIO

from ..errors import WorkerError
from . import folder
from .protocol import Event, Request, decode, encode

_PACKAGE = __package__.split(".")[0]
_PACKAGE_PARENT = Path(__file__).parents[2]


class WorkerProcess:
    """One process with its private folder; both are gone after `end`, collection or exit.

    Attributes:
        folder: the private folder.

    Raises:
        WorkerError: if it cannot be started.
    """

    def __init__(self, python: str, environment: Mapping[str, str]) -> None:
        try:
            self.folder = folder.create()
        except OSError as error:
            raise WorkerError(
                f"No temporary folder can be made ({error}). Check that the folder for temporary "
                "files is there, that you may write to it, and that its disk has free space."
            ) from error
        try:
            self._popen = _start(python, environment, self.folder)
        except OSError as error:
            folder.remove(self.folder)
            raise WorkerError(
                f"The process that computes cannot be started with {python} ({error.strerror}). "
                "Check that this Python exists; in Slicer, install Slicer again."
            ) from error
        self._lines: SimpleQueue[bytes] = SimpleQueue()
        self._last_log = ""
        # Neither the thread nor the finalizer may know `self`, or it would never be collected.
        threading.Thread(
            target=_read_lines, args=(self._popen.stdout, self._lines), daemon=True
        ).start()
        self._finalizer = weakref.finalize(self, _end, self._popen, self.folder)

    @property
    def pid(self) -> int:
        """Process id (of the launcher where there is one)."""
        return self._popen.pid

    @property
    def ended(self) -> bool:
        """Whether `end` was called."""
        return not self._finalizer.alive

    @property
    def alive(self) -> bool:
        """Whether it can take requests: not if the system has cleaned its folder away, say."""
        return not self.ended and not _has_ended(self._popen) and self.folder.is_dir()

    def send(self, request: Request) -> None:
        """Send a request; that the process has died, or was ended, shows in `receive`."""
        if self.ended:
            return
        with suppress(OSError):
            self._popen.stdin.write(encode(request))
            self._popen.stdin.flush()

    def receive(self) -> Iterator[Event | None]:
        """Yield the events that have come since the last call; None when there will be no more."""
        with suppress(Empty):
            while line := self._lines.get_nowait():
                # Launchers may print a line of their own.
                with suppress(ValueError):
                    yield decode(line)
            yield None

    def exit_code(self) -> int | None:
        """Wait a moment for the process to end and return its exit code."""
        if not _has_ended(self._popen):
            with suppress(subprocess.TimeoutExpired):
                self._popen.wait(timeout=1)
                _kill_group(self._popen)
        return self._popen.returncode

    def log_tail(self) -> str:
        """Return the last lines of the log, also after the end."""
        return self._last_log if self.ended else folder.read_log_tail(self.folder)

    def end(self) -> None:
        """Kill the whole process tree and remove the folder."""
        if not self.ended:
            self._last_log = folder.read_log_tail(self.folder)
            self._finalizer()


def _start(python: str, environment: Mapping[str, str], private: Path) -> subprocess.Popen:
    paths = [str(_PACKAGE_PARENT), environment.get("PYTHONPATH", "")]
    with folder.open_log(private) as log:
        return subprocess.Popen(
            [python, "-m", f"{_PACKAGE}.worker", str(private)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**environment, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            # -m puts the current folder first on Python's path: let it hold nothing unexpected.
            cwd=_PACKAGE_PARENT,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            # A process group of its own, so that all of it can be killed.
            start_new_session=True,
        )


def _read_lines(stream: BinaryIO, lines: SimpleQueue[bytes]) -> None:
    with stream, suppress(OSError):
        for line in stream:
            lines.put(line)
    lines.put(b"")


def _end(popen: subprocess.Popen, private: Path) -> None:
    _kill_tree(popen)
    popen.wait()
    with suppress(OSError):
        popen.stdin.close()
    folder.remove(private)


def _has_ended(popen: subprocess.Popen) -> bool:
    """Whether a process has ended; what it has left behind is killed as soon as that is seen.

    Later its ID may be that of another program's group.
    """
    if popen.returncode is None and popen.poll() is not None:
        _kill_group(popen)
    return popen.returncode is not None


def _kill_group(popen: subprocess.Popen) -> None:
    if os.name == "posix":
        # The group outlives its first process, so children of a dead one are found as well.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(popen.pid, signal.SIGKILL)


def _kill_tree(popen: subprocess.Popen) -> None:
    # Killing the process alone is not enough: PythonSlicer is a launcher that has Python as child.
    if os.name == "posix":
        if not _has_ended(popen):
            _kill_group(popen)
    else:
        subprocess.run(
            ["taskkill", "/PID", str(popen.pid), "/T", "/F"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            creationflags=subprocess.CREATE_NO_WINDOW,
            check=False,
        )
        popen.kill()
