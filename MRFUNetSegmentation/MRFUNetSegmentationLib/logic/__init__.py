"""The main job on MRML nodes, for scripts and for the panel; never imports torch nor Qt."""

from .explorer import LatentExplorer
from .logic import SegmentationLogic
from .run import Run, SamplingRun, SegmentationRun
from .sequence_run import SequenceRun

__all__ = [
    "LatentExplorer",
    "Run",
    "SamplingRun",
    "SegmentationLogic",
    "SegmentationRun",
    "SequenceRun",
]
