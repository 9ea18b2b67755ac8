"""The project's models as methods to evaluate: one, or several as an ensemble."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..checkpoints.load import load_checkpoint
from ..errors import InputError
from ..inference.engine import Segmenter
from ..inference.volume import Volume
from ..networks import ProbabilisticUNet


class ModelMethod:
    """One or several checkpoints that give masks of structures.

    Several are an ensemble: its samples are its members' segmentations, and each voxel of its
    segmentation is of the class that most members say (the first of them, if several).

    Args:
        name: shown in the report.
        models: names of bundled models or paths of checkpoints.
        structures: that are wanted; those that the models have no class of are left out.
        device: where to compute.

    Raises:
        CheckpointError: if a model cannot be loaded.
        InputError: if it has none of the structures, or members' classes differ.
    """

    def __init__(
        self, name: str, models: Sequence[str], structures: Sequence[str], device: str = "auto"
    ) -> None:
        self.name = name
        self.segmenters = [Segmenter(load_checkpoint(model), device) for model in models]
        self.classes = classes = self.segmenters[0].checkpoint.card.classes
        values = {c.name.casefold(): c.value for c in classes}
        self.values = {s: values[s.casefold()] for s in structures if s.casefold() in values}
        self.background = [c.value for c in classes if c.background]
        if not self.values:
            raise InputError(
                f"{name}: the model's classes are {', '.join(c.name for c in classes)}; none is a "
                f"structure to evaluate ({', '.join(structures)}). Choose another model, or name "
                "the structures as the model does."
            )
        for other in self.segmenters[1:]:
            if other.checkpoint.card.classes != classes:
                raise InputError(f"{name}: the models of an ensemble must have the same classes.")

    @property
    def _probabilistic(self) -> bool:
        network = self.segmenters[0].checkpoint.network
        return isinstance(network, ProbabilisticUNet) and network.config.latent > 0

    def labels(self, volume: Volume) -> np.ndarray:
        """Return the segmentation, [k, j, i] uint8, in the model's class values."""
        members = [s.segment(volume).labels for s in self.segmenters]
        if len(members) == 1:
            return members[0]
        votes = np.stack(
            [sum(m == v for m in members) for v in range(max(map(np.max, members)) + 1)]
        )
        return votes.argmax(0).astype(np.uint8)

    def samples(self, volume: Volume, number: int, seed: int) -> np.ndarray:
        """Return samples, (n, k, j, i) uint8: n is `number`, or fewer from a small ensemble.

        A model without samples gives its segmentation once.
        """
        if self._probabilistic and len(self.segmenters) == 1:
            drawn = self.segmenters[0].samples(volume, number, seed)
            return np.stack([sample.labels for sample in drawn])
        return np.stack([s.segment(volume).labels for s in self.segmenters[:number]])

    def masks(self, labels: np.ndarray) -> dict[str, np.ndarray]:
        """Return the mask of every structure, in labels of any shape."""
        return {s: labels == v for s, v in self.values.items()}

    def foreground(self, labels: np.ndarray) -> np.ndarray:
        """Return what is not background."""
        return ~np.isin(labels, self.background)
