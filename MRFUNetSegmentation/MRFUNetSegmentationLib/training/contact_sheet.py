"""A picture of what a run trains on, to be looked at before the run is trusted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import SimpleITK as sitk
import torch
from torch import Generator, Tensor

from .card import BRAIN_TISSUE_CLASSES
from .config import Stage
from .labels import LabelMap
from .synthesis import synthesise

_PAIRS = 6  # in each row, and three rows for a stage
_ROWS = 3
_GAP = 4


def write_contact_sheet(
    path: Path, label_maps: Sequence[LabelMap], stages: Sequence[Stage], seed: int
) -> None:
    """Write a PNG of pairs of every stage: each image beside its labels, one plane of it.

    Args:
        path: the PNG file; its folder exists.
        label_maps: the anatomies.
        stages: rows of the picture, with their own synthesis.
        seed: of all randomness.
    """
    device = label_maps[0].groups.device
    rng = Generator(device).manual_seed(seed)
    colours = torch.tensor([c["color"] for c in BRAIN_TISSUE_CLASSES]) / 255
    rows = []
    for stage in stages:
        for row in range(_ROWS):
            tiles = []
            for _ in range(_PAIRS):
                number = int(torch.randint(len(label_maps), (), generator=rng, device=device))
                share = torch.rand((), generator=rng, device=device).item()
                low, high = stage.voxel_size
                image, tissue = synthesise(
                    label_maps[number],
                    stage.synthesis,
                    stage.shape,
                    low + share * (high - low),
                    rng,
                )
                # Sagittal, coronal and axial, a row each.
                middle = image.shape[row] // 2
                grey = image.select(row, middle).cpu()[..., None].expand(-1, -1, 3)
                labels = colours[tissue.select(row, middle).cpu()]
                tiles += [_upright(grey), _upright(labels)]
            rows.append(torch.cat(_padded(tiles, 0), dim=1))
    sheet = torch.cat(_padded(rows, 1), dim=0)
    pixels = (sheet.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    sitk.WriteImage(sitk.GetImageFromArray(pixels, isVector=True), str(path))


def _upright(plane: Tensor) -> Tensor:
    """Turn (right, up, RGB) into rows from the top."""
    return plane.transpose(0, 1).flip(0)


def _padded(tiles: list[Tensor], axis: int) -> list[Tensor]:
    """Bring pictures to one size along an axis, with a gap between them."""
    length = max(tile.shape[axis] for tile in tiles)
    padded = []
    for tile in tiles:
        shape = [n + _GAP for n in tile.shape]
        shape[axis], shape[2] = length + _GAP, 3
        frame = torch.full(shape, 0.5)
        frame[: tile.shape[0], : tile.shape[1]] = tile
        padded.append(frame)
    return padded
