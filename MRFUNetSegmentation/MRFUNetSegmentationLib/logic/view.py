"""What `mrfunet view` does within Slicer: the results of the command line become nodes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import slicer
import vtk

from ..inference.image_files import read_volume_file
from ..inference.result_files import LABEL_MAP, read_array, read_result_folder
from ..inference.sampled import MUTUAL_INFORMATION, SampledResult, compress
from ..inference.volume import Geometry
from ..mrml.overlays import add_overlay, show_overlay
from ..mrml.samples import write_samples
from ..mrml.segmentations import write_segmentation


def show_result_folder(folder: str | Path):
    """Show the scan and what `mrfunet segment` has written about it; return the volume node.

    Args:
        folder: the command's output.

    Raises:
        InputError: if the results or the scan cannot be read.
    """
    folder = Path(folder)
    source, card, result = read_result_folder(folder)
    volume = read_volume_file(source, replace_non_finite=True)
    matrix, mirror = _right_handed(volume.geometry)
    node = slicer.util.addVolumeFromArray(_mirrored(volume.array, mirror), name=source.name)
    ijk_to_ras = vtk.vtkMatrix4x4()
    ijk_to_ras.DeepCopy(matrix.ravel())
    node.SetIJKToRASMatrix(ijk_to_ras)
    _show_in_slices(node)
    if result is None:
        labels = read_array(folder / LABEL_MAP)
        write_segmentation(_mirrored(labels, mirror), card.classes, node)
        return node
    if mirror:
        result = _mirrored_result(result)
    overlays = _write(result, node)
    if overlays:
        first = next(iter(overlays.values()))
        show_overlay(node.GetScene(), overlays.get(MUTUAL_INFORMATION, first))
    return node


def _show_in_slices(node) -> None:
    for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        composite.SetBackgroundVolumeID(node.GetID())
    if hasattr(slicer, "app"):  # there are views to be fitted
        slicer.util.resetSliceViews()


def _write(result: SampledResult, node) -> dict:
    """Write a result into the scene; return the overlays by the name of their map."""
    if result.compressed:
        return write_samples(result, node, overlays=list(result.maps)).overlays
    # The samples were not kept: there is nothing to step through.
    write_segmentation(result.consensus, result.card.classes, node)
    return {
        name: add_overlay(
            node.GetScene(), name, values, result.maximum[name], result.title(name), node
        )
        for name, values in result.maps.items()
    }


def _right_handed(geometry: Geometry) -> tuple[np.ndarray, bool]:
    """Return IJK to RAS (4, 4), and whether k runs the other way in it than in the geometry.

    Slicer's segmentations need a right-handed grid; its reader of files mirrors k in the same way.
    """
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(geometry.direction, (3, 3)) * geometry.spacing
    matrix[:3, 3] = geometry.origin
    mirror = np.linalg.det(matrix) < 0
    if mirror:
        matrix[:3, 3] += matrix[:3, 2] * (geometry.size[2] - 1)
        matrix[:3, 2] *= -1
    return np.diag([-1, -1, 1, 1]) @ matrix, bool(mirror)


def _mirrored(array: np.ndarray, mirror: bool) -> np.ndarray:
    return np.ascontiguousarray(array[::-1]) if mirror else array


def _mirrored_result(result: SampledResult) -> SampledResult:
    return replace(
        result,
        compressed=[compress(result.labels(n)[::-1]) for n in range(result.number)],
        consensus=_mirrored(result.consensus, True),
        maps={name: _mirrored(values, True) for name, values in result.maps.items()},
    )
