"""One run from node to node: the scene stays as it is until the last step succeeds."""

from __future__ import annotations

import logging
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import Cancelled, InputError, MRFUNetError, OutputError
from ..inference.sampled import SampledResult
from ..inference.segmentation import Segmentation
from ..inference.volume import Volume
from ..mrml.browsers import sequence_of
from ..mrml.geometry import ijk_to_ras
from ..mrml.posterior import remove_maps, write_with_maps
from ..mrml.samples import SampleSet, write_samples
from ..mrml.segmentations import check_label_maps, provenance_of
from ..mrml.volumes import check_volume_node, read_volume, voxels
from ..worker.client import Job

ProgressCallback = Callable[[str, float], None]
SampleCallback = Callable[[int, np.ndarray], None]
_POLL_SECONDS = 0.02


class Run(ABC):
    """A computation in progress. Call `poll` from the main thread now and then, say by a timer.

    Everything happens in `poll`: callbacks, and at the end the one change of the scene. If the
    nodes have been removed or the volume has been changed in the meantime, the run fails and the
    result is dropped.

    Attributes:
        state: "running", "done", "failed" or "cancelled".
        outputNode: the segmentation node, when done.
        result: what the worker gave, when done.
        error: when failed or cancelled.
        onProgress: called with the stage in words and the fraction 0..1 of the run.
    """

    def __init__(self) -> None:
        """Begin in the state "running"."""
        self.state = "running"
        self.outputNode = None
        self.result = None
        self.error: MRFUNetError | None = None
        self.onProgress: ProgressCallback | None = None
        self._taking_back: ExitStack | None = None
        self._left_at: tuple | None = None

    @property
    @abstractmethod
    def _volume_nodes(self) -> list:
        """The volumes that are segmented."""

    @abstractmethod
    def poll(self) -> None:
        """Take note of what has happened since the last call, without waiting."""

    @abstractmethod
    def cancel(self) -> None:
        """Ask the run to end; within about 2 s `poll` finds it cancelled."""

    def wait(self):
        """Wait for the end and return the segmentation node.

        Raises:
            MRFUNetError: the run's error; `Cancelled` if it was cancelled.
        """
        try:
            self.poll()
            while self.state == "running":
                time.sleep(_POLL_SECONDS)
                self.poll()
        except BaseException:  # Ctrl-C, or an error of the callback
            self.cancel()
            raise
        if self.error:
            raise self.error
        return self.outputNode

    @property
    def can_take_back(self) -> bool:
        """Whether the run has replaced segments that can still be put back where they were.

        They cannot if the segmentation is no longer in the scene, and not while it or a volume is
        elsewhere than at the end of the run: they would return to where they lay before, apart
        from the scan.
        """
        return (
            self._taking_back is not None
            and self.outputNode.GetScene() is not None
            and self._places() == self._left_at
        )

    def take_back(self) -> None:
        """Put the given output node back as it was before the run; edits made since are lost.

        The run's maps and samples go. Samples that the segmentation was the consensus of before
        are not joined again.

        Raises:
            InputError: if that cannot be done (`can_take_back`); nothing has changed.
        """
        if not self.can_take_back:
            raise InputError(
                "The run cannot be taken back: it has replaced no segments, or the volume or the "
                "segmentation was moved or removed since. Move them back, then try again."
            )
        self._taking_back.close()
        self._taking_back = None

    def _offer_take_back(self, taking_back: ExitStack) -> None:
        """Keep what takes the run back; the scene is now as the run leaves it."""
        self._taking_back, self._left_at = taking_back, self._places()

    def _places(self) -> tuple:
        """Return where volumes and segmentation are, to be compared with where they were."""
        matrices = tuple(ijk_to_ras(node).tobytes() for node in self._volume_nodes)
        return matrices, self.outputNode.GetTransformNodeID()

    def _report(self, stage: str, fraction: float) -> None:
        if self.onProgress:
            self.onProgress(stage, fraction)

    def _end(self, error: MRFUNetError | None) -> None:
        self.error = error
        if error is None:
            self.state = "done"
        else:
            self.state = "cancelled" if isinstance(error, Cancelled) else "failed"


def error_of(store: Callable[[], None]) -> MRFUNetError | None:
    """Put a result into the scene; return why that was not done, if it was not.

    Args:
        store: does it, all or nothing.
    """
    try:
        store()
    except MRFUNetError as error:
        return error
    except Exception as error:
        logging.exception("MRFUNetSegmentation: the result could not be put into the scene")
        return OutputError(
            f"The result could not be put into the scene ({type(error).__name__}: {error}); "
            "the scene is as it was. Run it again, with a new output segmentation."
        )
    return None


def lost_node(scene, nodes: Mapping[str, Any]) -> MRFUNetError | None:
    """Return an error for the first node that a run needs and that has left the scene.

    Args:
        scene: in which the nodes were.
        nodes: by their role; None where there is none.
    """
    for role, node in nodes.items():
        if node is not None and not scene.IsNodePresent(node):
            return InputError(
                f"The {role} {node.GetName()} is no longer in the scene, so there is no "
                "result. Choose another one, then run it again."
            )
    return None


