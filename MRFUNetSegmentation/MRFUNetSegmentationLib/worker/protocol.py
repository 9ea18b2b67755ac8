"""What a worker and its client say to each other: one JSON object a line.

Requests go to the worker's standard input, events come from its standard output. Arrays do not
travel here: they are .npy files in the private folder, and messages carry their names.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..errors import Cancelled, MRFUNetError, WorkerError
from ..inference.volume import Geometry

VERSION = 4


@dataclass(frozen=True)
class OfVolume:
    """What requests for a volume have in common.

    Attributes:
        job: number of the job.
        volume: name of the file with the voxels [k, j, i].
        size, spacing, origin, direction: the volume's geometry.
        warnings: what the user should know of the volume.
        model: path of the checkpoint.
        device: auto, cpu, cuda, cuda:N or mps.
        mrf: False leaves the network's MRF out.
    """

    job: int
    volume: str
    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]
    warnings: tuple[str, ...]
    model: str
    device: str
    mrf: bool

    @property
    def geometry(self) -> Geometry:
        """The volume's geometry."""
        return Geometry(
            tuple(self.size), tuple(self.spacing), tuple(self.origin), tuple(self.direction)
        )


@dataclass(frozen=True)
class Segment(OfVolume):
    """Request: segment a volume.

    Attributes:
        labels: name of the file to write the label map to, uint8 [k, j, i].
        maps: names of maps of the posterior, with the files to write them to, float32 [k, j, i].
    """

    labels: str
    maps: dict[str, str]


@dataclass(frozen=True)
class Sample(OfVolume):
    """Request: draw plausible segmentations of a volume.

    Attributes:
        number: of samples.
        seed: of the latents.
        consensus: its method.
        folder: name of the folder to write to (see `sampled`).
    """

    number: int
    seed: int
    consensus: str
    folder: str


@dataclass(frozen=True)
class Decode:
    """Request: segment the last sampled volume again, for another latent.

    Attributes:
        job: number of the job.
        sampled: number of the job that sampled the volume.
        epsilon: the latent, in standard deviations of the prior from its mean.
        voxel: k, j, i for the three slices through it, None for the whole volume.
        labels: names of the files to write to, uint8: of the three slices [j, i], [k, i] and
            [k, j], or of the label map [k, j, i].
    """

    job: int
    sampled: int
    epsilon: tuple[float, ...]
    voxel: tuple[int, ...] | None
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Convert:
    """Request: convert a checkpoint of published code.

    Attributes:
        job: number of the job.
        checkpoint: path of the file.
        card: its model card, as JSON types.
        target: path of the file to write.
    """

    job: int
    checkpoint: str
    card: dict[str, Any]
    target: str


@dataclass(frozen=True)
class Devices:
    """Request: say on which devices the worker can compute."""

    job: int


@dataclass(frozen=True)
class Cancel:
    """Request: end a job soon."""

    job: int


@dataclass(frozen=True)
class Hello:
    """Event: the worker is there, and which protocol it speaks."""

    protocol: int
    pid: int


@dataclass(frozen=True)
class Progress:
    """Event: how far a job is; the fraction, 0..1, never falls."""

    job: int
    stage: str
    fraction: float


@dataclass(frozen=True)
class Drawn:
    """Event: the file of a sample, 0 .. N - 1, is complete."""

    job: int
    sample: int


@dataclass(frozen=True)
class Done:
    """Event: a job has succeeded; what the result holds depends on the request."""

    job: int
    result: dict[str, Any]


@dataclass(frozen=True)
class Failed:
    """Event: a job has ended with an error.

    Attributes:
        job: number of the job.
        kind: the error's class in `errors`.
        text: its message.
    """

    job: int
    kind: str
    text: str

    @classmethod
    def of(cls, job: int, error: MRFUNetError) -> Failed:
        """Wrap an error."""
        return cls(job, type(error).__name__, str(error))

    def error(self) -> MRFUNetError:
        """Return an error of the same class, with the same text."""
        if self.kind == Cancelled.__name__:
            return Cancelled()
        kinds = {kind.__name__: kind for kind in MRFUNetError.__subclasses__()}
        return kinds.get(self.kind, WorkerError)(self.text)


Request = Segment | Sample | Decode | Convert | Devices | Cancel
Event = Hello | Progress | Drawn | Done | Failed
_MESSAGES = {
    kind.__name__: kind
    for kind in (
        Segment, Sample, Decode, Convert, Devices, Cancel, Hello, Progress, Drawn, Done, Failed
    )
}  # fmt: skip


def encode(message: Request | Event) -> bytes:
    """Return a message as a line of ASCII, so that no locale can garble it."""
    body = {"message": type(message).__name__, **asdict(message)}
    return json.dumps(body, default=_plain).encode("ascii") + b"\n"


def decode(line: bytes) -> Request | Event:
    """Return the message of a line.

    Raises:
        ValueError: if it is not one.
    """
    try:
        body = json.loads(line)
        return _MESSAGES[body.pop("message")](**body)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a message: {line!r}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be sent")
