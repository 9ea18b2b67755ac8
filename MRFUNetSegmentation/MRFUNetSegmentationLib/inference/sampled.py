"""What sampling a volume gives: plausible segmentations and what they say together.

Needs neither torch nor the model, so that it can be used in the process of an application.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..checkpoints.card import ModelCard
from ..errors import InputError
from .label_maps import decompress
from .volume import Geometry

MAXIMUM_SAMPLES = 1000
# Samples that an interval of 90 % takes: with fewer it is from the least to the largest.
FEWEST_FOR_INTERVAL = 19
CONSENSUS_METHODS = ("mean", "majority", "staple")
# Names of the maps; that of a class's mean probability ends with the class's value.
VARIANCE, ENTROPY, EXPECTED_ENTROPY, MUTUAL_INFORMATION, AGREEMENT = (
    "variance",
    "entropy",
    "expected_entropy",
    "mutual_information",
    "agreement",
)
PROBABILITY = "probability_"
# For legends and reports. The samples' spread is the ambiguity of the image as the model has learnt
# it, not what the model does not know.
CAPTIONS = {
    VARIANCE: "Variance of the probabilities over plausible segmentations",
    ENTROPY: "Entropy of the mean probabilities of plausible segmentations",
    EXPECTED_ENTROPY: "Mean entropy within plausible segmentations",
    MUTUAL_INFORMATION: "Disagreement among plausible segmentations (mutual information)",
    AGREEMENT: "Share of the plausible segmentations that agree",
}
# One segmentation's probabilities say how sure the network is of each voxel by itself.
CAPTIONS_OF_ONE = {
    ENTROPY: "Entropy of the network's class probabilities",
    VARIANCE: "Variance of the labels by the network's class probabilities",
}
UNITS = {
    VARIANCE: "",
    ENTROPY: "bit",
    EXPECTED_ENTROPY: "bit",
    MUTUAL_INFORMATION: "bit",
    AGREEMENT: "",
}


def with_unit(name: str, caption: str) -> str:
    """Return the caption of a map with its unit, if it has one."""
    return f"{caption} [{UNITS[name]}]" if UNITS[name] else caption


def check_number(number: int) -> None:
    """Raise an InputError for a number of samples that cannot be drawn."""
    if not 1 <= number <= MAXIMUM_SAMPLES:
        raise InputError(
            f"From 1 to {MAXIMUM_SAMPLES} samples can be drawn, not {number}. Choose 32, say."
        )


def check_consensus(method: str) -> None:
    """Raise an InputError for a consensus that there is not."""
    if method not in CONSENSUS_METHODS:
        raise InputError(f"{method}: no such consensus. Choose {', '.join(CONSENSUS_METHODS)}.")


def maximum(name: str, classes: int) -> float:
    """Return the largest value that a map can take anywhere, for a fixed window.

    Args:
        name: of the map.
        classes: K, the background included.
    """
    if name == VARIANCE:
        return (1 - 1 / classes) / 2
    if name in (ENTROPY, EXPECTED_ENTROPY, MUTUAL_INFORMATION):
        return float(np.log2(classes))
    return 1.0


@dataclass(frozen=True)
class SampledResult:
    """Plausible segmentations of a volume, and what they say together.

    All arrays are [k, j, i] on the volume's own grid.

    Attributes:
        compressed: the samples as `label_maps.compress` gives them, in the order drawn.
        seed: of the latents.
        geometry: the volume's.
        consensus: uint8, one segmentation for all samples; class k has value k.
        consensus_method: one of CONSENSUS_METHODS.
        maps: float32 by name: "variance" (half the sum of the classes' variances of probability:
            for two classes, the variance of either), "entropy" (of the mean probabilities, bit),
            "expected_entropy" (mean of the samples' entropies, bit), "mutual_information" (their
            difference, bit), "agreement" (share of the samples with the most frequent label) and
            for each class "probability_<value>" (mean over the samples).
        structures: for each class but the background a dict of "value", "name", "color" (0..255),
            "segment_id", "volume_ml" (a dict of "mean", "sd", "p5", "p95" and "cv"; all but the
            mean are None for one sample, "cv" also where the mean is 0), "consensus_ml", "iou"
            (voxels in all samples / voxels in any, None where no sample contains the class) and
            "pairwise_dice" (mean over all pairs of samples, None for one sample; two empty ones
            have 1). SDs are those of a sample (N - 1).
        per_sample: for each sample a dict of "volumes_ml" (by class value), "log_density" (of its
            latent under the prior; in 2D the mean over the slices), "distance_to_consensus" (1 -
            IoU, the mean over the structures, two empty ones having an IoU of 1) and "epsilon"
            (its latent in standard deviations of the prior from its mean).
        directions: directions of the latent along which the segmentation changes most, in
            falling order: dicts of "direction" (unit vector, in units of epsilon) and "share" of
            the samples' variance.
        card: the model's.
        sha256: of the checkpoint file.
        device: where it was computed, for users.
        options: as of `Segmentation`; an MRF makes each sample regular.
        timings: seconds of each stage.
        warnings: what the user should know.
    """

    compressed: Sequence[bytes]
    seed: int
    geometry: Geometry
    consensus: np.ndarray
    consensus_method: str
    maps: dict[str, np.ndarray]
    structures: list[dict[str, Any]]
    per_sample: list[dict[str, Any]]
    directions: list[dict[str, Any]]
    card: ModelCard
    sha256: str
    device: str
    options: dict[str, bool | float]
    timings: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def number(self) -> int:
        """N, how many samples there are."""
        return len(self.compressed)

    @property
    def model(self) -> str:
        """The model's name."""
        return self.card.name

    @property
    def maximum(self) -> dict[str, float]:
        """Largest value that each map can take anywhere."""
        return {name: maximum(name, len(self.card.classes)) for name in self.maps}

    def labels(self, sample: int) -> np.ndarray:
        """Return the label map of a sample, 0 .. N - 1: uint8, class k has value k."""
        return decompress(self.compressed[sample], self.geometry.size[::-1])

    def title(self, name: str) -> str:
        """Return what a map shows, with its unit, for a legend."""
        if name.startswith(PROBABILITY):
            value = int(name.removeprefix(PROBABILITY))
            structure = next(c.name for c in self.card.classes if c.value == value)
            return f"Mean probability of {structure} over plausible segmentations"
        return with_unit(name, CAPTIONS[name])
