"""Hiding things for a while, so that they return even if the scene was saved meanwhile."""

from __future__ import annotations

from collections.abc import Iterable

from .nodes import nodes_of_class
from .segmentations import PREFIX

# Attribute of a display node that is hidden for a while.
_HIDDEN = PREFIX + "HiddenForAWhile"
# The same, but only its areas are hidden, and its outlines shown.
_WITHOUT_FILL = PREFIX + "WithoutFill"


def hide(displays: Iterable) -> None:
    """Hide display nodes; `show_hidden` brings them back. None and hidden ones are left alone."""
    for display in displays:
        if display is not None and display.GetVisibility():
            display.SetAttribute(_HIDDEN, "1")
            display.SetVisibility(False)


def show_hidden(scene) -> None:
    """Show what `hide` has hidden in a scene, in this session or in the one that saved it."""
    for display in nodes_of_class(scene, "vtkMRMLSegmentationDisplayNode"):
        if display.GetAttribute(_HIDDEN):
            display.RemoveAttribute(_HIDDEN)
            display.SetVisibility(True)


def clear_fill(segmentation_node) -> None:
    """Show the outlines alone of a segmentation in slice views, until `restore_fill`."""
    display = segmentation_node.GetDisplayNode()
    if display is not None and display.GetVisibility2DFill() and display.GetVisibility2DOutline():
        display.SetAttribute(_WITHOUT_FILL, "1")
        display.SetVisibility2DFill(False)


def restore_fill(segmentation_node) -> None:
    """Show the areas again that `clear_fill` has hidden."""
    display = segmentation_node.GetDisplayNode()
    if display is not None and display.GetAttribute(_WITHOUT_FILL):
        display.RemoveAttribute(_WITHOUT_FILL)
        # Whoever has chosen other outlines meanwhile has chosen the fill as well.
        if display.GetVisibility2DOutline():
            display.SetVisibility2DFill(True)
