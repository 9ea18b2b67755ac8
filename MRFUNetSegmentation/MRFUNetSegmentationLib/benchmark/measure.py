"""Times two implementations in turns, and reads how much memory each takes."""

from __future__ import annotations

import ctypes
import gc
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5)


@dataclass(frozen=True)
class Measurement:
    """What one implementation took.

    Attributes:
        seconds: median over the repeats.
        peak_bytes: largest resident memory during a call above that before it; None where the
            operating system does not tell.
    """

    seconds: float
    peak_bytes: int | None


@dataclass(frozen=True)
class Row:
    """One line of the benchmark.

    Attributes:
        name: what was computed.
        upstream: the published implementation; None where there is no checkout.
        ours: this implementation.
        remark: how far the results differ, in words; empty without upstream.
    """

    name: str
    upstream: Measurement | None
    ours: Measurement
    remark: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times faster ours is."""
        return self.upstream.seconds / self.ours.seconds if self.upstream else None


def compare(
    name: str,
    upstream: Callable[[], T] | None,
    ours: Callable[[], T],
    repeats: int,
    remark: Callable[[T, T], str],
) -> Row:
    """Measure two implementations of one thing.

    They take turns, so that both meet the same load of the machine. A first call of each warms up
    and tells the memory and the results.

    Args:
        name: what is computed.
        upstream: computes it the published way; None to skip.
        ours: computes it our way.
        repeats: timed calls of each.
        remark: puts into words how far the results, upstream's and ours, differ.
    """
    if upstream is None:
        _, peak = _with_peak(ours)
        seconds = statistics.median(_timed(ours) for _ in range(repeats))
        return Row(name, None, Measurement(seconds, peak))
    theirs, upstream_peak = _with_peak(upstream)
    mine, peak = _with_peak(ours)
    words = remark(theirs, mine)
    del theirs, mine
    turns = [(_timed(upstream), _timed(ours)) for _ in range(repeats)]
    upstream_seconds, seconds = (statistics.median(column) for column in zip(*turns, strict=True))
    return Row(
        name, Measurement(upstream_seconds, upstream_peak), Measurement(seconds, peak), words
    )


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _with_peak(call: Callable[[], T]) -> tuple[T, int | None]:
    """Return the result of a call and its peak memory, bytes."""
    gc.collect()
    _return_free_memory()
    try:
        _CLEAR.write_text(_RESET_PEAK, encoding="ascii")
        before = _resident("VmRSS")
        result = call()
        return result, _resident("VmHWM") - before
    except OSError:  # not on Linux
        return call(), None


def _return_free_memory() -> None:
    """Make glibc give back what it keeps for reuse, which would hide what a call takes."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def _resident(field: str) -> int:
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {field}")
