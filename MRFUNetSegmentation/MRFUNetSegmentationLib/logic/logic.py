"""What a script, or the panel, calls: a volume node in, a segmentation node out."""

# Slicer's users know its argument names in camelCase.
# ruff: noqa: N803

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import slicer

from ..errors import InputError
from ..inference.sampled import check_consensus, check_number
from ..inference.volume import Volume
from ..mrml.sequences import is_sequence
from ..worker.client import Job, Worker
from .explorer import LatentExplorer
from .run import ProgressCallback, Run, SampleCallback, SamplingRun, SegmentationRun
from .sequence_run import SequenceRun


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
        mrf: bool = True,
        maps: Sequence[str] = (),
        shownBy=None,
    ):
        """Segment a volume node, or every volume of a sequence.

        The segmentations of a sequence's volumes become a sequence, which its browser steps through
        together with them; a model that draws samples gives one segmentation of each, at the mean
        of its prior.

        Args:
            volumeNode: a scalar volume node, or a sequence node of such.
            model: name of a bundled model, or path of a checkpoint.
            device: auto, cpu, cuda, cuda:N or mps.
            outputNode: segmentation node to write to; a new one if None. For a sequence it is one
                without segments, or one that shows segmentations of it already, which are replaced
                but for segments that the user added; for a volume it shows none of a sequence.
            waitForCompletion: if not, return at once; then poll the run that is returned.
            onProgress: called with the stage in words and the fraction 0..1 of the run.
            replaceNonFinite: segment a volume with NaN or infinite values as if the smallest
                finite one stood in their place.
            mrf: False leaves the network's MRF out.
            maps: of "entropy" and "variance" of an MRF-UNet's class probabilities; each becomes a
                volume to lay over the scan (see `mrml.posterior.map_volumes`). Not of sequences.
            shownBy: for a sequence that several browsers step through, the volume node of the one
                that is meant.

        Returns:
            The segmentation node, which of a sequence shows that of the volume that is shown; or a
            `SegmentationRun` or `SequenceRun` if `waitForCompletion` is False.

        Raises:
            MRFUNetError: if it fails; the scene is then as it was. If `waitForCompletion` is
                False, only what is known at once is raised; the rest becomes the run's error.
        """
        if is_sequence(volumeNode) and maps:
            raise InputError(
                "Maps of uncertainty are made of single volumes only. Choose one volume of the "
                "sequence, or leave the maps out."
            )

        def submit(volume: Volume) -> Job:
            return self.worker.submit(volume, model, device, mrf=mrf, maps=maps)

        run: Run
        if is_sequence(volumeNode):
            run = SequenceRun(submit, volumeNode, outputNode, replaceNonFinite, shownBy)
        else:
            run = SegmentationRun(submit, volumeNode, outputNode, replaceNonFinite)
        run.onProgress = onProgress
        return run.wait() if waitForCompletion else run

    def sample(
        self,
        volumeNode,
        model: str | Path,
        number: int = 32,
        seed: int = 0,
        consensus: str = "mean",
        device: str = "auto",
        outputNode=None,
        waitForCompletion: bool = True,
        onProgress: ProgressCallback | None = None,
        onSample: SampleCallback | None = None,
        replaceNonFinite: bool = False,
        mrf: bool = True,
        overlays: Sequence[str] | None = None,
    ):
        """Draw plausible segmentations of a volume node with a Probabilistic U-Net.

        Args:
            volumeNode: a scalar volume node.
            model: name of a bundled model, or path of a checkpoint.
            number: of samples, 1 to 1000.
            seed: the same one gives the same samples.
            consensus: "mean", "majority" or "staple".
            device: auto, cpu, cuda, cuda:N or mps.
            outputNode: segmentation node for the consensus; a new one if None. Samples that belong
                to it already are replaced.
            waitForCompletion: if not, return at once; then poll the run that is returned.
            onProgress: called with the stage in words and the fraction 0..1 of the run.
            onSample: called with the number of each sample, from 1, as soon as it is drawn, and
                with its label map, uint8 [k, j, i].
            replaceNonFinite: see `segment`.
            mrf: False leaves the MRF out that a checkpoint may have on its Probabilistic U-Net.
            overlays: names of the maps that become volumes, as "variance", "entropy",
                "mutual_information", "agreement" and "probability_1"; if None, all but the
                agreement, the mean entropy of a sample and the background's probability.

        Returns:
            The nodes (`mrml.samples.SampleSet`), or a `SamplingRun` if `waitForCompletion` is
            False.

        Raises:
            MRFUNetError: as `segment`.
        """
        check_number(number)
        check_consensus(consensus)
        run = SamplingRun(
            lambda volume: self.worker.sample(
                volume, model, number, seed, consensus, device, mrf=mrf
            ),
            volumeNode,
            outputNode,
            replaceNonFinite,
            overlays,
        )
        run.onProgress, run.onSample = onProgress, onSample
        if not waitForCompletion:
            return run
        run.wait()
        return run.samples

    def explore(self, run: SamplingRun) -> LatentExplorer:
        """Return sliders through the latent space of the last sampling run, in slice views.

        Args:
            run: of this logic, done.

        Raises:
            InputError: if the run is not done or its volume is gone.
        """
        return LatentExplorer(self.worker, run)

    def cleanup(self) -> None:
        """End the worker, unless it was given by the caller."""
        if self._owns_worker:
            self.worker.close()


def _python() -> str:
    """Return the Python to compute with: inside the application, the one that it ships."""
    # Slicer puts PythonSlicer on the path; it is a launcher that sets up Python's environment.
    inside_application = hasattr(slicer, "app")
    return (inside_application and shutil.which("PythonSlicer")) or sys.executable
