"""Samples of a method against the segmentations of several raters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..training.metrics import dice
from ..uncertainty.calibration import (
    ReliabilityDiagram,
    normalised_cross_correlation,
    reliability_diagram,
    surroundings,
)
from ..uncertainty.disagreement import (
    EnergyDistance,
    generalised_energy_distance,
    pairwise_iou,
)
from .packages import need


@dataclass(frozen=True)
class Distances:
    """How far the first n samples are from the raters.

    Attributes:
        energy: GED^2 and its parts.
        matched_iou: Hungarian-matched IoU.
        floor: GED^2 to expect of as many further raters; NaN with one rater.
    """

    energy: EnergyDistance
    matched_iou: float
    floor: float


@dataclass(frozen=True)
class StructureScores:
    """Calibration of a structure on one scan, over all samples.

    Attributes:
        dice_of_mean: of what at least half of the samples mark with what at least half of the
            raters mark.
        reliability: of the share of samples, near what any rater or sample marks.
        single_rater: the same of each rater, whose marks count as probabilities of 0 and 1, against
            the others, all together; None with one rater.
        variance_ncc: correlation of the samples' and the raters' variance, there.
        sample_ml: (N,) volumes of the samples.
        rater_ml: (M,) volumes of the raters.
    """

    dice_of_mean: float
    reliability: ReliabilityDiagram
    single_rater: ReliabilityDiagram | None
    variance_ncc: float
    sample_ml: np.ndarray
    rater_ml: np.ndarray


@dataclass(frozen=True)
class RaterScores:
    """Scores of a method's samples on one scan.

    Attributes:
        distances: by number of samples.
        structures: by structure.
    """

    distances: dict[int, Distances]
    structures: dict[str, StructureScores]


def score_samples(
    samples: dict[str, np.ndarray],
    raters: dict[str, np.ndarray],
    spacing: tuple[float, float, float],
    numbers: Sequence[int],
    distance_mm: float,
) -> RaterScores:
    """Compare samples with raters.

    Args:
        samples: of each structure, (N, k, j, i) masks. A method without samples gives one, which
            stands for any number.
        raters: of each structure, (M, k, j, i) masks.
        spacing: voxel size along i, j, k, mm.
        numbers: of samples to compare; those above N are left out, unless N is 1. If all are, N.
        distance_mm: calibration is measured within this distance of any mark.
    """
    names = [s for s in raters if s in samples]
    classes = range(1, len(names) + 1)
    drawn = _label_maps([samples[s] for s in names])
    marked = _label_maps([raters[s] for s in names])
    distances = {}
    possible = [n for n in numbers if n <= len(drawn) or len(drawn) == 1]
    for n in possible or [len(drawn)]:
        first = drawn[:n]
        energy = generalised_energy_distance(first, marked, classes)
        distances[n] = Distances(
            energy,
            hungarian_matched_iou(first, marked, classes),
            # A method without samples stands for n of them.
            energy.floor(n) if len(marked) > 1 else float("nan"),
        )
    structures = {s: _of_structure(samples[s], raters[s], spacing, distance_mm) for s in names}
    return RaterScores(distances, structures)


def hungarian_matched_iou(
    samples: np.ndarray, raters: np.ndarray, classes: Sequence[int] = (1,)
) -> float:
    """Return the mean IoU of samples and raters under the best one-to-one assignment.

    Both sets are repeated to the least common multiple of their numbers (Kohl et al.,
    arXiv:1905.13077, appendix); classes and empty masks as in `uncertainty.disagreement`.

    Args:
        samples: (N, *spatial) label maps.
        raters: (M, *spatial) label maps.
        classes: foreground values.
    """
    optimize = need("scipy.optimize", "scipy", "The Hungarian-matched IoU")
    iou = pairwise_iou(samples, raters, classes).mean(-1)
    number = math.lcm(*iou.shape)
    iou = np.tile(iou, (number // iou.shape[0], number // iou.shape[1]))
    rows, columns = optimize.linear_sum_assignment(iou, maximize=True)
    return float(iou[rows, columns].mean())


def _of_structure(
    samples: np.ndarray,
    raters: np.ndarray,
    spacing: tuple[float, float, float],
    distance_mm: float,
) -> StructureScores:
    probability, share = samples.mean(0), raters.mean(0)
    near = surroundings((probability > 0) | (share > 0), spacing, distance_mm)
    voxel_ml = float(np.prod(spacing)) / 1000
    axes = tuple(range(1, samples.ndim))
    return StructureScores(
        dice_of_mean=dice(probability >= 0.5, share >= 0.5),
        reliability=reliability_diagram(probability, raters, near),
        single_rater=_single_rater(raters, near),
        variance_ncc=normalised_cross_correlation(
            probability * (1 - probability), share * (1 - share), near
        ),
        sample_ml=samples.sum(axes) * voxel_ml,
        rater_ml=raters.sum(axes) * voxel_ml,
    )


def _single_rater(raters: np.ndarray, near: np.ndarray) -> ReliabilityDiagram | None:
    if len(raters) < 2:
        return None
    return ReliabilityDiagram.of_all(
        reliability_diagram(rater, np.delete(raters, n, axis=0), near)
        for n, rater in enumerate(raters)
    )


def _label_maps(masks: Sequence[np.ndarray]) -> np.ndarray:
    """Return label maps of disjoint masks: 1 for the first, and so on."""
    labels = np.zeros(masks[0].shape, dtype=np.uint8)
    for value, mask in enumerate(masks, start=1):
        labels[mask] = value
    return labels
