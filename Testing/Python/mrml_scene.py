"""A MRML scene without Slicer's application (package slicer-core), and nodes for tests."""

from collections.abc import Sequence

import numpy as np
import pytest
from MRFUNetSegmentationLib.checkpoints.card import Code, SegmentClass, Terminology

ANATOMY = Code("SCT", "123037004", "Anatomical Structure")
CLASSES = (
    SegmentClass(0, "Other", (0, 0, 0), background=True),
    SegmentClass(
        1,
        "Grey matter",
        (200, 180, 110),
        terminology=Terminology(ANATOMY, Code("SCT", "389081007", "Gray matter")),
    ),
    SegmentClass(
        2,
        "White matter",
        (255, 250, 220),
        terminology=Terminology(ANATOMY, Code("SCT", "389080008", "White matter")),
    ),
    SegmentClass(3, "CSF", (80, 180, 255)),
)
SEGMENT_IDS = ("grey_matter", "white_matter", "csf")


@pytest.fixture
def scene_logics(capfd):
    """An empty scene that is `slicer.mrmlScene`, and the modules' logics by name.

    Errors that VTK logs fail the test.
    """
    slicer = pytest.importorskip("slicer")
    vtk = pytest.importorskip("vtk")
    scene = slicer.vtkMRMLScene()
    slicer.mrmlScene = scene
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    application.SetSliceLogics(vtk.vtkCollection())
    application.SetViewLogics(vtk.vtkCollection())
    logics = {
        "Colors": slicer.vtkSlicerColorLogic(),
        "Segmentations": slicer.vtkSlicerSegmentationsModuleLogic(),
        "Volumes": slicer.vtkSlicerVolumesLogic(),
    }
    for name, logic in logics.items():
        # The application's logic first: modules ask it when they get the scene.
        logic.SetMRMLApplicationLogic(application)
        logic.SetMRMLScene(scene)
        application.SetModuleLogic(name, logic)
    capfd.readouterr()
    yield scene, logics
    logged = capfd.readouterr().err
    scene.Clear(True)
    # The logic of the segmentations registers its converters with each scene, in a list that all
    # scenes share; it would make each test slower than the one before.
    for representation in ("Binary labelmap", "Closed surface", "Fractional labelmap"):
        slicer.vtkSegmentationConverterFactory.GetInstance().DisableRepresentation(representation)
    assert "ERR|" not in logged, logged


@pytest.fixture
def scene(scene_logics):
    """An empty scene that is `slicer.mrmlScene`; errors that VTK logs fail the test."""
    return scene_logics[0]


@pytest.fixture
def load_volume(scene_logics):
    """Function that loads a file into the scene as Slicer does, and returns the volume node."""
    return lambda path: scene_logics[1]["Volumes"].AddArchetypeVolume(str(path), path.name)


def phantom(shape: Sequence[int] = (14, 16, 18)) -> np.ndarray:
    """Labels [k, j, i] of no symmetry: a class 1 box, a class 2 box, a few voxels of class 3."""
    labels = np.zeros(shape, np.uint8)
    labels[2:9, 3:8, 4:15] = 1
    labels[4:7, 5:12, 2:9] = 2
    labels[10, 11, 12:14] = 3
    return labels


def add_volume(scene, array: np.ndarray, ijk_to_ras: np.ndarray | None = None, name="Scan"):
    """Add a scalar volume node with the given voxels [k, j, i]."""
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    node.SetAndObserveImageData(vtk_image(array))
    if ijk_to_ras is not None:
        node.SetIJKToRASMatrix(vtk_matrix(ijk_to_ras))
    return node


def vtk_image(array: np.ndarray):
    """VTK image of an array [k, j, i] or [k, j, i, component]."""
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk

    image = vtk.vtkImageData()
    image.SetDimensions(array.shape[2::-1])
    flat = array.reshape(-1) if array.ndim == 3 else array.reshape(-1, array.shape[3])
    image.GetPointData().SetScalars(numpy_to_vtk(flat, deep=True))
    return image


def vtk_matrix(matrix: np.ndarray):
    """VTK matrix of an array (4, 4)."""
    import vtk

    result = vtk.vtkMatrix4x4()
    result.DeepCopy(np.asarray(matrix, float).ravel())
    return result


def rotation(degrees: float, axis: int) -> np.ndarray:
    """Matrix (4, 4) of a rotation about a coordinate axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(4)
    a, b = (axis + 1) % 3, (axis + 2) % 3
    matrix[[a, a, b, b], [a, b, a, b]] = c, -s, s, c
    return matrix


def translation(*offset: float) -> np.ndarray:
    """Matrix (4, 4) of a translation."""
    matrix = np.eye(4)
    matrix[:3, 3] = offset
    return matrix


OBLIQUE = (
    translation(-31, 12.5, 40) @ rotation(23, 0) @ rotation(-11, 2) @ np.diag([1.0, 1.25, 2.5, 1])
)
LEFT_HANDED = translation(5, -7, 9) @ rotation(8, 1) @ np.diag([-1.0, 1.5, 2.0, 1])


def put_under_linear_transform(node, matrix: np.ndarray):
    """Put a node under a new linear transform; returns the transform node."""
    transform = node.GetScene().AddNewNodeByClass("vtkMRMLLinearTransformNode", "Linear")
    transform.SetMatrixTransformToParent(vtk_matrix(matrix))
    node.SetAndObserveTransformNodeID(transform.GetID())
    return transform


def put_under_warp(node):
    """Put a node under a new transform that is not linear; returns the transform node."""
    import vtk

    source, target = vtk.vtkPoints(), vtk.vtkPoints()
    corners = np.array(np.meshgrid(*[[-60.0, 60.0]] * 3)).reshape(3, -1).T
    for point in corners:
        source.InsertNextPoint(point)
        target.InsertNextPoint(point)
    source.InsertNextPoint(0, 0, 0)
    target.InsertNextPoint(6, -4, 9)
    warp = vtk.vtkThinPlateSplineTransform()
    warp.SetSourceLandmarks(source)
    warp.SetTargetLandmarks(target)
    warp.SetBasisToR()
    transform = node.GetScene().AddNewNodeByClass("vtkMRMLTransformNode", "Warp")
    transform.SetAndObserveTransformToParent(warp)
    node.SetAndObserveTransformNodeID(transform.GetID())
    return transform


def to_world(node, points: np.ndarray) -> np.ndarray:
    """Take points (n, 3), mm RAS in a node's own space, through all its parent transforms."""
    import slicer
    import vtk

    transform = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(
        node.GetParentTransformNode(), None, transform
    )
    return np.array([transform.TransformPoint(*p) for p in points])


def voxel_positions(ijk_to_ras, mask: np.ndarray) -> np.ndarray:
    """Positions (n, 3) of the voxels of a mask [k, j, i], in the mask's order."""
    ijk = np.argwhere(mask)[:, ::-1]
    return ijk @ ijk_to_ras[:3, :3].T + ijk_to_ras[:3, 3]
