"""A Probabilistic U-Net on a volume: features and prior once, then any number of samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..networks import ProbabilisticUNet, last, mean_field
from .batches import Place, Slices, WholeVolume
from .run import BACK, COUNTING, PRIOR, RESAMPLING, SAMPLING, UNET, Run

# A sample takes so much less than features and prior together, measured on a CPU core.
_SAMPLES_PER_ENCODING = 30
# Share of the run that is over when the samples are compared; more than that of one sample.
_COUNTING_BEGINS = 0.98
# Of the mean field where a picture must follow a slider.
_QUICK_ITERATIONS = 4
# Voxels that f_comb takes at once in a sample.
_DECODED_VOXELS = 2**16


@dataclass(frozen=True)
class Encoding:
    """What all samples of a volume share, on the CPU.

    Attributes:
        projected: (B, F, *spatial), contiguous, the features after f_comb's first layer without z.
        mean: (B, latent), the prior's.
        scale: (B, latent), the prior's standard deviation.
    """

    projected: Tensor
    mean: Tensor
    scale: Tensor

    @property
    def latent(self) -> int:
        """Dimension of the latent space."""
        return self.mean.shape[1]

    def log_density(self, epsilon: Tensor) -> float:
        """Return ln p(z | x) of the latent of epsilon (latent,), the mean over the slices in 2D."""
        constant = self.latent / 2 * math.log(2 * math.pi)
        per_image = -epsilon.square().sum() / 2 - self.scale.log().sum(1) - constant
        return float(per_image.mean())


class ProbabilisticPredictor:
    """Class probabilities of a volume on the network's grid, for any latent.

    A sample has one epsilon, the latent in units of the prior's standard deviation from its mean.
    All slices of a volume (2D) share it, though each has a prior of its own, and so do all tiles
    (3D): a sample is one hypothesis about the whole volume.

    Tiles do not agree with the whole exactly: the published upsampling aligns corners, so where it
    samples depends a little on the size of the image.

    Attributes:
        begins: share of a run that is over when each stage begins, measured on a CPU core.
        crops: False, for the prior averages over the whole image, background included.

    Args:
        network: on the device, in evaluation mode.
        batches: how the network takes a volume.
        device: the network's.
        tolerance: ends the mean field of an MRF early; 0 does not (see `networks.mrf.mean_field`).
        mrf: whether the network's MRF is used, if it has one.
    """

    begins = {RESAMPLING: 0.0, PRIOR: 0.04, UNET: 0.29, BACK: 0.98}  # noqa: RUF012
    crops = False

    def __init__(
        self,
        network: ProbabilisticUNet,
        batches: WholeVolume | Slices,
        device: torch.device,
        tolerance: float = 0.0,
        mrf: bool = True,
    ) -> None:
        self.network = network
        self.batches = batches
        self.device = device
        self.tolerance = tolerance
        self.mrf = mrf and network.mrf is not None

    @classmethod
    def sampling_begins(cls, number: int) -> dict[str, float]:
        """Return the same as `begins` for a run that draws and compares a number of samples."""
        encoding = _SAMPLES_PER_ENCODING / (_SAMPLES_PER_ENCODING + number)
        shares = {s: encoding * b for s, b in cls.begins.items() if s != BACK}
        return {**shares, SAMPLING: encoding, COUNTING: _COUNTING_BEGINS}

    def posterior(self, image: Tensor, run: Run) -> Tensor:
        """Return the class probabilities (K, *shape) at the prior's mean, on the CPU.

        Args:
            image: (C, *shape).
            run: is advanced.
        """
        images = self.batches.split(image)
        mean, _ = self._prior(images, run)

        # Not by `encode` and `decode`: the features of a whole large volume need not fit in memory.
        def compute(place: Place) -> Tensor:
            return self._log_likelihood(self._project(images[place]), mean[place[0]])

        return self._probabilities(self._assemble(compute, images, self._classes, run))

    def encode(self, image: Tensor, run: Run) -> Encoding:
        """Compute what all samples of an image (C, *shape) share."""
        images = self.batches.split(image)
        mean, scale = self._prior(images, run)
        filters = self.network.config.filters[0]
        projected = self._assemble(lambda place: self._project(images[place]), images, filters, run)
        return Encoding(projected.contiguous(), mean, scale)

    def decode(self, encoding: Encoding, epsilon: Tensor) -> Tensor:
        """Return the class probabilities (K, *shape) of the sample of epsilon (latent,)."""
        latents = encoding.mean + encoding.scale * epsilon
        return self._probabilities(self._decoded(encoding.projected, latents))

    def decode_planes(
        self, encoding: Encoding, epsilon: Tensor, box: tuple[slice, slice, slice], across: int
    ) -> Tensor:
        """Return the class probabilities (K, *box) of a few planes, for a quick look.

        An MRF takes the planes next to them to be the same as the outermost ones, and fewer
        iterations than for a sample: most of what they do is done by then (Brudfors et al., 2021).

        Args:
            encoding: of the image.
            epsilon: (latent,).
            box: of the image.
            across: the axis across the planes.
        """
        place = self.batches.place(box)
        latents = encoding.mean + encoding.scale * epsilon
        log_likelihood = self._decoded(encoding.projected[place], latents[place[0]])
        axis = self.batches.dimension(across)
        if not self.mrf or axis is None:
            return self._probabilities(log_likelihood, _QUICK_ITERATIONS)
        first, last = (log_likelihood.narrow(axis, n, 1) for n in (0, -1))
        thicker = torch.cat((first, log_likelihood, last), dim=axis)
        probabilities = self._probabilities(thicker, _QUICK_ITERATIONS)
        return probabilities.narrow(across + 1, 1, log_likelihood.shape[axis])

    @property
    def _classes(self) -> int:
        """Number of classes, the background of a sigmoid network included."""
        return max(2, self.network.config.classes)

    def _prior(self, images: Tensor, run: Run) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (B, latent) of the priors of images (B, C, *spatial).

        Whole images, for the encoder averages over them: tiles would each have another prior.
        """
        parts = images.split(self.batches.images_at_once(images.shape[2:]))
        run.begin(PRIOR)
        with run.watching(self.network.prior_encoder, len(parts)):
            priors = [self.network.prior(self._placed(part)) for part in parts]
        mean = torch.cat([p.mean for p in priors])
        scale = torch.cat([p.stddev for p in priors])
        return mean.cpu(), scale.cpu()

    def _assemble(
        self, compute: Callable[[Place], Tensor], images: Tensor, channels: int, run: Run
    ) -> Tensor:
        run.begin(UNET)
        with run.watching(self.network.unet, self.batches.passes(images)):
            return self.batches.assemble(compute, images, channels)

    def _project(self, images: Tensor) -> Tensor:
        return self.network.project(self.network.features(self._placed(images)))

    def _log_likelihood(self, projected: Tensor, z: Tensor) -> Tensor:
        """ln F (B, K, *spatial) of projected features on the device, the background included."""
        return self.network.log_likelihood(self.network.decode(projected, z.to(self.device)))

    def _decoded(self, projected: Tensor, latents: Tensor) -> Tensor:
        """ln F (B, K, *spatial) of projected features (B, F, *spatial) and latents, on the CPU."""
        log_likelihood = torch.empty(len(projected), self._classes, *projected.shape[2:])
        # f_comb sees single voxels, so parts need no overlap; lines of slices go together.
        images = max(1, _DECODED_VOXELS // projected[0, 0].numel())
        rows = max(1, _DECODED_VOXELS // projected[0, 0, 0].numel())
        batches = (t.split(images) for t in (projected, latents, log_likelihood))
        for batch, z, results in zip(*batches, strict=True):
            for part, place in zip(
                batch.split(rows, dim=2), results.split(rows, dim=2), strict=True
            ):
                place.copy_(self._log_likelihood(part.to(self.device), z))
        return log_likelihood

    def _probabilities(self, log_likelihood: Tensor, most_iterations: int | None = None) -> Tensor:
        """Class probabilities (K, *shape) of ln F (B, K, *spatial), by the MRF if there is one."""
        if not self.mrf:
            # Where tiles overlap, their mean is not normalised.
            return self.batches.join(log_likelihood.softmax(dim=1))
        config = self.network.config
        iterations = min(config.iterations, most_iterations or config.iterations)
        steps = mean_field(
            log_likelihood.to(self.device), self.network.mrf, iterations, config.w, self.tolerance
        )
        return self.batches.join(last(steps).cpu())

    def _placed(self, batch: Tensor) -> Tensor:
        return batch.to(self.device, memory_format=self.batches.layout)
