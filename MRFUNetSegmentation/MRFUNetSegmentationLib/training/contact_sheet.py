"""A picture of what a run trains on, to be looked at before the run is trusted."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import SimpleITK as sitk
import torch
from torch import Generator, Tensor

from .config import Stage
from .sources import Source

_PAIRS = 6  # in each row
_GAP = 4


def write_contact_sheet(
    path: Path,
    source: Source,
    stages: Sequence[Stage],
    colours: Sequence[Sequence[int]],
    rng: Generator,
) -> None:
    """Write a PNG of pairs of every stage: each image beside its labels, one plane of it.

    Args:
        path: the PNG file; its folder exists.
        source: of the pairs.
        stages: rows of the picture, one for each that draws other pairs.
        colours: red, green, blue of each class, 0..255.
        rng: of all randomness, on the source's device.
    """
    palette = torch.tensor(colours) / 255
    different = {(s.shape, s.voxel_size, s.synthesis): s for s in stages}
    rows = []
    for stage in different.values():
        pairs = _pairs(source, stage, rng)
        first = next(pairs)
        pairs = itertools.chain([first], pairs)
        # In 3D sagittal, coronal and axial planes, a row each.
        for axis in range(3) if first[1].dim() == 3 else [None]:
            tiles = []
            for image, labels in itertools.islice(pairs, _PAIRS):
                image = image[len(image) // 2]  # without its neighbours
                if axis is not None:
                    middle = image.shape[axis] // 2
                    image, labels = image.select(axis, middle), labels.select(axis, middle)
                grey = image[..., None].expand(-1, -1, 3)
                tiles += [_upright(grey), _upright(palette[labels])]
            rows.append(torch.cat(_padded(tiles, 0), dim=1))
    sheet = torch.cat(_padded(rows, 1), dim=0)
    pixels = (sheet.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    sitk.WriteImage(sitk.GetImageFromArray(pixels, isVector=True), str(path))


def _pairs(source: Source, stage: Stage, rng: Generator) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        image, labels = source.draw(stage, rng)
        yield image.cpu(), labels[0].cpu()  # by one of its raters


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
