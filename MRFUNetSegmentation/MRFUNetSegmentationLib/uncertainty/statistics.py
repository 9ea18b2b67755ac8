"""Statistics of class probabilities: over samples as they stream by, or of one posterior.

Nothing here grows with the number of samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

# Of nats.
_BITS = 1 / math.log(2)


class MostProbable:
    """Finds the most probable class of each voxel, one class after the other.

    Of classes that are equally probable the first one counts.

    Attributes:
        labels: (*shape) uint8, the classes' values.
    """

    def __init__(self) -> None:
        self.labels: Tensor | None = None
        self._best: Tensor | None = None

    def take(self, value: int, probability: Tensor) -> None:
        """Take into account the probabilities (*shape) of a class."""
        if self.labels is None:
            self._best = probability.clone()
            self.labels = torch.full(probability.shape, value, dtype=torch.uint8)
        else:
            self.labels.masked_fill_(probability > self._best, value)
            torch.maximum(self._best, probability, out=self._best)


def most_probable(probabilities: Iterable[Tensor]) -> Tensor:
    """Return the most probable class (*shape), uint8, of probabilities (*shape) of class 0, 1, …

    Several times faster than argmax across classes. Of equally probable ones the first counts.
    """
    winner = MostProbable()
    for value, probability in enumerate(probabilities):
        winner.take(value, probability)
    return winner.labels


class RunningStatistics:
    """What samples say together at each voxel, updated sample by sample.

    Kendall and Gal, NeurIPS 2017 (arXiv 1703.04977), name the entropies; here they are over samples
    of plausible segmentations, so that their difference, the mutual information between label and
    latent, is the disagreement among these and not the network's ignorance.

    Attributes:
        number: N, of samples so far.
        mean: (K, *shape), the mean probability of each class.
        counts: (K, *shape) int16, how many samples give a voxel each label.

    Args:
        classes: K, at most 256.
        shape: of a sample.
    """

    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        self.number = 0
        self.mean = torch.zeros(classes, *shape)
        self.counts = torch.zeros(classes, *shape, dtype=torch.int16)
        self._squares = torch.zeros(shape)
        self._entropy = torch.zeros(shape)

    def add(self, probabilities: Iterable[Tensor]) -> Tensor:
        """Take a sample into account and return its labels.

        Args:
            probabilities: (*shape) of class 0, 1, …; they sum to 1. They may be computed one after
                the other and are not kept.

        Returns:
            (*shape) uint8, the most probable class.
        """
        self.number += 1
        winner = MostProbable()
        for value, p in enumerate(probabilities):
            winner.take(value, p)
            self._entropy += torch.special.entr(p)
            # Welford's recurrence: nothing cancels where the samples agree almost.
            deviation = p - self.mean[value]
            self.mean[value].add_(deviation, alpha=1 / self.number)
            self._squares.addcmul_(deviation, deviation, value=1 - 1 / self.number)
        for value, count in enumerate(self.counts):
            count += winner.labels == value
        return winner.labels

    @property
    def variance(self) -> Tensor:
        """Half the sum of the classes' variances of probability, the mean squared deviations.

        (*shape), at most (1 - 1/K) / 2. For two classes it is the variance of either's.
        """
        return self._squares / (2 * self.number)

    @property
    def entropy(self) -> Tensor:
        """H[E p] (*shape), of the mean probabilities, bit; at most log2 K."""
        return entropy(self.mean)

    @property
    def expected_entropy(self) -> Tensor:
        """E H[p] (*shape), the mean of the samples' entropies, bit; at most log2 K."""
        return self._entropy * (_BITS / self.number)

    @property
    def mutual_information(self) -> Tensor:
        """H[E p] - E H[p] (*shape), bit; at most log2 K."""
        return (self.entropy - self.expected_entropy).clamp_(min=0)  # rounding can make it negative

    @property
    def agreement(self) -> Tensor:
        """Share of the samples that have the most frequent label (*shape), 1/K to 1."""
        return self.counts.amax(0) / self.number


def entropy(probabilities: Iterable[Tensor]) -> Tensor:
    """Return the entropy (*shape), bit, of the probabilities (*shape) of class 0, 1, …."""
    return sum(torch.special.entr(p) for p in probabilities) * _BITS


def label_variance(probabilities: Iterable[Tensor]) -> Tensor:
    """Return half the sum of the variances p (1 - p) of the classes' indicators (*shape).

    It is what `RunningStatistics.variance` tends to for labels that are drawn from a posterior.

    Args:
        probabilities: (*shape) of class 0, 1, ….
    """
    return sum(p * (1 - p) for p in probabilities) / 2
