"""From a volume to a label map on its own grid: the one engine behind every way of use."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..checkpoints.card import ModelCard
from ..checkpoints.load import Checkpoint
from ..errors import Cancelled, InputError
from .devices import describe_device, resolve_device
from .grid import ModelGrid
from .normalise import percentile_normalise
from .tiles import Tiling, blend
from .volume import Geometry, Volume

# Voxels of context kept around what is not background.
_MARGIN = 16
# A volume of fewer voxels than this along an axis of the model's grid shows no anatomy.
_SMALLEST_SIDE = 8
# Above this the U-Net works tile by tile. A whole head of 256^3 voxels takes the shipped network
# 3.9 GB of resident memory.
_WHOLE_VOXELS = 18_000_000
_SMALLEST_TILE = 96

Progress = Callable[[str, float], None]
RESAMPLING, UNET, MEAN_FIELD, BACK = (
    "Resampling",
    "U-Net",
    "Mean field",
    "Back to the volume's grid",
)
# Share of the run that is over when each stage begins, measured on two CPU cores.
_BEGINS = {RESAMPLING: 0.0, UNET: 0.1, MEAN_FIELD: 0.4, BACK: 0.9}


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
        """Segment a volume.

        Args:
            volume: any 3D scalar volume.
            progress: called with the stage's name and the share of the run that is over.
            cancelled: asked at least once a second or once a tile.

        Raises:
            InputError: if the volume is too small for the network.
            Cancelled: as soon as `cancelled` says so.
        """
        run = _Run(progress, cancelled)
        run.begin(RESAMPLING)
        if (self.device, self.whole_voxels) != self._wanted:
            self._move_to(*self._wanted)  # an earlier run had to step down
        card = self.checkpoint.card
        grid = ModelGrid.of(volume.geometry, card.input.voxel_size, card.input.orientation)
        _check_size(grid)
        image = self._normalised(volume, grid)
        box = self._occupied(image)
        run.check()

        posterior = self._on_device(image[box], run)

        run.begin(BACK)
        labels = self._labels(posterior, box, grid, run)
        run.end()
        return Segmentation(
            labels=labels,
            geometry=volume.geometry,
            card=card,
            sha256=self.checkpoint.sha256,
            device=describe_device(self.device),
            timings=run.timings,
            warnings=run.warnings,
        )

    def _move_to(self, device: torch.device, whole_voxels: int) -> None:
        self.device = device
        self.whole_voxels = whole_voxels
        network = self.checkpoint.network
        # Several times faster on the CPU than the default layout.
        self.layout = torch.channels_last_3d if network.config.dim == 3 else torch.channels_last
        self.network = network.to(device, memory_format=self.layout)

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

    def _on_device(self, image: Tensor, run: _Run) -> Tensor:
        """Return the posteriors (K, *shape), on a smaller scale or the CPU if memory runs out."""
        while True:
            try:
                return self._posterior(image, run)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                self._step_down(image.numel(), run)

    def _step_down(self, voxels: int, run: _Run) -> None:
        smaller = min(self.whole_voxels, voxels) // 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if smaller >= _SMALLEST_TILE**3:
            self.whole_voxels = smaller
            run.warn(f"Out of memory on {self.device}: going on with smaller tiles.")
        elif self.device.type != "cpu":
            run.warn(f"Out of memory on {self.device}: going on with the CPU, which is slower.")
            self._move_to(torch.device("cpu"), _WHOLE_VOXELS)
        else:
            raise InputError(
                "This machine has too little memory for the volume. Close other programs, or crop "
                "the volume to the head (in Slicer: Crop Volume module)."
            )

    def _posterior(self, image: Tensor, run: _Run) -> Tensor:
        padded, inner = self._padded(image)
        run.begin(UNET)
        logits = self._logits(padded, run)[None].to(self.device, memory_format=self.layout)
        if self.network.mrf is None:
            return functional.softmax(logits, dim=1)[(0, slice(None), *inner)].cpu()
        run.begin(MEAN_FIELD)
        iterations = self.network.config.iterations
        steps = self.network.responsibilities(logits)
        for number in range(1, iterations + 1):
            posterior = next(steps)
            run.advance(number / iterations)
        return posterior[(0, slice(None), *inner)].cpu()

    def _padded(self, image: Tensor) -> tuple[Tensor, tuple[slice, slice, slice]]:
        """Pad with background to the network's smallest size; also where the image lies then."""
        smallest = self.network.unet.minimum_size
        before = [max(0, smallest - n) // 2 for n in image.shape]
        after = [max(0, smallest - n) - b for n, b in zip(image.shape, before, strict=True)]
        widths = [w for pair in zip(reversed(before), reversed(after), strict=True) for w in pair]
        inner = tuple(slice(b, b + n) for b, n in zip(before, image.shape, strict=True))
        return functional.pad(image, widths), inner

    def _logits(self, image: Tensor, run: _Run) -> Tensor:
        """Return the U-Net's logits (K, *shape), whole or in tiles."""
        stride = 2 ** len(self.network.config.encoder)
        tiling = Tiling(tuple(image.shape), _tile(image.shape, self.whole_voxels), stride)
        done = 0

        def compute(place: tuple[slice, slice, slice]) -> Tensor:
            nonlocal done
            run.check()
            tile = image[place][None, None].to(self.device, memory_format=self.layout)
            logits = self.network.logits(tile)[0]
            done += 1
            run.advance(done / len(tiling))
            return logits

        return blend(tiling, self.network.config.classes, compute)

    def _labels(
        self, posterior: Tensor, box: tuple[slice, slice, slice], grid: ModelGrid, run: _Run
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
            run.advance((c.value + 1) / len(classes))
        return labels.numpy()


class _Run:
    """Progress, cancellation, timings and warnings of one run."""

    def __init__(self, progress: Progress, cancelled: Callable[[], bool]) -> None:
        self.timings: dict[str, float] = {}
        self.warnings: list[str] = []
        self._progress = progress
        self._cancelled = cancelled
        self._stage = ""
        self._since = 0.0

    def begin(self, stage: str) -> None:
        self._close_stage()
        self._stage, self._since = stage, time.perf_counter()
        self.advance(0.0)

    def advance(self, fraction: float) -> None:
        """Report the share of the current stage that is over."""
        self.check()
        begins = list(_BEGINS.values())
        first = _BEGINS[self._stage]
        last = next((b for b in begins if b > first), 1.0)
        self._progress(self._stage, first + (last - first) * fraction)

    def check(self) -> None:
        if self._cancelled():
            raise Cancelled

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def end(self) -> None:
        self._close_stage()

    def _close_stage(self) -> None:
        if self._stage:
            spent = time.perf_counter() - self._since
            self.timings[self._stage] = self.timings.get(self._stage, 0.0) + spent


def _check_size(grid: ModelGrid) -> None:
    if min(grid.shape) < _SMALLEST_SIDE:
        extent = " x ".join(f"{n * s:.0f}" for n, s in zip(grid.shape, grid.spacing, strict=True))
        raise InputError(
            f"The volume covers only {extent} mm, which is "
            f"{' x '.join(map(str, grid.shape))} voxels of the network's grid; at least "
            f"{_SMALLEST_SIDE} are needed along every axis. "
            "Check the voxel spacing, or choose a complete 3D volume."
        )


def _tile(shape: tuple[int, ...], voxels: int) -> tuple[int, ...]:
    """Halve the longest side until a tile has at most `voxels` voxels (rounded to 32)."""
    tile = list(shape)
    while np.prod(tile) > voxels and max(tile) > _SMALLEST_TILE:
        longest = tile.index(max(tile))
        tile[longest] = max(_SMALLEST_TILE, -(-(tile[longest] // 2 + 32) // 32) * 32)
    return tuple(tile)


def _out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return (
        isinstance(error, torch.OutOfMemoryError)
        or "out of memory" in text
        or ("can't allocate memory" in text or "not enough memory" in text)
    )
