"""Keeps what belongs to the main object of a segmentation, such as the brain in a head.

A network that sees a part of the head at a time takes some muscle, scalp or neck for tissue. That
is apart from the brain, or hangs together with it by thin bridges only.
"""

from __future__ import annotations

import SimpleITK as sitk
import torch
from torch import Tensor
from torch.nn import functional

# Bridges and sheets of up to twice this are cut, in voxels of the model's grid.
_RADIUS = 2
# The main piece grows back by this much, so that it loses no thin parts of its own.
_GROWTH = 6


def main_piece(solid: Tensor, around: Tensor) -> Tensor:
    """Return what belongs to the main object.

    The largest connected component of the eroded object, grown back within the object; and what
    is around it, as far as it is connected to that within the same distance. Where nothing is
    thick enough to be left by the erosion, everything stays.

    Args:
        solid: (R, A, S), bool, the object.
        around: (R, A, S), bool, what lies around objects of its kind, as fluid does.

    Returns:
        (R, A, S), bool, a part of both together.
    """
    core = ~_dilated(~solid, _RADIUS, beyond=True)
    if not core.any():
        return solid | around
    components = sitk.ConnectedComponent(sitk.GetImageFromArray(core.to(torch.uint8).numpy()))
    largest = sitk.RelabelComponent(components, sortByObjectSize=True) == 1
    piece = torch.from_numpy(sitk.GetArrayFromImage(largest)).bool()
    piece = _grown(piece, solid)
    return _grown(piece, piece | around)


def _grown(piece: Tensor, mask: Tensor) -> Tensor:
    for _ in range(_GROWTH):  # one by one, for it must not jump a gap
        piece = _dilated(piece, 1) & mask
    return piece


def _dilated(mask: Tensor, radius: int, *, beyond: bool = False) -> Tensor:
    """Dilate by a cube; `beyond` is the value that holds outside the borders."""
    x = functional.pad(mask[None, None].float(), (radius,) * 6, value=float(beyond))
    for axis in range(3):  # a cube is three lines
        size = [1, 1, 1]
        size[axis] = 2 * radius + 1
        x = functional.max_pool3d(x, size, stride=1)
    return x[0, 0] > 0.5
