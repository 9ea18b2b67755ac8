"""From segmentations, perhaps edited, back to label maps and files: class k always has value k.

Segments that the user has added get the values after those of the classes.
"""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import slicer
import vtk

from ..errors import InputError, OutputError
from ..inference.image_files import write_label_map
from ..inference.volume import Geometry
from .file_grid import VOLUME, on_grid
from .geometry import ijk_to_lps, ijk_to_ras, lps_to_ras, to_vtk
from .segmentations import (
    BINARY_LABELMAP,
    GEOMETRY_PARAMETER,
    LARGEST_CLASS,
    PREFIX,
    check_item,
    class_value,
    ensure_display,
    reference_volume,
    tag,
    tag_class,
)
from .volumes import check_volume_node, voxels

_NIFTI = (".nii.gz", ".nii")
FILE_SUFFIXES = (*_NIFTI, ".nrrd", ".mha")
SEGMENTATION_SUFFIX = ".seg.nrrd"
# Label maps are of bytes.
_LARGEST_VALUE = 255
# Characters of a file's name that the name of its part begins with: names may have 255 bytes.
_LONGEST_STEM = 50


def read_labels(segmentation_node, volume_node) -> np.ndarray:
    """Return the segments as they are now, on a volume's grid.

    Where segments overlap, the later class counts, and segments of the user over classes. A class
    whose segment is empty or was removed has no voxels; it does not change the values of the
    others.

    Args:
        segmentation_node: the segmentation.
        volume_node: gives the grid.

    Returns:
        [k, j, i] uint8; a class has its own value, segments of the user those after the classes',
        everything else 0.

    Raises:
        InputError: if a node cannot be used, or there are more segments than values.
    """
    check_segmentation_node(segmentation_node)
    check_volume_node(volume_node)
    if reference_volume(segmentation_node) is volume_node:
        check_item(segmentation_node, volume_node)
    return merged_labels(segmentation_node, volume_node, entries_of(segmentation_node))


def merged_labels(segmentation_node, volume_node, entries: Sequence[Entry]) -> np.ndarray:
    """Return segments on a volume's grid, [k, j, i] uint8, each with the value of its entry.

    Where segments overlap, the later entry counts.

    Raises:
        OutputError: if Slicer cannot bring them there.
    """
    ids, values = vtk.vtkStringArray(), vtk.vtkIntArray()
    for entry in entries:
        if segmentation_node.GetSegmentation().GetSegment(entry.segment_id) is not None:
            ids.InsertNextValue(entry.segment_id)
            values.InsertNextValue(entry.value)
    shape = volume_node.GetImageData().GetDimensions()[::-1]
    # Slicer takes an empty list to mean all segments.
    if not ids.GetNumberOfValues():
        return np.zeros(shape, np.uint8)
    merged = slicer.vtkOrientedImageData()
    slicer.vtkSlicerSegmentationsModuleLogic.GenerateMergedLabelmapInReferenceGeometry(
        segmentation_node,
        volume_node,
        ids,
        slicer.vtkSegmentation.EXTENT_REFERENCE_GEOMETRY,
        merged,
        values,
    )
    if merged.GetDimensions()[::-1] != shape:
        raise OutputError(
            f"The segmentation {segmentation_node.GetName()} could not be brought onto the grid "
            f"of {volume_node.GetName()}. See the application's error log."
        )
    return voxels(merged).astype(np.uint8)


def export_labelmap_node(segmentation_node, volume_node):
    """Export the segments to a new label map node on a volume's grid, with a colour table.

    Args:
        segmentation_node: the segmentation.
        volume_node: gives the grid and the parent transform.

    Returns:
        The label map node.

    Raises:
        InputError: if a node cannot be used.
        Exception: any other; in every case the scene is as it was.
    """
    labels = read_labels(segmentation_node, volume_node)
    with ExitStack() as undo:
        node = add_labelmap_node(
            volume_node.GetScene(),
            segmentation_node.GetName(),
            labels,
            entries_of(segmentation_node),
            volume_node,
            volume_node,
            undo,
        )
        undo.pop_all()
    return node


