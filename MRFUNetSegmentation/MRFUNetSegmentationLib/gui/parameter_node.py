"""All choices of the panel; they are saved with the scene."""

# Parameters are named as Slicer names them.
# ruff: noqa: N815

from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.parameterNodeWrapper import parameterNodeWrapper


@parameterNodeWrapper
class MRFUNetSegmentationParameterNode:
    """The panel's choices.

    Attributes:
        inputVolume: what to segment.
        outputSegmentation: where the result goes; a new segmentation if None.
        model: name of a bundled model, or path of a checkpoint.
        device: auto, cpu, cuda, cuda:N or mps.
        replaceNonFinite: whether voxels that are not finite are replaced instead of refused.
    """

    inputVolume: vtkMRMLScalarVolumeNode
    outputSegmentation: vtkMRMLSegmentationNode
    model: str = "brain-tissue"
    device: str = "auto"
    replaceNonFinite: bool = False
