"""What comparisons of U-Net and MRF-UNet share: training alike, scores on the same images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..checkpoints.load import load_checkpoint
from ..training.config import TrainingConfig, ValidationCase
from ..training.labels import GREY_MATTER, VENTRICLES, WHITE_MATTER, read_label_maps
from ..training.run import launched_fabric
from ..training.sources import SynthesisSource
from ..training.trainer import Trainer
from ..training.validation import TissueValidation, metric_name
from .statistics import paired_comparison

NETWORKS = ("U-Net", "MRF-UNet")
# The paper's classes; fluid outside the ventricles is not among them.
SCORED = (GREY_MATTER, WHITE_MATTER, VENTRICLES)
REAL = "real scans"
RESULT_FILE = "scores.json"


@dataclass(frozen=True)
class Score:
    """Mean Dice of one network on one image."""

    width: int
    network: str
    seed: int
    condition: str
    image: str
    dice: float


def real_cases() -> Iterator[ValidationCase]:
    """Yield the real scans that have a reference."""
    yield ValidationCase(
        image="voxelmorph_test_scan/vxm_test_T1.nii.gz",
        labels="voxelmorph_test_scan/vxm_test_aseg_label.nii.gz",
        name=f"{REAL}/voxelmorph",
    )
    yield ValidationCase(
        image="niimath_bitmap/T1.nii.gz",
        probabilities={"Grey matter": "niimath_bitmap/GM_prob.nii.gz"},
        name=f"{REAL}/niimath",
    )
    yield ValidationCase(
        image="mni152_sym09a/mni152_T1.nii.gz",
        probabilities={
            "Grey matter": "mni152_sym09a/mni152_GM_prob.nii.gz",
            "White matter": "mni152_sym09a/mni152_WM_prob.nii.gz",
        },
        name=f"{REAL}/MNI152",
    )


class Twins:
    """Trains and scores networks on the same images; what its folder holds is not done again.

    Args:
        data: folder below which the files of the configurations lie.
        folder: receives a run of each configuration, by its name.
        device: as of `resolve_device`.
    """

    def __init__(self, data: Path, folder: Path, device: str) -> None:
        self._data = data
        self._folder = folder
        self._fabric = launched_fabric(device)
        self._cache = folder / "label-maps"
        # Read when first needed.
        self._source: SynthesisSource | None = None
        self._validation: TissueValidation | None = None

    def scores(
        self,
        config: TrainingConfig,
        network: str,
        width: int = 0,
        start_from: str | None = None,
    ) -> Iterator[Score]:
        """Train a network, or go on where that stopped, and yield its scores.

        Args:
            config: the run; label maps and cases to validate on are the same for all. These are
                named `condition/image`.
            network: one of `NETWORKS`, as the scores name it.
            width: j of the paper, likewise.
            start_from: as of `training.run.prepare`.
        """
        result = self._folder / config.name / RESULT_FILE
        if not result.exists():
            metrics = self._metrics(config, start_from)
            result.write_text(json.dumps(metrics), encoding="utf-8")
        metrics = json.loads(result.read_text(encoding="utf-8"))
        for case in config.validation:
            names = [metric_name(c, case.title) for c in SCORED]
            values = [metrics[name] for name in names if name in metrics]
            condition, image = case.title.split("/")
            yield Score(width, network, config.seed, condition, image, sum(values) / len(values))

    def _metrics(self, config: TrainingConfig, start_from: str | None) -> dict[str, float]:
        if self._source is None:
            paths = [self._data / name for name in config.label_maps]
            self._source = SynthesisSource(read_label_maps(paths, self._cache), self._fabric.device)
        checkpoint = None if start_from is None else load_checkpoint(start_from)
        folder = self._folder / config.name
        trainer = Trainer(config, self._source, folder, self._fabric, start_from=checkpoint)
        trainer.run(report=lambda line: print(config.name, line, flush=True))
        if self._validation is None:
            device = str(self._fabric.device)
            self._validation = TissueValidation(config, self._data, device, self._cache)
        self._validation.config = config
        return self._validation(load_checkpoint(trainer.checkpoint_file).network).metrics


def by_image(scores: Sequence[Score], width: int, network: str, condition: str) -> dict[str, float]:
    """Return the mean over seeds of each image."""
    values: dict[str, list[float]] = {}
    for s in scores:
        if (s.width, s.network, s.condition) == (width, network, condition):
            values.setdefault(s.image, []).append(s.dice)
    return {image: float(np.mean(v)) for image, v in values.items()}


def comparison_rows(
    scores: Sequence[Score],
) -> Iterator[tuple[str, int, float, float, str, str]]:
    """Yield condition with its number of images, width, both means, their difference and p."""
    for condition in dict.fromkeys(s.condition for s in scores):
        for width in sorted({s.width for s in scores}):
            unet, ours = (by_image(scores, width, n, condition) for n in NETWORKS)
            images = list(unet)
            paired = paired_comparison([ours[i] for i in images], [unet[i] for i in images], images)
            means = [float(np.mean(list(m.values()))) for m in (unet, ours)]
            d = paired.difference
            p = "too few" if len(images) < 6 else f"{paired.p:.2g}"
            difference = f"{d.value:+.3f} ({d.low:+.3f} to {d.high:+.3f})"
            yield f"{condition} ({len(images)})", width, *means, difference, p
