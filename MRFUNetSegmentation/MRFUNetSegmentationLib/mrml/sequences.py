"""Sequences of volumes, as of one head at several times, and of their segmentations.

The segmentations of a sequence's volumes become a sequence of their own, which the same browser
steps through: one segmentation node shows that of the volume which is shown. What the user edits
there is kept in the sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import slicer

from ..checkpoints.card import SegmentClass
from ..errors import InputError
from .browsers import browser_of, browsers, sequence_of
from .geometry import ijk_to_ras, to_vtk
from .nodes import sequence_name
from .segmentations import (
    BINARY_LABELMAP,
    GEOMETRY_PARAMETER,
    PREFIX,
    about,
    check_label_maps,
    check_labels,
    copy_other_segments,
    label_image,
    put_segmentation,
    reference_volume,
    set_segment,
)
from .volumes import check_volume_node


def is_sequence(node) -> bool:
    """Return whether a node is a sequence."""
    return node is not None and node.IsA("vtkMRMLSequenceNode")


def segmented_items(segmentation_node) -> tuple[object | None, list[tuple[str, object, object]]]:
    """Return what a segmentation node shows one by one, together with the volumes of a sequence.

    Returns:
        The sequence of segmentations, and of each its index value, segmentation and volume, which
        is None if it was removed; None and nothing if there is no such sequence.
    """
    browser, volume = browser_of(segmentation_node), reference_volume(segmentation_node)
    volumes = browser.GetSequenceNode(volume) if browser and volume else None
    if volumes is None:
        return None, []
    sequence = browser.GetSequenceNode(segmentation_node)
    items = []
    for n in range(sequence.GetNumberOfDataNodes()):
        index = sequence.GetNthIndexValue(n)
        items.append((index, sequence.GetNthDataNode(n), volumes.GetDataNodeAtValue(index)))
    return sequence, items


@dataclass(frozen=True)
class VolumeSequence:
    """A sequence of volumes, with what shows it.

    Attributes:
        sequence: vtkMRMLSequenceNode.
        browser: vtkMRMLSequenceBrowserNode that steps through it.
        volume: scalar volume node that shows the item at which the browser is.
    """

    sequence: object
    browser: object
    volume: object

    @classmethod
    def of(cls, sequence, volume=None) -> VolumeSequence:
        """Look at a sequence node.

        Args:
            sequence: vtkMRMLSequenceNode.
            volume: a node of the browser that is meant, where several step through the sequence:
                the volume node that it shows, or a segmentation that it shows together with that.
                If None, or of none of them, it is the browser that has changed last, by a step of
                the user for example.

        Raises:
            InputError: if it is not in the scene, an item is no volume that can be segmented, or
                nothing shows it.
        """
        name = sequence.GetName()
        if sequence.GetScene() is None:
            raise InputError(f"The sequence {name} is no longer in the scene. Choose another one.")
        if not sequence.GetNumberOfDataNodes():
            raise InputError(f"The sequence {name} is empty. Choose another one.")
        for n in range(sequence.GetNumberOfDataNodes()):
            try:
                check_volume_node(sequence.GetNthDataNode(n))
            except InputError as error:
                raise InputError(f"Item {n + 1} of the sequence {name}: {error}") from error
        found = [
            browser
            for browser in browsers(sequence.GetScene())
            if browser.IsSynchronizedSequenceNode(sequence, True)
            and browser.GetProxyNode(sequence) is not None
        ]
        if not found:
            raise InputError(
                f"Nothing shows the volumes of the sequence {name}. In the module Sequences, make "
                "a browser for it, then try again."
            )
        meant = browser_of(volume) if volume is not None else None
        if meant not in found:
            meant = max(found, key=lambda browser: browser.GetMTime())
        return cls(sequence, meant, meant.GetProxyNode(sequence))

    @property
    def items(self) -> list:
        """The volume nodes, which are not in the scene but in the sequence."""
        number = self.sequence.GetNumberOfDataNodes()
        return [self.sequence.GetNthDataNode(n) for n in range(number)]

    def check_output(self, segmentation_node) -> None:
        """Check that a segmentation node shows segmentations of this sequence already, or is new.

        Raises:
            InputError: if not, or if they are no label maps; saying what to choose instead.
        """
        shown = self.browser.GetSequenceNode(segmentation_node)
        is_segmentation = segmentation_node.IsA("vtkMRMLSegmentationNode")
        is_new = (
            is_segmentation
            and not segmentation_node.GetSegmentation().GetNumberOfSegments()
            and sequence_of(segmentation_node) is None
        )
        if not is_segmentation or (shown is None and not is_new):
            raise InputError(
                f"{segmentation_node.GetName()} is one segmentation, not those of the sequence "
                f"{self.sequence.GetName()}. Choose another output, or create a new one."
            )
        for n in range(shown.GetNumberOfDataNodes() if shown else 0):
            check_label_maps(shown.GetNthDataNode(n))


class SegmentationSequence:
    """Segmentations of a sequence's volumes. Nothing is in the scene until `put`."""

    def __init__(
        self,
        volumes: VolumeSequence,
        classes: Sequence[SegmentClass],
        provenance: Mapping[str, str],
    ) -> None:
        """Begin without any.

        Args:
            volumes: the sequence of volumes.
            classes: of the model; the label of class c is `c.value`.
            provenance: how the labels come about, stored as attributes of the nodes.
        """
        self._volumes, self._classes, self._provenance = volumes, classes, provenance
        self._sequence = slicer.vtkMRMLSequenceNode()
        self._sequence.SetIndexName(volumes.sequence.GetIndexName())
        self._sequence.SetIndexUnit(volumes.sequence.GetIndexUnit())
        self._sequence.SetIndexType(volumes.sequence.GetIndexType())

    def add(self, labels: np.ndarray) -> None:
        """Add the label map of the next volume, [k, j, i] uint8 on its grid.

        Raises:
            InputError: if it does not fit the volume.
        """
        number = self._sequence.GetNumberOfDataNodes()
        volume_node = self._volumes.sequence.GetNthDataNode(number)
        check_labels(labels, volume_node)
        node = slicer.vtkMRMLSegmentationNode()
        node.SetName(sequence_name(f"{volume_node.GetName()} segmentation"))
        for name, value in {**about(self._classes), **self._provenance}.items():
            node.SetAttribute(PREFIX + name, value)
        segmentation = node.GetSegmentation()
        segmentation.SetSourceRepresentationName(BINARY_LABELMAP)
        segmentation.SetConversionParameter(
            GEOMETRY_PARAMETER,
            slicer.vtkSegmentationConverter.SerializeImageGeometry(
                to_vtk(ijk_to_ras(volume_node)), volume_node.GetImageData()
            ),
        )
        # Cropped, for there may be many.
        image = label_image(labels, volume_node, cropped=True)
        for segment_class in self._classes:
            if not segment_class.background:
                set_segment(segmentation, segment_class, image)
        self._sequence.SetDataNodeAtValue(node, self._volumes.sequence.GetNthIndexValue(number))

    def put(self, segmentation_node, undo: ExitStack):
        """Put the sequence into the scene, to be browsed together with the volumes.

        Args:
            segmentation_node: shows the segmentations of an earlier run, which go, but for the
                segments that the user added, or has no segments; a new one if None.
            undo: gets what takes the change back.

        Returns:
            The segmentation node that shows the item at which the browser is.

        Raises:
            InputError: if the node cannot be used; nothing has changed.
            Exception: any other; what has changed until then is on the stack.
        """
        volumes, browser = self._volumes, self._volumes.browser
        scene = browser.GetScene()
        if segmentation_node is not None:
            volumes.check_output(segmentation_node)
            old = browser.GetSequenceNode(segmentation_node)
            if old is not None:
                # What the node shows it shares with the item, so before it gets anything new.
                self._take_over_segments(old)
                # Before the node changes, for the sequence takes over what changes there.
                undo.callback(_show, browser, old, segmentation_node)
                _no_longer_show(browser, old)
                undo.callback(scene.AddNode, old)
                scene.RemoveNode(old)
            else:
                # Content and attributes of the items take the place of its own.
                own = segmentation_node.GetSegmentation()
                undo.callback(segmentation_node.SetAndObserveSegmentation, own)
                undo.callback(_set_attributes, segmentation_node, _attributes(segmentation_node))
        empty = np.zeros(volumes.volume.GetImageData().GetDimensions()[::-1], np.uint8)
        node = put_segmentation(
            empty, self._classes, volumes.volume, segmentation_node, self._provenance, undo
        )
        name = scene.GenerateUniqueName(sequence_name(f"{node.GetName()} sequence"))
        self._sequence.SetName(name)
        undo.callback(scene.RemoveNode, self._sequence)
        scene.AddNode(self._sequence)
        undo.callback(_no_longer_show, browser, self._sequence)
        _show(browser, self._sequence, node)
        return node

    def _take_over_segments(self, old) -> None:
        """Copy the segments that the user added to the segmentations of an earlier run."""
        for n in range(self._sequence.GetNumberOfDataNodes()):
            item = old.GetDataNodeAtValue(self._sequence.GetNthIndexValue(n))
            if item is not None:
                target = self._sequence.GetNthDataNode(n).GetSegmentation()
                copy_other_segments(item, target, self._classes)


def _show(browser, sequence, node) -> None:
    """Let a node show the item of a sequence at which the browser is."""
    was_modifying = browser.StartModify()
    browser.AddSynchronizedSequenceNode(sequence.GetID())
    browser.AddProxyNode(node, sequence, False)
    browser.SetSaveChanges(sequence, True)
    browser.SetOverwriteProxyName(sequence, False)
    # A volume that has no segmentation, as a later scan, does not get a copy of another one's.
    browser.SetMissingItemMode(sequence, browser.MissingItemCreateFromDefault)
    browser.EndModify(was_modifying)


def _attributes(node) -> dict[str, str]:
    return {name: node.GetAttribute(name) for name in node.GetAttributeNames()}


def _set_attributes(node, attributes: Mapping[str, str]) -> None:
    """Give a node these attributes and no others."""
    for name in _attributes(node).keys() - attributes.keys():
        node.RemoveAttribute(name)
    for name, value in attributes.items():
        node.SetAttribute(name, value)


def _no_longer_show(browser, sequence) -> None:
    browser.RemoveSynchronizedSequenceNode(sequence.GetID())
