"""Contrasts that are met most."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Contrast:
    """Mean intensities on a scale of 0..1."""

    grey: float
    white: float
    fluid: float
    lesion: float


# Cortex, white matter, fluid, and lesions of the white matter, in the contrasts that are met most.
CONTRASTS = {
    "T1": Contrast(grey=0.50, white=0.80, fluid=0.16, lesion=0.55),
    "T2": Contrast(grey=0.55, white=0.38, fluid=0.92, lesion=0.72),
    "FLAIR": Contrast(grey=0.64, white=0.52, fluid=0.14, lesion=0.92),
    "PD": Contrast(grey=0.80, white=0.62, fluid=0.85, lesion=0.92),
}
