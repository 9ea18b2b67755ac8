"""From a volume to a label map on its own grid: the one engine behind every way of use."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..boxes import occupied_box
from ..checkpoints.load import Checkpoint
from ..errors import InputError, lacks_memory, too_little_memory
from ..networks import MRFUNet, ProbabilisticUNet
from ..uncertainty.statistics import entropy, label_variance
from .axes import slice_axis
from .batches import Slices, WholeVolume, with_neighbours
from .devices import describe_device, resolve_device
from .grid import ModelGrid
from .intensities import with_intensities
from .latent_space import LatentSpace
from .mrf_unet import MRFUNetPredictor
from .normalise import normalised
from .probabilistic import ProbabilisticPredictor
from .run import BACK, COUNTING, INTENSITIES, RESAMPLING, SAMPLING, Progress, Run
from .sampled import ENTROPY, VARIANCE, SampledResult, check_consensus, check_number
from .segmentation import Segmentation
from .separable import resize
from .suitability import cautions, doubt, of_few_values
from .to_volume import ToVolume
from .volume import MINIMUM_SIDE, Volume

# Voxels of context kept around what is not background.
_MARGIN = 16
# Of what a volume covers, mm: more is a spacing in other units.
_LARGEST_SIDE = 2000.0
# Above this a 3D U-Net works tile by tile. A whole head of 256^3 voxels takes the shipped network
# 2.7 GB of resident memory.
_WHOLE_VOXELS = 18_000_000
# That many voxels of slices go through a 2D network at once. On the CPU, 16 slices of 128^2 at once
# are no faster than one after the other.
_SLICES_VOXELS = 2**18

# What the posterior of a network that gives one segmentation says about it, bit and variance of
# the labels' indicators (see `SampledResult.maps`).
UNCERTAINTY_OF_ONE = {ENTROPY: entropy, VARIANCE: label_variance}

_PREDICTORS = {MRFUNet: MRFUNetPredictor, ProbabilisticUNet: ProbabilisticPredictor}
_Predictor = MRFUNetPredictor | ProbabilisticPredictor
_Result = TypeVar("_Result")


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
        tolerance: ends the mean field of an MRF early (see `networks.mrf.mean_field`); 0 runs
            all its iterations.
        mrf: False leaves the network's MRF out.
        intensities: False leaves the intensities of the image out, where the card asks for them
            (see `intensities`): the network alone.

    Attributes:
        checkpoint: the network and its card.
        device: where it is now.
        predictor: what computes.

    Raises:
        DeviceError: if the machine has no such device.
        InputError: if the network needs several images at once, the tolerance is impossible, or
            there is no MRF or no use of intensities to be left out.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str = "auto",
        whole_voxels: int = _WHOLE_VOXELS,
        tolerance: float = 0.0,
        mrf: bool = True,
        intensities: bool = True,
    ) -> None:
        if not 0 <= tolerance < 1:
            raise InputError(f"The tolerance must be at least 0 and below 1, not {tolerance:g}.")
        channels = checkpoint.network.config.in_channels
        if channels != 1 + 2 * checkpoint.card.input.neighbours:
            raise InputError(
                f"The model {checkpoint.card.name} needs {channels} images at once; only models "
                "of a single image, and slices of it, can be used. Choose another model."
            )
        if not mrf and checkpoint.network.mrf is None:
            raise InputError(
                f"The model {checkpoint.card.name} has no MRF that could be left out. "
                "Run it without that option, or choose another model."
            )
        if not intensities and not checkpoint.card.intensities:
            raise InputError(
                f"The model {checkpoint.card.name} does not use the intensities of the image "
                "beside its network. Run it without that option, or choose another model."
            )
        self.checkpoint = checkpoint
        card = checkpoint.card.input
        self._slice_axis = card.slice_plane and slice_axis(card.slice_plane, card.orientation)
        self._options = {"tolerance": tolerance, "mrf": mrf}
        self._intensities = intensities and checkpoint.card.intensities
        self._wanted = resolve_device(device), whole_voxels
        self._move_to_wanted()

    @property
    def device_name(self) -> str:
        """Where it is now, for users."""
        return describe_device(self.device)

    @property
    def options(self) -> dict[str, bool | float]:
        """What a run may leave out, as it is (see `Segmentation`)."""
        return {
            "mrf": self.predictor.mrf,
            "intensities": self._intensities,
            "tolerance": self._options["tolerance"],
        }

    @torch.inference_mode()
    def segment(
        self,
        volume: Volume,
        progress: Progress = lambda stage, fraction: None,
        cancelled: Callable[[], bool] = lambda: False,
        maps: Collection[str] = (),
    ) -> Segmentation:
        """Segment a volume; by a Probabilistic U-Net, at the mean of the prior.

        Args:
            volume: any 3D scalar volume.
            progress: called with the stage's name and the share of the run that is over.
            cancelled: asked before every operation of torch.
            maps: names of UNCERTAINTY_OF_ONE, of an MRF-UNet's posterior.

        Raises:
            InputError: if the volume is too small for the network, or for maps of a network that
                gives samples.
            Cancelled: as soon as `cancelled` says so.
        """
        self._check_maps(maps)
        run = Run(self._begins(), progress, cancelled)
        image, to_volume = self._prepared(volume, run)
        inside, spacing = image[to_volume.box], to_volume.grid.spacing
        seen = self._seen_by_network(inside, spacing)
        channels = self.on_device(lambda _: self._channels(seen, spacing), run)
        posterior = self.on_device(lambda p: p.posterior(channels, run), run, seen.shape)
        if seen.shape != inside.shape:
            posterior = self.on_device(lambda _: self._resized(posterior, inside.shape), run)
        if self._intensities:
            run.begin(INTENSITIES)
            posterior = self.on_device(
                lambda p: self._with_intensities(posterior, inside, spacing, run), run
            )
        run.begin(BACK)
        with run.checking():
            labels, found = self._back(posterior, to_volume, maps, run)
        run.end()
        segmentation = self._segmentation(labels, volume, run, found)
        if text := doubt(segmentation.volumes_ml(), segmentation.card.segments, volume.geometry):
            segmentation.warnings.append(text)
        return segmentation

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
            number: how many, 1 to 1000.
            seed: of the latents.
            progress: as for `segment`.
            cancelled: as for `segment`.

        Raises:
            InputError: if the model does not sample, for another number, or, from the iterator,
                if the volume is too small.
            Cancelled: from the iterator, as soon as `cancelled` says so.
        """
        check_number(number)
        self._check_samples()
        return self._samples(volume, number, seed, progress, cancelled)

    def sample(
        self,
        volume: Volume,
        number: int,
        seed: int = 0,
        progress: Progress = lambda stage, fraction: None,
        cancelled: Callable[[], bool] = lambda: False,
        consensus: str = "mean",
        **options: Any,
    ) -> SampledResult:
        """Return plausible segmentations and what they say together.

        Args:
            volume: any 3D scalar volume.
            number: how many, 1 to 1000; the same ones as of `samples`.
            seed: of the latents.
            progress: as for `segment`.
            cancelled: as for `segment`.
            consensus: as of `LatentSpace.sample`.
            options: further ones of it.

        Raises:
            InputError: as `samples`, and as `LatentSpace.sample`.
            Cancelled: as soon as `cancelled` says so.
        """
        check_number(number)
        check_consensus(consensus)
        space = self.encode(volume, number, progress, cancelled)
        return space.sample(number, seed, consensus, **options)

    @torch.inference_mode()
    def encode(
        self,
        volume: Volume,
        number: int = 1,
        progress: Progress = lambda stage, fraction: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> LatentSpace:
        """Compute what all plausible segmentations of a volume share.

        Args:
            volume: any 3D scalar volume.
            number: of samples that will follow, for the progress.
            progress: as for `segment`; also of the samples that follow.
            cancelled: as for `segment`; also of the samples that follow.

        Raises:
            InputError: if the model does not sample, or the volume is too small.
            Cancelled: as soon as `cancelled` says so.
        """
        self._check_samples()
        begins = self.predictor.sampling_begins(number)
        return self._encode(volume, Run(begins, progress, cancelled))

    def on_device(
        self,
        compute: Callable[[_Predictor], _Result],
        run: Run,
        shape: Sequence[int] | None = None,
    ) -> _Result:
        """Return compute(predictor), in smaller parts or on the CPU if memory runs out.

        Args:
            compute: called again with another predictor if need be.
            run: is checked, and warned.
            shape: of the image that the predictor divides; None if it takes all at once.
        """
        while True:
            try:
                with run.checking():
                    return compute(self.predictor)
            except (MemoryError, RuntimeError) as error:
                if not lacks_memory(error):
                    raise
            # Not before here is the memory of what failed free again.
            self._step_down(shape, run)

    def _begins(self) -> dict[str, float]:
        """Return when the stages of `segment` begin (see `Run`)."""
        begins = dict(self.predictor.begins)
        if not self._intensities:
            begins.pop(INTENSITIES, None)
        return begins

    def _seen_by_network(self, image: Tensor, spacing: tuple[float, ...]) -> Tensor:
        """Bring an image on the model's grid to the voxel size that the network sees."""
        voxel_size = self.checkpoint.card.input.network_voxel_size
        if voxel_size is None:
            return image
        sizes = zip(image.shape, spacing, voxel_size, strict=True)
        return resize(image, tuple(max(1, round(n * s / v)) for n, s, v in sizes))

    def _channels(self, image: Tensor, spacing: tuple[float, ...]) -> Tensor:
        """Return an image (*shape) with what else the network sees of it, (C, *shape)."""
        card = self.checkpoint.card.input
        if not card.neighbours:
            return image[None]
        distance = card.voxel_size[self._slice_axis] / spacing[self._slice_axis]
        return with_neighbours(image, self._slice_axis, card.neighbours, distance)

    def _resized(self, posterior: Tensor, shape: torch.Size) -> Tensor:
        return resize(posterior.to(self.device), tuple(shape)).cpu()

    def _with_intensities(
        self, posterior: Tensor, image: Tensor, spacing: tuple[float, ...], run: Run
    ) -> Tensor:
        segments = [c.value for c in self.checkpoint.card.segments]
        posterior, image = posterior.to(self.device), image.to(self.device)
        return with_intensities(posterior, image, segments, spacing, run).cpu()

    def _encode(self, volume: Volume, run: Run) -> LatentSpace:
        image, to_volume = self._prepared(volume, run)
        spacing = to_volume.grid.spacing
        channels = self.on_device(lambda _: self._channels(image, spacing), run)
        encoding = self.on_device(lambda p: p.encode(channels, run), run, image.shape)
        return LatentSpace(self, volume.geometry, encoding, to_volume, run, tuple(run.warnings))

    @torch.inference_mode()
    def _samples(
        self,
        volume: Volume,
        number: int,
        seed: int,
        progress: Progress,
        cancelled: Callable[[], bool],
    ) -> Iterator[Segmentation]:
        begins = self.predictor.sampling_begins(number)
        del begins[COUNTING]
        space = self._encode(volume, Run(begins, progress, cancelled))
        run = space.run
        run.begin(SAMPLING)
        for n, epsilon in enumerate(space.latents(number, seed)):
            with run.checking():
                labels = space.labels(epsilon)
            run.advance((n + 1) / number)
            yield self._segmentation(labels, volume, run)
        run.end()

    def _check_samples(self) -> None:
        if not isinstance(self.predictor, ProbabilisticPredictor):
            raise InputError(
                f"The model {self.checkpoint.card.name} gives one segmentation and no samples. "
                "Choose a Probabilistic U-Net model."
            )

    def _check_maps(self, maps: Collection[str]) -> None:
        if maps and isinstance(self.predictor, ProbabilisticPredictor):
            raise InputError(
                f"The uncertainty of the model {self.checkpoint.card.name} is that of its "
                "samples. Ask for samples too, 16 for example."
            )
        if unknown := [name for name in maps if name not in UNCERTAINTY_OF_ONE]:
            raise InputError(
                f"{', '.join(unknown)}: the model {self.checkpoint.card.name} gives one "
                f"segmentation, of which there are {' and '.join(UNCERTAINTY_OF_ONE)} only."
            )

    def _move_to(self, device: torch.device, whole_voxels: int) -> None:
        network = self.checkpoint.network
        if self._slice_axis is None:
            batches = WholeVolume(whole_voxels, network.stride)
        else:
            batches = Slices(min(whole_voxels, _SLICES_VOXELS), self._slice_axis)
        network.to(device, memory_format=batches.layout)
        kind = _PREDICTORS[type(network)]
        self.predictor: _Predictor = kind(network, batches, device, **self._options)
        self.device = device
        self.whole_voxels = whole_voxels

    def _move_to_wanted(self) -> bool:
        """Move to the device that was asked for, or to the CPU if its memory is full already."""
        device, whole_voxels = self._wanted
        try:
            self._move_to(device, whole_voxels)
        except (MemoryError, RuntimeError) as error:
            if device.type == "cpu" or not lacks_memory(error):
                raise
        else:
            return True
        self._move_to(torch.device("cpu"), whole_voxels)
        return False

    def _prepared(self, volume: Volume, run: Run) -> tuple[Tensor, ToVolume]:
        """Bring the volume to the model's grid; also the way back."""
        if not isinstance(volume, Volume):
            raise InputError(
                f"A {type(volume).__name__} is no volume, for it does not say where its voxels lie."
                " Give what read_volume_file(path) returns, or Volume(array, Geometry(size, "
                "spacing))."
            )
        run.begin(RESAMPLING)
        run.warnings.extend(volume.warnings)
        # An earlier run may have had to step down, or there was no room on the device at all.
        if (self.device, self.whole_voxels) != self._wanted and not self._move_to_wanted():
            _warn_of_cpu(self._wanted[0], run)
        card = self.checkpoint.card.input
        voxel_size = [None if a == self._slice_axis else v for a, v in enumerate(card.voxel_size)]
        grid = ModelGrid.of(volume.geometry, voxel_size, card.orientation)
        _check_size(volume, grid, self._slice_axis)
        run.warnings.extend(cautions(volume.geometry, card))
        if text := of_few_values(volume.array):
            run.warn(text)
        with run.checking():
            image = normalised(volume.array, grid, card.normalisation)
            box = self._occupied(image)
        window = card.normalisation.get("window")
        if window and image.min() == image.max():
            run.warn(
                f"No value of the volume lies between {window[0]:g} and {window[1]:g}, which is "
                f"what the model looks at ({card.modality}): it sees nothing."
            )
        return image, ToVolume(self.checkpoint.card, grid, box)

    def _segmentation(
        self,
        labels: np.ndarray,
        volume: Volume,
        run: Run,
        maps: dict[str, np.ndarray] | None = None,
    ) -> Segmentation:
        return Segmentation(
            labels=labels,
            geometry=volume.geometry,
            card=self.checkpoint.card,
            sha256=self.checkpoint.sha256,
            device=self.device_name,
            options=self.options,
            timings=run.timings,
            warnings=list(run.warnings),
            maps=maps or {},
        )

    def _occupied(self, image: Tensor) -> tuple[slice, slice, slice]:
        """Box of what is not empty background, with a margin; all where that is not known."""
        everything = tuple(slice(0, n) for n in image.shape)
        as_stored = self.checkpoint.card.input.normalisation["method"] == "none"
        if as_stored or not self.predictor.crops:
            return everything
        # Below a window of intensities all is empty.
        return occupied_box((image > 0).numpy(), _MARGIN) or everything

    def _step_down(self, shape: Sequence[int] | None, run: Run) -> None:
        smaller = self.predictor.batches.smaller(shape) if shape else None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if smaller is not None:
            self._move_to(self.device, smaller)
            run.warn(f"Out of memory on {self.device}: going on in smaller parts.")
        elif self.device.type != "cpu":
            _warn_of_cpu(self.device, run)
            self._move_to(torch.device("cpu"), self._wanted[1])
        else:
            raise too_little_memory()

    def _back(
        self, posterior: Tensor, to_volume: ToVolume, maps: Collection[str], run: Run
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return labels and maps on the volume's grid, holding one class at a time."""
        labels, found = to_volume.labels(posterior).numpy(), {}
        for value, probability in enumerate(to_volume.probabilities(posterior) if maps else ()):
            for name in dict.fromkeys(maps):
                share = UNCERTAINTY_OF_ONE[name]([probability])
                found[name] = found[name] + share if name in found else share
            run.advance((value + 1) / len(posterior))
        run.advance(1.0)
        return labels, {name: values.numpy() for name, values in found.items()}


def _warn_of_cpu(device: torch.device, run: Run) -> None:
    run.warn(f"Out of memory on {device}: going on with the CPU, which is slower.")


def _check_size(volume: Volume, grid: ModelGrid, slice_axis: int | None) -> None:
    """Refuse a volume of which the network would see too little; a 2D one takes single slices."""
    size = volume.geometry.size
    if slice_axis is None and min(size) < MINIMUM_SIDE:
        raise InputError(
            f"The volume has only {' x '.join(map(str, size))} voxels; this model needs at least "
            f"{MINIMUM_SIDE} along every axis. Choose a complete 3D volume, for example the whole "
            "series instead of one slice."
        )
    sides = [n * s for n, s in zip(grid.shape, grid.spacing, strict=True)]
    extent = " x ".join(f"{side:.0f}" for side in sides)
    if max(sides) > _LARGEST_SIDE:
        raise InputError(
            f"The volume covers {extent} mm, which is no head. Check the voxel spacing in the "
            "volume's header (in Slicer: Volumes module)."
        )
    if min(n for axis, n in enumerate(grid.shape) if axis != slice_axis) < MINIMUM_SIDE:
        raise InputError(
            f"The volume covers only {extent} mm, which is "
            f"{' x '.join(map(str, grid.shape))} voxels of the network's grid (right, anterior, "
            f"superior); at least {MINIMUM_SIDE} are needed along every axis"
            f"{'' if slice_axis is None else ' of the slices that the model takes'}. "
            "Check the voxel spacing and the orientation, or choose a complete volume."
        )
