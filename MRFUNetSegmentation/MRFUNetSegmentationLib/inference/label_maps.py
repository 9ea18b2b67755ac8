"""Label maps in little memory. Needs neither torch nor the model."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np

from ..boxes import occupied_box

# First and last + 1 index along each of three axes.
_BOX = struct.Struct("<6I")


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
