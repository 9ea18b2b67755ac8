"""What samples say about each structure: volumes, overlaps, and what makes them differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .calibration import volume_interval

# Label maps that are held at once, bytes.
_HELD_BYTES = 2**28
# Values of a mask that are held at once. With fewer than 2**24 voxels float32 counts exactly.
_MASK_VALUES = 2**25


@dataclass(frozen=True)
class Overlaps:
    """How many voxels of a class two label maps share, for all pairs of N samples and a consensus.

    Attributes:
        shared: (K, N + 1, N + 1) float64, voxels; the consensus comes last. On the diagonals are
            the label maps' own voxels.
        in_all: (K,) voxels that all samples give the class.
        in_any: (K,) voxels that at least one sample gives the class.
    """

    shared: np.ndarray
    in_all: np.ndarray
    in_any: np.ndarray

    @classmethod
    def of(
        cls, labels: Callable[[int], np.ndarray], number: int, counts: Tensor, consensus: np.ndarray
    ) -> Overlaps:
        """Count.

        Only where not all agree the samples must be compared. They are read as often as it takes
        to hold a part of the voxels of all of them.

        Args:
            labels: returns the label map (*shape), uint8, of sample 0 .. N - 1.
            number: N.
            counts: (K, *shape), how many samples give a voxel each label.
            consensus: (*shape) uint8.
        """
        classes = len(counts)
        consensus = torch.from_numpy(consensus).flatten().long()
        counts = counts.flatten(1)
        agreed = counts.gather(0, consensus[None])[0] == number
        constant = consensus[agreed].bincount(minlength=classes).double()
        places = (~agreed).nonzero().flatten()
        shared = constant[:, None, None].expand(-1, number + 1, number + 1).clone()
        for part in places.split(max(1, _HELD_BYTES // (number + 1))):
            held = torch.empty(number + 1, len(part), dtype=torch.uint8)
            index = part.numpy()
            for n in range(number):
                held[n] = torch.from_numpy(labels(n).reshape(-1)[index])
            held[number] = consensus[part]
            for chunk in held.split(max(1, _MASK_VALUES // (number + 1)), dim=1):
                for value in range(classes):
                    mask = (chunk == value).float()
                    shared[value] += mask @ mask.T
        return cls(
            shared.numpy(),
            (counts == number).sum(1).double().numpy(),
            (counts > 0).sum(1).double().numpy(),
        )

    @property
    def number(self) -> int:
        """N, of samples."""
        return self.shared.shape[1] - 1

    def voxels(self, value: int) -> np.ndarray:
        """Return the voxels (N,) of a class in each sample."""
        return self.shared[value].diagonal()[:-1]

    def consensus_voxels(self, value: int) -> float:
        """Return the voxels of a class in the consensus."""
        return float(self.shared[value, -1, -1])

    def iou_of_all(self, value: int) -> float | None:
        """Return |voxels in all samples| / |voxels in any|, None for a class in no sample.

        Roy et al., NeuroImage 2019 (Bayesian QuickNAT) found it to go with the Dice with the truth.
        """
        return float(self.in_all[value] / self.in_any[value]) if self.in_any[value] else None

    def mean_pairwise_dice(self, value: int) -> float | None:
        """Return the mean Dice over all pairs of different samples; None for one sample.

        Two samples without the class have a Dice of 1.
        """
        if self.number < 2:
            return None
        own = self.voxels(value)
        total = own[:, None] + own[None]
        dice = _ratio(2 * self.shared[value, :-1, :-1], total)
        return float(dice[np.triu_indices(self.number, 1)].mean())

    def distance_to_consensus(self, values: Sequence[int]) -> np.ndarray:
        """Return 1 - IoU (N,) with the consensus, the mean over classes.

        A class in neither has an IoU of 1.
        """
        distances = []
        for value in values:
            shared = self.shared[value, :-1, -1]
            union = self.voxels(value) + self.consensus_voxels(value) - shared
            distances.append(1 - _ratio(shared, union))
        return np.mean(distances, axis=0)


def volume_statistics(volumes: np.ndarray) -> dict[str, float | None]:
    """Return mean, SD (N - 1), 5 and 95 % quantiles and coefficient of variation of volumes (N,).

    The quantiles are those of `calibration.volume_interval`.
    All but the mean are None for one sample, the coefficient also where the mean is 0.
    """
    mean = float(volumes.mean())
    if len(volumes) < 2:
        return {"mean": mean, "sd": None, "p5": None, "p95": None, "cv": None}
    sd = float(volumes.std(ddof=1))
    low, high = (float(q) for q in volume_interval(volumes))
    return {"mean": mean, "sd": sd, "p5": low, "p95": high, "cv": sd / mean if mean > 0 else None}


def principal_directions(
    epsilon: np.ndarray, overlaps: Overlaps, values: Sequence[int], number: int = 4
) -> list[tuple[np.ndarray, float]]:
    """Return the directions of the latent along which the segmentation changes most.

    With samples X (N, voxels x classes) of zeros and ones and X ~ epsilon W in the sense of least
    squares, they are the eigenvectors of W W'. Its entries follow from X X', which the overlaps
    are. More than twice as many samples as latent dimensions make them reliable.

    Args:
        epsilon: (N, latent), of the samples, in standard deviations of the prior.
        overlaps: of the same samples.
        values: of the structures; a positive step makes them larger together.
        number: of directions at most.

    Returns:
        Unit vectors (latent,) and their shares of the samples' variance, in falling order. Those
        of the axes, with share 0, where no two samples differ.
    """
    samples, latent = epsilon.shape
    centred = epsilon - epsilon.mean(0)
    gram = overlaps.shared[:, :-1, :-1].sum(0)
    gram = gram - gram.mean(0) - gram.mean(1)[:, None] + gram.mean()
    total = np.trace(gram) / samples
    if total <= 0:
        return [(axis, 0.0) for axis in np.eye(latent)[:number]]
    inverse = np.linalg.pinv(centred)
    shares, vectors = np.linalg.eigh(inverse @ gram @ inverse.T)
    volumes = sum(overlaps.voxels(value) for value in values)
    found = []
    for n in reversed(range(latent)):
        direction = vectors[:, n]
        if (centred @ direction) @ volumes < 0:
            direction = -direction
        found.append((direction, float(np.clip(shares[n] / total, 0, 1))))
    return found[:number]


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return part / whole, and 1 where both are 0."""
    return np.divide(part, whole, out=np.ones_like(part), where=whole > 0)
