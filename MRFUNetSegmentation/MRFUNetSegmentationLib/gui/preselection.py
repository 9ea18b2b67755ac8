"""Choices that are clear without asking."""

from __future__ import annotations

from ..mrml.overlays import MAP
from ..mrml.samples import SAMPLE
from ..mrml.segmentations import MODEL, read_provenance, reference_volume


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
        is_result = MODEL in provenance and SAMPLE not in provenance
        if is_result and reference_volume(node) is volume_node:
            results.append(node)
    return results[0] if len(results) == 1 else None


def belongs_to_other_volume(segmentation_node, volume_node) -> bool:
    """Return whether a segmentation was made of a volume other than this one."""
    reference = reference_volume(segmentation_node)
    if reference is None:  # it may have been removed after the run
        return MODEL in read_provenance(segmentation_node)
    return reference is not volume_node
