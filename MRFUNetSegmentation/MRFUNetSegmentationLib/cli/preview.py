"""A picture of a result: three planes, the image above and the segmentation over it below.

Drawn with numpy alone, so that it needs nothing that Slicer does not ship.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..checkpoints.card import SegmentClass
from ..inference.grid import ModelGrid, resize
from ..inference.volume import Volume

_HEIGHT = 360  # pixels of the tallest plane
_GAP = 8
_OPACITY = 0.55


def preview(volume: Volume, labels: np.ndarray, segments: Sequence[SegmentClass]) -> np.ndarray:
    """Draw axial, coronal and sagittal planes through the segmented structures.

    Args:
        volume: the image.
        labels: (k, j, i) on the volume's grid.
        segments: the classes to colour.

    Returns:
        (height, width, 3) uint8, in radiological convention: the patient's right is on the left.
    """
    spacing = volume.geometry.spacing
    grid = ModelGrid.of(volume.geometry, spacing, "LPS")
    image = grid.reorient(torch.from_numpy(volume.array.astype(np.float32)))
    mask = grid.reorient(torch.from_numpy(labels))
    image = _windowed(image)
    centre = _centre(mask)
    voxel = [spacing[a] for a in grid.axes]
    pixel = max(n * s for n, s in zip(image.shape, voxel, strict=True)) / _HEIGHT
    colours = torch.zeros(256, 3)
    for segment in segments:
        colours[segment.value] = torch.tensor(segment.color) / 255

    columns = []
    for normal, (right, down) in ((2, (0, 1)), (1, (0, 2)), (0, (1, 2))):
        grey = image.select(normal, centre[normal]).T
        classes = mask.select(normal, centre[normal]).T
        if down == 2:  # superior is up
            grey, classes = grey.flip(0), classes.flip(0)
        shape = (
            max(1, round(grey.shape[0] * voxel[down] / pixel)),
            max(1, round(grey.shape[1] * voxel[right] / pixel)),
        )
        grey = resize(grey, shape)[..., None].expand(*shape, 3)
        classes = _nearest(classes, shape).long()
        coloured = (classes > 0)[..., None] * _OPACITY
        overlay = grey * (1 - coloured) + colours[classes] * coloured
        columns.append(torch.cat((_framed(grey), _framed(overlay))))
    return (torch.cat(columns, dim=1).clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def _windowed(image: Tensor) -> Tensor:
    values = image.flatten()[:: max(1, image.numel() // 500_000)]
    values = values[values > values.min()]
    low, high = torch.quantile(values, torch.tensor([0.01, 0.995]))
    return ((image - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)


def _centre(mask: Tensor) -> list[int]:
    """Centre of all segments, or of the volume if there is none."""
    occupied = (mask > 0).nonzero()
    if not len(occupied):
        return [n // 2 for n in mask.shape]
    return occupied.float().mean(0).round().long().tolist()


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
