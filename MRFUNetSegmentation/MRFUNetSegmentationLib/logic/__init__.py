"""The main job on MRML nodes, for scripts and for the panel; never imports torch nor Qt."""

from .logic import SegmentationLogic
from .run import Run

__all__ = ["Run", "SegmentationLogic"]
