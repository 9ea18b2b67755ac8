"""The worker's own process: reads requests, computes, writes events.

torch is imported with the first request and not before, so that a missing or damaged torch can be
reported like any other error.
"""

from __future__ import annotations

import faulthandler
import hashlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from .. import errors
from ..inference.volume import Geometry, Volume
from . import folder, protocol, sampled

if TYPE_CHECKING:
    from ..inference.engine import Segmenter
    from ..inference.latent_space import LatentSpace

STARTING = "Starting PyTorch"
LOADING = "Loading the model"
# Smaller steps are not worth a message.
_PROGRESS_STEP = 0.005


def main(private: Path) -> None:
    """Serve requests from standard input until it closes.

    Args:
        private: the private folder that the client has made.
    """
    faulthandler.enable()
    requests, events = _take_over_standard_streams()
    server = Server(private, lambda event: _write(events, event))
    threading.Thread(target=_listen, args=(requests, server, private), daemon=True).start()
    try:
        server.run()
    except OSError:  # an event could not be written: the client has died
        folder.remove(private)


class Server:
    """Deals with one request after the other, and keeps loaded models for the next one."""

    def __init__(self, private: Path, send: Callable[[protocol.Event], None]) -> None:
        self._folder = private
        self._send = send
        self._requests: SimpleQueue[protocol.Request] = SimpleQueue()
        self._cancelled: set[int] = set()
        self._segmenters: dict[tuple[str, str, bool], tuple[tuple[int, int], Segmenter]] = {}
        self._encoded: _Encoded | None = None

    def accept(self, request: protocol.Request) -> None:
        """Take a request, from any thread: cancel at once, put others in the queue."""
        if isinstance(request, protocol.Cancel):
            self._cancelled.add(request.job)
        else:
            self._requests.put(request)

    def run(self) -> None:
        """Deal with requests for ever.

        Raises:
            OSError: if an event cannot be sent.
        """
        self._send(protocol.Hello(protocol.VERSION, os.getpid()))
        while True:
            # The answer goes out when all that the computation held is free again: Windows does
            # not let the client delete a file that is still mapped here.
            self._send(self._answer(self._requests.get()))

    def _answer(self, request: protocol.Request) -> protocol.Event:
        try:
            if "torch" not in sys.modules:
                self._send(protocol.Progress(request.job, STARTING, 0.0))
            _import_torch()
            act = {
                protocol.Segment: self._segment,
                protocol.Sample: self._sample,
                protocol.Decode: self._decode,
                protocol.Convert: self._convert,
                protocol.Devices: self._devices,
            }[type(request)]
            return protocol.Done(request.job, act(request))
        except errors.MRFUNetError as error:
            return protocol.Failed.of(request.job, error)
        except Exception as error:
            traceback.print_exc()
            if errors.lacks_memory(error):  # where the engine cannot go on in smaller parts
                return protocol.Failed.of(request.job, errors.too_little_memory())
            text = f"The computation failed ({type(error).__name__}: {error}). Run it again, and "
            text += "report this as a defect of the extension if it fails again."
            return protocol.Failed.of(request.job, errors.WorkerError(text))

    def _segment(self, request: protocol.Segment) -> dict[str, Any]:
        progress = _Progress(request.job, self._send)
        self._encoded = None  # may be large, and is of something else
        segmenter, loading, volume = self._opened(request, progress)
        result = segmenter.segment(
            volume, progress, self._asks_to_end(request), maps=list(request.maps)
        )
        with self._writing():
            np.save(self._folder / request.labels, result.labels.astype(np.uint8, copy=False))
            for name, file in request.maps.items():
                np.save(self._folder / file, result.maps[name])
        progress.complete()
        return {
            "card": result.card.to_dict(),
            "sha256": result.sha256,
            "device": result.device,
            "options": result.options,
            "timings": {**loading, **result.timings},
            "warnings": list(result.warnings),
        }

    def _sample(self, request: protocol.Sample) -> dict[str, Any]:
        progress = _Progress(request.job, self._send)
        segmenter, loading, volume = self._opened(request, progress)
        folder = self._folder / request.folder
        with self._writing():
            folder.mkdir()

        def drawn(sample: int, compressed: bytes, _: None) -> None:
            with self._writing():
                sampled.write_sample(folder, sample, compressed)
            self._send(protocol.Drawn(request.job, sample))

        encoded = self._encode(request, segmenter, volume, progress)
        result = encoded.space.sample(request.number, request.seed, request.consensus, drawn)
        with self._writing():
            sampled.write(folder, replace(result, timings={**loading, **result.timings}))
        self._encoded = encoded
        progress.complete()
        return {}

    def _encode(
        self,
        request: protocol.Sample,
        segmenter: Segmenter,
        volume: Volume,
        progress: _Progress,
    ) -> _Encoded:
        """Return what samples of a volume share: that of the last run, if it is the same."""
        last, asks_to_end = self._encoded, self._asks_to_end(request)
        digest = hashlib.blake2b(np.ascontiguousarray(volume.array)).digest()
        if last and last.is_of(segmenter, volume.geometry, digest):
            space = last.space.again(request.number, progress, asks_to_end)
        else:
            last = self._encoded = None  # may be large, and there will be another one
            space = segmenter.encode(volume, request.number, progress, asks_to_end)
        return _Encoded(request.job, digest, space)

    def _decode(self, request: protocol.Decode) -> dict[str, Any]:
        from ..inference.run import Run

        encoded = self._encoded
        if encoded is None or encoded.job != request.sampled:
            raise errors.InputError(
                "The features of this volume are no longer at hand, for another one was computed "
                "since. Draw the samples again."
            )
        run = Run({}, lambda stage, fraction: None, self._asks_to_end(request))
        space = replace(encoded.space, run=run)
        if request.voxel is None:
            found = [space.labels(request.epsilon)]
        else:
            found = space.slice_labels(request.epsilon, tuple(request.voxel))
        with self._writing():
            for file, labels in zip(request.labels, found, strict=True):
                np.save(self._folder / file, labels)
        return {}

    def _convert(self, request: protocol.Convert) -> dict[str, Any]:
        from ..checkpoints.convert import convert
        from ..checkpoints.load import save_checkpoint

        network, card = convert(Path(request.checkpoint), None, request.card)
        if self._asks_to_end(request)():
            raise errors.Cancelled
        save_checkpoint(Path(request.target), network, card)
        return {}

    def _opened(
        self, request: protocol.OfVolume, progress: _Progress
    ) -> tuple[Segmenter, dict[str, float], Volume]:
        """Return the model, the seconds that loading it took, if it was loaded, and the volume."""
        started = time.perf_counter()
        segmenter, loaded = self._segmenter(request, progress)
        loading = {LOADING: time.perf_counter() - started} if loaded else {}
        # "c": the engine may treat the array as its own, and the file stays as it is.
        array = np.load(self._folder / request.volume, mmap_mode="c", allow_pickle=False)
        return segmenter, loading, Volume(array, request.geometry, tuple(request.warnings))

    def _asks_to_end(self, request: protocol.Request) -> Callable[[], bool]:
        return lambda: request.job in self._cancelled

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise errors.OutputError(
                f"The result cannot be written to {self._folder} ({error.strerror or error}). "
                "Free some disk space there, then run it again."
            ) from error

    def _segmenter(self, request: protocol.OfVolume, progress: _Progress) -> tuple[Segmenter, bool]:
        """Return the model on the device, and whether it had to be loaded."""
        from ..checkpoints.header import find_checkpoint
        from ..checkpoints.load import load_checkpoint
        from ..inference.engine import Segmenter

        model, device, mrf = request.model, request.device, request.mrf
        stat = find_checkpoint(model).stat()  # it may have gone while torch was imported
        stamp = (stat.st_mtime_ns, stat.st_size)
        known, segmenter = self._segmenters.get((model, device, mrf), (None, None))
        if known == stamp:
            return segmenter, False
        progress(LOADING, 0.0)
        segmenter = Segmenter(load_checkpoint(model), device, mrf=mrf)
        self._segmenters[model, device, mrf] = stamp, segmenter
        return segmenter, True

    def _devices(self, request: protocol.Devices) -> dict[str, Any]:
        import torch

        from ..inference.devices import describe_devices, why_no_gpu

        return {
            "devices": describe_devices(),
            "why_no_gpu": why_no_gpu(),
            "torch": torch.__version__,
        }


