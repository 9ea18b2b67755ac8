"""The grid a network works on: canonical axes, the card's voxel size, the volume's own extent.

Axes are permuted and flipped to the nearest anatomical ones but not rotated: an oblique scan is
usually planned along the anatomy, so its own axes fit the network better than the scanner's, and
nothing is interpolated that need not be. Sizes change by separable linear interpolation between
voxel centres of the same extent; where the grid gets coarser, the triangle widens to the new
spacing, so that thin structures are averaged and not skipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .axes import nearest_axes
from .separable import resize
from .volume import Geometry


@dataclass(frozen=True)
class ModelGrid:
    """Carries a volume to the network's grid and results back to the volume's.

    Attributes:
        axes: voxel axis (0 = i, 1 = j, 2 = k) of each model axis.
        flips: whether that voxel axis runs against the model axis.
        input_shape: size of the volume along the model's axes.
        shape: size of the model's grid.
        spacing: voxel size on the model's grid, mm (the nearest to the card's that divides the
            volume's extent).
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    input_shape: tuple[int, int, int]
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]

    @classmethod
    def of(
        cls,
        geometry: Geometry,
        voxel_size: Sequence[float | None] = (None, None, None),
        orientation: str = "RAS",
    ) -> ModelGrid:
        """Build the grid of a volume.

        Args:
            geometry: the volume's.
            voxel_size: mm along the three axes of `orientation`; None keeps the volume's own, as
                for all three where axes are to be turned and nothing interpolated.
            orientation: directions of the model's axes.
        """
        axes, flips = nearest_axes(np.asarray(geometry.direction), orientation)
        input_shape = tuple(int(geometry.size[a]) for a in axes)
        extent = [geometry.size[a] * geometry.spacing[a] for a in axes]
        shape = tuple(
            n if v is None else max(1, round(e / v))
            for n, e, v in zip(input_shape, extent, voxel_size, strict=True)
        )
        model_spacing = tuple(e / n for e, n in zip(extent, shape, strict=True))
        return cls(axes, flips, input_shape, shape, model_spacing)

    def to_model(self, array: np.ndarray) -> Tensor:
        """Carry a volume, array [k, j, i], to the model's grid: a float32 tensor."""
        volume = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
        return resize(self.reorient(volume), self.shape).contiguous()

    def to_input(self, volume: Tensor) -> Tensor:
        """Carry a float tensor on the model's grid back to the volume's, axes [k, j, i]."""
        return self.restore(resize(volume, self.input_shape))

    def reorient(self, volume: Tensor) -> Tensor:
        """Turn a tensor [k, j, i] to the model's axes, without interpolation."""
        volume = volume.permute([2 - a for a in self.axes])
        return volume.flip([a for a in range(3) if self.flips[a]])

    def restore(self, volume: Tensor) -> Tensor:
        """Undo `reorient`."""
        volume = volume.flip([a for a in range(3) if self.flips[a]])
        return volume.permute([self.axes.index(2 - k) for k in range(3)])
