"""The question of the MRF-UNet's paper on this project's data: does the MRF help, and where?

Brudfors et al. (MIDL 2021, table 1) train U-Nets of 2^j to 2^(j + 4) filters with and without MRF
on one data set of T1 scans, and test them on it (in distribution) and on another (out of
distribution). Here both train alike on images like T1, synthesised from four label maps, and are
tested on anatomies that neither has seen: images like the ones trained on, other contrasts, thick
slices, and real scans.

Run `python -m MRFUNetSegmentationLib.evaluation.paper_comparison --data DIR -o DIR`; started again,
it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..checkpoints.load import load_checkpoint
from ..networks import MRFUNetConfig
from ..training.config import CardText, Stage, TrainingConfig, ValidationCase
from ..training.labels import GREY_MATTER, VENTRICLES, WHITE_MATTER, read_label_maps
from ..training.run import launched_fabric
from ..training.sources import SynthesisSource
from ..training.synthesis import SynthesisConfig
from ..training.trainer import Trainer
from ..training.validation import TissueValidation, metric_name
from .packages import need
from .statistics import bootstrap_mean, paired_comparison

TRAINED_ON = ("01", "05", "09", "13")
TESTED_ON = ("02", "03", "04", "06", "08", "10", "11", "12", "15", "16", "17", "18", "19", "20")
WIDTHS = (1, 2, 3, 4)
NETWORKS = ("U-Net", "MRF-UNet")
# The paper's classes; fluid outside the ventricles is not among them.
SCORED = (GREY_MATTER, WHITE_MATTER, VENTRICLES)
VOXEL_SIZE = (
    2.0  # mm: a brain fits into an image that two CPU cores train on in a fraction of a second
)
SHAPE = (80, 96, 80)

_PLAIN = SynthesisConfig(
    known_contrast=1.0, t1_share=1.0, low_resolution=0.0, lesions=0.0, cavity=0.0, artefact=0.0,
    cut=0.0, centre_spread=5.0,
)  # fmt: skip
# How each set of test images differs from what is trained on.
CONDITIONS = {
    "in distribution": _PLAIN,
    "other contrasts": replace(_PLAIN, known_contrast=0.75, t1_share=0.0),
    "thick slices": replace(_PLAIN, low_resolution=1.0, slice_thickness=8.0),
}
REAL = "real scans"
# Median over subjects of the mean Dice, (U-Net, MRF-UNet), of the paper's table 1.
PAPER = {
    "in distribution": {1: (0.82, 0.84), 2: (0.86, 0.90), 3: (0.91, 0.92), 4: (0.90, 0.92)},
    "out of distribution": {1: (0.67, 0.73), 2: (0.67, 0.80), 3: (0.79, 0.83), 4: (0.79, 0.81)},
}


@dataclass(frozen=True)
class Score:
    """Mean Dice of one network on one image."""

    width: int
    network: str
    seed: int
    condition: str
    image: str
    dice: float


def configuration(width: int, network: str, seed: int, steps: int) -> TrainingConfig:
    """Return the configuration of one run; two networks of a width and seed see the same images."""
    return TrainingConfig(
        name=f"{network.lower()}-{width}-{seed}",
        seed=seed,
        network=MRFUNetConfig.paper(
            width, classes=5, mrf=network == "MRF-UNet", norm="instance", iterations=5
        ),
        stages=(
            Stage(
                steps=steps,
                learning_rate=(1e-3, 1e-4),
                shape=SHAPE,
                training_iterations=(1, 5),
                voxel_size=(0.9 * VOXEL_SIZE, 1.1 * VOXEL_SIZE),
                synthesis=_PLAIN,
            ),
        ),
        card=CardText(
            title=f"{network}, j = {width}",
            description="One network of the comparison with the paper.",
            modality="T1",
            voxel_size=(VOXEL_SIZE,) * 3,
            data=("four label maps published with SynthSeg",),
            licence="Apache-2.0",
            citation="Brudfors et al., MIDL 2021 (arXiv 2104.05495)",
            intended_use="Comparison only.",
        ),
        label_maps=tuple(map(_label_map, TRAINED_ON)),
        validation=tuple(_cases()),
        ema=0.98,
        save_every=50,
        validate_every=steps,
    )


def _label_map(number: str) -> str:
    return f"synthseg_label_maps/training_seg_{number}.nii.gz"


def _cases() -> Iterator[ValidationCase]:
    for condition, synthesis in CONDITIONS.items():
        for number in TESTED_ON:
            yield ValidationCase(
                label_map=_label_map(number),
                seed=int(number),
                shape=SHAPE,
                voxel_size=VOXEL_SIZE,
                synthesis=synthesis,
                name=f"{condition}/{number}",
            )
    yield from real_cases()


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


def run(
    data: Path, folder: Path, *, seeds: int, steps: int, widths: Sequence[int], device: str
) -> list[Score]:
    """Train and score every network; what `folder` holds already is not done again."""
    fabric = launched_fabric(device)
    cache = folder / "label-maps"
    source = SynthesisSource(
        read_label_maps([data / _label_map(n) for n in TRAINED_ON], cache), fabric.device
    )
    validation = None
    scores = []
    for seed in range(1, seeds + 1):
        for width in widths:
            for network in NETWORKS:
                config = configuration(width, network, seed, steps)
                result = folder / config.name / "scores.json"
                if not result.exists():
                    trainer = Trainer(config, source, folder / config.name, fabric)
                    trainer.run(report=lambda line, name=config.name: print(name, line, flush=True))
                    # The references are the same for all.
                    validation = validation or TissueValidation(config, data, device, cache)
                    average = load_checkpoint(trainer.checkpoint_file).network
                    validation.config = config
                    result.write_text(json.dumps(validation(average).metrics), encoding="utf-8")
                metrics = json.loads(result.read_text(encoding="utf-8"))
                scores += scores_of(metrics, width, network, seed, config.validation)
    return scores


def scores_of(
    metrics: dict[str, float],
    width: int,
    network: str,
    seed: int,
    cases: Sequence[ValidationCase],
) -> Iterator[Score]:
    """Yield the scores of a network, from the metrics of its validation on cases."""
    for case in cases:
        names = [metric_name(c, case.title) for c in SCORED]
        values = [metrics[name] for name in names if name in metrics]
        condition, image = case.title.split("/")
        yield Score(width, network, seed, condition, image, sum(values) / len(values))


def write_report(scores: Sequence[Score], folder: Path) -> None:
    """Write scores.csv, comparison.md and comparison.png."""
    with (folder / "scores.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["j", "network", "seed", "condition", "image", "mean_dice"])
        for s in scores:
            writer.writerow([s.width, s.network, s.seed, s.condition, s.image, f"{s.dice:.4f}"])
    (folder / "comparison.md").write_text("\n".join(_table(scores)) + "\n", encoding="utf-8")
    _plot(scores, folder / "comparison.png")


def _by_image(
    scores: Sequence[Score], width: int, network: str, condition: str
) -> dict[str, float]:
    """Return the mean over seeds of each image."""
    values: dict[str, list[float]] = {}
    for s in scores:
        if (s.width, s.network, s.condition) == (width, network, condition):
            values.setdefault(s.image, []).append(s.dice)
    return {image: float(np.mean(v)) for image, v in values.items()}


def _table(scores: Sequence[Score]) -> Iterator[str]:
    yield "| condition | j | U-Net | MRF-UNet | MRF-UNet minus U-Net (95 % interval) | p |"
    yield "|---|---|---|---|---|---|"
    for condition, width, unet, ours, difference, p in comparison_rows(scores):
        yield f"| {condition} | {width} | {unet:.3f} | {ours:.3f} | {difference} | {p} |"
    for condition, rows in PAPER.items():
        for width, (unet, ours) in rows.items():
            yield (
                f"| the paper, {condition} | {width} | {unet:.2f} | {ours:.2f} "
                f"| {ours - unet:+.2f} | |"
            )


def comparison_rows(
    scores: Sequence[Score],
) -> Iterator[tuple[str, int, float, float, str, str]]:
    """Yield condition with its number of images, width, both means, their difference and p."""
    for condition in dict.fromkeys(s.condition for s in scores):
        for width in sorted({s.width for s in scores}):
            unet, ours = (_by_image(scores, width, n, condition) for n in NETWORKS)
            images = list(unet)
            paired = paired_comparison([ours[i] for i in images], [unet[i] for i in images], images)
            means = [bootstrap_mean(list(m.values()), images).value for m in (unet, ours)]
            d = paired.difference
            p = "too few" if len(images) < 6 else f"{paired.p:.2g}"
            difference = f"{d.value:+.3f} ({d.low:+.3f} to {d.high:+.3f})"
            yield f"{condition} ({len(images)})", width, *means, difference, p


def _plot(scores: Sequence[Score], path: Path) -> None:
    """Draw the gain of the MRF over the width, ours beside the paper's."""
    matplotlib = need("matplotlib", "matplotlib", "The plot")
    matplotlib.use("Agg")
    plt = need("matplotlib.pyplot", "matplotlib", "The plot")
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    widths = sorted({s.width for s in scores})
    for condition in dict.fromkeys(s.condition for s in scores):
        gains = []
        for width in widths:
            unet, ours = (_by_image(scores, width, n, condition) for n in NETWORKS)
            gains.append(np.mean([ours[i] - unet[i] for i in unet]))
        axes[0].plot(widths, gains, marker="o", label=condition)
    for condition, rows in PAPER.items():
        axes[1].plot(list(rows), [b - a for a, b in rows.values()], marker="o", label=condition)
    for axis, title in zip(axes, ("here", "the paper"), strict=True):
        axis.axhline(0, color="grey", linewidth=0.8)
        axis.set(title=title, xlabel="j (2^j to 2^(j+4) filters)", xticks=list(WIDTHS))
        axis.legend(fontsize=8)
    axes[0].set_ylabel("mean Dice of MRF-UNet minus U-Net")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the comparison and write its report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--widths", type=int, nargs="+", default=list(WIDTHS))
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    scores = run(
        options.data,
        options.output,
        seeds=options.seeds,
        steps=options.steps,
        widths=options.widths,
        device=options.device,
    )
    write_report(scores, options.output)


if __name__ == "__main__":
    main()
