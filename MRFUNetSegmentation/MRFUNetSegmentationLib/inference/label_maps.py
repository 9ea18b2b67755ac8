"""Label maps in little memory. Needs neither torch nor the model."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np

# First and last + 1 index along each of three axes.
_BOX = struct.Struct("<6I")


def occupied_box(labels: np.ndarray) -> tuple[slice, slice, slice] | None:
    """Return the box around all that is not 0 in a label map (3D), None if nothing is."""
    box, inner = [], labels
    for axis in range(3):
        # What was left out along the axes before holds nothing.
        others = tuple(a for a in range(3) if a != axis)
        occupied = np.flatnonzero(inner.any(axis=others))
        if not len(occupied):
            return None
        box.append(slice(int(occupied[0]), int(occupied[-1]) + 1))
        inner = labels[(*box, *[slice(None)] * (2 - axis))]
    return tuple(box)


def compress(labels: np.ndarray) -> bytes:
    """Return a label map (3D, uint8) as compressed bytes: about a per cent of its size."""
    box = occupied_box(labels) or (slice(0, 0),) * 3
    content = np.ascontiguousarray(labels[box], dtype=np.uint8)
    edges = (edge for side in box for edge in (side.start, side.stop))
    return _BOX.pack(*edges) + zlib.compress(content, level=1)


def decompress(compressed: bytes, shape: Sequence[int]) -> np.ndarray:
    """Return the label map (*shape), uint8, that `compress` was given."""
    edges = _BOX.unpack_from(compressed)
    box = tuple(slice(*edges[2 * axis : 2 * axis + 2]) for axis in range(3))
    labels = np.zeros(shape, np.uint8)
    content = zlib.decompress(compressed[_BOX.size :])
    labels[box] = np.frombuffer(content, np.uint8).reshape([s.stop - s.start for s in box])
    return labels
