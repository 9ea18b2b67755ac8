"""Which item of a sequence a node shows, and which browser steps through it."""

from __future__ import annotations

from .nodes import nodes_of_class


def browsers(scene) -> list:
    """Return the sequence browsers of a scene; none of None, where a node is that was removed."""
    return [] if scene is None else nodes_of_class(scene, "vtkMRMLSequenceBrowserNode")


def browser_of(node):
    """Return the browser that steps through a sequence of which the node shows an item; or None."""
    return next((b for b in browsers(node.GetScene()) if b.GetSequenceNode(node)), None)


def sequence_of(node):
    """Return the sequence of which a node shows the item that is browsed; None if there is none."""
    browser = browser_of(node)
    return browser.GetSequenceNode(node) if browser else None


def shown_index(node) -> str | None:
    """Return the index value of the item that a node shows; None if it is of no sequence."""
    browser = browser_of(node)
    sequence = browser.GetMasterSequenceNode() if browser else None
    place = browser.GetSelectedItemNumber() if browser else -1
    if sequence is None or not 0 <= place < sequence.GetNumberOfDataNodes():
        return None
    return sequence.GetNthIndexValue(place)
