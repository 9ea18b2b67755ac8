"""How two sets of segmentations differ: plausible ones by a model, and those of several raters.

Everything follows from the intersection over union (IoU) of a class in two segmentations, with the
convention of PHiSeg (Baumgartner et al., MICCAI 2019) and Stochastic Segmentation Networks
(Monteiro et al., NeurIPS 2020) for empty masks: IoU is 1 where the class is in neither of the two,
and 0 where it is in one alone. The foreground classes are averaged; the background is left out.
Other conventions give other figures: name this one next to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Voxels of all segmentations counted at once. float32 counts exactly up to 2**24.
_CHUNK = 2**20


@dataclass(frozen=True)
class EnergyDistance:
    """Parts of the generalised energy distance between samples S and raters' segmentations Y.

    d is `iou_distance`. Means are over all pairs, those of a segmentation with itself included
    (Kohl et al., NeurIPS 2018, section 3): so GED^2 is above zero even for two sets drawn from one
    distribution, the less the more there are. Judge it against that floor.

    Attributes:
        between: E d(S, Y).
        sample_diversity: E d(S, S').
        rater_diversity: E d(Y, Y').
        samples: N, how many S there are.
        raters: M, how many Y there are.
    """

    between: float
    sample_diversity: float
    rater_diversity: float
    samples: int
    raters: int

    @property
    def squared(self) -> float:
        """GED^2 = 2 E d(S, Y) - E d(S, S') - E d(Y, Y')."""
        return 2 * self.between - self.sample_diversity - self.rater_diversity

    @property
    def two_samples(self) -> float | None:
        """E d of two different samples; None of one.

        To be compared with `between`, as the diversities, which hold N or M zeros, are not: where
        samples are drawn as a further rater would mark, given what the image shows, the two are
        alike.
        """
        return _of_different(self.sample_diversity, self.samples)

    @property
    def two_raters(self) -> float | None:
        """E d of two different raters; None of one."""
        return _of_different(self.rater_diversity, self.raters)

    def floor(self, number: int) -> float:
        """Return the GED^2 to expect of `number` further raters of the same kind as the raters.

        For independent draws E d(S, Y) is the mean distance of two different raters, and the means
        that include each segmentation with itself are (n - 1) / n of it. So for n raters against m

            E GED^2 = (1 / n + 1 / m) E d(Y, Y'), Y and Y' different.

        A model that draws as raters do comes to this. It is what to compare with, not a bound: a
        single sample in the middle of the raters is nearer to them than another rater is.

        Raises:
            ValueError: if there is only one rater: nothing is known of how raters differ.
        """
        if self.two_raters is None:
            raise ValueError("the floor needs at least 2 raters")
        return (1 / number + 1 / self.raters) * self.two_raters


def _of_different(diversity: float, number: int) -> float | None:
    return diversity * number / (number - 1) if number > 1 else None


def generalised_energy_distance(
    samples: np.ndarray, raters: np.ndarray, classes: Sequence[int] = (1,)
) -> EnergyDistance:
    """Return the generalised energy distance of two sets of segmentations of one image.

    Args:
        samples: (N, *spatial) label maps.
        raters: (M, *spatial) label maps.
        classes: foreground values.
    """
    return EnergyDistance(
        between=float(iou_distance(samples, raters, classes).mean()),
        sample_diversity=float(iou_distance(samples, samples, classes).mean()),
        rater_diversity=float(iou_distance(raters, raters, classes).mean()),
        samples=len(samples),
        raters=len(raters),
    )


def iou_distance(a: np.ndarray, b: np.ndarray, classes: Sequence[int] = (1,)) -> np.ndarray:
    """Return (N, M) distances 1 - IoU, mean over classes; arguments as of `pairwise_iou`."""
    return 1 - pairwise_iou(a, b, classes).mean(-1)


def pairwise_iou(a: np.ndarray, b: np.ndarray, classes: Sequence[int] = (1,)) -> np.ndarray:
    """Return the IoU of every class in every pair of segmentations.

    Args:
        a: (N, *spatial) label maps (integers or bool).
        b: (M, *spatial) label maps.
        classes: foreground values.

    Returns:
        (N, M, classes) float64.

    Raises:
        ValueError: if the shapes do not fit, a set is empty or no class is named.
    """
    a, b = np.asarray(a), np.asarray(b)
    if a.shape[1:] != b.shape[1:] or not (len(a) and len(b)):
        raise ValueError(
            f"expected two sets of label maps of one shape, got {a.shape} and {b.shape}"
        )
    if not len(classes):
        raise ValueError("no foreground class is named")
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    return np.stack([_iou_of_masks(a == c, b == c) for c in classes], axis=-1)


def _iou_of_masks(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return (N, M) IoU of masks (N, V) and (M, V)."""
    somewhere = a.any(0) | b.any(0)  # other voxels are in no intersection and no union
    a, b = a[:, somewhere], b[:, somewhere]
    intersection = np.zeros((len(a), len(b)))
    for start in range(0, a.shape[1], _CHUNK):
        chunk = slice(start, start + _CHUNK)
        # A product of matrices: many times faster than pair by pair.
        intersection += a[:, chunk].astype(np.float32) @ b[:, chunk].T.astype(np.float32)
    union = a.sum(1)[:, None] + b.sum(1)[None] - intersection
    return np.divide(intersection, union, out=np.ones_like(intersection), where=union > 0)
