"""Means with confidence intervals over scans, and paired comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .packages import need

RESAMPLINGS = 10_000
LEVEL = 0.95
# With fewer subjects there is nothing to draw from: the interval would be their range.
_FEWEST_SUBJECTS = 3
_FEWEST_FOR_BOOTSTRAP = 10


@dataclass(frozen=True)
class Mean:
    """A mean over scans with the bounds of its 95 % confidence interval; NaN below 3 subjects."""

    value: float
    low: float
    high: float
    scans: int


def mean_of_scans(values: Sequence[float], subjects: Sequence[str]) -> Mean:
    """Return the mean over scans with its interval, of which a subject's scans count as one.

    Two scans of a brain are no two brains. The interval is the percentile bootstrap's (Efron and
    Tibshirani 1993), for which subjects are drawn, each with all its scans. Of fewer than ten
    subjects that would be too narrow: theirs is Student's, by the means of the subjects.

    Args:
        values: one a scan.
        subjects: of each scan.
    """
    values = np.asarray(values, dtype=float)
    names, subject = np.unique(np.asarray(subjects), return_inverse=True)
    mean = float(values.mean()) if len(values) else float("nan")
    if len(names) < _FEWEST_SUBJECTS:
        return Mean(mean, float("nan"), float("nan"), len(values))
    totals = np.bincount(subject, values)
    counts = np.bincount(subject)
    if len(names) < _FEWEST_FOR_BOOTSTRAP:
        stats = need("scipy.stats", "scipy", "The interval of a mean")
        error = float(np.std(totals / counts, ddof=1)) / len(names) ** 0.5
        reach = float(stats.t.ppf((1 + LEVEL) / 2, len(names) - 1)) * error
        return Mean(mean, mean - reach, mean + reach, len(values))
    drawn = np.random.default_rng(0).integers(0, len(names), (RESAMPLINGS, len(names)))
    means = totals[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Mean(mean, float(low), float(high), len(values))


@dataclass(frozen=True)
class Paired:
    """A paired comparison of two methods.

    Attributes:
        difference: mean of first minus second over scans, with its interval.
        p: two-sided p of Wilcoxon's signed-rank test; NaN if all differences are 0.
        smallest_p: the least that the test can give with so many subjects that differ.
    """

    difference: Mean
    p: float
    smallest_p: float


def paired_comparison(
    first: Sequence[float], second: Sequence[float], subjects: Sequence[str]
) -> Paired:
    """Compare two methods on the same scans, by Wilcoxon's signed-rank test over subjects.

    The scans of a subject are averaged for the test.

    Args:
        first: one value a scan.
        second: the same scans' values by the other method.
        subjects: of each scan.
    """
    stats = need("scipy.stats", "scipy", "The paired test")
    difference = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    _, subject = np.unique(np.asarray(subjects), return_inverse=True)
    by_subject = np.bincount(subject, difference) / np.bincount(subject)
    # The test drops those that do not differ. SciPy must not see them: it would approximate.
    differing = by_subject[by_subject != 0]
    p = float(stats.wilcoxon(differing).pvalue) if len(differing) else float("nan")
    smallest_p = min(1.0, 2.0 ** (1 - len(differing)))
    return Paired(mean_of_scans(difference, subjects), p, smallest_p)
