"""From a segmentation, perhaps edited, back to label maps: class k always has value k."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import slicer
import vtk

from ..checkpoints.card import SegmentClass
from ..errors import InputError, OutputError
from ..inference.image_files import write_label_map
from .geometry import exact_geometry, ijk_to_ras, to_vtk
from .segmentations import PREFIX, ensure_display
from .volumes import check_volume_node, voxels

FILE_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
# Marks the colour table that belongs to a label map of this extension.
_COLOUR_TABLE = PREFIX + "ColorTable"


def read_labels(segmentation_node, volume_node, classes: Sequence[SegmentClass]) -> np.ndarray:
    """Return the segments of the classes as they are now, on a volume's grid.

    Where segments overlap, the later class counts. A class whose segment is empty or was
    removed has no voxels; it does not change the values of the others.

    Returns:
        [k, j, i] uint8; class c has value `c.value`, everything else 0.

    Raises:
        InputError: if a node cannot be used.
    """
    _check_segmentation_node(segmentation_node)
    check_volume_node(volume_node)
    ids, values = vtk.vtkStringArray(), vtk.vtkIntArray()
    for segment_class in classes:
        if segment_class.background:
            continue
        if segmentation_node.GetSegmentation().GetSegment(segment_class.segment_id) is not None:
            ids.InsertNextValue(segment_class.segment_id)
            values.InsertNextValue(segment_class.value)
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


def export_labelmap_node(
    segmentation_node, volume_node, classes: Sequence[SegmentClass], labelmap_node=None
):
    """Export the segments to a label map node on a volume's grid, with a colour table.

    Args:
        segmentation_node: the segmentation.
        volume_node: gives the grid and the parent transform.
        classes: of the model.
        labelmap_node: node to write to; a new one if None.

    Returns:
        The label map node.

    Raises:
        InputError: if a node cannot be used.
        Exception: any other; in every case the scene is as it was.
    """
    labels = read_labels(segmentation_node, volume_node, classes)
    if labelmap_node is not None and not labelmap_node.IsA("vtkMRMLLabelMapVolumeNode"):
        raise InputError(f"{labelmap_node.GetName()} is not a label map. Choose a label map node.")
    with ExitStack() as undo:
        node = labelmap_node
        if node is None:
            node = _new_labelmap_node(segmentation_node, undo)
        _set_image(node, labels, volume_node, undo)
        _set_colours(node, classes, undo)
        undo.pop_all()
    return node


def export_file(
    path: str | Path,
    segmentation_node,
    volume_node,
    classes: Sequence[SegmentClass],
    *,
    overwrite: bool = False,
) -> Path:
    """Export the segments to a label map file that lies on the volume's own file.

    Parent transforms move volume and segmentation alike in the scene; files know nothing of them.
    The file appears under its name only when it is complete.

    Args:
        path: ends with one of `FILE_SUFFIXES`.
        segmentation_node: the segmentation.
        volume_node: gives the grid.
        classes: of the model.
        overwrite: replace an existing file.

    Returns:
        The path.

    Raises:
        InputError: if a node cannot be used.
        OutputError: if the file cannot be written; an existing file is as it was.
    """
    path = Path(path)
    suffix = _suffix(path)
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists. Choose another name, or allow to overwrite it.")
    labels = read_labels(segmentation_node, volume_node, classes)
    geometry = exact_geometry(ijk_to_ras(volume_node), volume_node.GetImageData())
    # In the same folder, since a file can be moved in one step only within its file system.
    part = path.with_name(f".{path.name.removesuffix(suffix)}-{uuid.uuid4().hex[:8]}{suffix}")
    try:
        write_label_map(part, labels, geometry)
        os.replace(part, path)
    except (OSError, RuntimeError) as error:
        raise OutputError(
            f"{path} cannot be written ({_reason(path, error)}). "
            "Choose a folder in which you may write and which has room."
        ) from error
    finally:
        with suppress(OSError):
            part.unlink()
    return path


def _suffix(path: Path) -> str:
    for suffix in FILE_SUFFIXES:
        if path.name.endswith(suffix) and path.name != suffix:
            return suffix
    raise OutputError(f"{path}: the name must end with one of {', '.join(FILE_SUFFIXES)}.")


def _reason(path: Path, error: Exception) -> str:
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}"
    if not os.access(path.parent, os.W_OK):
        return f"no permission to write to {path.parent}"
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__


def _check_segmentation_node(node) -> None:
    if node is None:
        raise InputError("No segmentation was chosen. Choose the segmentation to export.")
    if not node.IsA("vtkMRMLSegmentationNode"):
        raise InputError(f"{node.GetName()} is not a segmentation. Choose a segmentation.")


def _new_labelmap_node(segmentation_node, undo: ExitStack):
    scene = segmentation_node.GetScene()
    name = scene.GenerateUniqueName(f"{segmentation_node.GetName()} label map")
    node = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", name)
    undo.callback(scene.RemoveNode, node)
    return node


def _set_image(node, labels: np.ndarray, volume_node, undo: ExitStack) -> None:
    image = vtk.vtkImageData()
    image.SetExtent(volume_node.GetImageData().GetExtent())
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    voxels(image)[:] = labels
    undo.callback(node.SetIJKToRASMatrix, to_vtk(ijk_to_ras(node)))
    undo.callback(node.SetAndObserveImageData, node.GetImageData())
    undo.callback(node.SetAndObserveTransformNodeID, node.GetTransformNodeID())
    node.SetIJKToRASMatrix(to_vtk(ijk_to_ras(volume_node)))
    node.SetAndObserveImageData(image)
    node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())


def _set_colours(node, classes: Sequence[SegmentClass], undo: ExitStack) -> None:
    """Show the label map in a colour table with the classes' names."""
    scene = node.GetScene()
    ensure_display(node, undo)
    display = node.GetDisplayNode()
    undo.callback(display.SetAndObserveColorNodeID, display.GetColorNodeID())
    old = display.GetColorNode()
    if old is not None and old.GetAttribute(_COLOUR_TABLE):
        before = old.NewInstance()
        before.Copy(old)
        undo.callback(old.Copy, before)
        old.Copy(_colour_table(old.GetName(), classes))
        return
    name = scene.GenerateUniqueName(f"{node.GetName()} colours")
    table = scene.AddNode(_colour_table(name, classes))
    undo.callback(scene.RemoveNode, table)
    display.SetAndObserveColorNodeID(table.GetID())


def _colour_table(name: str, classes: Sequence[SegmentClass]):
    """Return a colour table, in no scene, with the classes at their values."""
    table = slicer.vtkMRMLColorTableNode()
    table.SetName(name)
    table.SetAttribute(_COLOUR_TABLE, "1")
    table.SetTypeToUser()
    table.SetNumberOfColors(max(c.value for c in classes) + 1)
    table.SetColor(0, "background", 0, 0, 0, 0)
    for c in classes:
        opacity = 0 if c.background else 1
        table.SetColor(c.value, c.name, *(part / 255 for part in c.color), opacity)
        # Older versions of Slicer have no terminology in colour tables.
        if c.terminology and hasattr(table, "SetTerminologyFromString"):
            table.SetTerminologyFromString(c.value, c.terminology.slicer_entry())
    return table
