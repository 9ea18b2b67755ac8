"""From a volume to a label map on its own grid: the one engine behind every way of use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ..checkpoints.card import ModelCard
from ..checkpoints.load import Checkpoint
from ..errors import InputError
from ..networks import MRFUNet, ProbabilisticUNet
from .batches import Slices, WholeVolume, slice_axis
from .devices import describe_device, resolve_device
from .grid import ModelGrid
from .main_piece import main_piece
from .mrf_unet import MRFUNetPredictor
from .normalise import percentile_normalise
from .probabilistic import ProbabilisticPredictor
from .run import BACK, RESAMPLING, SAMPLING, Progress, Run
from .volume import Geometry, Volume

# Voxels of context kept around what is not background.
_MARGIN = 16
# A volume of fewer voxels than this along an axis of the model's grid shows no anatomy.
_SMALLEST_SIDE = 8
# Above this a 3D U-Net works tile by tile. A whole head of 256^3 voxels takes the shipped network
# 3.9 GB of resident memory.
_WHOLE_VOXELS = 18_000_000
# That many voxels of slices go through a 2D network at once. On the CPU, 16 slices of 128^2 at once
# are no faster than one after the other.
_SLICES_VOXELS = 2**18

_PREDICTORS = {MRFUNet: MRFUNetPredictor, ProbabilisticUNet: ProbabilisticPredictor}
_Predictor = MRFUNetPredictor | ProbabilisticPredictor
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Segmentation:
    """What a run gives.

    Attributes:
        labels: (k, j, i) uint8 on the volume's grid; class k has value k.
        geometry: the volume's.
        card: the model's.
        sha256: of the checkpoint file.
        device: where it was computed, for users.
        timings: seconds of each stage.
        warnings: what the user should know.
    """

    labels: np.ndarray
    geometry: Geometry
    card: ModelCard
    sha256: str
    device: str
    timings: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def volumes_ml(self) -> dict[int, float]:
        """Return the volume of every class, ml, by its value."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.card.classes))
        return {c.value: float(counts[c.value]) * self.geometry.voxel_ml for c in self.card.classes}


