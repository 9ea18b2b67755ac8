"""Lesions of the white matter, strokes and cavities.

What they are labelled as, the rule: a lesion stays white matter and a fresh stroke stays the tissue
it is in, for both are still there; a cavity is filled with fluid and counts as fluid outside the
ventricles.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...inference.separable import gaussian_blur, resize
from ..labels import CSF, GREY_MATTER, VENTRICLES, WHITE_MATTER
from .contrasts import Contrast
from .draw import Draw, coarse_mask

# Share of the white matter: from a few spots to a heavy load.
_LOADS = (0.001, 0.08)
_RADII = (5.0, 25.0)  # mm


def with_lesions(
    image: Tensor,
    tissue: Tensor,
    contrast: Contrast,
    strength: tuple[float, float],
    spacing: float,
    draw: Draw,
) -> Tensor:
    """Add lesions to the white matter of an image (R, A, S): blobs, more of them at the ventricles.

    A smooth random field decides where they are; as the field rises, the white matter gives way to
    the lesion gradually, which makes the blurred edges and the dirty white matter of real ones.
    How far lesions are from the white matter, relative to the mean of the contrast, changes from
    one to the next within the bounds `strength`: on a real T1 some are as grey as cortex and the
    darkest are half-way to fluid.
    """
    white = tissue == WHITE_MATTER
    if not white.any():
        return image
    score = draw.smooth_field(image.shape, draw.uniform(3, 8) / spacing)
    # Caps at their horns reach further than a rim does.
    cap = (draw.uniform(2, 5) / spacing,) * 3
    near = gaussian_blur(coarse_mask(tissue == VENTRICLES, 4), cap)
    near = near / near.max().clamp_min(1e-6)
    score += draw.uniform(0, 3) * resize(near, tuple(image.shape))
    share = _LOADS[0] * (_LOADS[1] / _LOADS[0]) ** draw.uniform(0, 1)
    candidates = score[white]
    candidates = candidates[:: max(1, candidates.numel() // 100_000)]
    threshold = torch.quantile(candidates, 1 - share)
    opacity = torch.sigmoid((score - threshold) / draw.uniform(0.03, 0.3)) * white
    low, high = strength
    typical, reach = draw.uniform(low, high), (high - low) / 4
    shown = typical + reach * draw.smooth_field(image.shape, 10 / spacing)
    return (image + shown.clamp_(low, high) * opacity * (contrast.lesion - image)).clamp_min_(0)


def with_cavity(
    image: Tensor, tissue: Tensor, contrast: Contrast, spacing: float, draw: Draw
) -> tuple[Tensor, Tensor]:
    """Add one stroke or cavity to image and tissue (R, A, S): a ball with an irregular surface."""
    brain = (tissue == GREY_MATTER) | (tissue == WHITE_MATTER)
    candidates = brain[::4, ::4, ::4].nonzero()
    if not len(candidates):
        return image, tissue
    centre = 4 * candidates[draw.integer(len(candidates))]
    radius = draw.uniform(*_RADII) / spacing
    distance = torch.zeros_like(image)
    for axis, n in enumerate(image.shape):
        offsets = torch.arange(n, device=image.device) - centre[axis]
        view = [-1 if a == axis else 1 for a in range(3)]
        distance += (offsets.view(view) / draw.uniform(0.7, 1.4)) ** 2
    surface = radius * (1 + 0.3 * draw.smooth_field(image.shape, max(2, 0.5 * radius)))
    inside = (distance.sqrt_() < surface) & brain
    if draw.chance(0.5):
        fluid = contrast.fluid + 0.03 * draw.noise(image.shape)
        return torch.where(inside, fluid.clamp_min(0), image), torch.where(inside, CSF, tissue)
    strength = draw.uniform(0.4, 1)
    return torch.where(inside, image + strength * (contrast.lesion - image), image), tissue
