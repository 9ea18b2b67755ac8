"""A Probabilistic U-Net on a volume: features and prior once, then any number of hypotheses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..networks import ProbabilisticUNet
from .batches import Slices, WholeVolume
from .run import DECODING, UNET, Run


@dataclass(frozen=True)
class Encoding:
    """What is computed once for a volume, on the CPU.

    Attributes:
        projected: (B, F, *spatial), features as f_comb's first layer sees them.
        mean: (B, latent), the prior's.
        scale: (B, latent), the prior's standard deviation.
    """

    projected: Tensor
    mean: Tensor
    scale: Tensor


class ProbabilisticPredictor:
    """Class probabilities of a volume on the network's grid, for any latent.

    Every hypothesis has one epsilon, the latent in units of the prior's standard deviation. All
    slices of a volume (2D) and all its tiles (3D) share it, so that a sample is one hypothesis
    about the whole volume, though each slice has its own prior.

    Args:
        network: on the device, in evaluation mode.
        batches: how the network takes a volume.
        device: the network's.
    """

    def __init__(
        self, network: ProbabilisticUNet, batches: WholeVolume | Slices, device: torch.device
    ) -> None:
        self.network = network
        self.batches = batches
        self.device = device

    def posterior(self, image: Tensor, run: Run) -> Tensor:
        """Return the class probabilities (K, *shape) at the prior's mean of an image (*shape)."""
        encoding = self.encode(image, run)
        run.begin(DECODING)
        return self.decode(encoding, torch.zeros(self.network.config.latent), run)

    def encode(self, image: Tensor, run: Run) -> Encoding:
        """Compute features and prior of an image (*shape)."""
        images = self.batches.split(image[None])
        run.begin(UNET)
        projected = self.batches.apply(
            lambda x: self.network.project(self.network.features(self._placed(x))),
            images,
            self.network.config.filters[0],
            self.network.unet,
            run,
        )
        mean, scale = [], []
        # The prior averages over a whole image: tiles would each have another.
        for one in images.split(1):
            run.check()
            prior = self.network.prior(self._placed(one))
            mean.append(prior.mean.cpu())
            scale.append(prior.stddev.cpu())
        return Encoding(projected, torch.cat(mean), torch.cat(scale))

    def decode(self, encoding: Encoding, epsilon: Tensor, run: Run) -> Tensor:
        """Return the class probabilities (K, *shape) of a hypothesis, epsilon (latent,)."""
        z = encoding.mean + encoding.scale * epsilon
        probabilities = []
        for projected, latent in zip(encoding.projected.split(1), z.split(1), strict=True):
            run.check()
            logits = self.network.decode(projected.to(self.device), latent.to(self.device))
            probabilities.append(_with_background(self.network.probabilities(logits)).cpu())
        return self.batches.join(torch.cat(probabilities))

    def _placed(self, batch: Tensor) -> Tensor:
        return batch.to(self.device, memory_format=self.batches.layout)


def _with_background(probabilities: Tensor) -> Tensor:
    """Put the background before the one structure of a sigmoid network."""
    if probabilities.shape[1] > 1:
        return probabilities
    return torch.cat((1 - probabilities, probabilities), dim=1)
