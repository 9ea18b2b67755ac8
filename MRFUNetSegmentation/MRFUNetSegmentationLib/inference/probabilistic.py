"""A Probabilistic U-Net on a volume: features and prior once, then any number of samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..networks import ProbabilisticUNet
from .batches import Place, Slices, WholeVolume
from .run import BACK, PRIOR, RESAMPLING, SAMPLING, UNET, Run

# A sample takes so much less than features and prior together, measured on a CPU core.
_SAMPLES_PER_ENCODING = 30
# Voxels that f_comb takes at once in a sample.
_DECODED_VOXELS = 2**16


@dataclass(frozen=True)
class Encoding:
    """What all samples of a volume share, on the CPU.

    Attributes:
        projected: (B, F, *spatial), the features after f_comb's first layer without z.
        mean: (B, latent), the prior's.
        scale: (B, latent), the prior's standard deviation.
    """

    projected: Tensor
    mean: Tensor
    scale: Tensor


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
    """

    begins = {RESAMPLING: 0.0, PRIOR: 0.04, UNET: 0.29, BACK: 0.98}  # noqa: RUF012
    crops = False

    def __init__(
        self, network: ProbabilisticUNet, batches: WholeVolume | Slices, device: torch.device
    ) -> None:
        self.network = network
        self.batches = batches
        self.device = device

    @classmethod
    def sampling_begins(cls, number: int) -> dict[str, float]:
        """Return the same as `begins` for a run that draws a number of samples."""
        encoding = _SAMPLES_PER_ENCODING / (_SAMPLES_PER_ENCODING + number)
        shares = {s: encoding * b for s, b in cls.begins.items() if s != BACK}
        return {**shares, SAMPLING: encoding}

    def posterior(self, image: Tensor, run: Run) -> Tensor:
        """Return the class probabilities (K, *shape) at the prior's mean, on the CPU.

        Args:
            image: (*shape).
            run: is advanced.
        """
        images = self.batches.split(image[None])
        mean, _ = self._prior(images, run)

        def compute(place: Place) -> Tensor:
            return self._decode(self._project(images[place]), mean[place[0]])

        return self.batches.join(self._assemble(compute, images, self._classes, run))

    def encode(self, image: Tensor, run: Run) -> Encoding:
        """Compute what all samples of an image (*shape) share."""
        images = self.batches.split(image[None])
        mean, scale = self._prior(images, run)
        filters = self.network.config.filters[0]
        projected = self._assemble(lambda place: self._project(images[place]), images, filters, run)
        return Encoding(projected, mean, scale)

    def decode(self, encoding: Encoding, epsilon: Tensor) -> Tensor:
        """Return the class probabilities (K, *shape) of the sample of epsilon (latent,)."""
        projected = encoding.projected
        latents = encoding.mean + encoding.scale * epsilon
        probabilities = torch.empty(len(projected), self._classes, *projected.shape[2:])
        # f_comb sees single voxels, so the parts need no overlap.
        rows = max(1, _DECODED_VOXELS // projected[0, 0, 0].numel())
        for image, z, result in zip(projected, latents, probabilities, strict=True):
            for part, place in zip(
                image.split(rows, dim=1), result.split(rows, dim=1), strict=True
            ):
                place.copy_(self._decode(part[None].to(self.device), z[None])[0])
        return self.batches.join(probabilities)

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

    def _decode(self, projected: Tensor, z: Tensor) -> Tensor:
        """Class probabilities (B, K, *spatial) of projected features on the device."""
        logits = self.network.decode(projected, z.to(self.device))
        return _with_background(self.network.probabilities(logits))

    def _placed(self, batch: Tensor) -> Tensor:
        return batch.to(self.device, memory_format=self.batches.layout)


def _with_background(probabilities: Tensor) -> Tensor:
    """Put the background before the one structure of a sigmoid network."""
    if probabilities.shape[1] > 1:
        return probabilities
    return torch.cat((1 - probabilities, probabilities), dim=1)