def export_file(
    path: str | Path,
    segmentation_node,
    volume_node,
    *,
    grid: str = VOLUME,
    overwrite: bool = False,
) -> Path:
    """Export the segments to a file that lies on the volume's own file.

    Parent transforms move volume and segmentation alike in the scene; files know nothing of them.
    The file appears under its name only when it is complete.

    Args:
        path: ends with one of `FILE_SUFFIXES`, or with `.seg.nrrd` for a segmentation of Slicer,
            with the segments' names, colours and terminology.
        segmentation_node: the segmentation.
        volume_node: gives the grid.
        grid: VOLUME for the grid of the volume node; FILE for that of the file which the volume
            was loaded from. Slicer turns axes of some files around when it loads them (of all
            that are left-handed); a label map on the file's grid has the file's voxels again.
        overwrite: replace an existing file.

    Returns:
        The path.

    Raises:
        InputError: if a node cannot be used.
        OutputError: if the file cannot be written; an existing file is as it was.
    """
    path = Path(path)
    suffix_of(path)
    # Path's own way to ask fails for a name that is too long.
    if os.path.exists(path) and not overwrite:
        raise OutputError(f"{path} exists already. Choose another name.")
    labels = read_labels(segmentation_node, volume_node)
    labels, geometry = on_grid(labels, volume_node, grid)
    write_file(path, labels, geometry, entries_of(segmentation_node))
    return path


# Files ---------------------------------------------------------------------------------------


def write_file(
    path: Path, labels: np.ndarray, geometry: Geometry, entries: Sequence[Entry]
) -> None:
    """Write a label map [k, j, i], with what its values mean where the format holds it.

    Raises:
        OutputError: if that fails, or the format cannot hold the axes; an existing file is as it
            was.
    """
    suffix = suffix_of(path)
    if suffix in _NIFTI and not geometry.right_angled:
        raise OutputError(
            f"{path.name} would lie elsewhere than the volume, for the volume's axes are not at "
            "right angles (sheared), and NIfTI holds only such that are. Export to .nrrd."
        )
    if suffix == SEGMENTATION_SUFFIX and not entries:
        raise OutputError(
            f"{path.name} would hold nothing, not even the grid, for there are no segments. Export "
            "to another kind of file, or add a segment."
        )
    # In the same folder, since a file can be moved in one step only within its file system.
    stem = path.name.removesuffix(suffix)[:_LONGEST_STEM]
    part = path.with_name(f".{stem}-{uuid.uuid4().hex[:8]}{suffix}")
    try:
        if suffix == SEGMENTATION_SUFFIX:
            _write_segmentation_file(part, labels, geometry, entries)
        else:
            write_label_map(part, labels, geometry)
        os.replace(part, path)
    except (OSError, RuntimeError) as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            part.unlink()


def _write_segmentation_file(
    path: Path, labels: np.ndarray, geometry: Geometry, entries: Sequence[Entry]
) -> None:
    node = slicer.vtkMRMLSegmentationNode()
    segmentation = node.GetSegmentation()
    segmentation.SetSourceRepresentationName(BINARY_LABELMAP)
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(geometry.size)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    voxels(image)[:] = labels
    image.SetGeometryFromImageToWorldMatrix(to_vtk(lps_to_ras(ijk_to_lps(geometry))))
    # Else the file would hold no more than the box around the labels.
    segmentation.SetConversionParameter(
        GEOMETRY_PARAMETER, slicer.vtkSegmentationConverter.SerializeImageGeometry(image)
    )
    for entry in entries:
        segment = slicer.vtkSegment()
        segment.SetName(entry.name)
        segment.SetColor(*entry.color)
        segment.SetLabelValue(entry.value)
        if entry.is_class:
            tag_class(segment, entry.segment_id, entry.value)
        if entry.terminology:
            segment.SetTag(segment.GetTerminologyEntryTagName(), entry.terminology)
        segment.AddRepresentation(BINARY_LABELMAP, image)
        segmentation.AddSegment(segment, entry.segment_id)
    storage = slicer.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(str(path))
    if not storage.WriteData(node):
        raise OSError("see the application's error log")
    # On a full disk a file may be cut short without a word.
    if not np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), labels):
        raise OSError(f"{path.name} came out incomplete")