@dataclass(frozen=True)
class _Encoded:
    """What the samples of a volume share.

    Attributes:
        job: number of the job that has drawn from it.
        digest: of the volume's voxels.
        space: features and prior.
    """

    job: int
    digest: bytes
    space: LatentSpace

    def is_of(self, segmenter: Segmenter, geometry: Geometry, digest: bytes) -> bool:
        """Return whether a model has made it from a volume."""
        mine = self.space.segmenter, self.space.geometry, self.digest
        return mine == (segmenter, geometry, digest)


class _Progress:
    """Sends progress that never falls, in steps worth a message."""

    def __init__(self, job: int, send: Callable[[protocol.Event], None]) -> None:
        self._job = job
        self._send = send
        self._stage = ""
        self._fraction = 0.0

    def __call__(self, stage: str, fraction: float) -> None:
        fraction = min(max(fraction, self._fraction), 1.0)
        if stage != self._stage or fraction - self._fraction >= _PROGRESS_STEP:
            self._stage, self._fraction = stage, fraction
            self._send(protocol.Progress(self._job, stage, fraction))

    def complete(self) -> None:
        """Make sure that the last message says 1."""
        if self._fraction < 1:
            self._fraction = 1.0
            self._send(protocol.Progress(self._job, self._stage, 1.0))


def _import_torch() -> None:
    try:
        from ..checkpoints import load  # noqa: F401
        from ..inference import engine  # noqa: F401
    except Exception as error:  # a half-installed torch raises whatever it likes
        traceback.print_exc()
        raise errors.WorkerError(
            f"PyTorch cannot be loaded ({type(error).__name__}: {error}). Install it: in Slicer, "
            "install the PyTorch extension and let its module PyTorch Util install torch "
            "(uninstall it there first if it is damaged); elsewhere, pip install torch. "
            "Then run it again."
        ) from error


def _take_over_standard_streams() -> tuple[BinaryIO, BinaryIO]:
    """Keep the pipes to the client for ourselves and give everybody else harmless streams.

    Prints of libraries and of child processes go to the log and not among the events. Nobody but
    us has the input pipe: on Windows, loading a library while a thread waits for that pipe would
    block, for the library's start-up code looks at the standard input.

    Returns:
        Streams of requests and of events.
    """
    requests = os.fdopen(os.dup(0), "rb")
    events = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return requests, events


def _write(events: BinaryIO, event: protocol.Event) -> None:
    events.write(protocol.encode(event))
    events.flush()


def _listen(requests: BinaryIO, server: Server, private: Path) -> None:
    """Pass requests on; when the client has closed the pipe or died, end the process."""
    try:
        for line in requests:
            server.accept(protocol.decode(line))
    except Exception:
        traceback.print_exc()
    finally:
        folder.remove(private)
        # Not sys.exit: the main thread may be in the middle of a computation.
        os._exit(0)
