"""One training pair."""

from __future__ import annotations

import math

from torch import Generator, Tensor

from ...inference.normalise import percentile_normalise
from ..labels import LabelMap
from .acquisition import acquired, drawn_resolution
from .config import SynthesisConfig
from .contrast import intensities, with_mixed_borders
from .coverage import cut, defaced, skull_stripped
from .draw import Draw
from .pathology import with_cavity, with_lesions
from .spatial import placed

# Voxels that the percentiles are read from: a pair is small, and all else about it is random.
_SUBSET = 50_000


def synthesise(
    label_map: LabelMap,
    config: SynthesisConfig,
    shape: tuple[int, int, int],
    spacing: float,
    rng: Generator,
) -> tuple[Tensor, Tensor]:
    """Draw one training pair.

    Args:
        label_map: the anatomy, on the generator's device.
        config: the ranges.
        shape: voxels of the pair along R, A, S.
        spacing: its voxel size, mm.
        rng: source of all randomness: the same state gives the same pair on the same device.

    Returns:
        image (R, A, S), float32, normalised as at inference, and tissue classes (R, A, S), int64.
    """
    draw = Draw(rng)
    groups = placed(label_map, config, shape, spacing, draw).groups(label_map)
    tissue = label_map.tissue_of_group[groups].long()
    image, contrast = intensities(groups, label_map, config, draw)
    image = with_mixed_borders(image, tissue, contrast, config, spacing, draw)
    if draw.chance(config.lesions):
        image = with_lesions(image, tissue, contrast, config.lesion_contrast, spacing, draw)
    if draw.chance(config.cavity):
        image, tissue = with_cavity(image, tissue, contrast, spacing, draw)
    if draw.chance(config.skull_strip):
        image, tissue = skull_stripped(image, tissue, spacing, draw)
    elif draw.chance(config.deface):
        image = defaced(image, tissue, spacing, draw)
    if draw.chance(config.cut):
        image, tissue = cut(image, tissue, draw)
    resolution = drawn_resolution(image.shape, config, spacing, draw)
    image = percentile_normalise(acquired(image, resolution, config, draw), subset=_SUBSET)
    return image ** math.exp(config.gamma * draw.normal()), tissue
