"""From a volume to a label map on its own grid: the one engine behind every way of use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..checkpoints.card import ModelCard
from ..checkpoints.load import Checkpoint
from ..errors import InputError
from ..networks import MRFUNet
from .batches import Slices, WholeVolume, slice_axis
from .devices import describe_device, resolve_device
from .grid import ModelGrid, nearest_axes
from .mrf_unet import MRFUNetPredictor
from .normalise import percentile_normalise
from .probabilistic import ProbabilisticPredictor
from .run import BACK, DECODING, RESAMPLING, Progress, Run
from .volume import Geometry, Volume

# Voxels of context kept around what is not background.
_MARGIN = 16
# A volume of fewer voxels than this along an axis of the model's grid shows no anatomy.
_SMALLEST_SIDE = 8
# Above this the U-Net works tile by tile. A whole head of 256^3 voxels takes the shipped network
# 3.9 GB of resident memory.
_WHOLE_VOXELS = 18_000_000
# Smaller tiles than this do not help a device that is out of memory.
_SMALLEST_WHOLE = 96**3

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

    Args:
        checkpoint: the network and its card.
        device: auto, cpu, cuda, cuda:N or mps.
        whole_voxels: largest volume, in voxels of the model's grid, that the U-Net sees at once;
            larger ones are tiled.

    Raises:
        DeviceError: if the machine has no such device.
    """

    def __init__(
        self, checkpoint: Checkpoint, device: str = "auto", whole_voxels: int = _WHOLE_VOXELS
    ) -> None:
        self.checkpoint = checkpoint
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
            cancelled: asked at every layer of the network and every mean-field iteration.

        Raises:
            InputError: if the volume is too small for the network.
            Cancelled: as soon as `cancelled` says so.
        """
        run = Run(progress, cancelled)
        image, box, grid = self._prepared(volume, run)
        posterior = self._on_device(lambda p: p.posterior(image[box], run), image.numel(), run)
        run.begin(BACK)
        labels = self._labels(posterior, box, grid, run.advance)
        run.end()
        return self._segmentation(labels, volume, run)

    @torch.inference_mode()
    def samples(
        self,
        volume: Volume,
        number: int,
        seed: int = 0,
        progress: Progress = lambda stage, fraction: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Iterator[Segmentation]:
        """Yield plausible segmentations of a volume, one by one.

        The latents are drawn on the CPU, so that a seed gives the same samples on every device,
        and the first n samples do not depend on how many are drawn.

        Args:
            volume: any 3D scalar volume.
            number: how many, at least 1.
            seed: of the latents.
            progress: as for `segment`.
            cancelled: as for `segment`.

        Raises:
            InputError: if the volume is too small, or the model is none that samples.
            Cancelled: as soon as `cancelled` says so.
        """
        if not isinstance(self._predictor, ProbabilisticPredictor):
            raise InputError(
                f"The model {self.checkpoint.card.name} gives one segmentation and no samples. "
                "Choose a Probabilistic U-Net model."
            )
        if number < 1:
            raise InputError(f"At least 1 sample is needed, not {number}.")
        run = Run(progress, cancelled)
        image, box, grid = self._prepared(volume, run)
        encoding = self._on_device(lambda p: p.encode(image[box], run), image.numel(), run)
        rng = torch.Generator().manual_seed(seed)
        run.begin(DECODING)
        for n in range(number):
            epsilon = torch.randn(self.checkpoint.network.config.latent, generator=rng)
            posterior = self._predictor.decode(encoding, epsilon, run)
            labels = self._labels(posterior, box, grid, lambda fraction: run.check())
            run.advance((n + 1) / number)
            yield self._segmentation(labels, volume, run)
        run.end()

    def _move_to(self, device: torch.device, whole_voxels: int) -> None:
        self.device = device
        self.whole_voxels = whole_voxels
        network, card = self.checkpoint.network, self.checkpoint.card
        if network.config.in_channels != 1:
            raise InputError(
                f"The model {card.name} takes {network.config.in_channels} images at once; "
                "only models of a single image can be used. Choose another model."
            )
        if card.input.slice_plane:
            batches = Slices(slice_axis(card.input.slice_plane, card.input.orientation))
        else:
            batches = WholeVolume(network.stride, whole_voxels)
        self.network = network.to(device, memory_format=batches.layout)
        kind = MRFUNetPredictor if isinstance(network, MRFUNet) else ProbabilisticPredictor
        self._predictor = kind(self.network, batches, device)

    def _prepared(
        self, volume: Volume, run: Run
    ) -> tuple[Tensor, tuple[slice, slice, slice], ModelGrid]:
        """Bring the volume to the model's grid; also the box of what is not background there."""
        run.begin(RESAMPLING)
        if (self.device, self.whole_voxels) != self._wanted:
            self._move_to(*self._wanted)  # an earlier run had to step down
        card = self.checkpoint.card
        grid = ModelGrid.of(volume.geometry, self._voxel_size(volume), card.input.orientation)
        self._check_size(grid)
        image = self._normalised(volume, grid)
        box = self._occupied(image)
        run.check()
        return image, box, grid

    def _voxel_size(self, volume: Volume) -> tuple[float, float, float]:
        """The card's voxel size; across the slices of a 2D network, the volume's own."""
        card = self.checkpoint.card.input
        if card.slice_plane is None:
            return card.voxel_size
        size = list(card.voxel_size)
        across = slice_axis(card.slice_plane, card.orientation)
        axes, _ = nearest_axes(np.asarray(volume.geometry.direction), card.orientation)
        size[across] = volume.geometry.spacing[axes[across]]
        return tuple(size)

    def _check_size(self, grid: ModelGrid) -> None:
        card = self.checkpoint.card.input
        needed = [_SMALLEST_SIDE] * 3
        if card.slice_plane:
            needed[slice_axis(card.slice_plane, card.orientation)] = 1
        if all(n >= least for n, least in zip(grid.shape, needed, strict=True)):
            return
        extent = " x ".join(f"{n * s:.0f}" for n, s in zip(grid.shape, grid.spacing, strict=True))
        raise InputError(
            f"The volume covers only {extent} mm, which is "
            f"{' x '.join(map(str, grid.shape))} voxels of the network's grid; at least "
            f"{' x '.join(map(str, needed))} are needed. "
            "Check the voxel spacing, or choose a complete 3D volume."
        )

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
        """Box of what is not empty background, with a margin; all where no class is background."""
        has_background = any(c.background for c in self.checkpoint.card.classes)
        if not has_background or self.checkpoint.card.input.normalisation["method"] == "none":
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

    def _on_device(self, compute: Callable[[Any], _Result], voxels: int, run: Run) -> _Result:
        """Return compute(predictor), on a smaller scale or the CPU if memory runs out."""
        while True:
            try:
                return compute(self._predictor)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                self._step_down(voxels, run)

    def _step_down(self, voxels: int, run: Run) -> None:
        smaller = min(self.whole_voxels, voxels) // 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if smaller >= _SMALLEST_WHOLE:
            self._move_to(self.device, smaller)
            run.warn(f"Out of memory on {self.device}: going on with smaller tiles.")
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


def _out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return (
        isinstance(error, torch.OutOfMemoryError)
        or "out of memory" in text
        or ("can't allocate memory" in text or "not enough memory" in text)
    )
