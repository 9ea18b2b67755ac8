"""The panel's current run, from installation to result; knows no Qt."""

from __future__ import annotations

import logging
import math
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from .. import __version__
from ..errors import Cancelled, MRFUNetError, WorkerError
from .durations import Durations
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

    @property
    def can_take_back(self) -> bool:
        """Whether it has replaced segments."""

    def take_back(self) -> None:
        """Put them back."""


class Logic(Protocol):
    """What is needed of the module's logic."""

    worker: Any

    def segment(self, volume: Any, **options: Any) -> Run:
        """Start a run."""

    def sample(self, volume: Any, **options: Any) -> Run:
        """Start a run that draws samples."""

    def explore(self, run: Any) -> Any:
        """Return sliders through the latent space of a run that drew samples."""

    def cleanup(self) -> None:
        """End the worker."""


class RunController:
    """Starts runs, one at a time, and keeps what is to be shown about them.

    Attributes:
        progress: of the current run, if there is one.
        outcome: of the last one.
        last: the last run that succeeded.
        devices: the worker's answer on this machine's devices, once it has been asked; that is
            after the first run, when asking no longer takes long.
    """

    def __init__(
        self,
        logic: Logic,
        install: Callable[[], None],
        on_result: Callable[[Any], None],
        durations: Durations | None = None,
        on_install: Callable[[], None] = lambda: None,
    ) -> None:
        """Start nothing yet.

        Args:
            logic: the module's logic.
            install: installs what is missing, or raises an `MRFUNetError`.
            on_result: called with the segmentation node after a run that succeeded.
            durations: of earlier runs on this machine.
            on_install: called before `install`, which may take minutes and, in Slicer, lets the
                user press buttons meanwhile: shows `progress`.
        """
        self.progress: Progress | None = None
        self.outcome: Message | None = None
        self.devices: dict[str, Any] | None = None
        self._logic = logic
        self._install = install
        self._on_result = on_result
        self._on_install = on_install
        self._installing = False
        self._durations = durations or Durations()
        self._kind, self._size = "", 1.0
        # What the worker has the features of at hand; and of the run that goes on.
        self._features: tuple | None = None
        self._sampled: tuple | None = None
        self.last: Run | None = None
        self._run: Run | None = None
        # Starts the run, as soon as everything is installed and the worker is free.
        self._waiting: Callable[[], Any] | None = None
        # Called when the run is done.
        self._succeed: Callable[[Any], None] = self._take_result
        self._devices_job: Any = None
        self._started = 0.0
        self._abandoned = False

    @property
    def running(self) -> bool:
        """Whether there is a run, or an installation for one."""
        return self._installing or self._run is not None or self._waiting is not None

    @property
    def worker_busy(self) -> bool:
        """Whether the worker is answering about devices."""
        return self._devices_job is not None

    @property
    def active(self) -> bool:
        """Whether `poll` is to be called."""
        return self.running or self.worker_busy

    def start(self, volume: Any, model: str, device: str, number: int = 0, **options: Any) -> None:
        """Start a run; an error becomes the outcome.

        Args:
            volume: the volume node, or the sequence node of several.
            model: name or path.
            device: see the logic's `segment`.
            number: of samples; 0 for a model that gives one segmentation.
            options: other arguments of the logic's `segment`, or of `sample` with a number.
        """
        call = self._logic.segment
        if number:
            call, options = self._logic.sample, {**options, "number": number}

        def begin() -> Run:
            maps = len(options.get("maps", ()))
            self._kind = self._kind_of(volume, model, device, number, maps)
            self._size = _size(volume)
            self._sampled = (volume, model, device) if number else None
            return call(
                volume,
                model=model,
                device=device,
                waitForCompletion=False,
                onProgress=self._report,
                **options,
            )

        self._begin(begin, self._take_result, _("Starting"))

    def import_checkpoint(
        self, path: Path, card: dict[str, Any], target: Path, on_done: Callable[[str], None]
    ) -> None:
        """Start to convert a checkpoint of published code; an error becomes the outcome.

        Args:
            path: of the file.
            card: its model card.
            target: path of the file to write.
            on_done: called with the target's path when it is there.
        """

        def succeed(_job: Any) -> None:
            on_done(str(target))
            self.outcome = Message(_("{name} was imported.").format(name=path.name))

        self._begin(
            lambda: self._logic.worker.convert(path, card, target),
            succeed,
            _("Importing {name}").format(name=path.name),
        )

    def estimate(
        self, volume: Any, model: str, device: str, number: int = 0, maps: int = 0
    ) -> float | None:
        """Return the seconds that such a run may take, by the last one of its kind; or None."""
        kind = self._kind_of(volume, model, device, number, maps)
        return self._durations.estimate(kind, _size(volume))

    def take_back(self) -> None:
        """Put the segments back that the last run has replaced."""
        self.last.take_back()
        self.last = None
        self.outcome = Message(_("The segments are as they were before the last run."))

    def cancel(self) -> None:
        """Ask the current run to end; during an installation, not to start after it."""
        if self._waiting and not self._installing:
            self._fail(Cancelled())
        self._waiting = None
        if self.progress:
            self.progress = replace(self.progress, cancelling=True)
        if self._run:
            self._run.cancel()

    def abandon(self) -> None:
        """Ask the current run to end, with nothing said about it; forget the last one."""
        self.cancel()
        self._abandoned = self.running
        # All that holds a volume or a result: they may be large.
        self.outcome = self.last = self._features = self._sampled = None

    def poll(self) -> None:
        """Take note of what has happened since the last call."""
        if self._devices_job:
            self._poll_devices()
        if self._waiting:
            self._start_if_free()
        elif self._run:
            self._poll_run(self._run)

    def close(self) -> None:
        """End the run, if there is one, and the worker."""
        self._run = self._waiting = self._devices_job = self.progress = None
        self._logic.cleanup()

    def _kind_of(self, volume: Any, model: str, device: str, number: int, maps: int) -> str:
        """Return what the time depends on; samples of the same volume again come much sooner."""
        again = " again" if number and self._features == (volume, model, device) else ""
        return f"{model} {device} {number} {maps}{again}"

    def _begin(self, start: Callable[[], Any], succeed: Callable[[Any], None], stage: str) -> None:
        # Slicer's installer deals with clicks while it waits for pip: it must not start twice.
        if self._installing:
            return
        self.outcome = None
        self._waiting, self._succeed = start, succeed
        self._installing, self.progress = True, Progress(_("Installing PyTorch"))
        try:
            self._on_install()
            self._install()
            if self._waiting is None:  # cancelled meanwhile
                raise Cancelled
        except Exception as error:
            self._fail(error)
            return
        finally:
            self._installing = False
        self._started = time.monotonic()
        self.progress = Progress(stage)
        self._start_if_free()

    def _start_if_free(self) -> None:
        """Start the run, unless it would wait for something that the worker is about to end."""
        if self._installing or self._logic.worker.ends_soon:
            return
        start, self._waiting = self._waiting, None
        try:
            self._run = start()
        except Exception as error:
            self._fail(error)

    def _report(self, stage: str, fraction: float) -> None:
        if self.progress and not self.progress.cancelling:
            self.progress = Progress(stage, fraction, time.monotonic() - self._started)

    def _poll_run(self, run: Run) -> None:
        try:
            run.poll()
        except Exception as error:
            self._fail(error)
            # Nobody polls it any more: the worker must not wait for it for ever.
            run.cancel()
            return
        if run.state == "done":
            self._run = self.progress = None
            self._succeed(run)
        elif run.state != "running":
            self._fail(run.error)

    def _take_result(self, run: Run) -> None:
        result, seconds = run.result, time.monotonic() - self._started
        self.last = run
        said = self.outcome
        self._durations.note(self._kind, self._size, seconds)
        self._features = self._sampled
        self.outcome = done_message(
            len(result.card.segments),
            seconds,
            result.device,
            result.warnings,
            getattr(result, "number", 0),
            getattr(result, "volumes", 1),
        )
        self.outcome = replace(self.outcome, details=_details(result))
        if said is not None and said.is_error:  # of an export during the run, say
            self.outcome = replace(said, text=f"{said.text}\n{self.outcome.text}")
        self._on_result(run.outputNode)
        if self.devices is None:
            self._ask_devices()

    def _fail(self, error: Exception) -> None:
        self._run = self._waiting = self.progress = None
        abandoned, self._abandoned = self._abandoned, False
        if abandoned:
            return
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


def _details(result: Any) -> str:
    """Return what helps to tell somebody else about a run that succeeded."""
    lines = [f"MRFUNetSegmentation {__version__}, Python {platform.python_version()}"]
    lines += [platform.platform(), f"{result.card.name} {result.sha256}"]
    lines += [f"{stage}: {seconds:.2f} s" for stage, seconds in result.timings.items()]
    return "\n".join(lines)


def _size(volume: Any) -> float:
    """Return a volume's size in ml: the network has voxels of its own, whatever the scan's.

    That of a sequence is the sum of its volumes'.
    """
    if hasattr(volume, "GetNthDataNode"):
        return sum(_size(volume.GetNthDataNode(n)) for n in range(volume.GetNumberOfDataNodes()))
    image = volume.GetImageData() if volume is not None else None
    if image is None:
        return 1.0
    return max(1.0, image.GetNumberOfPoints() * math.prod(volume.GetSpacing()) / 1000)
