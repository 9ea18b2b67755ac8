"""Boxes around what is marked. Needs nothing but NumPy."""

from __future__ import annotations

import numpy as np


def occupied_box(labels: np.ndarray, margin: int = 0) -> tuple[slice, ...] | None:
    """Return the box around all that is not 0 in an array, None if nothing is.

    Args:
        labels: of any number of axes and any type.
        margin: voxels by which the box is wider on every side, as far as the array goes.
    """
    box: list[slice] = []
    for axis in range(labels.ndim):
        # What was left out along the axes before holds nothing.
        others = tuple(a for a in range(labels.ndim) if a != axis)
        occupied = np.flatnonzero(labels[tuple(box)].any(axis=others))
        if not len(occupied):
            return None
        box.append(slice(int(occupied[0]), int(occupied[-1]) + 1))
    return tuple(
        slice(max(0, side.start - margin), min(size, side.stop + margin))
        for side, size in zip(box, labels.shape, strict=True)
    )
