"""A volume as the batch that a network takes: the volume itself (3D), or its slices (2D).

Both have the same methods, so that what uses a network need not know its number of dimensions:
`split` a volume (C, *shape) into a batch (B, C, *spatial), `assemble` the network's results for
portions of it that fit in memory, `join` them to a volume.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .tiles import Tiling, blend

# Where a portion lies in a batch (B, C, *spatial).
Place = tuple[slice, ...]

_SMALLEST_TILE = 96


def with_neighbours(volume: Tensor, axis: int, number: int, distance: float) -> Tensor:
    """Return a volume (*shape) as channels (1 + 2 number, *shape), shifted along an axis.

    Channel c of a slice is the slice (c - number) distances further on, interpolated between slices
    where it lies between them; beyond the ends are the outermost ones.

    Args:
        volume: a float tensor.
        axis: across the slices.
        number: of neighbours on either side.
        distance: from one to the next, in slices.
    """
    last = volume.shape[axis] - 1
    own = torch.arange(last + 1, dtype=torch.float64)
    shape = [-1 if a == axis else 1 for a in range(volume.dim())]
    channels = volume.new_empty(1 + 2 * number, *volume.shape)
    for channel, steps in zip(channels, range(-number, number + 1), strict=True):
        place = (own + steps * distance).clamp(0, last)
        below = place.long()
        share = (place - below).to(volume).view(shape)
        lower = volume.index_select(axis, below.to(volume.device))
        upper = volume.index_select(axis, (below + 1).clamp_max(last).to(volume.device))
        torch.lerp(lower, upper, share, out=channel)
    return channels


@dataclass(frozen=True)
class WholeVolume:
    """A 3D network's batch: one volume, in overlapping tiles where it is large.

    Attributes:
        voxels: largest volume that is not tiled.
        stride: total stride of the network.
    """

    voxels: int
    stride: int
    layout = torch.channels_last_3d  # several times faster on the CPU than the default

    def smaller(self, shape: Sequence[int]) -> int | None:
        """Return `voxels` for portions of half the size; None where they cannot be smaller.

        Args:
            shape: of the volume.
        """
        half = min(self.voxels, math.prod(shape)) // 2
        # Smaller portions are not worth their overlaps.
        return half if half >= _SMALLEST_TILE**3 else None

    def split(self, volume: Tensor) -> Tensor:
        """Return a batch (1, C, *shape) of a volume (C, *shape)."""
        return volume[None]

    def join(self, batch: Tensor) -> Tensor:
        """Return the volume (C, *shape) of a batch (1, C, *shape)."""
        return batch[0]

    def place(self, box: tuple[slice, slice, slice]) -> Place:
        """Return where a box of the volume lies in its batch."""
        return (slice(None), slice(None), *box)

    def dimension(self, axis: int) -> int | None:
        """Return the dimension of a batch's images that is an axis of the volume."""
        return axis + 2

    def images_at_once(self, shape: Sequence[int]) -> int:
        """Return how many images of a shape a network takes at once where it needs them whole."""
        return 1

    def passes(self, batch: Tensor) -> int:
        """Return how many portions `assemble` makes of a batch."""
        return len(self._tiling(batch.shape[2:]))

    def assemble(self, compute: Callable[[Place], Tensor], batch: Tensor, channels: int) -> Tensor:
        """Return the results for a batch (1, C, *shape): (1, channels, *shape), on the CPU.

        Args:
            compute: the result (1, channels, *tile) for the portion of the batch at a place.
            batch: what the places refer to.
            channels: of the result.
        """
        everything = slice(None)
        return blend(
            self._tiling(batch.shape[2:]),
            channels,
            lambda tile: compute((everything, everything, *tile))[0],
        )[None]

    def _tiling(self, shape: Sequence[int]) -> Tiling:
        """Halve the longest side until a tile is small enough (rounded to 32)."""
        tile = list(shape)
        while math.prod(tile) > self.voxels and max(tile) > _SMALLEST_TILE:
            longest = tile.index(max(tile))
            tile[longest] = max(_SMALLEST_TILE, -(-(tile[longest] // 2 + 32) // 32) * 32)
        return Tiling(tuple(shape), tuple(tile), self.stride)


@dataclass(frozen=True)
class Slices:
    """A 2D network's batch: the slices of a volume along one axis.

    Attributes:
        voxels: largest number of voxels of the slices that a network takes at once; one slice
            is taken whatever its size.
        axis: axis of the volume across its slices.
    """

    voxels: int
    axis: int
    layout = torch.channels_last

    def smaller(self, shape: Sequence[int]) -> int | None:
        """Return `voxels` for half as many slices at once; None where it is one already.

        Args:
            shape: of the volume.
        """
        number = shape[self.axis]
        slice_voxels = math.prod(shape) // number
        half = min(self.voxels // slice_voxels, number) // 2
        return half * slice_voxels or None

    def split(self, volume: Tensor) -> Tensor:
        """Return the slices (B, C, height, width) of a volume (C, *shape)."""
        return volume.movedim(self.axis + 1, 0)

    def join(self, batch: Tensor) -> Tensor:
        """Return the volume (C, *shape) of slices (B, C, height, width)."""
        return batch.movedim(0, self.axis + 1)

    def place(self, box: tuple[slice, slice, slice]) -> Place:
        """Return where a box of the volume lies in its slices."""
        within = [side for axis, side in enumerate(box) if axis != self.axis]
        return (box[self.axis], slice(None), *within)

    def dimension(self, axis: int) -> int | None:
        """Return the dimension of the slices that is an axis of the volume, None if none is."""
        return None if axis == self.axis else 2 + axis - (axis > self.axis)

    def images_at_once(self, shape: Sequence[int]) -> int:
        """Return how many slices of a shape a network takes at once."""
        return max(1, self.voxels // math.prod(shape))

    def passes(self, batch: Tensor) -> int:
        """Return how many portions `assemble` makes of a batch."""
        return math.ceil(len(batch) / self.images_at_once(batch.shape[2:]))

    def assemble(self, compute: Callable[[Place], Tensor], batch: Tensor, channels: int) -> Tensor:
        """Return the results for a batch (B, C, *shape): (B, channels, *shape), on the CPU.

        Args:
            compute: the result (b, channels, *shape) for the portion of the batch at a place.
            batch: what the places refer to.
            channels: of the result.
        """
        number = self.images_at_once(batch.shape[2:])
        result = torch.empty(len(batch), channels, *batch.shape[2:])
        for first in range(0, len(batch), number):
            place = (slice(first, first + number),)
            result[place] = compute(place).cpu()
        return result
