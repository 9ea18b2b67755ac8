"""From a volume node to the volume that the engine segments."""

from __future__ import annotations

import numpy as np
from vtk.util.numpy_support import vtk_to_numpy

from ..errors import InputError
from ..inference.volume import Geometry, Volume, with_finite_values
from .geometry import ijk_to_ras, nearest_geometry, ras_to_world


def read_volume(volume_node, *, replace_non_finite: bool = False, placed_by=None) -> Volume:
    """Return a volume node's voxels and the place in which the node is seen.

    A linear parent transform is part of that place; where it scales or shears, the axes are the
    nearest orthonormal ones. A non-linear transform is left out: the volume is taken as it was
    acquired, and the result is to go under the same transform.

    Args:
        volume_node: a scalar volume node.
        replace_non_finite: put the smallest finite value in the place of NaN and infinity.
        placed_by: node whose parent transform counts, the volume node itself if None: an item of a
            sequence is placed by the node that shows it.

    Returns:
        The volume; its array [k, j, i] is a read-only view of the node's memory.

    Raises:
        InputError: if the node cannot be segmented; the message names it.
    """
    check_volume_node(volume_node)
    array = voxels(volume_node.GetImageData())
    array.flags.writeable = False
    warnings = ()
    if replace_non_finite:
        array, warnings = with_finite_values(array)
    try:
        return Volume(array, geometry_in_world(volume_node, placed_by), warnings)
    except InputError as error:
        raise InputError(f"{volume_node.GetName()}: {error}") from error


def geometry_in_world(volume_node, placed_by=None) -> Geometry:
    """Return the place in which a volume node with voxels is seen; see `read_volume`.

    Raises:
        InputError: if its axes are not independent directions.
    """
    matrix = ijk_to_ras(volume_node)
    to_world = ras_to_world(placed_by or volume_node)
    if to_world is not None:
        matrix = to_world @ matrix
    return nearest_geometry(matrix, volume_node.GetImageData())


def check_volume_node(volume_node) -> None:
    """Check that a node is a volume of one scene with one 3D image of one component.

    Raises:
        InputError: saying what is wrong and what to choose instead.
    """
    if volume_node is None:
        raise InputError("No volume was chosen. Load a scan and choose it as input volume.")
    if not volume_node.IsA("vtkMRMLScalarVolumeNode"):
        raise InputError(
            f"{volume_node.GetName()} is not a volume ({volume_node.GetNodeTagName()} node). "
            "Choose a scalar volume."
        )
    name = volume_node.GetName()
    if volume_node.GetScene() is None:
        raise InputError(f"The volume {name} is no longer in the scene. Choose another one.")
    image = volume_node.GetImageData()
    if image is None or image.GetPointData().GetScalars() is None or not image.GetNumberOfPoints():
        raise InputError(f"The volume {name} has no voxels. Load the scan again.")
    components = image.GetNumberOfScalarComponents()
    if components != 1:
        raise InputError(
            f"The volume {name} has {components} components per voxel (colour, vector or time "
            "series data). Choose a scalar volume, or extract one component or time point first."
        )


def voxels(image) -> np.ndarray:
    """Return the scalars of a one-component VTK image as an array [k, j, i]: a view."""
    array = vtk_to_numpy(image.GetPointData().GetScalars())
    return array.reshape(image.GetDimensions()[::-1])
