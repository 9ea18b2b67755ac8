"""A model of experts who mark lesions: what they share, and where they differ.

As a generative process. An image has lesions; each has a volume, and in the image as it was
acquired a contrast-to-noise ratio and a border, where it is half as bright as at its brightest. A
rater has habits, drawn once for a scan:

1. A boundary bias b ~ N(0, `boundary`) in mm: marks everything larger (b > 0) or smaller, plus a
   smooth field, as habits differ between, say, the ventricles and the cortex: N(0,
   `local_boundary`) at points 30 mm apart and interpolated between them, where it is smaller (over
   all voxels its deviation is 0.6 of that).
2. A threshold t ~ N(`threshold`, `threshold_spread`), correlated with -b by `correlation`: who
   marks generously also marks more. A lesion's evidence is
   ln(min(volume, 100 mm^3) / 10 mm^3) + `contrast_weight` ln(contrast-to-noise / 2): size and
   contrast stand in for each other, as Rose found of whatever is to be seen in noise (J. Opt. Soc.
   Am. 38:196-208, 1948), up to a size beyond which more of it is no easier to see, as there is one
   for spots of light (Ricco's law). Contrast counts for more, for the brain is no plain background.
   On the one real FLAIR at hand no lesion of the experts' stands out from what is around it by less
   than 1.0, however large. The rater accepts the lesion with the probability of
   logistic((evidence - t) / `hesitation`), each lesion on its own.
3. Noise of the hand: such a field of N(0, `hand`) mm at points 3 mm apart.

What is marked: voxels of accepted lesions whose distance from the border, inside positive, exceeds
minus the sum of bias and fields.

Experts who mark multiple sclerosis agree to a pairwise Dice coefficient of about 0.6 to 0.75, less
where lesions are few and small (Carass et al., NeuroImage 148:77-102, 2017, two raters: 0.63;
Commowick et al., Scientific Reports 8:13650, 2018, seven). `Testing/Python/test_lesions.py` holds
the model to that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..synthesis.draw import Draw

_HAND_CELL = 3.0  # mm
_REFERENCE_VOLUME, _LARGE_VOLUME = 10.0, 100.0  # mm^3
_REFERENCE_CONTRAST = 2.0  # standard deviations of grey and white matter
_LOCAL_CELL = 30.0  # mm


@dataclass(frozen=True)
class RaterConfig:
    """Habits of raters, see the module. Lengths in mm."""

    boundary: float = 0.5
    local_boundary: float = 0.2
    threshold: float = -1.5
    threshold_spread: float = 0.8
    correlation: float = 0.6
    contrast_weight: float = 4.0
    hesitation: float = 0.35
    hand: float = 0.15

    def __post_init__(self) -> None:
        for name in ("boundary", "local_boundary", "threshold_spread", "hand"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it must not be negative")
        if self.hesitation <= 0:
            raise ValueError(f"hesitation is {self.hesitation}: it must be positive")
        if not -1 <= self.correlation <= 1:
            raise ValueError(f"correlation is {self.correlation}: it must lie in -1..1")


@dataclass(frozen=True)
class Rater:
    """One rater's habits in one scan.

    Attributes:
        boundary: mm by which every border is moved outwards.
        threshold: evidence of a lesion that is accepted half of the time.
    """

    boundary: float
    threshold: float


def draw_rater(config: RaterConfig, draw: Draw) -> Rater:
    """Draw a rater's habits."""
    generous, other = draw.normal(), draw.normal()
    mixed = config.correlation * generous + math.sqrt(1 - config.correlation**2) * other
    return Rater(config.boundary * generous, config.threshold - config.threshold_spread * mixed)


def evidence(volumes: Tensor, contrast: Tensor, config: RaterConfig) -> Tensor:
    """Return each lesion's evidence, from volume (mm^3) and contrast-to-noise ratio."""
    size = (volumes.clamp_max(_LARGE_VOLUME) / _REFERENCE_VOLUME).log()
    brightness = (contrast / _REFERENCE_CONTRAST).clamp_min(1e-6).log()
    return size + config.contrast_weight * brightness


def marked(
    distance: Tensor,
    nearest: Tensor,
    lesion_evidence: Tensor,
    rater: Rater,
    config: RaterConfig,
    spacing: float,
    draw: Draw,
) -> Tensor:
    """Return what a rater marks.

    Args:
        distance: (R, A, S) mm from the nearest border, positive inside a lesion.
        nearest: (R, A, S) integers, number of the nearest lesion.
        lesion_evidence: (lesions,) on the CPU, see `evidence`.
        rater: the habits.
        config: of all raters.
        spacing: voxel size, mm.
        draw: of what is drawn anew for each lesion and place.

    Returns:
        (R, A, S) bool.
    """
    probability = torch.sigmoid((lesion_evidence - rater.threshold) / config.hesitation)
    accepted = draw.uniforms(len(probability)) < probability
    shape = tuple(distance.shape)
    shift = config.local_boundary * draw.smooth_field(shape, max(2, _LOCAL_CELL / spacing))
    shift += config.hand * draw.smooth_field(shape, max(2, _HAND_CELL / spacing))
    inside = distance > -(rater.boundary + shift)
    return inside & accepted.to(distance.device)[nearest.long()]
