"""What a run gives whose network gives one segmentation.

Needs neither torch nor the model, so that it can be used in the process of an application.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..checkpoints.card import ModelCard
from .volume import Geometry


@dataclass(frozen=True)
class Segmentation:
    """What a run gives.

    Attributes:
        labels: (k, j, i) uint8 on the volume's grid; class k has value k.
        geometry: the volume's.
        card: the model's.
        sha256: of the checkpoint file.
        device: where it was computed, for users.
        options: what a run may leave out, as it was: "mrf" and "intensities" say whether they were
            used, "tolerance" is that of the mean field.
        timings: seconds of each stage; "Loading the model" only where it was not loaded yet.
        warnings: what the user should know.
        maps: float32 [k, j, i] by name, those of UNCERTAINTY_OF_ONE that were asked for.
    """

    labels: np.ndarray
    geometry: Geometry
    card: ModelCard
    sha256: str
    device: str
    options: dict[str, bool | float]
    timings: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    maps: dict[str, np.ndarray] = field(default_factory=dict)

    def volumes_ml(self) -> dict[int, float]:
        """Return the volume of every class, ml, by its value."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.card.classes))
        return {c.value: float(counts[c.value]) * self.geometry.voxel_ml for c in self.card.classes}
