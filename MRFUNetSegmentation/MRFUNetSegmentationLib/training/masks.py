"""Which files count as masks of an image: the same to train on and to evaluate on."""

from __future__ import annotations

import numpy as np

from ..inference.volume import Geometry

# Headers of one grid may differ by rounding, in voxels; more than half of one is another grid.
SAME_PLACE, OTHER_PLACE = 0.05, 0.5
# Values of masks may differ from whole numbers by so much.
_ROUNDING = 0.01


def whole_numbers(values: np.ndarray) -> np.ndarray | None:
    """Return the labels, int64, that values mean; None if they are no whole numbers.

    What is not a number counts as 0: programs write it where nothing was labelled.
    """
    values = np.nan_to_num(values, nan=0.0, posinf=np.inf, neginf=-np.inf)
    labels = np.rint(values)
    if not np.isfinite(values).all() or (np.abs(labels - values) > _ROUNDING).any():
        return None
    return labels.astype(np.int64)


def beside(mask: Geometry, image: Geometry) -> tuple[float, float]:
    """Return how far a mask's voxels lie beside its image's of the same size at most: voxels, mm.

    Across a single slice they may lie anywhere: programs that write one leave that to chance, as
    they do its thickness.
    """
    voxels = np.where(np.equal(image.size, 1), 0.0, image.voxels_beside(mask))
    mm = np.linalg.norm(image.to_mm(voxels), axis=-1)
    return float(np.abs(voxels).max()), float(mm.max())