class Segmenter:
    """Keeps a checkpoint on a device and segments volumes with it.

    3D networks see the volume as a whole. 2D networks see its slices along the plane that the
    card names; these keep the volume's own spacing, for such a network has no voxel size across
    them.

    Args:
        checkpoint: the network and its card.
        device: auto, cpu, cuda, cuda:N or mps.
        whole_voxels: largest volume, in voxels of the model's grid, that a U-Net sees at once;
            larger ones are tiled (3D) or divided into batches of fewer slices (2D).
        tolerance: ends the mean field of an MRF-UNet early (see `networks.mrf.mean_field`); 0
            runs all its iterations.

    Raises:
        DeviceError: if the machine has no such device.
        InputError: if the network needs several images at once, or the tolerance is impossible.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str = "auto",
        whole_voxels: int = _WHOLE_VOXELS,
        tolerance: float = 0.0,
    ) -> None:
        if not 0 <= tolerance < 1:
            raise InputError(f"The tolerance must be at least 0 and below 1, not {tolerance:g}.")
        channels = checkpoint.network.config.in_channels
        if channels != 1:
            raise InputError(
                f"The model {checkpoint.card.name} needs {channels} images at once; only models "
                "of a single image can be used. Choose another model."
            )
        self.checkpoint = checkpoint
        card = checkpoint.card.input
        self._slice_axis = card.slice_plane and slice_axis(card.slice_plane, card.orientation)
        self._options = {"tolerance": tolerance} if isinstance(checkpoint.network, MRFUNet) else {}
        self._wanted = resolve_device(device), whole_voxels
        self._move_to(*self._wanted)

    @torch.inference_mode()
    def segment(
        self,
        volume: Volume,
        progress: Progress = lambda stage, fraction: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Segmentation:
        """Segment a volume; by a Probabilistic U-Net, at the mean of the prior.

        Args:
            volume: any 3D scalar volume.
            progress: called with the stage's name and the share of the run that is over.
            cancelled: asked before every operation of torch.

        Raises:
            InputError: if the volume is too small for the network.
            Cancelled: as soon as `cancelled` says so.
        """
        run = Run(self._predictor.begins, progress, cancelled)
        image, box, grid = self._prepared(volume, run)
        posterior = self._on_device(lambda p: p.posterior(image[box], run), image.numel(), run)
        run.begin(BACK)
        with run.checking():
            labels = self._labels(posterior, box, grid, run.advance)
        run.end()
        return self._segmentation(labels, volume, run)

    def samples(
        self,
        volume: Volume,
        number: int,
        seed: int = 0,
        progress: Progress = lambda stage, fraction: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Iterator[Segmentation]:
        """Return an iterator over plausible segmentations, each computed when it is asked for.

        The latents are drawn on the CPU: a seed gives the same samples on every device, and the
        first n are the same however many follow.

        Args:
            volume: any 3D scalar volume.
            number: how many, at least 1.
            seed: of the latents.
            progress: as for `segment`.
            cancelled: as for `segment`.

        Raises:
            InputError: if the model does not sample, `number` is below 1, or, from the iterator,
                the volume is too small.
            Cancelled: from the iterator, as soon as `cancelled` says so.
        """
        if not isinstance(self._predictor, ProbabilisticPredictor):
            raise InputError(
                f"The model {self.checkpoint.card.name} gives one segmentation and no samples. "
                "Choose a Probabilistic U-Net model."
            )
        if number < 1:
            raise InputError(f"At least 1 sample is needed, not {number}.")
        run = Run(self._predictor.sampling_begins(number), progress, cancelled)
        return self._samples(volume, number, seed, run)

    @torch.inference_mode()
    def _samples(self, volume: Volume, number: int, seed: int, run: Run) -> Iterator[Segmentation]:
        image, box, grid = self._prepared(volume, run)
        encoding = self._on_device(lambda p: p.encode(image[box], run), image.numel(), run)
        rng = torch.Generator().manual_seed(seed)
        run.begin(SAMPLING)
        for n in range(number):
            epsilon = torch.randn(encoding.mean.shape[1], generator=rng)
            posterior = self._on_device(
                lambda p, e=epsilon: p.decode(encoding, e), image.numel(), run
            )
            with run.checking():
                labels = self._labels(
                    posterior, box, grid, lambda share, n=n: run.advance((n + share) / number)
                )
            yield self._segmentation(labels, volume, run)
        run.end()

    def _move_to(self, device: torch.device, whole_voxels: int) -> None:
        network = self.checkpoint.network
        if self._slice_axis is None:
            batches = WholeVolume(whole_voxels, network.stride)
        else:
            batches = Slices(min(whole_voxels, _SLICES_VOXELS), self._slice_axis)
        self.network = network.to(device, memory_format=batches.layout)
        kind = _PREDICTORS[type(network)]
        self._predictor: _Predictor = kind(self.network, batches, device, **self._options)
        self.device = device
        self.whole_voxels = whole_voxels

    def _prepared(
        self, volume: Volume, run: Run
    ) -> tuple[Tensor, tuple[slice, slice, slice], ModelGrid]:
        """Bring the volume to the model's grid; also the box of it that is to be computed."""
        run.begin(RESAMPLING)
        if (self.device, self.whole_voxels) != self._wanted:
            self._move_to(*self._wanted)  # an earlier run had to step down
        card = self.checkpoint.card.input
        voxel_size = [None if a == self._slice_axis else v for a, v in enumerate(card.voxel_size)]
        grid = ModelGrid.of(volume.geometry, voxel_size, card.orientation)
        _check_size(grid)
        image = self._normalised(volume, grid)
        box = self._occupied(image)
        run.check()
        return image, box, grid

    def _segmentation(self, labels: np.ndarray, volume: Volume, run: Run) -> Segmentation:
        return Segmentation(
            labels=labels,
            geometry=volume.geometry,
            card=self.checkpoint.card,
            sha256=self.checkpoint.sha256,
            device=describe_device(self.device),
            timings=dict(run.timings),
            warnings=list(run.warnings),
        )

    def _normalised(self, volume: Volume, grid: ModelGrid) -> Tensor:
        """Bring the volume to the model's grid and the card's range of intensities."""
        normalisation = self.checkpoint.card.input.normalisation
        if normalisation["method"] == "none":
            return grid.to_model(volume.array)
        # To 0..1 first: 64-bit integers and doubles need not fit float32.
        unit = volume.array.astype(np.float64)
        unit /= np.abs(unit).max()
        unit -= unit.min()
        unit /= unit.max()
        options = {k: v for k, v in normalisation.items() if k != "method"}
        return percentile_normalise(grid.to_model(unit), **options)

    def _occupied(self, image: Tensor) -> tuple[slice, slice, slice]:
        """Box of what is not empty background, with a margin; all where that is not known."""
        card = self.checkpoint.card
        has_background = any(c.background for c in card.classes)
        normalised = card.input.normalisation["method"] != "none"
        if not (self._predictor.crops and has_background and normalised):
            return tuple(slice(0, n) for n in image.shape)
        occupied = image > 0
        box = []
        for axis in range(3):
            others = [a for a in range(3) if a != axis]
            line = occupied.any(dim=others[1]).any(dim=others[0]).nonzero().flatten()
            box.append(
                slice(
                    max(0, int(line[0]) - _MARGIN),
                    min(image.shape[axis], int(line[-1]) + 1 + _MARGIN),
                )
            )
        return tuple(box)

    def _on_device(
        self, compute: Callable[[_Predictor], _Result], voxels: int, run: Run
    ) -> _Result:
        """Return compute(predictor), in smaller parts or on the CPU if memory runs out."""
        while True:
            try:
                with run.checking():
                    return compute(self._predictor)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                self._step_down(voxels, run)

    def _step_down(self, voxels: int, run: Run) -> None:
        batches = self._predictor.batches
        smaller = min(batches.voxels, voxels) // 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if smaller >= batches.smallest:
            self._move_to(self.device, smaller)
            run.warn(f"Out of memory on {self.device}: going on in smaller parts.")
        elif self.device.type != "cpu":
            run.warn(f"Out of memory on {self.device}: going on with the CPU, which is slower.")
            self._move_to(torch.device("cpu"), _WHOLE_VOXELS)
        else:
            raise InputError(
                "This machine has too little memory for the volume. Close other programs, or crop "
                "the volume to the head (in Slicer: Crop Volume module)."
            )

    def _labels(
        self,
        posterior: Tensor,
        box: tuple[slice, slice, slice],
        grid: ModelGrid,
        advance: Callable[[float], None],
    ) -> np.ndarray:
        """Interpolate each class's probability to the volume's grid and take the largest."""
        classes = self.checkpoint.card.classes
        posterior = self._in_one_piece(posterior)
        best = labels = None
        for c in classes:
            full = torch.full(grid.shape, float(c.background))
            full[box] = posterior[c.value]
            probability = grid.to_input(full).contiguous()
            if best is None:
                best = probability
                labels = torch.full(probability.shape, c.value, dtype=torch.uint8)
            else:
                better = probability > best
                best[better] = probability[better]
                labels[better] = c.value
            advance((c.value + 1) / len(classes))
        return labels.numpy()

    def _in_one_piece(self, posterior: Tensor) -> Tensor:
        """Make background of what is apart from the object that the card says is one piece."""
        card = self.checkpoint.card
        if not card.one_piece:
            return posterior
        labels = posterior.argmax(0)
        solid = torch.isin(labels, torch.tensor(card.one_piece))
        around = torch.isin(labels, torch.tensor([c.value for c in card.segments])) & ~solid
        apart = (solid | around) & ~main_piece(solid, around)
        background = torch.tensor([float(c.background) for c in card.classes])
        background /= background.sum()
        return torch.where(apart, background.view(-1, 1, 1, 1), posterior)


def _check_size(grid: ModelGrid) -> None:
    if min(grid.shape) < _SMALLEST_SIDE:
        extent = " x ".join(f"{n * s:.0f}" for n, s in zip(grid.shape, grid.spacing, strict=True))
        raise InputError(
            f"The volume covers only {extent} mm, which is "
            f"{' x '.join(map(str, grid.shape))} voxels of the network's grid; at least "
            f"{_SMALLEST_SIDE} are needed along every axis. "
            "Check the voxel spacing, or choose a complete 3D volume."
        )


def _out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return (
        isinstance(error, torch.OutOfMemoryError)
        or "out of memory" in text
        or ("can't allocate memory" in text or "not enough memory" in text)
    )
