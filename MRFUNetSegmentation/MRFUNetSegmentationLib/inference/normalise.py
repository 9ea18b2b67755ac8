"""Intensity normalisation, the same in training and at inference."""

from __future__ import annotations

import torch
from torch import Tensor

# Percentiles of a regular subset differ from the full volume's by less than any scan from its
# repetition, and stay fast on the largest volumes.
SUBSET = 500_000


def percentile_normalise(
    image: Tensor, low: float = 0.5, high: float = 99.5, subset: int = SUBSET
) -> Tensor:
    """Map the `low` and `high` percentiles of a volume to 0 and 1 and clip what lies outside.

    The most frequent value (the constant background of skull-stripped or padded volumes) does
    not count for the percentiles, so that the amount of background does not matter.

    Args:
        image: float tensor (*spatial), finite.
        low: lower percentile, 0..100.
        high: upper percentile, 0..100.
        subset: about how many voxels to look at.
    """
    values = image.flatten()
    values = values[:: max(1, values.numel() // subset)]
    unique, counts = values.unique(return_counts=True)
    foreground = values[values != unique[counts.argmax()]]
    if foreground.numel() < 2:
        foreground = values
    bounds = torch.quantile(foreground, torch.tensor([low, high], device=image.device) / 100)
    lower, upper = bounds[0], bounds[1]
    if upper <= lower:
        lower, upper = image.min(), image.max()
    # A constant image, as a training crop beside the head may be, becomes 0.
    smallest = torch.finfo(image.dtype).tiny
    return ((image - lower) / (upper - lower).clamp_min(smallest)).clamp(0, 1)
