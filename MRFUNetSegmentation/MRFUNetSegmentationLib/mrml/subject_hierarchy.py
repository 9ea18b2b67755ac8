"""Places of nodes in the subject hierarchy."""

from __future__ import annotations

from contextlib import ExitStack

import slicer


def place_beside(node, sibling, undo: ExitStack) -> None:
    """Put a node's item under the parent of another node's item.

    Slicer's application makes an item for every node; without the application there may be none.
    Then the node gets one, unless the sibling has none either.

    Args:
        node: the node to place.
        sibling: the node beside which it is placed.
        undo: gets what takes the change back.
    """
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    sibling_item = hierarchy.GetItemByDataNode(sibling) if hierarchy else 0
    if not sibling_item:
        return
    parent = hierarchy.GetItemParent(sibling_item)
    item = hierarchy.GetItemByDataNode(node)
    if item:
        undo.callback(hierarchy.SetItemParent, item, hierarchy.GetItemParent(item))
        hierarchy.SetItemParent(item, parent)
    else:
        item = hierarchy.CreateItem(parent, node)
        undo.callback(hierarchy.RemoveItem, item, False)
