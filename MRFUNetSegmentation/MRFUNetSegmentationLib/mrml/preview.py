"""A segmentation that changes while a slider moves: slices at first, then the whole."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np

from ..checkpoints.card import SegmentClass
from .geometry import ijk_to_ras, ras_to_world, to_numpy
from .nodes import nodes_of_class
from .removal import remove_node
from .segmentations import BINARY_LABELMAP, check_labels, label_image, put_segmentation
from .undo import remove_new_nodes
from .volumes import check_volume_node


class SegmentationPreview:
    """A segmentation node, in the scene from the first time that there is something to show.

    It is not saved with the scene.
    """

    def __init__(self, volume_node, classes: Sequence[SegmentClass]) -> None:
        """Add nothing yet.

        Args:
            volume_node: the volume.
            classes: of the model.
        """
        self._volume_node = volume_node
        self._classes = tuple(classes)
        self._node = None

    @property
    def node(self):
        """The segmentation node; None if nothing was shown yet, or the user has removed it."""
        return self._node if self._node is not None and self._node.GetScene() else None

    def show_slices(self, voxel: tuple[int, int, int], slices: Sequence[np.ndarray]) -> None:
        """Show three slices, and nothing elsewhere.

        Args:
            voxel: k, j, i through which they go.
            slices: labels [j, i] at k, [k, i] at j, [k, j] at i.

        Raises:
            InputError: if the volume is gone or has changed.
        """
        k, j, i = voxel
        at_k, at_j, at_i = slices
        check_volume_node(self._volume_node)
        labels = np.zeros((len(at_j), *at_k.shape), np.uint8)
        check_labels(labels, self._volume_node)
        labels[k], labels[:, j], labels[:, :, i] = at_k, at_j, at_i
        self.show_volume(labels)

    def show_volume(self, labels: np.ndarray) -> None:
        """Show a whole label map [k, j, i].

        Raises:
            InputError: if the volume is gone or has changed.
        """
        check_volume_node(self._volume_node)
        check_labels(labels, self._volume_node)
        if self.node is None:
            self._add_node()
        # A new image each time: slice views take no notice of new values in an old one.
        image = label_image(labels, self._volume_node)
        segmentation = self.node.GetSegmentation()
        for segment_id in segmentation.GetSegmentIDs():
            segmentation.GetSegment(segment_id).AddRepresentation(BINARY_LABELMAP, image)

    def remove(self) -> None:
        """Take the node out of the scene."""
        if self.node is not None:
            remove_node(self.node)
        self._node = None

    def _add_node(self) -> None:
        volume_node = self._volume_node
        scene = volume_node.GetScene()
        nothing = np.zeros(volume_node.GetImageData().GetDimensions()[::-1], np.uint8)
        with ExitStack() as undo:
            remove_new_nodes(scene, undo)
            node = put_segmentation(nothing, self._classes, volume_node, None, None, undo)
            node.SetName(scene.GenerateUniqueName(f"{volume_node.GetName()} preview"))
            node.SetSaveWithScene(False)
            node.GetDisplayNode().SetSaveWithScene(False)
            undo.pop_all()
        self._node = node


def visible_voxel(volume_node) -> tuple[int, int, int]:
    """Return the voxel k, j, i of a volume through which the slice views' planes go.

    Each view counts for the axis of the volume to which its plane is most nearly perpendicular; of
    several for one axis the first counts, and where there is none the middle. Planes outside the
    volume count as its first or last slice.

    Raises:
        InputError: if the volume is gone.
    """
    check_volume_node(volume_node)
    image = volume_node.GetImageData()
    size, first = image.GetDimensions(), image.GetExtent()[::2]
    to_world = ras_to_world(volume_node)
    world_to_ijk = np.linalg.inv(
        (np.eye(4) if to_world is None else to_world) @ ijk_to_ras(volume_node)
    )
    found: dict[int, int] = {}
    for view in nodes_of_class(volume_node.GetScene(), "vtkMRMLSliceNode"):
        plane = to_numpy(view.GetSliceToRAS())
        # Axes of the volume along which the plane's own axes run.
        along = np.abs(world_to_ijk[:3, :3] @ plane[:3, :2]) / np.linalg.norm(
            world_to_ijk[:3, :3], axis=1, keepdims=True
        )
        axis = int(np.argmin(along.max(axis=1)))
        index = (world_to_ijk @ plane[:, 3])[axis] - first[axis]
        found.setdefault(axis, int(np.clip(round(index), 0, size[axis] - 1)))
    i, j, k = (found.get(axis, size[axis] // 2) for axis in range(3))
    return k, j, i
