"""Synthetic images with real lesions' shapes and places, and what is to be known to mark them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from ...inference.normalise import percentile_normalise
from ...inference.separable import gaussian_blur, resize
from ..labels import (
    GREY_MATTER,
    LESION_LABEL,
    VENTRICLES,
    WHITE_MATTER,
    WHITE_MATTER_LABEL,
    LabelMap,
)
from ..synthesis.acquisition import Resolution, acquired, drawn_resolution
from ..synthesis.config import SynthesisConfig
from ..synthesis.contrast import intensities, with_mixed_borders
from ..synthesis.coverage import skull_stripped
from ..synthesis.draw import Draw, coarse_mask
from ..synthesis.spatial import placed
from .maps import LesionMap, from_label_map
from .raters import RaterConfig, draw_rater, evidence, marked

_SUBSET = 50_000  # voxels that the percentiles are read from
_CLEAR = 3.0  # mm from any lesion: where there is what they are to be seen among
_AROUND = 2.0, 6.0  # mm from a lesion: the white matter that it is compared with
_FEW = 20  # voxels: too few to compare it with
_NEVER = -100.0  # distance of what is not white matter: nobody marks it
_FAINTEST = 0.05  # membership that is told from none
_ROUND = math.pi / math.sqrt(3)  # standard deviation of the logistic distribution of width 1


@dataclass(frozen=True)
class LesionConfig:
    """Ranges of what is painted. Lengths in mm.

    Attributes:
        raters: who mark it.
        move: standard deviation of a shift of all lesions in the brain.
        roughness: standard deviation, mm, of a random change of the border at points 3 mm apart;
            it is interpolated between them, so that over all voxels it is 0.6 of that.
        edge: bounds of the width over which a lesion fades out.
        contrast: bounds of how far the brightest lesions are above the brighter of grey and white
            matter, on the scale of `synthesis.contrasts`.
        conspicuity: bounds of how much of their contrast with white matter a lesion shows.
        dirty: largest share of the lesion's contrast in white matter near lesions and ventricles.
    """

    raters: RaterConfig = field(default_factory=RaterConfig)
    move: float = 3.0
    roughness: float = 0.5
    edge: tuple[float, float] = (0.2, 0.8)
    contrast: tuple[float, float] = (0.2, 0.5)
    conspicuity: tuple[float, float] = (0.6, 1.0)
    dirty: float = 0.3


@dataclass(frozen=True)
class Lesions:
    """What raters go by.

    Attributes:
        distance: (R, A, S) mm from the nearest border that the image shows, positive inside; far
            outside the white matter.
        nearest: (R, A, S) integers, number of the nearest lesion.
        evidence: (lesions,) on the CPU.
        spacing: voxel size, mm.
    """

    distance: Tensor
    nearest: Tensor
    evidence: Tensor
    spacing: float

    def mark(self, config: RaterConfig, draw: Draw) -> Tensor:
        """Return what a random rater marks, (R, A, S) bool."""
        rater = draw_rater(config, draw)
        return marked(self.distance, self.nearest, self.evidence, rater, config, self.spacing, draw)


def synthesise_lesions(
    label_map: LabelMap,
    lesion_map: LesionMap,
    config: LesionConfig,
    synthesis: SynthesisConfig,
    shape: tuple[int, int, int],
    spacing: float,
    rng: Generator,
) -> tuple[Tensor, Lesions]:
    """Draw an image with lesions.

    Args:
        label_map: the anatomy, on the generator's device.
        lesion_map: the lesions, there too.
        config: the ranges of the lesions.
        synthesis: those of the rest of the image; `lesions`, `cavity` and `cut` play no part.
        shape: voxels along R, A, S.
        spacing: voxel size, mm.
        rng: source of all randomness.

    Returns:
        image (R, A, S), float32, normalised as at inference, and what raters go by.
    """
    draw = Draw(rng)
    place = placed(label_map, synthesis, shape, spacing, draw)
    groups = _without_lesions(place.groups(label_map), label_map)
    tissue = label_map.tissue_of_group[groups].long()
    image, contrast = intensities(groups, label_map, synthesis, draw)
    image = with_mixed_borders(image, tissue, contrast, synthesis, spacing, draw)

    distance, nearest = _placed_lesions(label_map, lesion_map, place, tissue, config, spacing, draw)
    edge = draw.uniform(*config.edge)
    membership = _membership(distance, nearest, lesion_map.volumes, edge, config, draw)
    opacity = torch.maximum(membership, _dirty(distance, tissue, config, spacing, draw))
    brightest = max(contrast.grey, contrast.white) + draw.uniform(*config.contrast)
    image = image + opacity * (brightest - image)
    if draw.chance(synthesis.skull_strip):
        image, _tissue = skull_stripped(image, tissue, spacing, draw)
    resolution = drawn_resolution(image.shape, synthesis, spacing, draw)
    image = percentile_normalise(acquired(image, resolution, synthesis, draw), subset=_SUBSET)
    image = image ** math.exp(synthesis.gamma * draw.normal())
    number = len(lesion_map.volumes)
    seen = visible_distance(resolution.of(membership), nearest, number, edge, resolution, spacing)
    seen = torch.where(tissue == WHITE_MATTER, seen, seen.new_tensor(_NEVER))
    shown = contrast_to_noise(image, tissue, distance, seen > 0, nearest, number)
    found = evidence(lesion_map.volumes, shown, config.raters)
    return image, Lesions(seen, nearest, found, spacing)


def _without_lesions(groups: Tensor, label_map: LabelMap) -> Tensor:
    """Return intensity groups (R, A, S) with white matter in place of the anatomy's own lesions.

    Label maps of older heads have some. They look like what is painted, and no rater marks them.
    """
    own, white = map(label_map.label_of_group.index, (LESION_LABEL, WHITE_MATTER_LABEL))
    return torch.where(groups == own, white, groups)


def _placed_lesions(
    label_map: LabelMap,
    lesion_map: LesionMap,
    place,
    tissue: Tensor,
    config: LesionConfig,
    spacing: float,
    draw: Draw,
) -> tuple[Tensor, Tensor]:
    """Carry real lesions into the white matter; return `distance` and `nearest` of `Lesions`.

    Distances, and the lesions' volumes, stay those in MNI space. Its brain is larger than most: by
    some tenth in length.
    """
    scale, shift = from_label_map(label_map, lesion_map)
    shift = shift + config.move * draw.normals(3) / torch.tensor(lesion_map.spacing)
    distance = place.look_up(lesion_map.distance, scale, shift).float()
    nearest = place.look_up(lesion_map.nearest, scale, shift).long()
    distance += config.roughness * draw.smooth_field(distance.shape, max(2, 3 / spacing))
    return torch.where(tissue == WHITE_MATTER, distance, distance.new_tensor(_NEVER)), nearest


def contrast_to_noise(
    image: Tensor, tissue: Tensor, distance: Tensor, inside: Tensor, nearest: Tensor, number: int
) -> Tensor:
    """Return how much brighter each lesion is than the white matter around it.

    In the image as it was acquired, for nobody marks what it does not show; against what is around,
    for a scan is brighter in some places than in others.

    Args:
        image: (R, A, S).
        tissue: (R, A, S), of `labels`.
        distance: (R, A, S) mm from the nearest lesion, positive inside.
        inside: (R, A, S) bool, where lesions are seen.
        nearest: (R, A, S), as of `Lesions`.
        number: of lesions.

    Returns:
        (number,) on the CPU, in standard deviations of grey and white matter, among which a lesion
        is to be seen; 0 of a lesion that is not in the image.
    """
    matter = tissue == WHITE_MATTER
    clear = distance < -_CLEAR
    white, brain = clear & matter, clear & (matter | (tissue == GREY_MATTER))
    if white.sum() < 2 or not inside.any():
        return torch.zeros(number)
    nearby = matter & (distance < -_AROUND[0]) & (distance > -_AROUND[1])
    lesion, seen = _means(image, inside, nearest, number)
    around, voxels = _means(image, nearby, nearest, number)
    around = torch.where(voxels < _FEW, image[white].median(), around)
    contrast = (lesion - around) / image[brain].std().clamp_min(1e-3)
    return torch.where(seen > 0, contrast, 0.0).cpu()


def _means(image: Tensor, where: Tensor, nearest: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Return the mean about each lesion (number,), 0 where there is nothing, and the voxels."""
    owner = nearest[where]
    voxels = torch.bincount(owner, minlength=number)
    total = torch.zeros(number, device=image.device).index_add_(0, owner, image[where])
    return total / voxels.clamp_min(1), voxels


