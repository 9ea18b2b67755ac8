"""Overlapping tiles: a large volume through a network of limited memory.

Tiles start at multiples of the network's total stride, so that every tile is sampled at the same
voxels as the whole volume. They overlap: the outer quarter of an overlap, where a tile lacks
context, is not used, and over the middle half the tiles blend linearly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

# Voxels.
OVERLAP = 64


@dataclass(frozen=True)
class Tiling:
    """Tiles that cover a volume.

    Attributes:
        shape: voxels of the volume.
        tile: largest number of voxels of a tile along each axis.
        stride: total stride of the network; tiles start at multiples of it.
    """

    shape: tuple[int, int, int]
    tile: tuple[int, int, int]
    stride: int

    def __iter__(self) -> Iterator[tuple[slice, slice, slice]]:
        """Yield each tile's slices."""
        yield from product(*(self._spans(a) for a in range(3)))

    def __len__(self) -> int:
        count = 1
        for axis in range(3):
            count *= len(self._spans(axis))
        return count

    def _spans(self, axis: int) -> list[slice]:
        size, tile = self.shape[axis], self.tile[axis]
        if size <= tile:
            return [slice(0, size)]
        step = max(self.stride, (tile - OVERLAP) // self.stride * self.stride)
        last = -(-(size - tile) // self.stride) * self.stride
        starts = [*range(0, last, step), last]
        return [slice(s, min(s + tile, size)) for s in starts]


def blend(
    tiling: Tiling,
    classes: int,
    compute: Callable[[tuple[slice, slice, slice]], Tensor],
) -> Tensor:
    """Put tiles together, weighted linearly over their overlaps.

    Args:
        tiling: the tiles.
        classes: channels of a result.
        compute: the result (classes, *tile) of a tile; called once for each, in order.

    Returns:
        (classes, *shape) on the CPU.
    """
    if len(tiling) == 1:
        return compute(next(iter(tiling))).cpu()
    total = torch.zeros(classes, *tiling.shape)
    weight = torch.zeros(tiling.shape)
    for place in tiling:
        ramp = _ramp(place, tiling.shape)
        total[(slice(None), *place)] += ramp * compute(place).cpu()
        weight[place] += ramp
    return total.div_(weight)


def _ramp(place: tuple[slice, slice, slice], shape: tuple[int, int, int]) -> Tensor:
    """Weight of a tile's voxels: rises over the overlap from each side that is not the volume's."""
    ramp = torch.ones(1)
    for axis, span in enumerate(place):
        n = span.stop - span.start
        position = torch.arange(n, dtype=torch.float32) + 0.5
        line = torch.ones(n)
        if span.start > 0:
            line = torch.minimum(line, _rise(position))
        if span.stop < shape[axis]:
            line = torch.minimum(line, _rise(n - position))
        view = [1, 1, 1]
        view[axis] = n
        ramp = ramp * line.view(view)
    return ramp


def _rise(distance: Tensor) -> Tensor:
    """Weight at a distance from a tile's side: 0 to 1/4 of the overlap, 1 from 3/4 on."""
    return ((distance - OVERLAP / 4) / (OVERLAP / 2)).clamp(0, 1)
