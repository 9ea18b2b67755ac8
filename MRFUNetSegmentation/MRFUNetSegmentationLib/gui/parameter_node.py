"""All choices of the panel; they are saved with the scene."""

# Parameters are named as Slicer names them.
# ruff: noqa: N815

from typing import Annotated

from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper


@parameterNodeWrapper
class MRFUNetSegmentationParameterNode:
    """The panel's choices.

    Attributes:
        inputVolume: what to segment.
        wholeSequence: whether, with a volume of a sequence, all its volumes are segmented.
        outputSegmentation: where the result goes; a new segmentation if None.
        model: name of a bundled model, or path of a checkpoint.
        device: auto, cpu, cuda, cuda:N or mps.
        replaceNonFinite: whether voxels that are not finite are replaced instead of refused.
        samples: how many plausible segmentations are drawn, by models that do.
        seed: of the samples.
        consensus: how samples become one segmentation: mean, majority or staple.
        mapUncertainty: whether other models add a map of their uncertainty.
        exportContent: what is exported (see `export_choices`).
        exportFormat: in which format.
        exportGrid: on the grid of the volume in the scene, or of its file.
    """

    inputVolume: vtkMRMLScalarVolumeNode
    outputSegmentation: vtkMRMLSegmentationNode
    wholeSequence: bool = False
    model: str = "brain-tissue"
    device: str = "auto"
    replaceNonFinite: bool = False
    samples: Annotated[int, WithinRange(1, 1000)] = 32
    seed: Annotated[int, WithinRange(0, 2**31 - 1)] = 0
    consensus: str = "mean"
    mapUncertainty: bool = True
    exportContent: str = "segmentation"
    exportFormat: str = "label map node"
    exportGrid: str = "volume"
