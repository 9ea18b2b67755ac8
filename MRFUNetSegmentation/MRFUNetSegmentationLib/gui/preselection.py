"""Choices that are clear without asking."""

from __future__ import annotations


def only_volume(scene):
    """Return the scene's scalar volume if there is exactly one to choose from, else None."""
    volumes = []
    for n in range(scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode")):
        node = scene.GetNthNodeByClass(n, "vtkMRMLScalarVolumeNode")
        # Label maps and colour images are scalar volumes to MRML, but not to users.
        if node.GetClassName() == "vtkMRMLScalarVolumeNode" and not node.GetHideFromEditors():
            volumes.append(node)
    return volumes[0] if len(volumes) == 1 else None


def belongs_to_other_volume(segmentation_node, volume_node) -> bool:
    """Return whether a segmentation was made of a volume other than this one."""
    role = segmentation_node.GetReferenceImageGeometryReferenceRole()
    reference = segmentation_node.GetNodeReference(role)
    return reference is not None and reference is not volume_node
