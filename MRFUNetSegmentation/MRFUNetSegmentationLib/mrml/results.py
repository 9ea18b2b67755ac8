"""What the scene holds of a segmentation that was made here: structures, samples, maps.

All of it is read from the nodes, so it is the same after a run, after an edit by hand, and in a
scene that was saved and loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import vtk

from .geometry import exact_geometry, to_numpy
from .overlays import MAP
from .posterior import map_volumes
from .samples import SampleSet, sample_sets
from .segmentations import BINARY_LABELMAP
from .tables import interval
from .volumes import voxels


@dataclass(frozen=True)
class Structure:
    """A segment, for a list of results.

    Attributes:
        segment_id: of the segment.
        name: for users.
        color: red, green, blue, 0..1.
        visible: whether it is shown.
        volume_ml: of the segment as it is now, edits included; None without a label map.
        interval_ml: 5th and 95th percentile over the samples, of fewer than 19 the least and the
            largest; None without samples and for one alone.
    """

    segment_id: str
    name: str
    color: tuple[float, float, float]
    visible: bool
    volume_ml: float | None
    interval_ml: tuple[float, float] | None = None


def samples_of(segmentation_node) -> SampleSet | None:
    """Return the set of samples of which a segmentation node is the consensus, if there is one."""
    for samples in sample_sets(segmentation_node.GetScene()):
        if samples.is_whole and samples.consensus is segmentation_node:
            return samples
    return None


def overlays_of(segmentation_node, samples: SampleSet | None) -> dict:
    """Return the volumes of the maps that belong to a segmentation node, by the map's name.

    Args:
        segmentation_node: the node.
        samples: of which it is the consensus; then the maps are the samples'.
    """
    if samples is not None:
        return samples.overlays
    return {node.GetAttribute(MAP): node for node in map_volumes(segmentation_node)}


def show_instead(result, other) -> None:
    """Show one result of a volume instead of another one, which would cover it.

    Args:
        result: segmentation node to show, or None.
        other: segmentation node to hide, with its samples; or None.
    """
    if other is not None:
        samples = samples_of(other)
        for node in (other, samples.shown if samples else None):
            if node is not None and node.GetDisplayNode() is not None:
                node.GetDisplayNode().SetVisibility(False)
    if result is not None and result.GetDisplayNode() is not None:
        result.GetDisplayNode().SetVisibility(True)


def structures_of(
    segmentation_node, samples: SampleSet | None, volumes: Mapping[str, float]
) -> list[Structure]:
    """Return the segments of a segmentation node, in its order.

    Args:
        segmentation_node: the node.
        samples: of which it is the consensus, for the intervals.
        volumes: of its segments in ml, by `volumes_ml`; they take a moment, the rest does not.
    """
    table = samples.structures_table if samples else None
    display = segmentation_node.GetDisplayNode()
    segmentation = segmentation_node.GetSegmentation()
    structures = []
    for segment_id in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(segment_id)
        structures.append(
            Structure(
                segment_id,
                segment.GetName(),
                segment.GetColor(),
                display is None or bool(display.GetSegmentVisibility(segment_id)),
                volumes.get(segment_id),
                interval(table, segment_id) if table else None,
            )
        )
    return structures


def volumes_ml(segmentation_node) -> dict[str, float]:
    """Return the volumes of a segmentation node's segments, by segment ID."""
    segmentation = segmentation_node.GetSegmentation()
    volumes = {}
    for segment_id in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(segment_id)
        image = segment.GetRepresentation(BINARY_LABELMAP)
        if image is None:
            continue  # it has a surface only
        if image.GetPointData().GetScalars() is None or image.IsEmpty():
            volumes[segment_id] = 0.0
            continue
        matrix = vtk.vtkMatrix4x4()
        image.GetImageToWorldMatrix(matrix)
        number = np.count_nonzero(voxels(image) == segment.GetLabelValue())
        volumes[segment_id] = float(number * exact_geometry(to_numpy(matrix), image).voxel_ml)
    return volumes
