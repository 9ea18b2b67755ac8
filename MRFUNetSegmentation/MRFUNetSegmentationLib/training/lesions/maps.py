"""Real lesion masks in MNI space, as distances from the border of each lesion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from ...errors import InputError
from ...inference.grid import ModelGrid
from ...inference.image_files import read_image
from ...inference.volume import Geometry
from ..labels import GREY_MATTER, WHITE_MATTER, LabelMap, cached_copy

# Box around grey and white matter of the MNI152 brain (half a percent off each end), mm in RAS.
# Read off the symmetric 2009a tissue priors above a half.
_MNI_BRAIN = ((-66.0, -99.0, -59.0), (66.0, 66.0, 74.0))
_EDGE = 0.005
# Beyond this distance from every lesion a voxel is simply far, mm.
_FAR = 20.0


@dataclass(frozen=True)
class LesionMap:
    """The lesions of one patient on canonical axes (R, A, S) of MNI space.

    Attributes:
        name: file name.
        distance: (R, A, S) float16, mm from the nearest border, positive inside a lesion.
        nearest: (R, A, S) int16, number of the nearest lesion, from 0.
        volumes: (lesions,) mm^3, on the CPU.
        spacing: voxel size, mm.
        origin: RAS of the first voxel, mm.
    """

    name: str
    distance: Tensor
    nearest: Tensor
    volumes: Tensor
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]

    def to(self, device: torch.device | str) -> LesionMap:
        """Return the lesions on a device."""
        return replace(self, distance=self.distance.to(device), nearest=self.nearest.to(device))


def read_lesion_maps(paths: Sequence[Path], cache: Path | None = None) -> list[LesionMap]:
    """Read binary lesion masks in MNI space.

    Args:
        paths: any format that SimpleITK reads.
        cache: folder for what was computed of them, so that the next start takes seconds.

    Raises:
        InputError: if a mask is empty.
    """
    return [_cached_lesion_map(Path(path), cache) for path in paths]


def _cached_lesion_map(path: Path, cache: Path | None) -> LesionMap:
    if not path.exists():
        raise InputError(f"{path}: no such file. Check the configuration, and --data.")
    copy = cached_copy(path, cache) if cache else None
    if copy and copy.exists():
        stored = np.load(copy)
        distance, nearest, volumes = (
            torch.from_numpy(stored[name]) for name in ("distance", "nearest", "volumes")
        )
        spacing, origin = (tuple(stored[name].tolist()) for name in ("spacing", "origin"))
        return LesionMap(path.name, distance, nearest, volumes, spacing, origin)
    lesions = _read_lesion_map(path)
    if copy:
        copy.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            copy,
            distance=lesions.distance.numpy(),
            nearest=lesions.nearest.numpy(),
            volumes=lesions.volumes.numpy(),
            spacing=np.array(lesions.spacing),
            origin=np.array(lesions.origin),
        )
    return lesions


def _read_lesion_map(path: Path) -> LesionMap:
    mask = read_image(path) > 0.5
    # Spotless brains are none to learn lesions from.
    components = sitk.ConnectedComponent(mask, True)
    number = int(sitk.GetArrayViewFromImage(components).max())
    if not number:
        raise InputError(f"{path}: the mask marks no lesion; leave it out of the list.")
    distance = -sitk.SignedMaurerDistanceMap(mask, squaredDistance=False, useImageSpacing=True)
    to_lesion = sitk.DanielssonDistanceMapImageFilter()
    to_lesion.SetInputIsBinary(False)
    to_lesion.SetUseImageSpacing(True)
    to_lesion.Execute(sitk.Cast(components, sitk.sitkUInt16))
    nearest = sitk.GetArrayFromImage(to_lesion.GetVoronoiMap()).astype(np.int16) - 1

    geometry = Geometry.from_image(mask)
    grid = ModelGrid.of(geometry)
    spacing = tuple(geometry.spacing[a] for a in grid.axes)
    counts = np.bincount(sitk.GetArrayViewFromImage(components).ravel(), minlength=number + 1)
    # Zero is at the centres of the outermost voxels inside; the border is half a voxel further out.
    half = min(spacing) / 2
    values = np.clip(sitk.GetArrayFromImage(distance) + half, -_FAR, _FAR).astype(np.float16)
    return LesionMap(
        path.name,
        grid.reorient(torch.from_numpy(values)).contiguous(),
        grid.reorient(torch.from_numpy(nearest)).contiguous(),
        torch.from_numpy(counts[1:] * np.prod(spacing)).float(),
        spacing,
        _first_voxel(mask, grid),
    )


def _first_voxel(image: sitk.Image, grid: ModelGrid) -> tuple[float, float, float]:
    """Return RAS of the first voxel on canonical axes."""
    size = image.GetSize()
    index = [0, 0, 0]
    for axis, flip in zip(grid.axes, grid.flips, strict=True):
        index[axis] = size[axis] - 1 if flip else 0
    left, posterior, superior = image.TransformIndexToPhysicalPoint(index)
    return -left, -posterior, superior


def from_label_map(label_map: LabelMap, lesions: LesionMap) -> tuple[Tensor, Tensor]:
    """Return scale and shift (3,) from mm in a label map to voxels of lesions in MNI space.

    The boxes around both brains are laid over each other, axis by axis.
    """
    tissue = label_map.tissue_of_group[label_map.groups[::2, ::2, ::2].long()]
    brain = ((tissue == GREY_MATTER) | (tissue == WHITE_MATTER)).nonzero().float().cpu()
    ends = torch.quantile(_thinned(brain), torch.tensor([_EDGE, 1 - _EDGE]), dim=0)
    ends = ends * 2 * torch.tensor(label_map.spacing)
    first, last = torch.tensor(_MNI_BRAIN)
    to_mni = (last - first) / (ends[1] - ends[0])
    spacing, origin = torch.tensor(lesions.spacing), torch.tensor(lesions.origin)
    return to_mni / spacing, (first - ends[0] * to_mni - origin) / spacing


def _thinned(points: Tensor) -> Tensor:
    return points[:: max(1, len(points) // 20_000)]
