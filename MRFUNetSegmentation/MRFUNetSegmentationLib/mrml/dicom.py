"""Segmentations as DICOM SEG, by the exporter that Slicer has."""

from __future__ import annotations

import uuid
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from ..errors import InputError, OutputError
from .export import cannot_write, check_segmentation_node, entries_of, merged_labels
from .segmentations import MODEL, PREFIX, class_value
from .volumes import check_volume_node

# Tags of segments.
_ALGORITHM_TYPE, _ALGORITHM_NAME = "DICOM.SegmentAlgorithmType", "DICOM.SegmentAlgorithmName"


def export_dicom(folder: str | Path, segmentation_node, volume_node) -> Path:
    """Export a segmentation as a DICOM SEG file, with the exporter of Slicer's own.

    Segments that the user has added are among them. Ones without a voxel are left out, for the
    format has none; the exporter does not notice them where segments share a label map.

    Args:
        folder: where to write the file.
        segmentation_node: the segmentation.
        volume_node: the volume; it must have been loaded from DICOM.

    Returns:
        The file.

    Raises:
        InputError: if the segmentation or the volume cannot be exported.
        OutputError: if this Slicer has no exporter, or it fails.
    """
    check_segmentation_node(segmentation_node)
    check_volume_node(volume_node)
    if not volume_node.GetAttribute("DICOM.instanceUIDs"):
        raise InputError(
            f"The volume {volume_node.GetName()} was not loaded from DICOM, so there is no series "
            "that a DICOM segmentation could refer to. Export another kind of file."
        )
    try:
        from DICOMSegmentationPlugin import DICOMSegmentationExporter
    except ImportError as error:
        raise OutputError(
            "This Slicer cannot write DICOM segmentations. Use Slicer 5.12 or newer, or install "
            "the extension QuantitativeReporting; or export another kind of file."
        ) from error
    segment_ids = _segments_with_voxels(segmentation_node, volume_node)
    if not segment_ids:
        raise InputError(
            f"The segmentation {segmentation_node.GetName()} has no voxels, so there is nothing to "
            "export."
        )
    name = f"segmentation-{uuid.uuid4().hex[:8]}.dcm"
    exporter = DICOMSegmentationExporter(segmentation_node)
    with ExitStack() as undo:
        undo.callback(exporter.cleanup)
        _say_how_made(segmentation_node, undo)
        description = {"SeriesDescription": segmentation_node.GetName()}
        try:
            exporter.export(str(folder), name, description, segment_ids, skipEmpty=True)
        except Exception as error:
            raise cannot_write(Path(folder) / name, error) from error
    return Path(folder) / name


def _segments_with_voxels(segmentation_node, volume_node) -> list[str]:
    """IDs of the segments that are not empty, in the segmentation's order."""
    entries = entries_of(segmentation_node)
    labels = merged_labels(segmentation_node, volume_node, entries)
    seen = set(np.unique(labels).tolist())
    present = set()
    for entry in entries:
        # One that later ones cover, since the format has segments that overlap.
        if entry.value in seen or merged_labels(segmentation_node, volume_node, [entry]).any():
            present.add(entry.segment_id)
    return [s for s in segmentation_node.GetSegmentation().GetSegmentIDs() if s in present]


def _say_how_made(segmentation_node, undo: ExitStack) -> None:
    """Tag the segments for DICOM as made by an algorithm, unless they say how they were made."""
    segmentation = segmentation_node.GetSegmentation()
    model = segmentation_node.GetAttribute(PREFIX + MODEL)
    for segment_id in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(segment_id)
        is_class = class_value(segmentation_node, segment_id, segment) is not None
        if not is_class or segment.HasTag(_ALGORITHM_TYPE) or not model:
            continue
        for name, value in ((_ALGORITHM_TYPE, "AUTOMATIC"), (_ALGORITHM_NAME, model)):
            undo.callback(segment.RemoveTag, name)
            segment.SetTag(name, value)
