"""Taking back what was added to a scene."""

from __future__ import annotations

from contextlib import ExitStack


def remove_new_nodes(scene, undo: ExitStack) -> None:
    """Enter on a stack what removes all nodes that are added to the scene from now on.

    Nodes of Slicer come with nodes of their own: for display, for storage.
    """
    before = {node.GetID() for node in _nodes(scene)}

    def remove() -> None:
        # Until none is left: a browser that has lost the node that it shows gets a new one.
        while new := [node for node in _nodes(scene) if node.GetID() not in before]:
            # Displays last: the application crashes where a segmentation has lost its own.
            for node in sorted(reversed(new), key=lambda node: node.IsA("vtkMRMLDisplayNode")):
                # A node may have gone together with one removed before.
                if scene.IsNodePresent(node):
                    scene.RemoveNode(node)

    undo.callback(remove)


def _nodes(scene) -> list:
    return [scene.GetNthNode(n) for n in range(scene.GetNumberOfNodes())]
