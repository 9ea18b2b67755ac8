"""Held-out synthetic FLAIR scans with simulated raters, for `mrfunet evaluate`.

Run `python -m MRFUNetSegmentationLib.evaluation.simulated_raters --data DIR -o SCANS`, then
`mrfunet evaluate SCANS/cases.toml --data SCANS --model white-matter-lesions -o REPORT`. Anatomies
and patients are those that the model's run does not train on; its ranges are the run's.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Generator

from ..inference.image_files import write_label_map, write_map
from ..inference.volume import RAS, Geometry
from ..training.config import CONFIGS, TrainingConfig, load_config
from ..training.labels import read_label_maps
from ..training.lesions import read_lesion_maps, synthesise_lesions
from ..training.synthesis.draw import Draw
from .cases import Case, write_case_list

CASES = "cases.toml"
CONFIGURATION = CONFIGS / "white-matter-lesions.toml"
# Patients of the test: in neither list of the configuration.
TESTED_ON = ("02", "12", "24", "26")
# Voxels of 1 mm along R, A, S: a whole brain.
SHAPE, SPACING = (160, 192, 160), 1.0
RATERS = 4
# The run validates on images of the seeds 0, 1, …: of the same ones, these would look like them.
_FIRST_SEED = 1000


def write_scans(config: TrainingConfig, masks: Sequence[str], data: Path, folder: Path) -> Path:
    """Write scans, raters' label maps and the list of them; return the list's path.

    Each patient's lesions are put into each anatomy that the run validates on: the same scans
    each time.

    Args:
        config: the run.
        masks: of patients that the run does not know, below the data folder.
        data: folder below which its files lie.
        folder: is made if need be; files of an earlier call are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    painting = config.lesions.painting
    # Whole brains, not thin slabs at random heights.
    synthesis = replace(config.stages[-1].synthesis, axial_spread=0.0)
    label_maps = read_label_maps([data / n for n in config.lesions.validation_label_maps])
    lesion_maps = read_lesion_maps([data / n for n in masks])
    geometry = Geometry(SHAPE, (SPACING,) * 3, direction=RAS)
    structure = next(c["name"] for c in config.classes if not c.get("background"))
    cases = []
    pairs = [(lesions, anatomy) for lesions in lesion_maps for anatomy in label_maps]
    for seed, (lesion_map, label_map) in enumerate(pairs):
        rng = Generator().manual_seed(_FIRST_SEED + seed)
        image, lesions = synthesise_lesions(
            label_map, lesion_map, painting, synthesis, SHAPE, SPACING, rng
        )
        name = f"scan{seed + 1}"
        write_map(folder / f"{name}.nii.gz", np.ascontiguousarray(image.numpy().T), geometry)
        draw, raters = Draw(rng), []
        for number in range(1, RATERS + 1):
            marks = lesions.mark(painting.raters, draw).numpy().T.astype(np.uint8)
            raters.append(f"{name}_rater{number}.nii.gz")
            write_label_map(folder / raters[-1], np.ascontiguousarray(marks), geometry)
        title = f"{_stem(lesion_map.name)} in {_stem(label_map.name)}"
        cases.append(
            Case(
                title,
                f"{name}.nii.gz",
                raters=tuple(raters),
                values={structure: (1,)},
                group=_stem(lesion_map.name),
            )
        )
    path = folder / CASES
    write_case_list(path, "Simulated raters", [structure], cases)
    return path


def _stem(file_name: str) -> str:
    return file_name.partition(".")[0]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the scans."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--config", type=Path, default=CONFIGURATION, metavar="FILE")
    options = parser.parse_args(arguments)
    masks = [f"open_ms_MNI/patient{n}_lesion_consensus.nii.gz" for n in TESTED_ON]
    print(write_scans(load_config(options.config), masks, options.data, options.output))


if __name__ == "__main__":
    main()
