"""Intensities: a Gaussian for each structure, in a usual contrast or in any."""

from __future__ import annotations

import torch
from torch import Tensor

from ...inference.separable import gaussian_blur
from ..labels import (
    CSF,
    GREY_MATTER,
    LESION_LABEL,
    OTHER,
    PLEXUS_LABEL,
    VENTRICLES,
    WHITE_MATTER,
    LabelMap,
)
from .config import SynthesisConfig
from .contrasts import CONTRASTS, Contrast
from .draw import Draw

# Standard deviation of each mean from one scanner and protocol to the next.
_SPREAD = 0.06
# Myelin and iron: how far each structure, by one of its labels, is from the cortex (0) to the
# white matter (1). Roughly the order of the T1 means published with SynthSeg.
_WHITENESS = {
    8: 0.0,  # cerebellar cortex
    17: 0.05,  # hippocampus
    18: 0.05,  # amygdala
    26: 0.1,  # accumbens
    11: 0.15,  # caudate
    12: 0.4,  # putamen
    10: 0.55,  # thalamus
    13: 0.85,  # pallidum
    16: 0.6,  # brain stem
    28: 0.75,  # ventral diencephalon
    7: 0.7,  # cerebellar white matter
}
# Shares of the usual contrasts other than T1. FLAIR tells grey from white matter least, so it takes
# most to learn; few scans of today are proton density.
_OTHERS = {"T2": 0.35, "FLAIR": 0.5, "PD": 0.15}
# Bone and air of the label maps: dark in every usual contrast.
_DARK = (506, 515)


def intensities(
    groups: Tensor, label_map: LabelMap, config: SynthesisConfig, draw: Draw
) -> tuple[Tensor, Contrast]:
    """Draw each voxel from the Gaussian of its structure.

    Args:
        groups: (R, A, S), intensity group of each voxel.
        label_map: what the groups are.
        config: the ranges.
        draw: random numbers.

    Returns:
        image (R, A, S), not negative, and the contrast that was drawn.
    """
    contrast, spread, known, enhanced = _contrast(config, draw)
    means = _means(label_map, contrast, spread, known, config, draw)
    tissue = label_map.tissue_of_group.cpu()
    if enhanced:  # vessels, meninges, mucosa and the choroid plexus take the agent up
        bright = (tissue == OTHER) & (draw.uniforms(len(means)) < 0.3)
        bright[label_map.label_of_group.index(PLEXUS_LABEL)] = True
        means[bright] = draw.uniform(0.9, 1.6)
    deviations = draw.uniforms(len(means), 0.0, 0.08)

    image = means.to(draw.device)[groups]
    image += deviations.to(draw.device)[groups] * draw.noise(groups.shape)
    if config.regional:
        image += _regional_shift(groups, label_map, contrast, config, draw)
    # What lies outside the brain has more within one label than the tissues have.
    fine, coarse = draw.uniform(0, 0.5), draw.uniform(0, 0.5)
    inside = draw.uniform(0, config.texture) / (fine + coarse + 1e-6)
    texture = fine * draw.smooth_field(groups.shape, 5)
    texture += coarse * draw.smooth_field(groups.shape, 14)
    strength = torch.where(tissue == OTHER, 1.0, inside).to(draw.device)[groups]
    return (image * (1 + strength * texture)).clamp_min_(0), contrast


def with_mixed_borders(
    image: Tensor,
    tissue: Tensor,
    contrast: Contrast,
    config: SynthesisConfig,
    spacing: float,
    draw: Draw,
) -> Tensor:
    """Let the outermost voxels of a tissue take on some of what lies outside it.

    Reference labels count a voxel as brain that is brain only in part. On real T1 scans, by
    FreeSurfer's labels and by tissue priors alike, they put the border of the white matter some
    0.4 mm further out than half-way between the two intensities, and that of the grey matter a
    little more. In an image made of its labels both would be exactly half-way. On a real FLAIR of
    the same brain it is the other way round: where T1 shows a sulcus as two thirds fluid, FLAIR
    shows a fifth, and T2 a half (`brain_over_fluid`).
    """
    grey, white = tissue == GREY_MATTER, tissue == WHITE_MATTER
    fluid, brain = (tissue == VENTRICLES) | (tissue == CSF), white | grey
    less = config.brain_over_fluid * contrast.brain_over_fluid
    surface = config.mixed_surface[0] - less, config.mixed_surface[1] - less
    sides = (
        (white, grey, contrast.grey, config.mixed_borders),
        (brain, ~brain, contrast.fluid, surface),
    )
    for inner, outer, mean, bounds in sides:
        width = draw.uniform(0.7, 1.2) / spacing
        strength = draw.uniform(*bounds)
        if strength < 0:
            inner, outer, mean, strength = fluid, brain, contrast.grey, -strength
        near = gaussian_blur(outer.to(image.dtype), (width,) * 3)
        weight = (strength * near).clamp_max_(0.7)
        mixed = torch.lerp(image, torch.full_like(image, mean), weight)
        image = torch.where(inner, mixed, image)
    return image


