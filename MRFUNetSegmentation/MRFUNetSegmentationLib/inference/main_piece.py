"""Keeps what belongs to the main object of a segmentation, such as the brain in a head.

A network that sees a part of the head at a time takes some muscle, scalp or neck for tissue. That
is apart from the brain, or hangs together with it by thin bridges only.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor
from torch.nn import functional

# Bridges and sheets of up to twice this are cut, in voxels of the model's grid.
_RADIUS = 2
# The main piece grows back by this much, so that it loses no thin parts of its own.
_GROWTH = 6
# A piece at an end of the field of view is connected to the main one beyond it if it has this share
# of the main one's voxels, and is at most so many voxels deep on the average, as a lobe's pole is:
# specks and longer pieces are muscles and eyes more often.
_SHARE = 0.002
_DEPTH = 12


def main_piece(solid: Tensor, around: Tensor, ends: Iterable[tuple[int, int]] = ()) -> Tensor:
    """Return what belongs to the main object.

    The largest connected component of the eroded object, and those that lie at one of the `ends`
    which it reaches, too: they may be connected beyond it, as a temporal lobe's pole is. They are
    grown back within the object; and what is around it, as far as it is connected to that within
    the same distance. Where nothing is thick enough to be left by the erosion, everything stays.

    Args:
        solid: (R, A, S), bool, the object.
        around: (R, A, S), bool, what lies around objects of its kind, as fluid does.
        ends: sides of the image where the field of view ends: axis, and 0 or -1 for its first or
            last voxels.

    Returns:
        (R, A, S), bool, a part of both together.
    """
    # Outside the image there is no object either.
    core = ~_dilated(functional.pad(~solid, (_RADIUS,) * 6, value=True), _RADIUS)
    core = core[(slice(_RADIUS, -_RADIUS),) * 3]
    if not core.any():
        return solid | around
    found = sitk.ConnectedComponent(sitk.GetImageFromArray(core.to(torch.uint8).numpy()))
    components = sitk.GetArrayFromImage(sitk.RelabelComponent(found, sortByObjectSize=True))
    piece = torch.from_numpy(np.isin(components, _main_and_beyond(components, ends)))
    piece = _grown(piece, solid)
    return _grown(piece, piece | around)


def _main_and_beyond(components: np.ndarray, ends: Iterable[tuple[int, int]]) -> list[int]:
    """Return the number of the largest component, 1, and of those that go on with it at an end."""
    sizes = np.bincount(components.ravel())
    numbers = {1}
    for axis, end in ends:
        # The erosion has moved all that reaches the end away from it.
        face = components.take(end - _RADIUS if end else _RADIUS, axis)
        at_end = np.bincount(face.ravel(), minlength=len(sizes))
        if at_end[1]:
            near = (sizes >= _SHARE * sizes[1]) & (sizes <= _DEPTH * at_end)
            numbers.update(np.flatnonzero(near))
    return sorted(numbers - {0})


def _grown(piece: Tensor, mask: Tensor) -> Tensor:
    for _ in range(_GROWTH):  # one by one, for it must not jump a gap
        piece = _dilated(piece, 1) & mask
    return piece


def _dilated(mask: Tensor, radius: int) -> Tensor:
    """Dilate by a cube."""
    for axis in range(mask.dim()):  # a cube is three lines
        for _ in range(radius):
            wider, n = mask.clone(), mask.shape[axis]
            wider.narrow(axis, 1, n - 1).logical_or_(mask.narrow(axis, 0, n - 1))
            wider.narrow(axis, 0, n - 1).logical_or_(mask.narrow(axis, 1, n - 1))
            mask = wider
    return mask
