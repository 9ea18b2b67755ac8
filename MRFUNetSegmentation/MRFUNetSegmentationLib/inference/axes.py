"""Anatomical directions of voxel axes. Needs neither torch nor the model."""

from __future__ import annotations

from itertools import permutations

import numpy as np

# Where the axes of each letter point to in ITK's LPS world.
_TOWARDS = {
    "L": (1, 0, 0),
    "R": (-1, 0, 0),
    "P": (0, 1, 0),
    "A": (0, -1, 0),
    "S": (0, 0, 1),
    "I": (0, 0, -1),
}
# Letters of the axis across the slices of each plane.
_ACROSS = {"axial": "SI", "coronal": "AP", "sagittal": "RL"}


def nearest_axes(
    direction: np.ndarray, orientation: str = "RAS"
) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """Find the voxel axes nearest to the anatomical ones.

    Args:
        direction: (3, 3), columns are the voxel axes' unit vectors in LPS (as in ITK).
        orientation: directions of the anatomical axes, such as right, anterior, superior.

    Returns:
        For each anatomical axis the index of the voxel axis, and whether that one runs the other
        way. Together they are the assignment with the largest sum of |cosines|.
    """
    towards = np.array([_TOWARDS[letter] for letter in orientation], dtype=float)
    cosines = towards @ np.asarray(direction, dtype=float).reshape(3, 3)
    axes = max(permutations(range(3)), key=lambda p: sum(abs(cosines[a, p[a]]) for a in range(3)))
    return axes, tuple(bool(cosines[a, axes[a]] < 0) for a in range(3))


def slice_axis(plane: str, orientation: str) -> int:
    """Return the axis across the slices of a plane.

    Args:
        plane: "axial", "coronal" or "sagittal".
        orientation: three letters, the directions of the volume's axes.
    """
    return next(n for n, letter in enumerate(orientation) if letter in _ACROSS[plane])
