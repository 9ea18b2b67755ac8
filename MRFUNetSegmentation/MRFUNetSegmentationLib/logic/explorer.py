"""Sliders through the latent space: what a move of one shows, at once."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from ..errors import Cancelled, InputError, MRFUNetError
from ..mrml.preview import SegmentationPreview, visible_voxel
from ..mrml.volumes import check_volume_node
from ..worker.client import Job, Worker
from .run import Content, SamplingRun

MAXIMUM_SLIDERS = 4
# Share of the samples' variance below which a direction changes nothing that one would see.
_NO_CHANGE = 0.01


class LatentExplorer:
    """Shows the segmentation of the latent at which sliders stand, in a preview node.

    A slider goes along a direction of the latent in which the samples' segmentations change most;
    its position is in standard deviations of the prior, 0 its mean. While a slider moves, only the
    slices that the slice views show are computed; when it is let go, the whole volume. Positions
    that were overtaken by newer ones are left out. Like a run, everything happens in `poll`.

    Attributes:
        positions: of the sliders.
        preview: node and all (`SegmentationPreview`); `close` removes it.
        error: why nothing could be shown last, or None.
    """

    def __init__(self, worker: Worker, run: SamplingRun) -> None:
        """Explore what a sampling run has sampled, the worker's last one; show nothing yet.

        Raises:
            InputError: if the run is not done, or its volume is gone.
        """
        if run.state != "done":
            raise InputError("There are no samples yet. Wait until the run is done.")
        self._worker, self._sampled = worker, run.job
        self._volume_node = run.samples.volume
        if self._volume_node is None:
            raise InputError("The samples' volume is no longer in the scene. Sample another one.")
        directions = run.result.directions[:MAXIMUM_SLIDERS]
        self._directions = [
            np.asarray(entry["direction"]) for entry in directions if entry["share"] > _NO_CHANGE
        ]
        self._latent = len(run.result.per_sample[0]["epsilon"])
        self._content, self._looked_at = run.content, None
        self.positions = [0.0] * len(self._directions)
        self.preview = SegmentationPreview(self._volume_node, run.result.card.classes)
        self.error: MRFUNetError | None = None
        self._job: Job | None = None
        self._voxel: tuple[int, int, int] | None = None
        self._wanted: bool | None = None

    @property
    def sliders(self) -> int:
        """How many there are: 0 where all samples are the same."""
        return len(self._directions)

    @property
    def busy(self) -> bool:
        """Whether what is wanted is not shown yet, so that `poll` is to be called."""
        return self._job is not None or self._wanted is not None

    @property
    def epsilon(self) -> np.ndarray:
        """The latent (latent,) at which the sliders stand."""
        total = np.zeros(self._latent)
        for position, direction in zip(self.positions, self._directions, strict=True):
            total += position * direction
        return total

    def move(self, positions: Sequence[float]) -> None:
        """Note that sliders have moved; `poll` will show the visible slices."""
        self._go(positions, whole=False)

    def release(self, positions: Sequence[float]) -> None:
        """Note that a slider was let go; `poll` will show the whole volume."""
        self._go(positions, whole=True)

    def poll(self) -> None:
        """Take note of what has happened since the last call, without waiting."""
        if self._job is not None:
            self._job.poll()
            if self._job.state == "running":
                return
            job, self._job = self._job, None
            self._show(job)
        if self._wanted is not None and not self._worker.busy:
            self._start()

    def close(self) -> None:
        """Forget what is wanted and remove the preview."""
        self._wanted = None
        if self._job is not None:
            self._job.cancel()
            self._job = None
        self.preview.remove()

    def _go(self, positions: Sequence[float], whole: bool) -> None:
        if len(positions) != self.sliders:
            raise ValueError(f"{len(positions)} positions for {self.sliders} sliders")
        self.positions = [float(p) for p in positions]
        self._wanted = whole
        self.poll()

    def _start(self) -> None:
        whole, self._wanted = self._wanted, None
        try:
            self._check_voxels()
            self._voxel = None if whole else visible_voxel(self._volume_node)
            self._job = self._worker.decode(self._sampled, self.epsilon, self._voxel)
        except MRFUNetError as error:
            self.error = error

    def _check_voxels(self) -> None:
        """Check that the volume's voxels are those that the worker has seen.

        Raises:
            InputError: if they are not, or the volume is gone.
        """
        check_volume_node(self._volume_node)
        # Looking at all voxels at every move takes longer than a slider may. Who changes them says
        # so, for the views need to know too.
        modified = self._volume_node.GetImageData().GetMTime()
        if modified == self._looked_at:
            return
        if not Content.of(self._volume_node).has_voxels_of(self._content):
            raise InputError(
                f"The voxels of {self._volume_node.GetName()} have changed since the samples were "
                "drawn. Draw samples again, then explore them."
            )
        self._looked_at = modified

    def _show(self, job: Job) -> None:
        self.error = None if isinstance(job.error, Cancelled) else job.error
        if job.error is not None:
            return
        try:
            if self._voxel is None:
                self.preview.show_volume(job.result)
            else:
                self.preview.show_slices(self._voxel, job.result)
        except MRFUNetError as error:
            self.error = error
        except Exception:
            logging.exception("MRFUNetSegmentation: the preview could not be shown")
            self.error = InputError("The preview could not be shown. See the application's log.")
