"""Choices that are clear without asking."""

from __future__ import annotations

from ..mrml.browsers import sequence_of, shown_index
from ..mrml.nodes import nodes_of_class
from ..mrml.overlays import MAP
from ..mrml.samples import SAMPLE
from ..mrml.segmentations import ITEM, MODEL, SHA256, read_provenance, reference_volume


def only_volume(scene):
    """Return the scene's scalar volume if there is exactly one to choose from, else None."""
    volumes = []
    for node in nodes_of_class(scene, "vtkMRMLScalarVolumeNode"):
        # Label maps and colour images are scalar volumes to MRML, but not to users; and maps of
        # uncertainty are results.
        is_volume = node.GetClassName() == "vtkMRMLScalarVolumeNode"
        if is_volume and not node.GetHideFromEditors() and not node.GetAttribute(MAP):
            volumes.append(node)
    return volumes[0] if len(volumes) == 1 else None


def only_result(
    volume_node, model: str | None = None, sha256: str | None = None, of_sequence: bool = False
):
    """Return the segmentation that was made here of a volume if there is exactly one, else None.

    Args:
        volume_node: the volume.
        model: name of the model that made it; any if None.
        sha256: of the checkpoint that made it; any if None.
        of_sequence: whether segmentations of all volumes of its sequence count, and no others; if
            not, none of these do.
    """
    results = []
    for node in nodes_of_class(volume_node.GetScene(), "vtkMRMLSegmentationNode"):
        # Nodes that show a sample have provenance too, and the number of the sample.
        provenance = read_provenance(node)
        is_result = MODEL in provenance and SAMPLE not in provenance
        if is_result and fits(node, volume_node, model, sha256, of_sequence):
            results.append(node)
    return results[0] if len(results) == 1 else None


def fits(
    segmentation_node,
    volume_node,
    model: str | None = None,
    sha256: str | None = None,
    of_sequence: bool = False,
) -> bool:
    """Return whether the next result may take the place of what a segmentation node holds.

    That is not so if it was made of another volume or by another model, of another item of the
    volume's sequence, or if one of the two is one segmentation and the other are those of the
    whole sequence.

    Args:
        segmentation_node: the node.
        volume_node: is segmented next.
        model: name of the model that segments it; any if None.
        sha256: of that model's checkpoint, for two may have the same name; any if None.
        of_sequence: whether all volumes of its sequence are segmented.
    """
    provenance = read_provenance(segmentation_node)
    made_by = provenance.get(MODEL)
    shows_sequence = sequence_of(segmentation_node) is not None
    if of_sequence and not shows_sequence:
        return made_by is None and not segmentation_node.GetSegmentation().GetNumberOfSegments()
    if shows_sequence and not of_sequence:
        return False
    if provenance.get(ITEM) not in (None, shown_index(volume_node)):
        return False
    if made_by is None:
        return reference_volume(segmentation_node) in (None, volume_node)
    if model not in (None, made_by) or sha256 not in (None, provenance.get(SHA256, sha256)):
        return False
    # The volume may have been removed after the run.
    return reference_volume(segmentation_node) is volume_node