def _membership(
    distance: Tensor,
    nearest: Tensor,
    volumes: Tensor,
    edge: float,
    config: LesionConfig,
    draw: Draw,
) -> Tensor:
    """Return how much of the lesions' intensity each voxel takes on, (R, A, S) in 0..1."""
    low, high = config.conspicuity
    # Small lesions are faint more often: partial volume takes some of them.
    size = (volumes / (volumes + 20)).sqrt()
    strength = low + (high - low) * draw.uniforms(len(volumes)) * (0.5 + 0.5 * size)
    return strength.to(distance.device)[nearest] * torch.sigmoid(distance / edge)


def _dirty(
    distance: Tensor, tissue: Tensor, config: LesionConfig, spacing: float, draw: Draw
) -> Tensor:
    """Return the same of white matter near lesions and ventricles, which nobody marks."""
    near = coarse_mask((distance > 0) | (tissue == VENTRICLES), 4)
    near = resize(gaussian_blur(near, (1.5 / spacing,) * 3), tuple(tissue.shape))
    mottled = 0.5 + 0.5 * draw.smooth_field(tissue.shape, max(2, 8 / spacing))
    dirty = draw.uniform(0, config.dirty) * (near * mottled).clamp(0, 1)
    return torch.where(tissue == WHITE_MATTER, dirty, 0.0)


def visible_distance(
    membership: Tensor,
    nearest: Tensor,
    number: int,
    edge: float,
    resolution: Resolution,
    spacing: float,
) -> Tensor:
    """Return the distance from the borders that a scan shows, mm, positive inside.

    A border is seen where a lesion is half as bright as at its brightest. About it brightness is
    taken to rise like the logistic function, of the width that edge and resolution give a border.

    Args:
        membership: (R, A, S), as of the lesions, at the scan's resolution.
        nearest: (R, A, S), as of `Lesions`.
        number: of lesions.
        edge: width over which lesions fade out, mm.
        resolution: of the scan.
        spacing: voxel size, mm.
    """
    brightest = torch.zeros(number, device=membership.device)
    brightest.scatter_reduce_(0, nearest.flatten(), membership.flatten(), "amax")
    share = membership / brightest[nearest].clamp_min(_FAINTEST)
    spread = math.hypot(_ROUND * edge, resolution.width * spacing)
    return spread / _ROUND * torch.logit(share, eps=1e-3)
