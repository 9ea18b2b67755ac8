"""What of the head an image shows: skull stripping, removed faces, the field of view."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ...inference.separable import resize
from ..labels import CSF, OTHER
from .draw import Draw, coarse_mask


def skull_stripped(
    image: Tensor, tissue: Tensor, spacing: float, draw: Draw
) -> tuple[Tensor, Tensor]:
    """Remove what lies outside a brain mask from image and tissue (R, A, S).

    The mask is perfect (the brain with all fluid around it), or, as real tools make it, smoother
    than the brain: it closes sulci, loses some of the cortex or leaves fluid, meninges and bits of
    the skull. Tissue that is removed becomes "other".
    """
    if draw.chance(0.3):
        mask = tissue != OTHER
    else:
        brain = (tissue != OTHER) & (tissue != CSF)
        factor = 2
        share = coarse_mask(brain, factor)[None, None]
        width = 2 * max(1, round(draw.uniform(2, 6) / spacing / factor)) + 1
        box = [min(width, (n - 1) // 2 * 2 + 1) for n in share.shape[2:]]
        for _ in range(2):  # a box twice is nearly a Gaussian
            share = functional.avg_pool3d(
                share, box, 1, [n // 2 for n in box], count_include_pad=False
            )
        share = share[0, 0]
        # Low thresholds leak, high ones erode; the random field makes that differ by place.
        share = share + draw.uniform(0, 0.12) * draw.smooth_field(share.shape, 12 / spacing)
        mask = resize(share, tuple(image.shape)) > draw.uniform(0.08, 0.6)
    return torch.where(mask, image, 0.0), torch.where(mask, tissue, OTHER)


def defaced(image: Tensor, tissue: Tensor, spacing: float, draw: Draw) -> Tensor:
    """Remove the face: all that lies beyond a plane in front of and below the brain."""
    brain = (tissue != OTHER) & (tissue != CSF)
    if not brain.any():
        return image
    slope = draw.uniform(0.3, 1.2)
    n = image.shape
    anterior = torch.arange(n[1], device=image.device, dtype=torch.float32)[:, None]
    superior = torch.arange(n[2], device=image.device, dtype=torch.float32)
    height = anterior - slope * superior  # (A, S): grows towards the face
    foremost = height[brain.any(0)].max()
    face = height > foremost + draw.uniform(2, 15) / spacing
    return torch.where(face, 0.0, image)


def cut(image: Tensor, tissue: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
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
