"""Choices that are clear without asking."""

from __future__ import annotations

from ..mrml.overlays import MAP
from ..mrml.segmentations import read_provenance


def only_volume(scene):
    """Return the scene's scalar volume if there is exactly one to choose from, else None."""
    volumes = []
    for n in range(scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode")):
        node = scene.GetNthNodeByClass(n, "vtkMRMLScalarVolumeNode")
        # Label maps and colour images are scalar volumes to MRML, but not to users; and maps of
        # uncertainty are results.
        is_volume = node.GetClassName() == "vtkMRMLScalarVolumeNode"
        if is_volume and not node.GetHideFromEditors() and not node.GetAttribute(MAP):
            volumes.append(node)
    return volumes[0] if len(volumes) == 1 else None


def only_result(volume_node):
    """Return the segmentation that was made here of a volume if there is exactly one, else None."""
    scene = volume_node.GetScene()
    results = []
    for n in range(scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")):
        node = scene.GetNthNodeByClass(n, "vtkMRMLSegmentationNode")
        # Nodes that show a sample have provenance too, and the number of the sample.
        provenance = read_provenance(node)
        is_result = "Model" in provenance and "Sample" not in provenance
        if is_result and _reference(node) is volume_node:
            results.append(node)
    return results[0] if len(results) == 1 else None


def belongs_to_other_volume(segmentation_node, volume_node) -> bool:
    """Return whether a segmentation was made of a volume other than this one."""
    reference = _reference(segmentation_node)
    return reference is not None and reference is not volume_node


def _reference(segmentation_node):
    role = segmentation_node.GetReferenceImageGeometryReferenceRole()
    return segmentation_node.GetNodeReference(role)
