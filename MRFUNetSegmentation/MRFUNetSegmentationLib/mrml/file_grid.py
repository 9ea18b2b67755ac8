"""The grid of the file that a volume was loaded from, where it is not the volume's own.

Slicer turns axes of some files around when it loads them: of all whose directions are left-handed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import InputError, OutputError
from ..inference.volume import Geometry
from .geometry import exact_geometry, ijk_to_lps, ijk_to_ras
from .volumes import check_volume_node

VOLUME, FILE = "volume", "file"
# By how many voxels the same voxel may be elsewhere, for files store rounded numbers.
_SAME_VOXEL = 0.05


def on_grid(labels: np.ndarray, volume_node, grid: str) -> tuple[np.ndarray, Geometry]:
    """Return a label map of a volume on one of its grids.

    Args:
        labels: [k, j, i] on the grid of the volume node.
        volume_node: the volume.
        grid: VOLUME, or FILE for that of the file which the volume was loaded from.

    Returns:
        Labels [k, j, i] and their geometry.

    Raises:
        InputError: if there is no such grid, or the volume has no voxels any more.
        OutputError: if the file is not there, or has other voxels than the volume.
    """
    check_volume_node(volume_node)
    geometry = exact_geometry(ijk_to_ras(volume_node), volume_node.GetImageData())
    if grid == VOLUME:
        return labels, geometry
    if grid != FILE:
        raise InputError(f"There is no grid {grid!r}. Choose {VOLUME!r} or {FILE!r}.")
    file_geometry = _geometry_of_file(volume_node)
    turned = _turned(labels, geometry, file_geometry)
    if turned is None:
        raise OutputError(
            f"The voxels of {volume_node.GetName()} are not those of its file any more (it was "
            "cropped, resampled or moved). Export on the volume's grid."
        )
    return turned, file_geometry


def _geometry_of_file(volume_node) -> Geometry:
    storage = volume_node.GetStorageNode()
    name = storage.GetFileName() if storage is not None else None
    if not name or not Path(name).is_file():
        raise OutputError(
            f"The file of {volume_node.GetName()} is not known or not there any more. Export on "
            "the volume's grid."
        )
    reader = sitk.ImageFileReader()
    reader.SetFileName(name)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise OutputError(f"{name} cannot be read. Export on the volume's grid.") from error
    # A fourth axis of one time point, say.
    size, dimension = reader.GetSize(), reader.GetDimension()
    if dimension < 3 or any(n > 1 for n in size[3:]):
        raise OutputError(f"{name} is not of one 3D image. Export on the volume's grid.")
    direction = np.reshape(reader.GetDirection(), (dimension, dimension))[:3, :3]
    return Geometry(
        tuple(size[:3]),
        tuple(reader.GetSpacing()[:3]),
        tuple(reader.GetOrigin()[:3]),
        tuple(float(d) for d in direction.ravel()),
    )


def _turned(labels: np.ndarray, source: Geometry, target: Geometry) -> np.ndarray | None:
    """Return a label map [k, j, i] with its axes as another geometry has them.

    None if the geometries are not of the same voxels.
    """
    to_source = np.linalg.inv(ijk_to_lps(source)) @ ijk_to_lps(target)
    steps = np.round(to_source[:3, :3])
    axes = np.abs(steps).argmax(axis=0)
    permutes = sorted(axes) == [0, 1, 2] and np.abs(steps).sum() == 3
    # How far, in voxels, corners are from where they are to be.
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in target.size])).reshape(3, -1)
    places = to_source[:3, :3] @ corners + to_source[:3, 3:]
    if not permutes or np.abs(places - np.round(places)).max() > _SAME_VOXEL:
        return None
    if np.round(places).min() != 0 or tuple(np.round(places.max(1)) + 1) != source.size:
        return None
    # Arrays here are [i, j, k].
    turned = labels.T.transpose(axes)
    flips = tuple(slice(None, None, -1 if steps[a, n] < 0 else 1) for n, a in enumerate(axes))
    return np.ascontiguousarray(turned[flips].T)
