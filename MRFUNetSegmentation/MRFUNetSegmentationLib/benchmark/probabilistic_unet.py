"""Probabilistic U-Net with default settings against the published PyTorch port's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ..checkpoints.convert import probunet_pytorch
from ..networks import ProbabilisticUNet, ProbabilisticUNetConfig
from ..uncertainty.sampling import sample_statistics
from .measure import Row, compare

Moments = tuple[Tensor, Tensor]


@torch.inference_mode()
def benchmark_probabilistic_unet(
    upstream_class: type[nn.Module] | None,
    shape: Sequence[int],
    samples: Sequence[int],
    repeats: int,
) -> Iterator[Row]:
    """Measure what is common to all samples, then mean and variance over samples.

    Args:
        upstream_class: the port's `ProbabilisticUnet`; None to measure ours alone.
        shape: number of slices, and rows and columns of a slice.
        samples: numbers of samples.
        repeats: timed calls of each.
    """
    torch.manual_seed(0)
    upstream, network = _networks(upstream_class)
    network = network.eval().to(memory_format=torch.channels_last)
    slices, *size = shape
    image = torch.randn(slices, 1, *size)
    ours_image = image.contiguous(memory_format=torch.channels_last)

    def upstream_encode() -> Tensor:
        upstream(image, None, training=False)
        return upstream.unet_features

    def encode() -> Tensor:
        network.prior(ours_image)
        return network.features(ours_image)

    prior = network.prior(ours_image)
    features = network.features(ours_image)
    yield compare(
        "U-Net and prior",
        upstream_encode if upstream else None,
        encode,
        repeats,
        lambda theirs, ours: f"largest {_largest(theirs, ours):.1e}",
    )
    for number in samples:
        epsilon = torch.randn(number, network.config.latent)

        def upstream_moments(epsilon: Tensor = epsilon) -> Moments:
            z = prior.mean + prior.stddev * epsilon[:, None]
            stack = torch.stack([upstream.fcomb(upstream.unet_features, x).sigmoid() for x in z])
            return stack.mean(0), stack.var(0, unbiased=False)

        def moments(epsilon: Tensor = epsilon) -> Moments:
            statistics = sample_statistics(network, network.project(features), prior, epsilon)
            return statistics.mean, statistics.variance

        yield compare(
            f"mean and variance of {number} sample{'s' * (number > 1)}",
            upstream_moments if upstream else None,
            moments,
            repeats,
            _difference,
        )


def _networks(upstream_class: type[nn.Module] | None) -> tuple[nn.Module | None, ProbabilisticUNet]:
    """Return upstream's network and ours with the same random weights."""
    if upstream_class is None:
        return None, ProbabilisticUNet(ProbabilisticUNetConfig())
    upstream = upstream_class().eval()
    return upstream, probunet_pytorch.convert(upstream.state_dict(), {})


def _difference(theirs: Moments, ours: Moments) -> str:
    mean, variance = (_largest(a, b) for a, b in zip(theirs, ours, strict=True))
    return f"largest {mean:.1e} of the mean, {variance:.1e} of the variance"


def _largest(theirs: Tensor, ours: Tensor) -> float:
    return (theirs - ours).abs().max().item()
