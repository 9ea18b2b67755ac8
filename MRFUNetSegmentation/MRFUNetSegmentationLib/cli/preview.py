"""A picture of a result: three planes, the image above and the segmentation over it below.

Where there are samples, rows with their disagreement and with the first of them follow. Drawn with
numpy and torch alone, so that it needs nothing that Slicer does not ship.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..checkpoints.card import SegmentClass
from ..inference.grid import ModelGrid
from ..inference.overlay_colors import LOW, inferno
from ..inference.separable import resize
from ..inference.volume import Volume

_HEIGHT = 360  # pixels of the tallest plane
_GAP = 8
_OPACITY = 0.55
_COLUMNS = 3
_AXIAL, _CORONAL, _SAGITTAL = 2, 1, 0  # axes across the planes, of the orientation LPS


def preview(
    volume: Volume,
    labels: np.ndarray,
    segments: Sequence[SegmentClass],
    disagreement: np.ndarray | None = None,
    samples: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """Draw axial, coronal and sagittal planes through the segmented structures.

    Args:
        volume: the image.
        labels: (k, j, i) on the volume's grid.
        segments: the classes to colour.
        disagreement: (k, j, i), 0 to 1; the planes go where there is most of it, and it is drawn
            in a third row.
        samples: label maps (k, j, i), of which the axial plane is drawn, three in a row.

    Returns:
        (height, width, 3) uint8, in radiological convention: the patient's right is on the left.
    """
    spacing = volume.geometry.spacing
    grid = ModelGrid.of(volume.geometry, orientation="LPS")
    mask = grid.reorient(torch.from_numpy(labels))
    uncertain = None if disagreement is None else grid.reorient(torch.from_numpy(disagreement))
    planes = _Planes(
        image=_windowed(grid.reorient(torch.from_numpy(volume.array.astype(np.float64)))),
        centre=_centre(mask) if uncertain is None else _most(uncertain),
        voxel=[spacing[a] for a in grid.axes],
    )
    colours = torch.zeros(256, 3)
    for segment in segments:
        colours[segment.value] = torch.tensor(segment.color) / 255

    def segmentation(mask: Tensor, normal: int) -> Tensor:
        return planes.over(normal, colours[mask.long()], mask > 0)

    three = (_AXIAL, _CORONAL, _SAGITTAL)
    rows = [[planes.grey(n) for n in three]]
    rows.append([segmentation(planes.nearest(mask, n), n) for n in three])
    if uncertain is not None:
        rows.append([planes.heat(uncertain, n) for n in three])
    axial = [
        segmentation(planes.nearest(grid.reorient(torch.from_numpy(s)), _AXIAL), _AXIAL)
        for s in samples
    ]
    rows += [axial[n : n + _COLUMNS] for n in range(0, len(axial), _COLUMNS)]
    empty = torch.zeros(1, 1, 3)
    for row in rows:
        row += [empty] * (_COLUMNS - len(row))
    picture = torch.cat([torch.cat([_framed(cell) for cell in row], dim=1) for row in rows])
    return (picture.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


@dataclass(frozen=True)
class _Planes:
    """Planes of a volume, its axes in the orientation LPS.

    Attributes:
        image: grey values, 0 to 1.
        centre: voxel that the planes go through.
        voxel: mm along each axis.
    """

    image: Tensor
    centre: list[int]
    voxel: list[float]

    def grey(self, normal: int) -> Tensor:
        """Picture (height, width, 3) of the image."""
        shape = self._shape(normal)
        return resize(self._cut(self.image, normal), shape)[..., None].expand(*shape, 3)

    def nearest(self, classes: Tensor, normal: int) -> Tensor:
        """Plane (height, width) of a label map."""
        return _nearest(self._cut(classes, normal), self._shape(normal))

    def heat(self, values: Tensor, normal: int) -> Tensor:
        """Picture of values, 0 to 1, over the image; low ones are transparent."""
        values = resize(self._cut(values, normal), self._shape(normal)).clamp(0, 1)
        colours = torch.from_numpy(inferno().copy()).float()
        return self.over(normal, colours[(values * 255).round().long()], values > LOW)

    def over(self, normal: int, colours: Tensor, where: Tensor) -> Tensor:
        """Picture of colours (height, width, 3) over the image."""
        opacity = where[..., None] * _OPACITY
        return self.grey(normal) * (1 - opacity) + colours * opacity

    def _cut(self, volume: Tensor, normal: int) -> Tensor:
        plane = volume.select(normal, self.centre[normal]).T
        return plane if normal == _AXIAL else plane.flip(0)  # superior is up

    def _shape(self, normal: int) -> tuple[int, int]:
        size = self.image.shape
        pixel = max(n * s for n, s in zip(size, self.voxel, strict=True)) / _HEIGHT
        right, down = (a for a in range(3) if a != normal)
        return tuple(max(1, round(size[a] * self.voxel[a] / pixel)) for a in (down, right))


def _windowed(image: Tensor) -> Tensor:
    values = image.flatten()[:: max(1, image.numel() // 500_000)]
    if values.max() == values.min():  # of a few bright voxels it may have none
        values = image.flatten()
    values = values[values > values.min()]
    low, high = torch.quantile(values, torch.tensor([0.01, 0.995], dtype=values.dtype))
    return ((image - low) / (high - low).clamp_min(1e-12)).clamp(0, 1).float()


def _centre(mask: Tensor) -> list[int]:
    """Centre of all segments, or of the volume if there is none."""
    occupied = (mask > 0).nonzero()
    if not len(occupied):
        return [n // 2 for n in mask.shape]
    return occupied.float().mean(0).round().long().tolist()


def _most(values: Tensor) -> list[int]:
    """Where the planes with the largest sums are."""
    return [int(values.sum([a for a in range(3) if a != axis]).argmax()) for axis in range(3)]


def _nearest(classes: Tensor, shape: tuple[int, int]) -> Tensor:
    rows, columns = (
        ((torch.arange(n) + 0.5) * m / n).long() for n, m in zip(shape, classes.shape, strict=True)
    )
    return classes[rows][:, columns]


def _framed(picture: Tensor) -> Tensor:
    """Put the picture in the middle of a black square cell."""
    side = _HEIGHT + _GAP
    cell = torch.zeros(side, side, 3)
    top, left = ((side - n) // 2 for n in picture.shape[:2])
    cell[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return cell