def _contrast(config: SynthesisConfig, draw: Draw) -> tuple[Contrast, float, bool, bool]:
    """Return a contrast, the spread of means about it, and whether it is a usual, enhanced one."""
    if config.contrast:
        name = config.contrast
    elif not draw.chance(config.known_contrast):
        return Contrast(*draw.uniforms(5).tolist()), draw.uniform(0, 0.12), False, False
    elif draw.chance(config.t1_share):
        name = "T1"
    else:
        name = list(_OTHERS)[draw.choice(torch.tensor(list(_OTHERS.values())))]
    typical, enhanced = CONTRASTS[name], name == "T1" and draw.chance(0.25)
    values = (typical.grey, typical.white, typical.fluid, typical.lesion)
    shifted = torch.tensor(values) + _SPREAD * draw.normals(4)
    # In some scans fluid is as dark as air, in others half as bright as the cortex.
    shifted[2] += _SPREAD * draw.normal()
    return Contrast(*shifted.tolist(), typical.brain_over_fluid), _SPREAD, True, enhanced


def _regional_shift(
    groups: Tensor, label_map: LabelMap, contrast: Contrast, config: SynthesisConfig, draw: Draw
) -> Tensor:
    """Let white matter be nearer to the cortex here and further from it there.

    On a real FLAIR the two are apart by as much as noise at the back of the head, and by a third
    of that at its front. A bias field cannot do so: it takes both along.
    """
    kinds = zip(label_map.label_of_group, label_map.tissue_of_group.tolist(), strict=True)
    whiteness = torch.tensor([_whiteness(label, kind) or 0.0 for label, kind in kinds])
    strength = draw.uniform(0, config.regional) * (contrast.grey - contrast.white)
    field = draw.smooth_field(tuple(groups.shape), draw.uniform(15, 40))
    return (strength * whiteness).to(draw.device)[groups] * field


def _whiteness(label: int, tissue: int) -> float | None:
    """Return how far a label is from the cortex (0) to the white matter (1); None for neither."""
    of_tissue = {GREY_MATTER: 0.0, WHITE_MATTER: 1.0}.get(tissue)
    return None if of_tissue is None else _WHITENESS.get(label, of_tissue)


def _means(
    label_map: LabelMap,
    contrast: Contrast,
    spread: float,
    known: bool,
    config: SynthesisConfig,
    draw: Draw,
) -> Tensor:
    """Return the mean of each intensity group, on the CPU."""
    tissue = label_map.tissue_of_group.tolist()
    means = draw.uniforms(len(tissue))  # holds for what lies outside the brain
    extraventricular = contrast.fluid + 0.5 * spread * draw.normal()
    for group, kind in enumerate(tissue):
        label = label_map.label_of_group[group]
        if kind == OTHER:
            if known and label in _DARK:
                means[group] *= 0.25
            continue
        whiteness = _whiteness(label, kind)
        if label == LESION_LABEL:
            mean = contrast.lesion
        elif label == PLEXUS_LABEL:
            between = draw.uniform(*config.plexus)
            mean = contrast.fluid + between * (contrast.grey - contrast.fluid)
        elif whiteness is None:
            mean = contrast.fluid if kind == VENTRICLES else extraventricular
        else:
            mean = contrast.grey + whiteness * (contrast.white - contrast.grey)
        means[group] = mean + 0.4 * spread * draw.normal()
    air = 0
    means[air] = draw.uniform(0, 0.1) if draw.chance(0.9) else draw.uniform(0, 0.5)
    return means.clamp_min(0)
