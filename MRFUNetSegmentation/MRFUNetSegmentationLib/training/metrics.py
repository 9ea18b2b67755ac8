"""Scores of label maps against reference labels."""

from __future__ import annotations

import numpy as np

from .labels import GREY_MATTER, VENTRICLES, WHITE_MATTER

# FreeSurfer marks hardly any fluid outside the ventricles, so it cannot be scored on its labels.
SCORED = (GREY_MATTER, WHITE_MATTER, VENTRICLES)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Dice coefficient of two masks of one shape; 1 if both are empty."""
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0
