"""Does the bundled model of the brain's tissues gain by its MRF? A twin without it tells.

The network of `brain-tissue` goes on training from its weights, for as many steps with its MRF as
without, on the same images. Both are scored at the voxel size that the network sees, without the
intensities that the bundled model draws borders by, on anatomies that it never saw and on real
scans.

Run `python -m MRFUNetSegmentationLib.evaluation.bundled_twin --data DIR -o DIR`; started again, it
goes on where it stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ..training.config import CONFIGS, TrainingConfig, ValidationCase, load_config
from ..training.synthesis import SynthesisConfig
from .twins import NETWORKS, Score, Twins, comparison_rows, real_cases

BUNDLED = "brain-tissue"
CONFIGURATION = CONFIGS / f"{BUNDLED}.toml"
TESTED_ON = ("04", "12")
IMAGES = 6  # of each anatomy and condition
SHAPE = (128, 160, 128)  # a whole head at the voxel size that the network sees
_LEARNING_RATE = (2e-4, 1e-6)
_USUAL = SynthesisConfig(known_contrast=1.0, lesions=0.0, cavity=0.0, cut=0.0, centre_spread=5.0)
CONDITIONS = {
    "T1": replace(_USUAL, t1_share=1.0),
    "other contrasts": replace(_USUAL, t1_share=0.0),
    # Thicker than any that it is trained on.
    "thick slices": replace(_USUAL, low_resolution=1.0, slice_thickness=8.0),
}


def configuration(network: str, steps: int) -> TrainingConfig:
    """Return the configuration of one of the two networks; they differ in the MRF alone."""
    config = load_config(CONFIGURATION)
    size = config.card.network_voxel_size[0]
    return replace(
        config,
        name=f"{network.lower()}-twin",
        network=replace(config.network, mrf=network == "MRF-UNet"),
        stages=(replace(config.stages[-1], steps=steps, learning_rate=_LEARNING_RATE),),
        card=replace(
            config.card, voxel_size=(size,) * 3, network_voxel_size=None, intensities=False
        ),
        logit_offsets=(),  # the weights have them already
        validation=(*_synthesised(size), *real_cases()),
        validate_every=steps,
        save_every=50,
    )


def _synthesised(voxel_size: float) -> Iterator[ValidationCase]:
    for condition, synthesis in CONDITIONS.items():
        for number in TESTED_ON:
            for seed in range(1, IMAGES + 1):
                yield ValidationCase(
                    label_map=f"synthseg_label_maps/training_seg_{number}.nii.gz",
                    # Of the same seed, images of two anatomies are posed and tinted alike.
                    seed=100 * int(number) + seed,
                    shape=SHAPE,
                    voxel_size=voxel_size,
                    synthesis=synthesis,
                    name=f"{condition}/{number} {seed}",
                )


def run(data: Path, folder: Path, steps: int, device: str) -> list[Score]:
    """Train and score both networks; what `folder` holds already is not done again."""
    twins = Twins(data, folder, device)
    return [
        score
        for network in NETWORKS
        for score in twins.scores(configuration(network, steps), network, start_from=BUNDLED)
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the comparison and write its table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    scores = run(options.data, options.output, options.steps, options.device)
    table = [
        "| condition | U-Net | MRF-UNet | MRF-UNet minus U-Net (95 % interval) | p |",
        "|---|---|---|---|---|",
        *(
            f"| {condition} | {unet:.3f} | {ours:.3f} | {difference} | {p} |"
            for condition, _, unet, ours, difference, p in comparison_rows(scores)
        ),
    ]
    text = "\n".join([*table, ""])
    (options.output / "twin.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
