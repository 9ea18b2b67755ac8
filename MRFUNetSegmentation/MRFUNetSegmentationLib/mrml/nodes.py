"""Finding nodes: all of a class, and those that another one refers to; names of sequences."""

from __future__ import annotations

_READABLE = str.maketrans("&[]", "+()")


def nodes_of_class(scene, name: str) -> list:
    """Return the nodes of a class, as "vtkMRMLSliceNode", and of those derived from it.

    `slicer.util.getNodesByClass` looks in `slicer.mrmlScene` whatever scene it is given.
    """
    return [scene.GetNthNodeByClass(n, name) for n in range(scene.GetNumberOfNodesByClass(name))]


def referenced_nodes(node, role: str) -> list:
    """Return the nodes that a node refers to in a role; a reference may outlive its node."""
    number = node.GetNumberOfNodeReferences(role)
    nodes = [node.GetNthNodeReference(role, n) for n in range(number)]
    return [found for found in nodes if found is not None and found.GetScene() is not None]


def sequence_name(name: str) -> str:
    """Return a name as a sequence, or an item of one, may have it.

    In a saved scene Slicer makes files' names of them, and can read such a file no more where its
    name holds brackets, or that of an item an ampersand: the items would be lost.
    """
    return name.translate(_READABLE)
