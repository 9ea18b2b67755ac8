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
from .card import trained_card
from .config import TrainingConfig
from .labels import tissue_table
from .metrics import mean_dice

METRIC = "mean Dice of grey matter, white matter and ventricles"


class RealScanValidation:
    """Mean Dice of grey matter, white matter and ventricles on each scan of a configuration.

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
        """Return the mean Dice by scan."""
        checkpoint = Checkpoint(
            copy.deepcopy(network).eval(), trained_card(self.config, 0, {}), Path(), ""
        )
        segmenter = Segmenter(checkpoint, self.device)
        return {
            f"{METRIC}, {name}": round(mean_dice(segmenter.segment(volume).labels, reference), 4)
            for name, volume, reference in self.scans
        }
