"""The panel's current run, from installation to result; knows no Qt."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

from ..errors import Cancelled, MRFUNetError, WorkerError
from .i18n import _
from .panel_state import Message, Progress, done_message, error_message


class Run(Protocol):
    """What is needed of `logic.Run`."""

    state: str
    result: Any
    error: MRFUNetError | None
    outputNode: Any  # noqa: N815

    def poll(self) -> None:
        """Take note of what has happened."""

    def cancel(self) -> None:
        """Ask the run to end."""


class Logic(Protocol):
    """What is needed of the module's logic."""

    worker: Any

    def segment(self, volume: Any, **options: Any) -> Run:
        """Start a run."""

    def cleanup(self) -> None:
        """End the worker."""


class RunController:
    """Starts runs, one at a time, and keeps what is to be shown about them.

    Attributes:
        progress: of the current run, if there is one.
        outcome: of the last one.
        devices: the worker's answer on this machine's devices, once it has been asked; that is
            after the first run, when asking no longer takes long.
    """

    def __init__(
        self,
        logic: Logic,
        install: Callable[[], None],
        on_result: Callable[[Any], None],
    ) -> None:
        """Start nothing yet.

        Args:
            logic: the module's logic.
            install: installs what is missing, or raises an `MRFUNetError`.
            on_result: called with the segmentation node after a run that succeeded.
        """
        self.progress: Progress | None = None
        self.outcome: Message | None = None
        self.devices: dict[str, Any] | None = None
        self._logic = logic
        self._install = install
        self._on_result = on_result
        self._run: Run | None = None
        self._devices_job: Any = None
        self._started = 0.0

    @property
    def running(self) -> bool:
        """Whether there is a run."""
        return self._run is not None

    @property
    def worker_busy(self) -> bool:
        """Whether the worker is answering about devices."""
        return self._devices_job is not None

    @property
    def active(self) -> bool:
        """Whether `poll` is to be called."""
        return self.running or self.worker_busy

    def start(self, volume: Any, **options: Any) -> None:
        """Start a run; an error becomes the outcome.

        Args:
            volume: the volume node.
            options: arguments of the logic's `segment`.
        """
        self.outcome = None
        try:
            self._install()
            self._started = time.monotonic()
            self._run = self._logic.segment(
                volume, waitForCompletion=False, onProgress=self._report, **options
            )
        except Exception as error:
            self._fail(error)
        else:
            self.progress = Progress(_("Starting"))

    def cancel(self) -> None:
        """Ask the current run to end."""
        if self._run and self.progress:
            self.progress = Progress(self.progress.stage, self.progress.fraction, cancelling=True)
            self._run.cancel()

    def poll(self) -> None:
        """Take note of what has happened since the last call."""
        if self._devices_job:
            self._poll_devices()
        if self._run:
            self._poll_run(self._run)

    def close(self) -> None:
        """End the run, if there is one, and the worker."""
        self._run = self._devices_job = self.progress = None
        self._logic.cleanup()

    def _report(self, stage: str, fraction: float) -> None:
        if self.progress and not self.progress.cancelling:
            self.progress = Progress(stage, fraction)

    def _poll_run(self, run: Run) -> None:
        try:
            run.poll()
        except Exception as error:
            self._fail(error)
            return
        if run.state == "done":
            self._succeed(run)
        elif run.state != "running":
            self._fail(run.error)

    def _succeed(self, run: Run) -> None:
        result, seconds = run.result, time.monotonic() - self._started
        self._run = self.progress = None
        self.outcome = done_message(
            len(result.card.segments), seconds, result.device, result.warnings
        )
        self._on_result(run.outputNode)
        if self.devices is None:
            self._ask_devices()

    def _fail(self, error: Exception) -> None:
        self._run = self.progress = None
        self.outcome = error_message(error)
        if not isinstance(error, Cancelled):
            unexpected = not isinstance(error, MRFUNetError)
            logging.error("MRFUNetSegmentation: %s", error, exc_info=error if unexpected else None)

    def _ask_devices(self) -> None:
        try:
            self._devices_job = self._logic.worker.request_devices()
        except WorkerError:
            pass  # only the list of devices stays short; the next run says what is wrong

    def _poll_devices(self) -> None:
        self._devices_job.poll()
        if self._devices_job.state != "running":
            self.devices = self._devices_job.result
            self._devices_job = None
