"""Sequences of volumes in a real scene, for tests."""

from collections.abc import Sequence
from pathlib import Path

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


def read_again(sequence, folder: Path):
    """Write a sequence as a saved scene has it, and return a new one that was read from there."""
    import slicer

    scene = sequence.GetScene()
    cache = slicer.vtkCacheManager()
    cache.SetRemoteCacheDirectory(str(folder))
    manager = slicer.vtkDataIOManager()
    manager.SetCacheManager(cache)
    scene.SetDataIOManager(manager)
    file = str(folder / f"{sequence.GetName()}.seq.mrb")
    sequence.AddDefaultStorageNode()
    sequence.GetStorageNode().SetFileName(file)
    assert sequence.GetStorageNode().WriteData(sequence)
    read = scene.AddNewNodeByClass("vtkMRMLSequenceNode")
    assert sequence.GetStorageNode().ReadData(read)
    return read
