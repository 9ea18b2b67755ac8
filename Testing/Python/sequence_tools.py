"""Sequences of volumes in a real scene, for tests."""

from collections.abc import Sequence

import numpy as np
import pytest
from mrml_scene import vtk_image, vtk_matrix


@pytest.fixture
def sequences(scene):
    """The logic of the module Sequences, which lets nodes follow their browser."""
    import slicer

    logic = slicer.vtkSlicerSequencesLogic()
    logic.SetMRMLScene(scene)
    yield logic
    logic.SetMRMLScene(None)


def add_sequence(scene, arrays: Sequence[np.ndarray], matrices: Sequence[np.ndarray], name="Scans"):
    """Add a sequence of volumes [k, j, i] at the times 0, 1.5, 3 … and a browser that shows it."""
    import slicer

    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", name)
    sequence.SetIndexName("time")
    sequence.SetIndexUnit("s")
    for n, (array, matrix) in enumerate(zip(arrays, matrices, strict=True)):
        volume = slicer.vtkMRMLScalarVolumeNode()
        volume.SetName(f"{name} {n + 1}")
        volume.SetAndObserveImageData(vtk_image(array))
        volume.SetIJKToRASMatrix(vtk_matrix(matrix))
        sequence.SetDataNodeAtValue(volume, str(1.5 * n))
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", f"{name} browser")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    return sequence


def browser_of(sequence):
    """Return the browser of a sequence."""
    return sequence.GetScene().GetFirstNodeByClass("vtkMRMLSequenceBrowserNode")


def shown_volume(sequence):
    """Return the volume node that shows an item of a sequence."""
    return browser_of(sequence).GetProxyNode(sequence)
