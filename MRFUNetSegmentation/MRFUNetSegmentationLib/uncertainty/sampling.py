"""Mean and variance over the samples of a Probabilistic U-Net, without keeping the samples.

Samples differ in f_comb alone, and f_comb is a network of single voxels: it has only 1x1(x1)
convolutions. So a block of a few thousand voxels goes through all layers for all samples before the
next block's turn. What lies between the layers stays in the cache and no sample ever exists as a
whole, so memory does not grow with their number.

Only the benchmark and the tests use it. The panel and the command line draw their samples through
`inference.latent_space`, which also brings each to the volume's grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..networks import ProbabilisticUNet

# Size of a hidden layer (voxels x filters) of a block: 1 MB on the CPU, which fits the cache of a
# core; elsewhere so large that starting a kernel costs nothing beside it.
_CPU_BLOCK_VALUES = 2**18
_BLOCK_VALUES = 2**27


@dataclass(frozen=True)
class SampleStatistics:
    """Moments of the class probabilities over samples.

    Their spread is aleatoric (the ambiguity of the image), not the network's own uncertainty.

    Attributes:
        mean: (B, K, *spatial).
        variance: (B, K, *spatial), the mean squared deviation from `mean`; 0 for one sample.
    """

    mean: Tensor
    variance: Tensor


@torch.no_grad()
def sample_statistics(
    network: ProbabilisticUNet, projected: Tensor, prior: Distribution, epsilon: Tensor
) -> SampleStatistics:
    """Return mean and variance of the class probabilities over samples.

    Args:
        network: decodes; in 2D or 3D, with a sigmoid or a softmax.
        projected: `network.project` of the features (B, F, *spatial).
        prior: `network.prior` of the image, over (B, latent).
        epsilon: what makes the samples differ, in standard deviations of the prior: (N, latent),
            shared by the batch, or (N, B, latent).

    Raises:
        ValueError: if `epsilon` has another shape.
    """
    batch, filters, *spatial = projected.shape
    # A vector for each sample and image: what f_comb's first layer adds to the features.
    shifts = network.f_comb.latent(_latents(prior, epsilon))
    values = _CPU_BLOCK_VALUES if projected.device.type == "cpu" else _BLOCK_VALUES
    block = max(1, values // filters)

    mean = projected.new_empty(batch, network.config.classes, *spatial)
    variance = torch.empty_like(mean)
    for image in range(batch):
        voxels = projected[image].flatten(1).t()
        means, variances = mean[image].flatten(1), variance[image].flatten(1)
        for start in range(0, len(voxels), block):
            place = slice(start, start + block)
            samples = _probabilities(network, voxels[place], shifts[:, image])
            means[:, place], variances[:, place] = _moments(samples)
    return SampleStatistics(mean, variance)


def _latents(prior: Distribution, epsilon: Tensor) -> Tensor:
    """Return the latents (N, B, latent)."""
    batch, latent = prior.mean.shape
    if epsilon.shape[1:] not in {(latent,), (batch, latent)} or not len(epsilon):
        raise ValueError(
            f"expected epsilon (samples, {latent}) or (samples, {batch}, {latent}), "
            f"got shape {tuple(epsilon.shape)}"
        )
    if epsilon.dim() == 2:
        epsilon = epsilon[:, None]
    return prior.mean + prior.stddev * epsilon


def _probabilities(network: ProbabilisticUNet, voxels: Tensor, shifts: Tensor) -> Iterator[Tensor]:
    """Yield the class probabilities (K, P) of projected voxels (P, F) for each shift (N, F)."""
    f_comb = network.f_comb
    for shift in shifts:
        x = (voxels + shift).relu_()
        for layer in f_comb.hidden:
            x = torch.addmm(layer.bias, x, layer.weight.flatten(1).t()).relu_()
        # Classes first: so the sum of a softmax runs along whole rows.
        logits = torch.addmm(f_comb.final.bias[:, None], f_comb.final.weight.flatten(1), x.t())
        yield network.probabilities(logits[None])[0]


def _moments(samples: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
    """Return mean and variance of tensors of one shape, which are overwritten.

    Computed from sums over the deviations from the first.

    No value deviates from the mean of N by more than sqrt(N - 1) standard deviations (Samuelson's
    inequality), so the first is close enough to it that nothing cancels. Two sums cost less than
    Welford's recurrence, which divides at every sample.
    """
    first = next(samples)
    total, squares, number = torch.zeros_like(first), torch.zeros_like(first), 1
    for sample in samples:
        sample -= first
        total += sample
        squares.addcmul_(sample, sample)
        number += 1
    shift = total / number
    return first + shift, (squares / number - shift * shift).clamp_(min=0)
