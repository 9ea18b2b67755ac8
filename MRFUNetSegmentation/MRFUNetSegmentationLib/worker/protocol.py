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

VERSION = 1


@dataclass(frozen=True)
class Segment:
    """Request: segment a volume.

    Attributes:
        job: number of the job.
        volume: name of the file with the voxels [k, j, i].
        labels: name of the file to write the label map to, uint8 [k, j, i].
        size, spacing, origin, direction: the volume's geometry.
        model: path of the checkpoint.
        device: auto, cpu, cuda, cuda:N or mps.
    """

    job: int
    volume: str
    labels: str
    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]
    model: str
    device: str

    @property
    def geometry(self) -> Geometry:
        """The volume's geometry."""
        return Geometry(
            tuple(self.size), tuple(self.spacing), tuple(self.origin), tuple(self.direction)
        )


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


Request = Segment | Devices | Cancel
Event = Hello | Progress | Done | Failed
_MESSAGES = {
    kind.__name__: kind for kind in (Segment, Devices, Cancel, Hello, Progress, Done, Failed)
}


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