def cannot_write(path: Path, error: Exception) -> OutputError:
    """Return the error that says why a file could not be written."""
    return OutputError(
        f"{path} cannot be written ({_reason(path, error)}). "
        "Choose a folder in which you may write and which has room."
    )


def suffix_of(path: Path) -> str:
    """Return how the name of a file ends that can be written.

    Raises:
        OutputError: if it ends with something else.
    """
    # The longest first, for one ends with another.
    suffixes = sorted((*FILE_SUFFIXES, SEGMENTATION_SUFFIX), key=len, reverse=True)
    for suffix in suffixes:
        if path.name.endswith(suffix) and path.name != suffix:
            return suffix
    allowed = ", ".join((*FILE_SUFFIXES, SEGMENTATION_SUFFIX))
    raise OutputError(f"{path}: the name must end with one of {allowed}.")


def _reason(path: Path, error: Exception) -> str:
    folder = path if os.path.isdir(path) else path.parent
    if not os.path.isdir(folder):
        return f"there is no folder {folder}"
    # Windows may say that a folder cannot be written to that can.
    if getattr(error, "errno", None) in (None, errno.EACCES, errno.EPERM) and not os.access(
        folder, os.W_OK
    ):
        return f"no permission to write to {folder}"
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__


def check_segmentation_node(node) -> None:
    """Check that a node is a segmentation.

    Raises:
        InputError: saying what to choose instead.
    """
    if node is None:
        raise InputError("No segmentation was chosen. Choose the segmentation to export.")
    if not node.IsA("vtkMRMLSegmentationNode"):
        raise InputError(f"{node.GetName()} is not a segmentation. Choose a segmentation.")


def add_labelmap_node(
    scene,
    name: str,
    labels: np.ndarray,
    entries: Sequence[Entry],
    volume_node,
    placed_by,
    undo: ExitStack,
):
    """Add a label map node, with a colour table, of a segmentation and a volume in no scene.

    Args:
        scene: where the node goes.
        name: of the segmentation.
        labels: [k, j, i] uint8 on the grid of the volume node.
        entries: what the values mean.
        volume_node: gives the grid.
        placed_by: node whose parent transform the label map gets.
        undo: gets what takes the change back.
    """
    node = scene.AddNewNodeByClass(
        "vtkMRMLLabelMapVolumeNode", scene.GenerateUniqueName(f"{name} label map")
    )
    undo.callback(scene.RemoveNode, node)
    image = vtk.vtkImageData()
    image.SetExtent(volume_node.GetImageData().GetExtent())
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    voxels(image)[:] = labels
    node.SetIJKToRASMatrix(to_vtk(ijk_to_ras(volume_node)))
    node.SetAndObserveImageData(image)
    node.SetAndObserveTransformNodeID(placed_by.GetTransformNodeID())
    ensure_display(node, undo)
    colours = scene.GenerateUniqueName(f"{node.GetName()} colours")
    table = scene.AddNode(_colour_table(colours, entries))
    undo.callback(scene.RemoveNode, table)
    node.GetDisplayNode().SetAndObserveColorNodeID(table.GetID())
    return node


