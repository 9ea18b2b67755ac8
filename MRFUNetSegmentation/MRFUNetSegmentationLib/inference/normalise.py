"""Intensity normalisation, the same in training and at inference."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checkpoints.card import PERCENTILES
from .grid import ModelGrid

# Percentiles of a regular subset differ from the full volume's by less than any scan from its
# repetition, and stay fast on the largest volumes.
SUBSET = 500_000
# Padding: a smallest value that so large a share of the voxels has, and that lies below the next
# one by so much of the range of all others.
_PADDING_SHARE = 0.002
_PADDING_DISTANCE = 0.25
# Outliers: what lies further outside of these percentiles than so many times their distance.
_OUTLIER_PERCENTILES = (1.0, 99.0)
_OUTLIER_DISTANCE = 100.0
# A constant background among the grey values: one value of so large a share of the outermost faces,
# within these percentiles of the others.
_BACKGROUND_SHARE = 0.5
_BACKGROUND_PERCENTILES = (5.0, 95.0)
# By how much interpolation may change a constant among values of 0..1.
_ROUNDING = 1e-6


def normalised(array: np.ndarray, grid: ModelGrid, normalisation: dict[str, Any]) -> Tensor:
    """Bring an image to the network's grid and the card's range of intensities.

    The only way from the values of a file to what a network sees, in training too.

    Args:
        array: [k, j, i], of real numbers, finite.
        grid: the network's.
        normalisation: as of `InputSpec`.

    Returns:
        A float32 tensor of the grid's shape; 0 everywhere if all values are the same.
    """
    if normalisation["method"] == "none":
        return grid.to_model(array)
    if normalisation["method"] == "window":
        low, high = normalisation["window"]
        unit = torch.from_numpy(array.astype(np.float64))
        unit = unit.sub_(low).div_(high - low).clamp_(0, 1)
        return grid.to_model(unit.numpy())
    # To 0..1 first: 64-bit integers and doubles need not fit float32. By torch, so that a
    # cancelled run ends in between.
    array = without_outliers(array.astype(np.float64))
    unit = torch.from_numpy(without_padding(with_darkest_background(array)))
    smallest = torch.finfo(unit.dtype).tiny
    unit /= unit.abs().max().clamp_min(smallest)
    unit -= unit.min()
    unit /= unit.max().clamp_min(smallest)
    options = {k: v for k, v in normalisation.items() if k != "method"}
    return percentile_normalise(grid.to_model(unit.numpy()), **options)


def without_outliers(array: np.ndarray) -> np.ndarray:
    """Return a volume (k, j, i) of float64 with the nearest others in the place of outliers.

    Some programs mark a few voxels with a number like -3.4e38. Beside it all others would be one
    value in float32.
    """
    values = array.reshape(-1)[:: max(1, array.size // SUBSET)]
    unique, counts = np.unique(values, return_counts=True)
    # Neither the background nor what may be padding says how grey values are spread.
    others = values[(values != unique[counts.argmax()]) & (values != unique[0])]
    if not others.size:
        return array
    lower, upper = np.percentile(others, _OUTLIER_PERCENTILES)
    margin = _OUTLIER_DISTANCE * (upper - lower)
    if margin == 0 or not np.isfinite(margin):
        return array
    low, high = array < lower - margin, array > upper + margin
    if not (low.any() or high.any()):
        return array
    inside = array[~(low | high)]
    return np.where(low, inside.min(), np.where(high, inside.max(), array))


def with_darkest_background(array: np.ndarray) -> np.ndarray:
    """Return a volume (k, j, i) with the smallest value in the place of a background among them.

    A skull-stripped brain whose grey values were brought to a mean of 0 lies in zeros: to a network
    the background would be as bright as the brain.
    """
    # Where few slices were taken, the first and the last show the head.
    longest = np.argsort(array.shape)[-2:]
    faces = np.concatenate([array.take((0, -1), axis).reshape(-1) for axis in longest])
    unique, counts = np.unique(faces, return_counts=True)
    background = unique[counts.argmax()]
    if counts.max() <= _BACKGROUND_SHARE * faces.size:
        return array
    values = array.reshape(-1)[:: max(1, array.size // SUBSET)]
    others = values[values != background]
    if not others.size:
        return array
    low, high = np.percentile(others, _BACKGROUND_PERCENTILES)
    return np.where(array == background, array.min(), array) if low < background < high else array


def without_padding(array: np.ndarray) -> np.ndarray:
    """Return a volume (k, j, i) with the smallest other value in the place of padding.

    Scanners and programs fill what they have not measured, with -1000 or -32768 say. As grey values
    they would press all others together.
    """
    values = array.reshape(-1)[:: max(1, array.size // SUBSET)]
    smallest = array.min()
    others = values[values > smallest]
    if not others.size or 1 - others.size / values.size < _PADDING_SHARE:
        return array
    lowest, highest = (float(v) for v in (others.min(), others.max()))
    # Of two values neither is padding: without it the volume would show nothing.
    if lowest == highest or lowest - float(smallest) <= _PADDING_DISTANCE * (highest - lowest):
        return array
    return np.where(array == smallest, others.min(), array)


def percentile_normalise(
    image: Tensor,
    low: float = PERCENTILES[0],
    high: float = PERCENTILES[1],
    subset: int = SUBSET,
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
    # Where a few voxels are darker than the background, that is not 0, and interpolation rounds it.
    foreground = values[(values - unique[counts.argmax()]).abs() > _ROUNDING]
    if foreground.numel() < 2:
        foreground = values
    bounds = torch.quantile(foreground, torch.tensor([low, high], device=image.device) / 100)
    lower, upper = bounds[0], bounds[1]
    if upper <= lower:
        lower, upper = image.min(), image.max()
    # A constant image, as a training crop beside the head may be, becomes 0.
    smallest = torch.finfo(image.dtype).tiny
    return ((image - lower) / (upper - lower).clamp_min(smallest)).clamp(0, 1)
