"""The question of the MRF-UNet's paper on this project's data: does the MRF help, and where?

Brudfors et al. (MIDL 2021, table 1) train U-Nets of 2^j to 2^(j + 4) filters with and without MRF
on one data set of T1 scans, and test them on it (in distribution) and on another (out of
distribution). Here both train alike on images like T1, synthesised from four label maps, and are
tested on anatomies that neither has seen: images like the ones trained on, other contrasts, thick
slices, T1 of another scanner, and real scans.

Run `python -m MRFUNetSegmentationLib.evaluation.paper_comparison --data DIR -o DIR`; started again,
it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..networks import MRFUNetConfig
from ..training.config import CardText, Stage, TrainingConfig, ValidationCase
from ..training.synthesis import SynthesisConfig
from .pictures import empty_figure
from .twins import NETWORKS, Score, Twins, by_image, comparison_rows, real_cases

TRAINED_ON = ("01", "05", "09", "13")
TESTED_ON = ("02", "03", "04", "06", "08", "10", "11", "12", "15", "16", "17", "18", "19", "20")
WIDTHS = (1, 2, 3, 4)
# mm: a brain fits into an image that two CPU cores train on in a fraction of a second.
VOXEL_SIZE = 2.0
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
    # The paper's own question: T1 scans of another data set. Ranges twice as wide.
    "another scanner": replace(
        _PLAIN, noise=2 * _PLAIN.noise, bias=2 * _PLAIN.bias, gamma=2 * _PLAIN.gamma
    ),
}
# Median over subjects of the mean Dice, (U-Net, MRF-UNet), of the paper's table 1.
PAPER = {
    "in distribution": {1: (0.82, 0.84), 2: (0.86, 0.90), 3: (0.91, 0.92), 4: (0.90, 0.92)},
    "out of distribution": {1: (0.67, 0.73), 2: (0.67, 0.80), 3: (0.79, 0.83), 4: (0.79, 0.81)},
}


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


def run(
    data: Path,
    folder: Path,
    *,
    seeds: Sequence[int],
    steps: int,
    widths: Sequence[int],
    device: str,
) -> list[Score]:
    """Train and score every network; what `folder` holds already is not done again."""
    twins = Twins(data, folder, device)
    return [
        score
        for seed in seeds
        for width in widths
        for network in NETWORKS
        for score in twins.scores(configuration(width, network, seed, steps), network, width)
    ]


def write_report(scores: Sequence[Score], folder: Path) -> None:
    """Write scores.csv, comparison.md and comparison.png."""
    with (folder / "scores.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["j", "network", "seed", "condition", "image", "mean_dice"])
        for s in scores:
            writer.writerow([s.width, s.network, s.seed, s.condition, s.image, f"{s.dice:.4f}"])
    (folder / "comparison.md").write_text("\n".join(_table(scores)) + "\n", encoding="utf-8")
    _plot(scores, folder / "comparison.png")


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


def _plot(scores: Sequence[Score], path: Path) -> None:
    """Draw the gain of the MRF over the width, ours beside the paper's."""
    figure = empty_figure(9, 3.6)
    axes = figure.subplots(1, 2, sharey=True)
    widths = sorted({s.width for s in scores})
    for condition in dict.fromkeys(s.condition for s in scores):
        gains = []
        for width in widths:
            unet, ours = (by_image(scores, width, n, condition) for n in NETWORKS)
            gains.append(np.mean([ours[i] - unet[i] for i in unet]))
        axes[0].plot(widths, gains, marker="o", label=condition)
    for condition, rows in PAPER.items():
        axes[1].plot(list(rows), [b - a for a, b in rows.values()], marker="o", label=condition)
    for axis, title in zip(axes, ("here", "the paper"), strict=True):
        axis.axhline(0, color="grey", linewidth=0.8)
        axis.set(title=title, xlabel="j (2^j to 2^(j+4) filters)", xticks=list(WIDTHS))
        axis.legend(fontsize=8)
    axes[0].set_ylabel("mean Dice of MRF-UNet minus U-Net")
    figure.savefig(path, dpi=110)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the comparison and write its report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
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
