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
    _place(hierarchy, node, hierarchy.GetItemParent(sibling_item), undo)


def make_folder(name: str, sibling, undo: ExitStack) -> int:
    """Make a folder beside a node's item; at the top where the node has none.

    Args:
        name: of the folder.
        sibling: the node beside which it is made.
        undo: gets what takes the change back.

    Returns:
        The folder's item.
    """
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(sibling.GetScene())
    item = hierarchy.GetItemByDataNode(sibling)
    parent = hierarchy.GetItemParent(item) if item else hierarchy.GetSceneItemID()
    folder = hierarchy.CreateFolderItem(parent, name)
    undo.callback(hierarchy.RemoveItem, folder, False)
    return folder


def place_in(node, folder: int, undo: ExitStack) -> None:
    """Put a node's item into a folder; the node gets an item if it has none.

    Args:
        node: the node to place.
        folder: item of the folder.
        undo: gets what takes the change back.
    """
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    _place(hierarchy, node, folder, undo)


def folder_of(node) -> int:
    """Return the item under which a node's item lies; 0 where the node has none."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    item = hierarchy.GetItemByDataNode(node)
    return hierarchy.GetItemParent(item) if item else 0


def remove_item(node) -> None:
    """Remove a node's item, as only the application does by itself when a node goes."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    if item := hierarchy.GetItemByDataNode(node):
        hierarchy.RemoveItem(item, False)


def remove_folder_if_empty(scene, folder: int) -> None:
    """Remove a folder's item that has no children left."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    if folder and not hierarchy.GetNumberOfItemChildren(folder):
        hierarchy.RemoveItem(folder, False)


def _place(hierarchy, node, parent: int, undo: ExitStack) -> None:
    item = hierarchy.GetItemByDataNode(node)
    if item:
        undo.callback(hierarchy.SetItemParent, item, hierarchy.GetItemParent(item))
        hierarchy.SetItemParent(item, parent)
    else:
        item = hierarchy.CreateItem(parent, node)
        undo.callback(hierarchy.RemoveItem, item, False)
