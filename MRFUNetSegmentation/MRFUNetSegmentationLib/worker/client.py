"""Computing in a process of its own, so that the caller's never imports torch nor blocks."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoints.card import ModelCard
from ..checkpoints.header import find_checkpoint
from ..errors import Cancelled, MRFUNetError, WorkerError, lacks_memory, too_little_memory
from ..inference.label_maps import decompress
from ..inference.segmentation import Segmentation
from ..inference.volume import Volume
from . import folder as private
from . import protocol, sampled
from .process import WorkerProcess

# How long a computation may take to end by itself after a cancel.
CANCEL_SECONDS = 2.0
_POLL_SECONDS = 0.02


class Worker:
    """A process that keeps torch and the models it has loaded warm between runs.

    It starts with the first request, and anew after a crash. One job runs at a time. Nothing
    happens in other threads: results, errors and callbacks come out of `Job.poll`.
    """

    def __init__(
        self, python: str | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start nothing yet.

        Args:
            python: path of the executable, for example PythonSlicer's; this process's own by
                default.
            environment: the process's environment variables; this process's own by default.
        """
        self._python = python or sys.executable
        self._environment = environment
        self._process: WorkerProcess | None = None
        self._job: Job | None = None
        self._numbers = count(1)

    @property
    def busy(self) -> bool:
        """Whether a job is running, as far as its `poll` has noticed."""
        if self._job is not None and self._job.ends_soon:
            self._job.poll()  # whoever asked for it may have dropped it
        return self._job is not None and self._job.state == "running"

    @property
    def ends_soon(self) -> bool:
        """Whether a job is running for which the next request would wait."""
        return self.busy and self._job.ends_soon

    def submit(
        self,
        volume: Volume,
        model: str | Path,
        device: str = "auto",
        *,
        mrf: bool = True,
        maps: Collection[str] = (),
    ) -> Job:
        """Start to segment a volume; the job's result is a `Segmentation`.

        It waits for a job that is about to end: a cancelled one, a question for devices, or another
        latent.

        Args:
            volume: what to segment; it is copied to disk before this returns.
            model: name of a bundled model, or path of a checkpoint.
            device: auto, cpu, cuda, cuda:N or mps.
            mrf: False leaves the network's MRF out.
            maps: "entropy" and "variance" of an MRF-UNet's posterior.

        Raises:
            CheckpointError: if there is no such model.
            WorkerError: if a job is running, or the process cannot be started.
        """
        process, of_volume = self._of_volume(volume, model, device, mrf)
        number = of_volume["job"]
        names = {name: f"{name}-{number}.npy" for name in maps}
        request = protocol.Segment(**of_volume, labels=f"labels-{number}.npy", maps=names)
        files = [process.folder / f for f in (request.volume, request.labels, *names.values())]

        def read_result(result: dict) -> Segmentation:
            card = ModelCard.from_dict(result.pop("card"))
            labels = _load(process.folder / request.labels)
            found = {name: _load(process.folder / file) for name, file in names.items()}
            return Segmentation(labels, request.geometry, card, maps=found, **result)

        return self._start(process, request, read_result, files)

    def sample(
        self,
        volume: Volume,
        model: str | Path,
        number: int,
        seed: int = 0,
        consensus: str = "mean",
        device: str = "auto",
        *,
        mrf: bool = True,
    ) -> Job:
        """Start to draw plausible segmentations; the job's result is a `SampledResult`.

        The job's `on_sample` is called with each as soon as it is drawn.

        Args:
            volume: as for `submit`.
            model: as for `submit`, a Probabilistic U-Net.
            number: of samples, 1 to 1000.
            seed: the same one gives the same samples.
            consensus: "mean", "majority" or "staple".
            device: as for `submit`.
            mrf: as for `submit`.

        Raises:
            CheckpointError, WorkerError: as `submit`.
        """
        process, of_volume = self._of_volume(volume, model, device, mrf)
        folder = f"{private.SAMPLED}{of_volume['job']}"
        request = protocol.Sample(
            **of_volume, number=number, seed=seed, consensus=consensus, folder=folder
        )
        files = [process.folder / f for f in (request.volume, folder)]
        return self._start(process, request, lambda _: sampled.read(files[1]), files)

    def decode(
        self, job: Job, epsilon: Sequence[float], voxel: tuple[int, int, int] | None = None
    ) -> Job:
        """Start to segment the volume of a sampling job once more, for another latent.

        The job's result is the label map, uint8 [k, j, i]; with a voxel a list of the slices
        [j, i], [k, i] and [k, j] through it, much faster (see `LatentSpace.slice_labels`).

        Args:
            job: the last one that drew samples.
            epsilon: (latent,), in standard deviations of the prior from its mean, as in
                `SampledResult.per_sample` and `SampledResult.directions`.
            voxel: k, j, i.

        Raises:
            WorkerError: if another job is running, or the process cannot be started.
        """
        process = self._ready_process()
        number = next(self._numbers)
        names = tuple(f"labels-{number}-{n}.npy" for n in range(1 if voxel is None else 3))
        request = protocol.Decode(
            number, job.number, tuple(float(e) for e in epsilon), voxel, names
        )
        files = [process.folder / name for name in names]

        def read_result(_: dict) -> np.ndarray | list[np.ndarray]:
            labels = [_load(file) for file in files]
            return labels if voxel is not None else labels[0]

        return self._start(process, request, read_result, files)

    def convert(self, checkpoint: str | Path, card: Mapping[str, Any], target: str | Path) -> Job:
        """Start to convert a checkpoint of published code; the job's result is the target's path.

        Args:
            checkpoint: path of the file (.pth).
            card: its model card, as JSON types (see `checkpoints.convert.convert`).
            target: path of the file to write (.safetensors); an existing one is replaced.

        Raises:
            WorkerError: if a job is running, or the process cannot be started.
        """
        request = protocol.Convert(
            next(self._numbers), str(checkpoint), dict(card), str(Path(target).absolute())
        )
        return self._start(self._ready_process(), request, lambda _: Path(request.target), ())

    def request_devices(self) -> Job:
        """Start to ask for devices, which takes seconds while torch is not loaded yet.

        The job's result is a dict: "devices" (list of dicts with "id", "name", "memory_gb"),
        "why_no_gpu" (str or None) and "torch" (its version).

        Raises:
            WorkerError: if a job is running, or the process cannot be started.
        """
        request = protocol.Devices(job=next(self._numbers))
        return self._start(self._ready_process(), request, lambda result: result, ())

    def devices(self, timeout: float = 120.0) -> dict[str, Any]:
        """Ask for devices and wait for the answer; see `request_devices`.

        Raises:
            WorkerError: in addition, if there is no answer after `timeout` seconds.
        """
        job = self.request_devices()
        try:
            return job.wait(timeout)
        except TimeoutError as error:
            log = self.log_tail()
            self.close()
            raise WorkerError(
                _with_log(
                    f"The process that computes gave no answer within {timeout:g} s. "
                    "Loading torch may take long the first time: try again.",
                    log,
                )
            ) from error

    def log_tail(self) -> str:
        """Return the last lines that the process has logged."""
        return self._process.log_tail() if self._process else ""

    def close(self) -> None:
        """End the process and remove its files; a running job counts as cancelled."""
        if self._process:
            self._process.end()

    def _of_volume(
        self, volume: Volume, model: str | Path, device: str, mrf: bool
    ) -> tuple[WorkerProcess, dict[str, Any]]:
        """Save the volume; return the process and what requests for a volume have in common."""
        path = find_checkpoint(model).resolve()
        process = self._ready_process()
        number = next(self._numbers)
        file = process.folder / f"volume-{number}.npy"
        _save(file, volume.array)
        return process, {
            "job": number,
            "volume": file.name,
            **vars(volume.geometry),
            "warnings": volume.warnings,
            "model": str(path),
            "device": device,
            "mrf": mrf,
        }

    def _start(
        self,
        process: WorkerProcess,
        request: protocol.Request,
        read_result: Callable[[dict], Any],
        files: Sequence[Path],
    ) -> Job:
        self._job = Job(process, request, read_result, files, self._forget_job)
        return self._job

    def _forget_job(self) -> None:
        # Its result may be large, and is nobody's but the caller's.
        self._job = None

    def _ready_process(self) -> WorkerProcess:
        if self.busy:
            self._job.poll()
        if self.ends_soon:
            with suppress(MRFUNetError):
                self._job.wait()
        if self.busy:
            raise WorkerError(
                "Another run is in progress. Wait until it has ended, or cancel it, then try again."
            )
        if self._process is None or not self._process.alive:
            self.close()
            environment = os.environ if self._environment is None else self._environment
            self._process = WorkerProcess(self._python, environment)
        return self._process