def _colour_table(name: str, colours: Sequence[Entry]):
    """Return a colour table, in no scene, with the classes at their values."""
    table = slicer.vtkMRMLColorTableNode()
    table.SetName(name)
    table.SetTypeToUser()
    table.SetNumberOfColors(max((c.value for c in colours), default=0) + 1)
    table.SetColor(0, "background", 0, 0, 0, 0)
    for c in colours:
        table.SetColor(c.value, c.name, *c.color, 1.0)
        # Older versions of Slicer have no terminology in colour tables.
        if c.terminology and hasattr(table, "SetTerminologyFromString"):
            table.SetTerminologyFromString(c.value, c.terminology)
    return table


# Classes -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """What a file or a colour table says about a value; the colour is 0..1.

    `is_class` is False for segments that the user has added.
    """

    value: int
    segment_id: str
    name: str
    color: tuple[float, float, float]
    terminology: str = ""
    is_class: bool = True

    @classmethod
    def of_segment(cls, segment_id: str, segment, value: int, is_class: bool) -> Entry:
        """Return what a segment says about itself."""
        return cls(
            value=value,
            segment_id=segment_id,
            name=segment.GetName(),
            color=tuple(segment.GetColor()),
            terminology=tag(segment, segment.GetTerminologyEntryTagName()) or "",
            is_class=is_class,
        )


def entries_of(segmentation_node) -> list[Entry]:
    """Entries of all segments, in the order of their values.

    Raises:
        InputError: if there are more segments than values.
    """
    return entries_of_all([segmentation_node])[0]


def entries_of_all(segmentation_nodes: Sequence) -> list[list[Entry]]:
    """Entries of the segments of each of several segmentations, in the order of their values.

    Segments of the user get the values after those of all classes, in the order in which they are
    found; those with the same name get the same value, for their IDs are of one segmentation only.
    Where two of one segmentation have the same name, it is those with the same ID.

    Raises:
        InputError: if there are more segments than values.
    """
    found = [dict(_segments(node)) for node in segmentation_nodes]
    of_classes = [_class_values(node) for node in segmentation_nodes]
    taken = [value for of_node in of_classes for value in of_node.values()]
    taken += [_largest_class(node) for node in segmentation_nodes]
    free = max(taken, default=0) + 1
    # By name, or by ID: the name of one segment may be the ID of another.
    values: dict[tuple[str, str], int] = {}
    entries = []
    for node, segments, classes in zip(segmentation_nodes, found, of_classes, strict=True):
        names = [s.GetName() for i, s in segments.items() if i not in classes]
        of_node = []
        for segment_id, segment in segments.items():
            is_class = segment_id in classes
            is_unique = names.count(segment.GetName()) == 1
            key = ("name", segment.GetName()) if is_unique else ("ID", segment_id)
            if not is_class:
                values.setdefault(key, free + len(values))
            value = classes[segment_id] if is_class else values[key]
            of_node.append(Entry.of_segment(segment_id, segment, value, is_class))
        if any(entry.value > _LARGEST_VALUE for entry in of_node):
            raise InputError(
                f"The segmentation {node.GetName()} has too many segments: their values in a label "
                f"map would exceed {_LARGEST_VALUE}. Remove some of those that were added to it."
            )
        entries.append(sorted(of_node, key=lambda entry: entry.value))
    return entries


def _class_values(segmentation_node) -> dict[str, int]:
    """Values of the segments that are classes, by ID; of two with one value only the first is."""
    values: dict[str, int] = {}
    for segment_id, segment in _segments(segmentation_node):
        value = class_value(segmentation_node, segment_id, segment)
        if value is not None and value not in values.values():
            values[segment_id] = value
    return values


def _largest_class(segmentation_node) -> int:
    """Largest value of the model's classes, of which the user may have removed the segments."""
    value = segmentation_node.GetAttribute(PREFIX + LARGEST_CLASS) or ""
    return int(value) if value.isdecimal() else 0


def _segments(segmentation_node) -> Iterator[tuple[str, object]]:
    """IDs and segments of a segmentation, in its order."""
    segmentation = segmentation_node.GetSegmentation()
    for segment_id in segmentation.GetSegmentIDs():
        yield segment_id, segmentation.GetSegment(segment_id)
