"""One segmentation with maps of how sure the network is of it: entropy, variance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import numpy as np

from ..checkpoints.card import SegmentClass
from ..inference.sampled import CAPTIONS_OF_ONE, maximum, with_unit
from .nodes import nodes_of_class, referenced_nodes
from .overlays import MAP, OVERLAY_ATTRIBUTES, add_overlay, show_overlays_instead
from .removal import remove_node
from .samples import sample_sets
from .segmentations import PREFIX, put_segmentation, set_provenance
from .subject_hierarchy import place_beside
from .undo import remove_new_nodes

# Role of the segmentation node's references to the volumes.
_OVERLAY = PREFIX + "Overlay"


def write_with_maps(
    labels: np.ndarray,
    maps: Mapping[str, np.ndarray],
    classes: Sequence[SegmentClass],
    volume_node,
    segmentation_node=None,
    provenance: Mapping[str, str] | None = None,
    take_back: ExitStack | None = None,
):
    """Do what `write_segmentation` does, and add maps as volumes to lay over the scan.

    Volumes that an earlier run has added to the given segmentation node are replaced.

    Args:
        labels: see there, as for the other arguments.
        maps: float32 [k, j, i] by name, "entropy" or "variance".
        classes: see there.
        volume_node: see there.
        segmentation_node: see there.
        provenance: see there; the volumes get it too.
        take_back: gets what puts the segmentation node back as it was, maps apart.

    Returns:
        The segmentation node; `map_volumes` gives the volumes.

    Raises:
        InputError: if the nodes cannot be used, or do not fit the labels.
        Exception: any other; in every case the scene is as it was.
    """
    old = map_volumes(segmentation_node) if segmentation_node is not None else []
    kept = _maps_of_others(segmentation_node) if old else []
    with ExitStack() as undo:
        if maps:
            remove_new_nodes(volume_node.GetScene(), undo)
        segments = ExitStack() if take_back is None else take_back
        undo.callback(segments.close)
        node = put_segmentation(
            labels, classes, volume_node, segmentation_node, provenance, segments
        )
        for samples in sample_sets(volume_node.GetScene()):
            if samples.consensus is node:
                samples.release_consensus(undo)
        undo.callback(_refer, node, old)
        new = []
        for name, values in maps.items():
            largest = maximum(name, len(classes))
            title = with_unit(name, CAPTIONS_OF_ONE[name])
            overlay = add_overlay(volume_node.GetScene(), name, values, largest, title, volume_node)
            own = {a.removeprefix(PREFIX): overlay.GetAttribute(a) for a in OVERLAY_ATTRIBUTES}
            set_provenance(overlay, own | dict(provenance or {}), undo)
            place_beside(overlay, volume_node, undo)
            new.append(overlay)
        _refer(node, new)
        undo.pop_all()
    by_name = {overlay.GetAttribute(MAP): overlay.GetID() for overlay in new}
    successors = {o.GetID(): by_name.get(o.GetAttribute(MAP)) for o in old}
    show_overlays_instead(volume_node.GetScene(), successors)
    for overlay in old:
        if overlay not in kept:
            remove_node(overlay)
    return node


def map_volumes(segmentation_node) -> list:
    """Return the volumes that `write_with_maps` has added to a segmentation node."""
    return referenced_nodes(segmentation_node, _OVERLAY)


def remove_maps(segmentation_node) -> None:
    """Remove the volumes that `write_with_maps` has added to a segmentation node."""
    kept = _maps_of_others(segmentation_node)
    for overlay in map_volumes(segmentation_node):
        if overlay not in kept:
            remove_node(overlay)
    _refer(segmentation_node, [])


def _maps_of_others(segmentation_node) -> list:
    """Return the volumes that other segmentation nodes refer to: those that were copied of it."""
    nodes = nodes_of_class(segmentation_node.GetScene(), "vtkMRMLSegmentationNode")
    return [o for node in nodes if node is not segmentation_node for o in map_volumes(node)]


def _refer(segmentation_node, overlays: Sequence) -> None:
    segmentation_node.RemoveNodeReferenceIDs(_OVERLAY)
    for overlay in overlays:
        segmentation_node.AddNodeReferenceID(_OVERLAY, overlay.GetID())
