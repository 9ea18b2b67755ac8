"""Scores of a network on real scans with reference labels."""

from __future__ import annotations

import copy
from pathlib import Path

import SimpleITK as sitk

from ..checkpoints.load import Checkpoint
from ..errors import InputError
from ..inference.engine import Segmenter
from ..inference.image_files import read_volume_file
from ..networks import MRFUNet
from .card import BRAIN_TISSUE_CLASSES, trained_card
from .config import TrainingConfig
from .labels import tissue_table
from .metrics import SCORED, dice


class RealScanValidation:
    """Dice of grey matter, white matter and ventricles on each scan of a configuration.

    Args:
        config: names the scans.
        data: folder below which they lie.
        device: where to compute.
    """

    def __init__(self, config: TrainingConfig, data: Path, device: str = "auto") -> None:
        self.config = config
        self.device = device
        table = tissue_table()
        self.scans = []
        for scan in config.validation:
            volume = read_volume_file(data / scan.image)
            labels = sitk.GetArrayFromImage(sitk.ReadImage(str(data / scan.labels)))
            if labels.shape != volume.array.shape:
                raise InputError(f"{scan.labels}: not on the grid of {scan.image}.")
            self.scans.append((scan.image, volume, table[labels.astype(int)]))

    def __call__(self, network: MRFUNet) -> dict[str, float]:
        """Return the Dice by class and scan."""
        checkpoint = Checkpoint(
            copy.deepcopy(network).eval(), trained_card(self.config, 0, {}), Path(), ""
        )
        segmenter = Segmenter(checkpoint, self.device)
        scores = {}
        for name, volume, reference in self.scans:
            labels = segmenter.segment(volume).labels
            for c in SCORED:
                score = dice(labels == c, reference == c)
                scores[metric_name(c, name)] = round(score, 4)
        return scores


def metric_name(tissue: int, scan: str) -> str:
    """Return the name of a score in model cards."""
    return f"Dice of {BRAIN_TISSUE_CLASSES[tissue]['name'].lower()}, {scan}"
