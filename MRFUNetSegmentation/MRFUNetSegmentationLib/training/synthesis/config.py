"""Ranges of the generative model."""

from __future__ import annotations

from dataclasses import dataclass, fields

from .contrasts import CONTRASTS


@dataclass(frozen=True)
class SynthesisConfig:
    """Ranges of the generative model. Lengths in mm, angles in degrees.

    Attributes:
        rotation: largest angle about each axis.
        scaling: largest relative change of size, per axis.
        shearing: largest shear.
        deformation: largest standard deviation of the smooth velocity.
        ventricles: how far the walls of the ventricles move at most, out or half as far in.
        centre_spread: standard deviation of the image's centre about the brain's; a fifth of
            the images lie twice as far off, so that necks and faces are seen.
        axial_spread: further standard deviation of the centre along S: a thin slab sees the whole
            brain by being put at every height.
        known_contrast: probability of a contrast that is met often, see `contrasts.CONTRASTS`.
        t1_share: share of T1 (a quarter of it with contrast agent) among these.
        contrast: name of the one contrast of all images, as "FLAIR"; empty for those drawn as
            `known_contrast` and `t1_share` say.
        texture: largest relative amplitude of the texture inside a tissue.
        regional: largest amplitude of a smooth change of the white matter alone, relative to its
            difference to the grey matter.
        mixed_borders: bounds of the share of grey matter in the outermost white matter, relative
            to the blurred neighbour.
        mixed_surface: the same of fluid in the outermost grey and white matter.
        brain_over_fluid: what is taken off the bounds of `mixed_surface` in a FLAIR; in other
            contrasts the share of it that `contrasts.Contrast` says. Where the strength becomes
            negative, the outermost fluid takes on grey matter instead.
        plexus: bounds of where the choroid plexus lies between fluid (0) and the cortex (1).
        lesions: probability of lesions of the white matter.
        lesion_contrast: bounds of how much of their usual contrast they have.
        cavity: probability of a stroke or a resection cavity.
        skull_strip: probability of a skull-stripped image.
        deface: probability of a removed face where the skull is kept.
        cut: probability of a field of view that cuts the head.
        low_resolution: probability of losing resolution.
        slice_thickness: largest simulated thickness of slices.
        bias: largest standard deviation of the log bias field.
        artefact: probability of each of ghosting, motion and spike.
        noise: largest standard deviation of noise, relative to the intensity range.
        gamma: standard deviation of the logarithm of gamma.
    """

    rotation: float = 20.0
    scaling: float = 0.18
    shearing: float = 0.08
    deformation: float = 3.0
    ventricles: float = 3.0
    centre_spread: float = 14.0
    axial_spread: float = 0.0
    known_contrast: float = 0.7
    t1_share: float = 0.55
    contrast: str = ""
    texture: float = 0.08
    regional: float = 0.0
    mixed_borders: tuple[float, float] = (0.0, 1.4)
    mixed_surface: tuple[float, float] = (0.4, 2.0)
    brain_over_fluid: float = 0.0
    plexus: tuple[float, float] = (0.2, 0.9)
    lesions: float = 0.3
    lesion_contrast: tuple[float, float] = (0.5, 1.0)
    cavity: float = 0.06
    skull_strip: float = 0.45
    deface: float = 0.15
    cut: float = 0.15
    low_resolution: float = 0.4
    slice_thickness: float = 6.0
    bias: float = 0.35
    artefact: float = 0.04
    noise: float = 0.10
    gamma: float = 0.3

    def __post_init__(self) -> None:
        probabilities = (
            "known_contrast t1_share lesions cavity skull_strip deface cut low_resolution artefact"
        ).split()
        for entry in fields(self):
            value = getattr(self, entry.name)
            if not isinstance(value, float | int):
                continue
            if value < 0 or (entry.name in probabilities and value > 1):
                raise ValueError(
                    f"{entry.name} is {value}: it must not be negative"
                    + (", nor above 1" if entry.name in probabilities else "")
                )
        if self.contrast and self.contrast not in CONTRASTS:
            raise ValueError(
                f"contrast is {self.contrast!r}: it must be one of {', '.join(CONTRASTS)}"
            )
        for name in ("mixed_borders", "mixed_surface", "plexus", "lesion_contrast"):
            low, high = getattr(self, name)
            if not 0 <= low <= high:
                raise ValueError(f"{name} is {[low, high]}: bounds must be in order, from 0 on")