class VolumeRun(Run):
    """A run of one volume.

    Attributes:
        content: of the volume when the run started.
    """

    def __init__(
        self,
        submit: Callable[[Volume], Job],
        volume_node,
        output_node=None,
        replace_non_finite: bool = False,
        placed_by=None,
    ) -> None:
        """Start.

        Args:
            submit: gives the volume to the worker.
            volume_node: the volume.
            output_node: segmentation node to write to; a new one if None.
            replace_non_finite: see `read_volume`.
            placed_by: see `read_volume`.
        """
        super().__init__()
        volume = read_volume(
            volume_node, replace_non_finite=replace_non_finite, placed_by=placed_by
        )
        self._scene = volume_node.GetScene()
        self._volume_node = volume_node
        self._given_node = output_node
        if output_node is not None and not output_node.IsA("vtkMRMLSegmentationNode"):
            raise InputError(
                f"{output_node.GetName()} is not a segmentation. "
                "Choose a segmentation as output, or create a new one."
            )
        if error := self._lost_node():
            raise error
        if output_node is not None:
            check_label_maps(output_node)
        if output_node is not None and (sequence := sequence_of(output_node)):
            raise InputError(
                f"{output_node.GetName()} shows the segmentations of the sequence "
                f"{sequence.GetName()} one by one; that of a single volume would take the place of "
                "one of them. Choose another output, or create a new one."
            )
        self.content = Content.of(volume_node)
        self._dropped: MRFUNetError | None = None
        self._job = submit(volume)
        self._job.on_progress = self._report

    @property
    def _volume_nodes(self) -> list:
        return [self._volume_node]

    @abstractmethod
    def _write(self, result, taking_back: ExitStack):
        """Put the result into the scene, all or nothing.

        Args:
            result: of the job.
            taking_back: gets what puts a segmentation node that was given back as it was, and
                removes what the run has added to it.

        Returns:
            The segmentation node.
        """

    def poll(self) -> None:
        """Take note of what has happened since the last call, without waiting."""
        if self.state != "running":
            return
        if self._dropped is None and (error := self._lost_node()):
            self._dropped = error
            self._job.cancel()
        self._job.poll()
        if self._job.state != "running":
            self._end(self._dropped or self._job.error or error_of(self._store))

    def cancel(self) -> None:
        """Ask the run to end; within about 2 s `poll` finds it cancelled."""
        self._job.cancel()

    def _lost_node(self) -> MRFUNetError | None:
        nodes = {"volume": self._volume_node, "output segmentation": self._given_node}
        return lost_node(self._scene, nodes)

    def _store(self) -> None:
        self.content.check(self._volume_node)
        taking_back = ExitStack()
        had_segments = (
            self._given_node is not None
            and self._given_node.GetSegmentation().GetNumberOfSegments() > 0
        )
        self.outputNode = self._write(self._job.result, taking_back)
        self.result = self._job.result
        if had_segments:
            self._offer_take_back(taking_back)


class SegmentationRun(VolumeRun):
    """One segmentation of a volume; its `result` is a `Segmentation`."""

    def _write(self, result: Segmentation, taking_back: ExitStack):
        node = write_with_maps(
            result.labels,
            result.maps,
            result.card.classes,
            self._volume_node,
            self._given_node,
            provenance_of(result),
            taking_back,
        )
        taking_back.callback(remove_maps, node)
        return node


class SamplingRun(VolumeRun):
    """Plausible segmentations of a volume; its `result` is a `SampledResult`.

    Attributes:
        samples: the nodes, when done (`SampleSet`).
        job: what the worker explores the latent space of (`LatentExplorer`), when done.
        onSample: called with the number of a sample, from 1, as soon as it is drawn, and with its
            label map, uint8 [k, j, i]; the scene has nothing of it yet.
    """

    def __init__(
        self,
        submit: Callable[[Volume], Job],
        volume_node,
        output_node=None,
        replace_non_finite: bool = False,
        overlays: Sequence[str] | None = None,
    ) -> None:
        """Start; see `VolumeRun`, and `write_samples` for the overlays."""
        self.samples: SampleSet | None = None
        self.onSample: SampleCallback | None = None
        self._overlays = overlays
        super().__init__(submit, volume_node, output_node, replace_non_finite)
        self._job.on_sample = self._on_sample

    @property
    def job(self) -> Job:
        """The worker's job."""
        return self._job

    def _on_sample(self, sample: int, labels: np.ndarray) -> None:
        if self.onSample:
            self.onSample(sample + 1, labels)

    def _write(self, result: SampledResult, taking_back: ExitStack):
        self.samples = write_samples(
            result, self._volume_node, self._given_node, self._overlays, taking_back
        )
        remove_maps(self.samples.consensus)
        taking_back.callback(self._remove_samples)
        return self.samples.consensus

    def _remove_samples(self) -> None:
        # The user may have removed them already.
        if self._scene.IsNodePresent(self.samples.browser):
            self.samples.remove()


@dataclass(frozen=True)
class Content:
    """What of a volume node must be the same before and after a run.

    Its parent transform is not part of it: the result goes wherever the volume goes.
    """

    matrix: bytes
    shape: tuple[int, ...]
    checksum: int

    @classmethod
    def of(cls, volume_node) -> Content:
        """Look at a volume node.

        Raises:
            InputError: if it is none that can be segmented.
        """
        check_volume_node(volume_node)
        array = voxels(volume_node.GetImageData())
        return cls(ijk_to_ras(volume_node).tobytes(), array.shape, zlib.crc32(array))

    def has_voxels_of(self, other: Content) -> bool:
        """Whether the voxels are the same, wherever they lie."""
        return (self.shape, self.checksum) == (other.shape, other.checksum)

    def check(self, volume_node) -> None:
        """Check that a volume node still is what it was.

        Raises:
            InputError: if it is not.
        """
        if Content.of(volume_node) != self:
            raise InputError(
                f"The volume {volume_node.GetName()} was changed during the run, so the result was "
                "dropped. Run it again."
            )
