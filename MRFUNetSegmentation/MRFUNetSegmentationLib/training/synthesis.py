"""Training pairs from label maps: images of random contrast, resolution and quality.

The idea is SynthSeg's (Billot et al., Medical Image Analysis 2023, arXiv 2107.09559): a network
that sees every contrast in training needs none in particular. Each pair is made on line from one
label map: random affine and smooth deformation, a Gaussian intensity model per structure, blur
and loss of resolution along one axis, bias field, gamma and noise, and on part of the images a
skull stripping that leaves more or less of the fluid around the brain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional

from ..inference.grid import resize
from ..inference.normalise import percentile_normalise
from .labels import CSF, GREY_MATTER, OTHER, VENTRICLES, WHITE_MATTER, LabelMap

# Mean intensity of cortex, white matter and fluid, on a scale of 0..1, in the contrasts that are
# met most; standard deviation of each mean in `_CONTRAST_SPREAD`.
_CONTRASTS = {
    "T1": (0.50, 0.80, 0.16),
    "T2": (0.55, 0.38, 0.92),
    "FLAIR": (0.68, 0.52, 0.14),
    "PD": (0.80, 0.62, 0.85),
}
_CONTRAST_SPREAD = 0.06
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
    25: 0.45,  # lesions
}
# Bone and air of the label maps: dark in every usual contrast.
_DARK = (506, 515)


@dataclass(frozen=True)
class SynthesisConfig:
    """Ranges of the generative model. Lengths in mm, angles in degrees.

    Attributes:
        rotation: largest angle about each axis.
        scaling: largest relative change of size, per axis.
        shearing: largest shear.
        deformation: largest standard deviation of the smooth displacement.
        centre_spread: standard deviation of the image's centre about the brain's; a fifth of
            the images lie twice as far off, so that necks and faces are seen.
        known_contrast: probability of a T1-, T2-, FLAIR- or PD-like image.
        t1_share: share of T1 among these.
        skull_strip: probability of a skull-stripped image.
        low_resolution: probability of losing resolution.
        slice_thickness: largest simulated thickness of slices.
        bias: largest standard deviation of the log bias field.
        noise: largest standard deviation of noise, relative to the intensity range.
        gamma: standard deviation of the logarithm of gamma.
        cut: probability of a field of view that cuts the head.
    """

    rotation: float = 20.0
    scaling: float = 0.18
    shearing: float = 0.08
    deformation: float = 3.0
    centre_spread: float = 14.0
    known_contrast: float = 0.7
    t1_share: float = 0.55
    skull_strip: float = 0.45
    low_resolution: float = 0.4
    slice_thickness: float = 6.0
    bias: float = 0.35
    noise: float = 0.10
    gamma: float = 0.3
    cut: float = 0.15


def synthesise(
    label_map: LabelMap,
    config: SynthesisConfig,
    shape: tuple[int, int, int],
    spacing: float,
    rng: Generator,
) -> tuple[Tensor, Tensor]:
    """Draw one training pair.

    Args:
        label_map: the anatomy.
        config: the ranges.
        shape: voxels of the pair along R, A, S.
        spacing: its voxel size, mm.
        rng: source of all randomness: the same state gives the same pair.

    Returns:
        image (R, A, S), float32, normalised as at inference, and tissue classes (R, A, S), int64.
    """
    draw = _Draw(rng)
    groups = _deformed(label_map, config, shape, spacing, draw)
    tissue = label_map.tissue_of_group[groups]
    image = _intensities(groups, label_map, config, draw)

    if draw.chance(config.skull_strip):
        image, tissue = _skull_stripped(image, tissue, draw)
    if draw.chance(config.cut):
        image, tissue = _cut(image, tissue, draw)
    image = image * _bias_field(image.shape, config, draw)
    image = _blurred(image, draw.uniform(0.2, 0.9))
    if draw.chance(config.low_resolution):
        image = _low_resolution(image, config, spacing, draw)
    background = image <= 1e-4
    # Squared: most scans have little noise.
    image = image + config.noise * draw.uniform(0, 1) ** 2 * draw.normal(image.shape)
    if draw.chance(0.5):  # masked background stays exactly zero in most stripped scans
        image = torch.where(background, 0.0, image.clamp_min(0))
    image = percentile_normalise(image)
    image = image ** math.exp(config.gamma * draw.normal(()).item())
    return image, tissue.long()


class _Draw:
    """Random numbers of one generator, shortly."""

    def __init__(self, rng: Generator) -> None:
        self.rng = rng

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=self.rng).item()

    def uniforms(self, n: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=self.rng)

    def normal(self, shape) -> Tensor:
        return torch.randn(shape, generator=self.rng)

    def integer(self, high: int) -> int:
        return int(torch.randint(high, (), generator=self.rng))

    def chance(self, probability: float) -> bool:
        return self.uniform(0, 1) < probability


def _deformed(
    label_map: LabelMap,
    config: SynthesisConfig,
    shape: tuple[int, int, int],
    spacing: float,
    draw: _Draw,
) -> Tensor:
    """Sample the label map at the voxels of a randomly moved and deformed grid (nearest)."""
    source = torch.tensor(label_map.groups.shape)
    brain = _brain_centre(label_map)

    matrix = _rotation(draw.uniforms(3, -config.rotation, config.rotation).deg2rad())
    matrix = matrix @ torch.diag(1 + draw.uniforms(3, -config.scaling, config.scaling))
    shear = torch.eye(3)
    shear[0, 1], shear[0, 2], shear[1, 2] = draw.uniforms(3, -config.shearing, config.shearing)
    matrix = matrix @ shear * spacing
    if draw.chance(0.5):
        matrix[0] = -matrix[0]  # left-right mirror: the classes have no sides
    spread = config.centre_spread * (2 if draw.chance(0.2) else 1)
    centre = brain + spread * draw.normal(3)
    offset = centre - matrix @ ((torch.tensor(shape) - 1) / 2)

    displacement = torch.zeros(3, *shape)
    for cell in (8, 20):  # mm: gyral shape, and lobar shape
        coarse = tuple(max(3, math.ceil(n * spacing / cell)) for n in shape)
        amplitude = draw.uniform(0, config.deformation)
        displacement += resize(amplitude * draw.normal((3, *coarse)), shape)

    axes = [torch.arange(n, dtype=torch.float32) for n in shape]
    index = torch.zeros(shape, dtype=torch.long)
    inside = torch.ones(shape, dtype=torch.bool)
    stride = 1
    voxel = torch.tensor(label_map.spacing)
    for a in (2, 1, 0):
        position = (
            offset[a]
            + matrix[a, 0] * axes[0][:, None, None]
            + matrix[a, 1] * axes[1][None, :, None]
            + matrix[a, 2] * axes[2][None, None, :]
            + displacement[a]
        ) / voxel[a]
        position = position.round().long()
        inside &= (position >= 0) & (position < source[a])
        index += position.clamp(0, int(source[a]) - 1) * stride
        stride *= int(source[a])
    return torch.where(inside, label_map.groups.flatten()[index].long(), 0)


def _brain_centre(label_map: LabelMap) -> Tensor:
    """Centre of the brain in mm; found on every 4th voxel."""
    tissue = label_map.tissue_of_group[label_map.groups[::4, ::4, ::4].long()]
    brain = ((tissue == GREY_MATTER) | (tissue == WHITE_MATTER)).nonzero().float()
    return brain.mean(0) * 4 * torch.tensor(label_map.spacing)


def _rotation(angles: Tensor) -> Tensor:
    matrix = torch.eye(3)
    for axis, angle in enumerate(angles):
        a, b = [n for n in range(3) if n != axis]
        turn = torch.eye(3)
        turn[a, a] = turn[b, b] = angle.cos()
        turn[a, b], turn[b, a] = -angle.sin(), angle.sin()
        matrix = matrix @ turn
    return matrix


def _intensities(
    groups: Tensor, label_map: LabelMap, config: SynthesisConfig, draw: _Draw
) -> Tensor:
    """Draw each voxel from the Gaussian of its structure; clutter outside the brain varies more."""
    tissue = label_map.tissue_of_group
    means = _mean_intensities(label_map, config, draw)
    deviations = draw.uniforms(tissue.numel(), 0.0, 0.08)
    image = means[groups] + deviations[groups] * draw.normal(groups.shape)
    outside = (tissue == OTHER)[groups]
    texture = 0.5 * draw.uniform(0, 1) * _smooth_field(groups.shape, 5, draw)
    texture = texture + 0.5 * draw.uniform(0, 1) * _smooth_field(groups.shape, 14, draw)
    return torch.where(outside, image * (1 + texture), image).clamp_min(0)


def _mean_intensities(label_map: LabelMap, config: SynthesisConfig, draw: _Draw) -> Tensor:
    """Mean of each intensity group: of a known contrast with variations, or of a random one."""
    tissue = label_map.tissue_of_group
    means = draw.uniforms(tissue.numel())  # holds for what lies outside the brain
    known = draw.chance(config.known_contrast)
    if known:
        name = "T1" if draw.chance(config.t1_share) else ("T2", "FLAIR", "PD")[draw.integer(3)]
        typical = torch.tensor(_CONTRASTS[name])
        spread = _CONTRAST_SPREAD
    else:
        typical = draw.uniforms(3)
        spread = draw.uniform(0, 0.12)
    grey, white, fluid = (typical + spread * draw.normal(3)).tolist()
    # In some scans it is as dark as air, in others half as bright as the cortex.
    fluid += spread * draw.normal(()).item()
    extraventricular = fluid + 0.5 * spread * draw.normal(()).item()
    for group, kind in enumerate(tissue.tolist()):
        if kind == OTHER:
            continue
        whiteness = {GREY_MATTER: 0.0, WHITE_MATTER: 1.0}.get(kind)
        if whiteness is None:
            mean = fluid if kind == VENTRICLES else extraventricular
        else:
            whiteness = _WHITENESS.get(label_map.label_of_group[group], whiteness)
            mean = grey + whiteness * (white - grey)
        means[group] = mean + 0.4 * spread * draw.normal(()).item()
    if known:
        for group, label in enumerate(label_map.label_of_group):
            if label in _DARK:
                means[group] *= 0.25
    air = 0
    means[air] = draw.uniform(0, 0.1) if draw.chance(0.9) else draw.uniform(0, 0.5)
    return means.clamp_min(0)


def _smooth_field(shape, cell: int, draw: _Draw) -> Tensor:
    coarse = tuple(max(2, math.ceil(n / cell)) for n in shape)
    return resize(draw.normal(coarse), tuple(shape))


def _skull_stripped(image: Tensor, tissue: Tensor, draw: _Draw) -> tuple[Tensor, Tensor]:
    """Remove what lies outside a brain mask; fluid outside the mask is gone, so it is "other".

    The mask is the brain with the fluid around it, or the brain grown by a few voxels, so that
    it keeps some fluid or some of the meninges and skull.
    """
    if draw.chance(0.4):
        mask = tissue != OTHER
    else:
        brain = (tissue != OTHER) & (tissue != CSF)
        mask = _closed(brain, draw.integer(5))
    return torch.where(mask, image, 0.0), torch.where(mask, tissue, OTHER)


def _closed(mask: Tensor, grow: int) -> Tensor:
    """Fill sulci (closing by 3 voxels), then grow by `grow` voxels."""
    x = mask[None, None].float()
    for _ in range(3 + grow):
        x = functional.max_pool3d(x, 3, 1, 1)
    for _ in range(3):
        x = -functional.max_pool3d(-x, 3, 1, 1)
    return x[0, 0] > 0


def _cut(image: Tensor, tissue: Tensor, draw: _Draw) -> tuple[Tensor, Tensor]:
    """End the field of view before the head does, on a random side."""
    axis, first = draw.integer(3), draw.chance(0.5)
    n = image.shape[axis]
    thickness = int(draw.uniform(0.05, 0.4) * n)
    gone = [slice(None)] * 3
    gone[axis] = slice(0, thickness) if first else slice(n - thickness, n)
    image, tissue = image.clone(), tissue.clone()
    image[tuple(gone)] = 0
    tissue[tuple(gone)] = OTHER
    return image, tissue


def _bias_field(shape, config: SynthesisConfig, draw: _Draw) -> Tensor:
    coarse = draw.normal((4, 4, 4)) * draw.uniform(0, config.bias)
    return resize(coarse, tuple(shape)).exp()


def _blurred(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur, sigma in voxels: stands for partial volume and point spread."""
    radius = max(1, math.ceil(2.5 * sigma))
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    x = image[None, None]
    for axis in range(3):
        view = [1, 1, 1, 1, 1]
        view[2 + axis] = -1
        padding = [0, 0, 0]
        padding[axis] = radius
        x = functional.conv3d(x, kernel.view(view), padding=padding)
    return x[0, 0]


def _low_resolution(image: Tensor, config: SynthesisConfig, spacing: float, draw: _Draw) -> Tensor:
    """Acquire on a coarser grid and come back: thick slices along one axis, or all axes."""
    shape = list(image.shape)
    if draw.chance(0.7):
        axis = draw.integer(3)
        thickness = draw.uniform(spacing, config.slice_thickness)
        shape[axis] = max(2, round(shape[axis] * spacing / thickness))
    else:
        factor = draw.uniform(1, 2)
        shape = [max(2, round(n / factor)) for n in shape]
    return resize(resize(image, tuple(shape)), tuple(image.shape))
