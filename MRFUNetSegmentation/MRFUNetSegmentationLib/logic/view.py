"""What `mrfunet view` does within Slicer: the results of the command line become nodes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import slicer

from ..errors import InputError
from ..inference.image_files import read_volume_file
from ..inference.label_maps import compress
from ..inference.result_files import WrittenResult, read_result_folder
from ..inference.sampled import MUTUAL_INFORMATION, SampledResult
from ..inference.volume import Geometry
from ..mrml.geometry import ijk_to_lps, lps_to_ras
from ..mrml.nodes import nodes_of_class
from ..mrml.overlays import MAP, add_overlay, show_overlay
from ..mrml.posterior import map_volumes, write_with_maps
from ..mrml.samples import provenance_of_samples, write_samples
from ..mrml.segmentations import provenance_of, write_segmentation


def show_result_folder(folder: str | Path):
    """Show the scan and what `mrfunet segment` has written about it; return the volume node.

    Args:
        folder: the command's output.

    Raises:
        InputError: if the results or the scan cannot be read, or the scan lies elsewhere by now.
    """
    result = read_result_folder(Path(folder))
    volume = read_volume_file(result.source, result.series, replace_non_finite=True)
    if not volume.geometry.has_voxels_of(result.geometry):
        raise InputError(
            f"{result.source}: the scan has other voxels, or other places for them, than when it "
            f"was segmented. Segment it again, or bring back the one that {folder} is of."
        )
    matrix, mirror = _right_handed(volume.geometry)
    voxels = _mirrored(volume.array, mirror)
    node = slicer.util.addVolumeFromArray(voxels, matrix, name=result.source.name)
    _show_in_slices(node)
    overlays = _write(_mirrored_result(result) if mirror else result, node)
    if overlays:
        first = next(iter(overlays.values()))
        show_overlay(node.GetScene(), overlays.get(MUTUAL_INFORMATION, first))
    return node


def _show_in_slices(node) -> None:
    for composite in nodes_of_class(node.GetScene(), "vtkMRMLSliceCompositeNode"):
        composite.SetBackgroundVolumeID(node.GetID())
    if hasattr(slicer, "app"):  # there are views to be fitted
        slicer.util.resetSliceViews()


def _write(result: WrittenResult, node) -> dict:
    """Write a result into the scene; return the overlays by the name of their map."""
    samples, classes = result.samples, result.card.classes
    if samples and samples.compressed:
        names = list(samples.maps)
        return write_samples(samples, node, overlays=names, version=result.version).overlays
    if samples is None:
        provenance = provenance_of(result, result.version)
        segmentation = write_with_maps(
            result.labels, result.maps, classes, node, provenance=provenance
        )
        return {overlay.GetAttribute(MAP): overlay for overlay in map_volumes(segmentation)}
    # The samples were not kept: there is nothing to step through.
    provenance = provenance_of_samples(samples, result.version)
    write_segmentation(result.labels, classes, node, provenance=provenance)
    return {
        name: add_overlay(
            node.GetScene(), name, values, samples.maximum[name], samples.title(name), node
        )
        for name, values in samples.maps.items()
    }


def _right_handed(geometry: Geometry) -> tuple[np.ndarray, bool]:
    """Return IJK to RAS (4, 4), and whether k runs the other way in it than in the geometry.

    Slicer's segmentations need a right-handed grid; its reader of files mirrors k in the same way.
    """
    matrix = ijk_to_lps(geometry)
    mirror = np.linalg.det(matrix) < 0
    if mirror:
        matrix[:3, 3] += matrix[:3, 2] * (geometry.size[2] - 1)
        matrix[:3, 2] *= -1
    return lps_to_ras(matrix), bool(mirror)


def _mirrored(array: np.ndarray, mirror: bool) -> np.ndarray:
    return np.ascontiguousarray(array[::-1]) if mirror else array


def _mirrored_maps(maps: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: _mirrored(values, True) for name, values in maps.items()}


def _mirrored_samples(samples: SampledResult) -> SampledResult:
    return replace(
        samples,
        compressed=[compress(samples.labels(n)[::-1]) for n in range(samples.number)],
        consensus=_mirrored(samples.consensus, True),
        maps=_mirrored_maps(samples.maps),
    )


def _mirrored_result(result: WrittenResult) -> WrittenResult:
    return replace(
        result,
        labels=_mirrored(result.labels, True),
        maps=_mirrored_maps(result.maps),
        samples=result.samples and _mirrored_samples(result.samples),
    )
