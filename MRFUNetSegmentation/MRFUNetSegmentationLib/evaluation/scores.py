"""Scores of a mask against a reference mask.

Surface distances are those of DeepMind's surface-distance (Nikolov et al., J Med Internet Res
2021): every element of surface counts with its area.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from ..boxes import occupied_box
from ..training.metrics import dice
from .packages import need


@dataclass(frozen=True)
class Scores:
    """How far a mask is from its reference.

    Where both are empty they agree: Dice and surface Dice 1, distance 0. Where one of them is,
    these are 0, and the distance is the diagonal of the volume.

    Attributes:
        dice: Dice coefficient.
        hd95_mm: 95th percentile of the distances between the surfaces, the larger of both
            directions.
        surface_dice: share of both surfaces that is within the tolerance of the other.
        volume_ml: of the mask.
        reference_ml: of the reference.
    """

    dice: float
    hd95_mm: float
    surface_dice: float
    volume_ml: float
    reference_ml: float

    @property
    def volume_difference_percent(self) -> float:
        """(volume - reference) / reference, percent; NaN where the reference is empty."""
        if not self.reference_ml:
            return float("nan")
        return 100 * (self.volume_ml - self.reference_ml) / self.reference_ml


def score(
    mask: np.ndarray, reference: np.ndarray, spacing: tuple[float, float, float], tolerance: float
) -> Scores:
    """Compare a mask with its reference.

    Args:
        mask: [k, j, i] bool.
        reference: [k, j, i] bool.
        spacing: voxel size along i, j, k, mm.
        tolerance: of the surface Dice, mm.
    """
    voxel_ml = float(np.prod(spacing)) / 1000
    diagonal = float(np.linalg.norm(np.multiply(mask.shape, spacing[::-1])))
    volumes = {"volume_ml": mask.sum() * voxel_ml, "reference_ml": reference.sum() * voxel_ml}
    volumes = {k: float(v) for k, v in volumes.items()}
    overlap = dice(mask, reference)
    if not (mask.any() and reference.any()):
        agree = not (mask.any() or reference.any())
        return Scores(overlap, 0.0 if agree else diagonal, float(agree), **volumes)
    library = need(
        "surface_distance.metrics", "surface-distance-based-measures", "The surface distance"
    )
    box, step = occupied_box(mask | reference, margin=1), spacing[::-1]
    if mask.shape.count(1) == 1:  # the surface of a single slice is its outline, not its faces
        across = mask.shape.index(1)
        box = tuple(0 if axis == across else side for axis, side in enumerate(box))
        step = tuple(s for axis, s in enumerate(step) if axis != across)
    with warnings.catch_warnings():
        # It calls SciPy by an old name, at every call.
        warnings.simplefilter("ignore", DeprecationWarning)
        distances = library.compute_surface_distances(reference[box], mask[box], step)
    return Scores(
        dice=overlap,
        hd95_mm=float(library.compute_robust_hausdorff(distances, 95)),
        surface_dice=float(library.compute_surface_dice_at_tolerance(distances, tolerance)),
        **volumes,
    )
