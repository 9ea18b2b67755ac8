"""Whether probabilities, volume intervals and maps of variance say what raters do."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk


@dataclass(frozen=True)
class ReliabilityDiagram:
    """How often raters mark what is marked with a certain probability.

    Diagrams of several cases are added up with `+` or `of_all`.

    Attributes:
        edges: (bins + 1,) bounds of the bins of probability; a value on a bound is of the upper
            bin, 1 of the last.
        counts: (bins,) number of voxels.
        predicted: (bins,) sum of their probabilities.
        observed: (bins,) sum of the share of raters that mark them.
    """

    edges: np.ndarray
    counts: np.ndarray
    predicted: np.ndarray
    observed: np.ndarray

    def __add__(self, other: ReliabilityDiagram) -> ReliabilityDiagram:
        if not np.array_equal(self.edges, other.edges):
            raise ValueError("diagrams of other bins cannot be added")
        return ReliabilityDiagram(
            self.edges,
            self.counts + other.counts,
            self.predicted + other.predicted,
            self.observed + other.observed,
        )

    @classmethod
    def of_all(cls, diagrams: Iterable[ReliabilityDiagram]) -> ReliabilityDiagram:
        """Return the diagram of several together, at least one."""
        return functools.reduce(operator.add, diagrams)

    @property
    def confidence(self) -> np.ndarray:
        """(bins,) mean probability, NaN in empty bins: the diagram's abscissa."""
        return _ratio(self.predicted, self.counts)

    @property
    def frequency(self) -> np.ndarray:
        """(bins,) mean share of raters, NaN in empty bins: the diagram's ordinate."""
        return _ratio(self.observed, self.counts)

    @property
    def expected_calibration_error(self) -> float:
        """Mean distance of frequency and confidence, weighted by the bins' voxels.

        Naeini et al., AAAI 2015, of the probability of one class (not of the likeliest class, as
        Guo et al., ICML 2017, use it for classifiers). NaN without voxels.
        """
        total = self.counts.sum()
        if not total:
            return float("nan")
        return float(np.abs(self.observed - self.predicted).sum() / total)


def reliability_diagram(
    probability: np.ndarray,
    raters: np.ndarray,
    mask: np.ndarray | None = None,
    bins: int = 10,
) -> ReliabilityDiagram:
    """Count how often raters mark voxels, by their probability.

    Args:
        probability: (*spatial) of a class, 0..1.
        raters: (M, *spatial) bool, the class as each rater marks it.
        mask: (*spatial) bool, the voxels to count; all if None. A structure that fills a
            thousandth of the image makes any method look calibrated where there is none of it:
            restrict to its surroundings, see `surroundings`.
        bins: of equal width.

    Raises:
        ValueError: if shapes do not fit or a probability is outside 0..1.
    """
    probability, raters = np.asarray(probability, dtype=float), np.asarray(raters, dtype=bool)
    if raters.shape[1:] != probability.shape or not len(raters):
        raise ValueError(
            f"expected raters (M, {', '.join(map(str, probability.shape))}), got {raters.shape}"
        )
    share = raters.mean(0)
    if mask is not None:
        probability, share = probability[mask], share[mask]
    probability, share = probability.ravel(), share.ravel()
    if probability.size and not (probability.min() >= 0 and probability.max() <= 1):
        raise ValueError("probabilities must lie in 0..1")
    bin_of = np.minimum((probability * bins).astype(int), bins - 1)
    return ReliabilityDiagram(
        edges=np.linspace(0, 1, bins + 1),
        counts=np.bincount(bin_of, minlength=bins),
        predicted=np.bincount(bin_of, probability, minlength=bins),
        observed=np.bincount(bin_of, share, minlength=bins),
    )


def surroundings(mask: np.ndarray, spacing: tuple[float, ...], distance: float) -> np.ndarray:
    """Return the voxels within a distance of a mask, the mask included.

    Args:
        mask: bool; axes [k, j, i], or [j, i].
        spacing: voxel size, mm, in SimpleITK's order (i, j, k).
        distance: mm, between centres of voxels.
    """
    if not mask.any():
        return np.zeros_like(mask, dtype=bool)
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing(spacing)
    # Zero on voxels of the mask, positive outside of it.
    far = sitk.DanielssonDistanceMap(image, inputIsBinary=True, useImageSpacing=True)
    return sitk.GetArrayFromImage(far) <= distance + 1e-4


def volume_interval(volumes: np.ndarray, level: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds of the central interval of volumes over samples.

    A further sample lies within it with the stated probability (Weibull's plotting positions,
    k / (N + 1)). The usual interpolation is narrower: of a normal distribution 81 % lie between
    what it takes, with 16 samples, for the 5th and the 95th percentile. Fewer than 19 samples reach
    90 % in no way: there it is from the least to the largest, which holds (N - 1) / (N + 1).

    Args:
        volumes: (..., N) of N samples.
        level: share of the distribution within; 0.9 is from the 5th to the 95th percentile.

    Returns:
        lower and upper bounds, each (...).
    """
    if not 0 < level < 1:
        raise ValueError(f"the level must lie between 0 and 1, not {level}")
    bounds = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(volumes, bounds, axis=-1, method="weibull")
    return low, high


def interval_coverage(samples: np.ndarray, raters: np.ndarray, level: float = 0.9) -> float:
    """Return the share of raters' volumes that lie in the interval of the samples' volumes.

    Args:
        samples: (cases, N) volumes of each case's N samples.
        raters: (cases, M) volumes of each case's M raters; NaN where a case has fewer.
        level: of the interval; a calibrated model covers that share.
    """
    low, high = volume_interval(np.asarray(samples, dtype=float), level)
    raters = np.asarray(raters, dtype=float)
    # A volume on a bound is inside, whatever interpolation rounds the bound to.
    low, high = (low - 1e-9 * np.abs(low))[:, None], (high + 1e-9 * np.abs(high))[:, None]
    inside = (raters >= low) & (raters <= high)
    return float(inside.sum() / np.isfinite(raters).sum())


def normalised_cross_correlation(
    a: np.ndarray, b: np.ndarray, mask: np.ndarray | None = None
) -> float:
    """Return the normalised cross-correlation (zero shift, means removed) of two maps, -1..1.

    Args:
        a: a map, such as the variance over samples.
        b: a map of the same shape, such as the variance over raters.
        mask: bool, the voxels to count; all if None.

    Returns:
        NaN if one of the maps is constant.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.shape != b.shape:
        raise ValueError(f"expected two maps of one shape, got {a.shape} and {b.shape}")
    if mask is not None:
        a, b = a[mask], b[mask]
    if not a.size:
        return float("nan")
    # Rounding may leave something of a constant map when its mean is removed.
    if a.min() == a.max() or b.min() == b.max():
        return float("nan")
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def _ratio(total: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.divide(total, counts, out=np.full(len(counts), np.nan), where=counts > 0)
