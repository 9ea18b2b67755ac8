"""Taking nodes out of the scene, with all that belongs to them."""

from __future__ import annotations

from .subject_hierarchy import remove_item


def remove_node(node) -> None:
    """Take a node out of its scene, with its displays and its item in the subject hierarchy.

    Nothing happens to one that has left it already.
    """
    scene = node.GetScene()
    if scene is None:
        return
    displays = []
    if node.IsA("vtkMRMLDisplayableNode"):
        displays = [node.GetNthDisplayNode(n) for n in range(node.GetNumberOfDisplayNodes())]
    remove_item(node)
    # Before its displays: the application looks at those of a segmentation that is in the scene,
    # and crashes where they are gone.
    scene.RemoveNode(node)
    for display in displays:
        if display is not None and scene.IsNodePresent(display):
            scene.RemoveNode(display)
