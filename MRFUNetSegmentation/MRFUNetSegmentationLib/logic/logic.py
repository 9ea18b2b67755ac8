"""What a script, or the panel, calls: a volume node in, a segmentation node out."""

# Slicer's users know its argument names in camelCase.
# ruff: noqa: N803

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import slicer

from ..worker.client import Worker
from .run import ProgressCallback, Run


class SegmentationLogic:
    """Segments volume nodes in a worker process, which stays warm between runs.

    Attributes:
        worker: the process; several logics can share one, and then take turns.
    """

    def __init__(self, worker: Worker | None = None) -> None:
        """Use the worker given, or one of its own."""
        self._owns_worker = worker is None
        self.worker = worker or Worker(_python())

    def segment(
        self,
        volumeNode,
        model: str | Path = "brain-tissue",
        device: str = "auto",
        outputNode=None,
        waitForCompletion: bool = True,
        onProgress: ProgressCallback | None = None,
        replaceNonFinite: bool = False,
    ):
        """Segment a volume node.

        Args:
            volumeNode: a scalar volume node.
            model: name of a bundled model, or path of a checkpoint.
            device: auto, cpu, cuda, cuda:N or mps.
            outputNode: segmentation node to write to; a new one if None.
            waitForCompletion: if not, return at once; then poll the run that is returned.
            onProgress: called with the stage in words and the fraction 0..1 of the run.
            replaceNonFinite: segment a volume with NaN or infinite values as if the smallest
                finite one stood in their place.

        Returns:
            The segmentation node, or a `Run` if `waitForCompletion` is False.

        Raises:
            MRFUNetError: if it fails; the scene is then as it was. If `waitForCompletion` is
                False, only what is known at once is raised; the rest becomes the run's error.
        """
        run = Run(self.worker, volumeNode, model, device, outputNode, replaceNonFinite)
        run.onProgress = onProgress
        return run.wait() if waitForCompletion else run

    def cleanup(self) -> None:
        """End the worker, unless it was given by the caller."""
        if self._owns_worker:
            self.worker.close()


def _python() -> str:
    """Return the Python to compute with: inside the application, the one that it ships."""
    # Slicer puts PythonSlicer on the path; it is a launcher that sets up Python's environment.
    inside_application = hasattr(slicer, "app")
    return (inside_application and shutil.which("PythonSlicer")) or sys.executable
