"""Held-out images with lesions, each marked by several simulated raters, to validate on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Generator

from ..inference.batches import with_neighbours
from .config import LesionData, Stage
from .labels import LabelMap
from .lesions import LesionMap, synthesise_lesions
from .rater_data import RaterCase
from .synthesis.draw import Draw

# Slices of a 2D network's case, and their distance in voxels: together they span the brain.
_SLICES, _STEP = 24, 5


def lesion_cases(
    label_maps: Sequence[LabelMap],
    lesion_maps: Sequence[LesionMap],
    options: LesionData,
    stage: Stage,
    neighbours: int = 0,
) -> list[RaterCase]:
    """Return one case for each lesion map: the same ones each time.

    Args:
        label_maps: anatomies that are not trained on, taken in turns.
        lesion_maps: patients that are not trained on.
        options: how lesions look, and how many raters there are.
        stage: shape and ranges of the images.
        neighbours: slices on either side that a 2D network sees beside each slice.
    """
    cases = []
    painting = options.painting
    flat = len(stage.shape) == 2
    shape = (*stage.shape, _SLICES * _STEP) if flat else stage.shape
    spacing = sum(stage.voxel_size) / 2
    # Where a case has all slices, none is to be chosen at random.
    synthesis = replace(stage.synthesis, axial_spread=0.0) if flat else stage.synthesis
    for number, lesion_map in enumerate(lesion_maps):
        rng = Generator().manual_seed(number)  # on the CPU: the same images on every machine
        label_map = label_maps[number % len(label_maps)]
        image, lesions = synthesise_lesions(
            label_map, lesion_map, painting, synthesis, shape, spacing, rng
        )
        draw = Draw(rng)
        marks = [lesions.mark(painting.raters, draw) for _ in range(options.validation_raters)]
        image, masks = image[None, None], torch.stack(marks)[:, None].to(torch.uint8)
        if flat:
            image = with_neighbours(image[0, 0], 2, neighbours, 1)[..., ::_STEP].movedim(-1, 0)
            masks = masks[:, 0, ..., ::_STEP].movedim(-1, 1)
        cases.append(
            RaterCase(
                f"{lesion_map.name} in {label_map.name}",
                image.contiguous(),
                masks.contiguous(),
                (spacing,) * len(stage.shape),
            )
        )
    return cases
