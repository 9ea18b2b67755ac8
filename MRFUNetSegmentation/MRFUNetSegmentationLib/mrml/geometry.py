"""Matrices of MRML volume nodes, and the geometry that they stand for.

MRML's world is RAS (right, anterior, superior), that of `inference.volume.Geometry` is LPS.
Everything is taken from the node's IJKToRAS matrix: Slicer may flip the axes of a file when it
loads it, so the file's header says nothing about the node.
"""

from __future__ import annotations

import numpy as np
import vtk

from ..errors import InputError
from ..inference.volume import Geometry

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Below this determinant of their unit vectors the axes lie nearly in one plane.
_FLAT = 1e-3


def to_numpy(matrix: vtk.vtkMatrix4x4) -> np.ndarray:
    """Return a VTK matrix as an array (4, 4)."""
    return np.array([[matrix.GetElement(r, c) for c in range(4)] for r in range(4)])


def to_vtk(matrix: np.ndarray) -> vtk.vtkMatrix4x4:
    """Return an array (4, 4) as a VTK matrix."""
    result = vtk.vtkMatrix4x4()
    result.DeepCopy(np.asarray(matrix, dtype=float).ravel())
    return result


def ijk_to_lps(geometry: Geometry) -> np.ndarray:
    """Return the matrix (4, 4) from voxel indices to mm."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(geometry.direction, (3, 3)) * geometry.spacing
    matrix[:3, 3] = geometry.origin
    return matrix


def lps_to_ras(ijk_to_lps_matrix: np.ndarray) -> np.ndarray:
    """Return a matrix (4, 4) to LPS as one to RAS; and the other way round."""
    return _RAS_TO_LPS @ ijk_to_lps_matrix


def ijk_to_ras(volume_node) -> np.ndarray:
    """Return the matrix (4, 4) from voxel indices to the node's own space, mm.

    Parent transforms are left out.
    """
    matrix = vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(matrix)
    return to_numpy(matrix)


def ras_to_world(node) -> np.ndarray | None:
    """Return the matrix (4, 4) of all parent transforms; None where they are not linear."""
    parent = node.GetParentTransformNode()
    if parent is None:
        return np.eye(4)
    if not parent.IsTransformToWorldLinear():
        return None
    matrix = vtk.vtkMatrix4x4()
    parent.GetMatrixTransformToWorld(matrix)
    return to_numpy(matrix)


def exact_geometry(ijk_to_ras_matrix: np.ndarray, image: vtk.vtkImageData) -> Geometry:
    """Return the geometry of an image's voxels; its directions may be sheared.

    Raises:
        InputError: if the axes are not independent directions.
    """
    size = image.GetDimensions()
    first_voxel = [*image.GetExtent()[::2], 1]
    lps = _RAS_TO_LPS @ ijk_to_ras_matrix
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        direction = lps[:3, :3] / spacing
    if not np.isfinite(direction).all() or abs(np.linalg.det(direction)) < _FLAT:
        raise InputError(
            "The volume's axes are not independent directions in space. Correct its spacing and "
            "orientation (Volumes module), or the transform that it is under (Transforms module)."
        )
    return _geometry(size, spacing, (lps @ first_voxel)[:3], direction)


def nearest_geometry(ijk_to_ras_matrix: np.ndarray, image: vtk.vtkImageData) -> Geometry:
    """Return the geometry with orthonormal axes that comes nearest to an image's voxels.

    It is the exact one unless a transform shears the axes; then the axes are the nearest
    orthonormal ones (polar decomposition), and the centre of the volume stays where it is.

    Raises:
        InputError: if the axes are not independent directions.
    """
    exact = exact_geometry(ijk_to_ras_matrix, image)
    sheared = np.reshape(exact.direction, (3, 3))
    u, _, v = np.linalg.svd(sheared)
    direction = u @ v
    to_centre = np.multiply(exact.spacing, np.subtract(exact.size, 1) / 2)
    origin = exact.origin + sheared @ to_centre - direction @ to_centre
    return _geometry(exact.size, exact.spacing, origin, direction)


def _geometry(size, spacing, origin, direction) -> Geometry:
    return Geometry(
        size=tuple(int(s) for s in size),
        spacing=tuple(float(s) for s in spacing),
        origin=tuple(float(o) for o in origin),
        direction=tuple(float(d) for d in np.ravel(direction)),
    )
