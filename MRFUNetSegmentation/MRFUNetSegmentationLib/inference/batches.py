"""A volume as the batch that a network takes: the volume itself, or its slices.

Both have the same methods, so that what uses a network need not know its number of dimensions:
`split` a volume (C, *shape) into a batch (B, C, *spatial), `apply` a network to it in portions
that fit in memory, `join` the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from .run import Run
from .tiles import Tiling, blend

_SMALLEST_TILE = 96
# Voxels of the slices that go through a 2D network at once. Larger batches are no faster.
_PORTION = 2**20
# Letters of the axis across the slices of each plane.
_ACROSS = {"axial": "SI", "coronal": "AP", "sagittal": "RL"}


def slice_axis(plane: str, orientation: str) -> int:
    """Return the axis of a grid in `orientation` across the slices of a plane."""
    return next(n for n, letter in enumerate(orientation) if letter in _ACROSS[plane])


@dataclass(frozen=True)
class WholeVolume:
    """A 3D network's batch: one volume, in overlapping tiles where it is large.

    Attributes:
        stride: total stride of the network.
        whole_voxels: largest volume that is not tiled.
    """

    stride: int
    whole_voxels: int
    layout = torch.channels_last_3d  # several times faster on the CPU than the default

    def split(self, volume: Tensor) -> Tensor:
        """Return a batch (1, C, *shape) of a volume (C, *shape)."""
        return volume[None]

    def join(self, batch: Tensor) -> Tensor:
        """Return the volume (C, *shape) of a batch (1, C, *shape)."""
        return batch[0]

    def apply(
        self,
        function: Callable[[Tensor], Tensor],
        images: Tensor,
        channels: int,
        network: nn.Module,
        run: Run,
    ) -> Tensor:
        """Return function(images), (1, channels, *shape), computed tile by tile.

        Args:
            function: from images (1, C, *tile) to (1, channels, *tile).
            images: (1, C, *shape).
            channels: of the result.
            network: what the function calls, once a tile.
            run: is advanced.
        """
        shape = tuple(images.shape[2:])
        tiling = Tiling(shape, _tile(shape, self.whole_voxels), self.stride)

        def compute(place: tuple[slice, slice, slice]) -> Tensor:
            return function(images[(slice(None), slice(None), *place)])[0]

        with run.watching(network, len(tiling)):
            return blend(tiling, channels, compute)[None]


@dataclass(frozen=True)
class Slices:
    """A 2D network's batch: the slices of a volume along one axis.

    Attributes:
        axis: axis of the volume across its slices.
    """

    axis: int
    layout = torch.channels_last

    def split(self, volume: Tensor) -> Tensor:
        """Return the slices (B, C, height, width) of a volume (C, *shape)."""
        return volume.movedim(self.axis + 1, 0)

    def join(self, batch: Tensor) -> Tensor:
        """Return the volume (C, *shape) of slices (B, C, height, width)."""
        return batch.movedim(0, self.axis + 1)

    def apply(
        self,
        function: Callable[[Tensor], Tensor],
        images: Tensor,
        channels: int,
        network: nn.Module,
        run: Run,
    ) -> Tensor:
        """Return function(images), (B, channels, height, width), some slices at a time.

        Args:
            function: from slices (b, C, height, width) to (b, channels, height, width).
            images: (B, C, height, width).
            channels: of the result.
            network: what the function calls, once for each portion.
            run: is advanced.
        """
        portions = images.split(max(1, _PORTION // images[0, 0].numel()))
        result = torch.empty(images.shape[0], channels, *images.shape[2:])
        first = 0
        with run.watching(network, len(portions)):
            for portion in portions:
                result[first : first + len(portion)] = function(portion).cpu()
                first += len(portion)
        return result


def _tile(shape: tuple[int, ...], voxels: int) -> tuple[int, ...]:
    """Halve the longest side until a tile has at most `voxels` voxels (rounded to 32)."""
    tile = list(shape)
    while np.prod(tile) > voxels and max(tile) > _SMALLEST_TILE:
        longest = tile.index(max(tile))
        tile[longest] = max(_SMALLEST_TILE, -(-(tile[longest] // 2 + 32) // 32) * 32)
    return tuple(tile)