class Job:
    """A request that the worker is dealing with. Call `poll` now and then, say from a timer.

    Attributes:
        state: "running", "done", "failed" or "cancelled".
        result: when done; what it is depends on the request.
        error: when failed or cancelled.
        on_progress: called by `poll` with the stage in words and the fraction 0..1 of the run.
        on_sample: called by `poll` with the number 0 .. N - 1 of a sample that has been drawn, and
            with its label map, uint8 [k, j, i].
    """

    def __init__(
        self,
        process: WorkerProcess,
        request: protocol.Request,
        read_result: Callable[[dict], Any],
        files: Sequence[Path],
        on_end: Callable[[], None],
    ) -> None:
        """Send the request; when the job ends, `files` and folders are deleted, `on_end` called."""
        self.state = "running"
        self.result: Any = None
        self.error: MRFUNetError | None = None
        self.on_progress: Callable[[str, float], None] | None = None
        self.on_sample: Callable[[int, np.ndarray], None] | None = None
        self._process = process
        self._request = request
        self._read_result = read_result
        self._files = files
        self._on_end = on_end
        self._deadline: float | None = None
        process.send(request)

    @property
    def cancelling(self) -> bool:
        """Whether `cancel` was called."""
        return self._deadline is not None

    @property
    def number(self) -> int:
        """Number of the job, by which the process knows it."""
        return self._request.job

    @property
    def ends_soon(self) -> bool:
        """Whether it takes seconds only: a cancelled job, devices, or another latent."""
        return self.cancelling or isinstance(self._request, protocol.Devices | protocol.Decode)

    def poll(self) -> None:
        """Take note of what has happened since the last call, without waiting."""
        if self.state != "running":
            return
        for event in self._process.receive():
            self._handle(event)
            if self.state != "running":
                return
        if self.cancelling and time.monotonic() > self._deadline:
            self._process.end()
            self._finish(Cancelled())

    def cancel(self) -> None:
        """Ask the computation to end; after 2 s, `poll` and `wait` end the process instead."""
        if self.state == "running" and not self.cancelling:
            self._deadline = time.monotonic() + CANCEL_SECONDS
            self._process.send(protocol.Cancel(self._request.job))

    def wait(self, timeout: float | None = None) -> Any:
        """Wait for the end and return the result.

        Raises:
            MRFUNetError: the job's error; `Cancelled` if it was cancelled.
            TimeoutError: if it still runs after `timeout` seconds.
        """
        end = None if timeout is None else time.monotonic() + timeout
        self.poll()
        while self.state == "running":
            if end is not None and time.monotonic() > end:
                raise TimeoutError(f"The job is still running after {timeout:g} s.")
            time.sleep(_POLL_SECONDS)
            self.poll()
        if self.error:
            raise self.error
        return self.result

    def _handle(self, event: protocol.Event | None) -> None:
        if event is None:
            self._finish(self._crash())
        elif isinstance(event, protocol.Hello):
            if event.protocol != protocol.VERSION:
                self._finish(
                    WorkerError(
                        "The process that computes is of another version of this extension. "
                        "Restart the application."
                    )
                )
        elif event.job != self._request.job:
            return
        elif isinstance(event, protocol.Progress):
            if self.on_progress and not self.cancelling:
                self.on_progress(event.stage, event.fraction)
        elif isinstance(event, protocol.Drawn):
            if self.on_sample and not self.cancelling:
                self._show(event.sample)
        elif isinstance(event, protocol.Failed):
            self._finish(event.error())
        else:
            self._succeed(event.result)

    def _show(self, sample: int) -> None:
        request = self._request
        folder = self._process.folder / request.folder
        try:
            compressed = sampled.sample_file(folder, sample).read_bytes()
            labels = decompress(compressed, request.geometry.size[::-1])
        except Exception as error:
            self._process.send(protocol.Cancel(request.job))  # it would draw the others still
            self._fail_to_read(error)
        else:
            self.on_sample(sample, labels)

    def _succeed(self, result: dict) -> None:
        try:
            self.result = self._read_result(result)
        except Exception as error:
            self._fail_to_read(error)
        else:
            self._finish(None)

    def _fail_to_read(self, error: Exception) -> None:
        """End the job, whatever it was that reading its files raised."""
        if lacks_memory(error):
            self._finish(too_little_memory())
        elif isinstance(error, OSError | ValueError):
            self._finish(WorkerError(f"The result cannot be read ({error}). Run it again."))
        else:
            logging.error("MRFUNetSegmentation: a result cannot be read", exc_info=error)
            text = f"The result cannot be read ({type(error).__name__}: {error}). Run it again, "
            text += "and report this as a defect of the extension if it fails again."
            self._finish(WorkerError(text))

    def _crash(self) -> WorkerError:
        code = self._process.exit_code()
        return WorkerError(
            f"The process that computes ended unexpectedly (exit code {code}). If memory is short, "
            "close other programs or crop the volume; then run it again: a new process will start."
        )

    def _finish(self, error: MRFUNetError | None) -> None:
        asked_to_end = self.cancelling or self._process.ended
        if isinstance(error, WorkerError):
            # What state the process is in is unknown, so the next run gets a new one.
            error = WorkerError(_with_log(str(error), self._process.log_tail()))
            self._process.end()
        if asked_to_end:
            error, self.result = Cancelled(), None
        for file in self._files:
            if file.is_dir():
                private.remove_sampled(file)
            with suppress(OSError):
                file.unlink()
        # Who is called may hold a volume, and a job that has ended may be kept for long.
        self.on_progress = self.on_sample = None
        self.error = error
        self.state = "cancelled" if isinstance(error, Cancelled) else "failed" if error else "done"
        self._on_end()


def _save(file: Path, array: np.ndarray) -> None:
    try:
        # The worker maps this file. Writing it through a mapping too would turn a full disk from
        # an error into a crash (SIGBUS).
        np.save(file, array, allow_pickle=False)
    except OSError as error:
        with suppress(OSError):
            file.unlink()
        raise WorkerError(
            f"The volume cannot be written to {file.parent} ({error.strerror or error}). "
            "Free some disk space there, then run it again."
        ) from error


def _load(file: Path) -> np.ndarray:
    return np.load(file, allow_pickle=False)


def _with_log(text: str, log: str) -> str:
    return f"{text}\nLast lines of its log:\n{log}" if log else text
