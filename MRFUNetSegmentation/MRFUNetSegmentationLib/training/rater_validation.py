"""Scores of a network on images that several raters have marked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Generator, Tensor, nn

from ..networks import ProbabilisticUNet
from ..uncertainty.disagreement import generalised_energy_distance
from .elbo import kl_by_dimension
from .rater_data import RaterCase
from .validation import Scores, grey_tile, stacked

# Slices that go through a 2D network at once, and images in the picture.
_SLICES = 16
_PICTURES = 8
# A latent dimension with less than this is not used, nats.
_USED = 0.01


class RaterValidation:
    """Generalised energy distance between a network's samples and the raters, mean over cases.

    On the network's grid, with the convention for empty masks of `uncertainty.disagreement`; it
    depends on the number of samples and of raters, so compare only what was computed alike. A
    network that does not sample counts as one that gives the same sample always. The selection is
    minus GED^2.

    Args:
        cases: held-out images.
        samples: number of samples of each.
        classes: K, the background included.
        device: where to compute.
    """

    def __init__(
        self,
        cases: Sequence[RaterCase],
        samples: int,
        classes: int,
        device: torch.device,
    ) -> None:
        self.cases = cases
        self.samples = samples
        self.foreground = range(1, classes)
        self.device = device

    @property
    def basis(self) -> list[str]:
        """What it scores by; see `Validation`."""
        cases = [f"{c.name} {tuple(c.masks.shape)} {int((c.masks > 0).sum())}" for c in self.cases]
        return [f"{self.samples} samples", *cases]

    @torch.no_grad()
    def __call__(self, network: nn.Module) -> Scores:
        """Return the scores of a network."""
        rng = Generator().manual_seed(0)  # the same latents at every validation
        distances, rows, kl = [], [], []
        for case in self.cases:
            samples, raters = self._samples(network, case, rng), case.masks.numpy()
            distances.append(generalised_energy_distance(samples, raters, self.foreground))
            if len(rows) < _PICTURES:
                rows.append(_row(case, samples))
            if isinstance(network, ProbabilisticUNet):
                kl.append(self._kl(network, case))
        number = "1 sample" if self.samples == 1 else f"{self.samples} samples"
        metrics = {
            f"GED^2, {number}": _mean(d.squared for d in distances),
            "distance of a sample and a rater": _mean(d.between for d in distances),
        }
        if self.samples > 1:
            metrics["distance of two samples"] = _mean(d.two_samples for d in distances)
        if several := [d for d in distances if d.raters > 1]:
            metrics["distance of two raters"] = _mean(d.two_raters for d in several)
            metrics["GED^2 to expect of further raters"] = _mean(
                d.floor(self.samples) for d in several
            )
            # Less, where the same experts have marked all images: then they can be learnt by heart.
            metrics["GED^2 to expect of the same raters"] = _mean(
                d.rater_diversity / self.samples for d in several
            )
        if kl:
            mean = torch.stack(kl).mean(0)
            metrics["KL, nats"] = round(float(mean.sum()), 4)
            metrics["latent dimensions in use"] = int((mean > _USED).sum())
        return Scores(-_mean(d.squared for d in distances), metrics, stacked(rows))

    def _samples(self, network: nn.Module, case: RaterCase, rng: Generator) -> np.ndarray:
        """Return label maps (N, B, *spatial) uint8; all slices of a case share the latent."""
        probabilistic = isinstance(network, ProbabilisticUNet)
        latents = [None] * self.samples
        if probabilistic:
            latents = torch.randn(self.samples, network.config.latent, generator=rng)
        samples = np.empty((self.samples, *case.masks.shape[1:]), np.uint8)
        for part, images in self._portions(case):
            decode = _decoder(network, images)
            for number, epsilon in enumerate(latents):
                if number and not probabilistic:
                    samples[number, part] = samples[0, part]
                    continue
                samples[number, part] = decode(epsilon).argmax(1).to(torch.uint8).cpu().numpy()
        return samples

    def _kl(self, network: ProbabilisticUNet, case: RaterCase) -> Tensor:
        """Return the KL term of each latent dimension, mean over slices and raters."""
        total = torch.zeros(network.config.latent)
        for part, images in self._portions(case):
            raters = [masks[part].to(self.device) for masks in case.masks]
            total += kl_by_dimension(network, images, raters).cpu() * len(images)
        return total / len(case.images)

    def _portions(self, case: RaterCase) -> Iterator[tuple[slice, Tensor]]:
        for first in range(0, len(case.images), _SLICES):
            part = slice(first, first + _SLICES)
            yield part, case.images[part].to(self.device)


def _decoder(network: nn.Module, images: Tensor):
    """Return what gives the log-probabilities (B, K, *spatial) of images for an epsilon."""
    if not isinstance(network, ProbabilisticUNet):
        return lambda epsilon: network.log_posterior(network.logits(images))
    prior = network.prior(images)
    projected = network.project(network.features(images))

    def decode(epsilon: Tensor) -> Tensor:
        z = prior.mean + prior.stddev * epsilon.to(images.device)
        return network.log_posterior(network.decode(projected, z))

    return decode


def _mean(values) -> float:
    return round(float(np.mean(list(values))), 4)


def _row(case: RaterCase, samples: np.ndarray) -> list[np.ndarray]:
    """Return tiles: the image, then the share of raters and of samples that mark each voxel."""
    marked = case.masks.numpy() > 0
    # The slice with most of it; of a volume, the plane across its last axis.
    image = case.images[:, case.images.shape[1] // 2].numpy()  # without its neighbours
    raters, drawn = marked.mean(0), (samples > 0).mean(0)
    if image.ndim == 4:
        image, raters, drawn = (np.moveaxis(x[0], -1, 0) for x in (image, raters, drawn))
    index = int(raters.sum((1, 2)).argmax())
    # Upright in the axial plane: right, anterior becomes rows from the front.
    return [grey_tile(np.flipud(x[index].T)) for x in (image, raters, drawn)]
