"""Contrasts that are met most."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Contrast:
    """Mean intensities on a scale of 0..1, and how much fluid they let see.

    Attributes:
        grey: of the cortex.
        white: of white matter.
        fluid: of cerebrospinal fluid.
        lesion: of lesions of the white matter.
        brain_over_fluid: how much the brain seems to cover of the fluid that T1 shows, relative to
            FLAIR, where that is most.
    """

    grey: float
    white: float
    fluid: float
    lesion: float
    brain_over_fluid: float = 0.0


# Cortex, white matter, fluid, and lesions of the white matter, in the contrasts that are met most.
CONTRASTS = {
    "T1": Contrast(grey=0.50, white=0.80, fluid=0.16, lesion=0.55),
    "T2": Contrast(grey=0.55, white=0.38, fluid=0.92, lesion=0.72, brain_over_fluid=0.5),
    "FLAIR": Contrast(grey=0.64, white=0.52, fluid=0.14, lesion=0.92, brain_over_fluid=1.0),
    "PD": Contrast(grey=0.80, white=0.62, fluid=0.85, lesion=0.92, brain_over_fluid=0.5),
}
