"""Scores of a network on images with references, through the engine that users run."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Generator, nn

from ..checkpoints.load import Checkpoint
from ..errors import InputError
from ..inference.engine import Segmenter
from ..inference.image_files import read_volume_file
from ..inference.volume import RAS, Geometry, Volume
from .card import BRAIN_TISSUE_CLASSES, trained_card
from .config import ConfigError, TrainingConfig, ValidationCase
from .labels import OTHER, read_label_maps, tissues_of_freesurfer
from .metrics import SCORED, dice
from .synthesis import synthesise

_CLASS_NAMES = tuple(c["name"] for c in BRAIN_TISSUE_CLASSES)


@dataclass(frozen=True)
class Scores:
    """What a validation gives.

    Attributes:
        selection: the higher, the better; it chooses the network that a run keeps.
        metrics: single scores by name, for logs and the model card.
        picture: (height, width, 3) uint8, to be looked at; None if there is none.
    """

    selection: float
    metrics: dict[str, float]
    picture: np.ndarray | None = None


class Validation(Protocol):
    """Scores a network in evaluation mode; nothing about the network is changed."""

    @property
    def basis(self) -> list[str]:
        """What it scores by: only scores of the same basis compare."""
        ...

    def __call__(self, network: nn.Module) -> Scores:
        """Return the scores."""
        ...


@dataclass(frozen=True)
class Reference:
    """An image and what is known about it.

    Attributes:
        title: for reports.
        volume: the image.
        masks: (k, j, i) bool of each class that is scored, by its value.
    """

    title: str
    volume: Volume
    masks: dict[int, np.ndarray]


class TissueValidation:
    """Dice of the tissues of the brain against the references of a configuration.

    The selection is the mean over references of the mean over their classes.

    Args:
        config: names the references.
        data: folder below which they lie.
        device: where to compute.
        cache: folder for compressed copies of label maps.

    Raises:
        InputError: if files do not fit each other.
        ConfigError: if a class of a probability map is unknown.
    """

    def __init__(
        self, config: TrainingConfig, data: Path, device: str = "auto", cache: Path | None = None
    ) -> None:
        self.config = config
        self.device = device
        self.references = [_reference(case, data, cache) for case in config.validation]

    @property
    def basis(self) -> list[str]:
        """What it scores by; see `Validation`."""
        return [f"{r.title} {r.volume.array.shape}" for r in self.references]

    def __call__(self, network: nn.Module) -> Scores:
        """Return the scores of a network."""
        checkpoint = Checkpoint(
            copy.deepcopy(network).eval(), trained_card(self.config, 0, {}), Path(), ""
        )
        segmenter = Segmenter(checkpoint, self.device)
        metrics, means, rows = {}, [], []
        for reference in self.references:
            labels = segmenter.segment(reference.volume).labels
            scores = {c: dice(labels == c, mask) for c, mask in reference.masks.items()}
            means.append(sum(scores.values()) / len(scores))
            for c, score in scores.items():
                metrics[metric_name(c, reference.title)] = round(score, 4)
            rows.append(_row(reference, labels))
        return Scores(sum(means) / len(means), metrics, stacked(rows))


def metric_name(tissue: int, scan: str) -> str:
    """Return the name of a score in model cards."""
    return f"Dice of {_CLASS_NAMES[tissue].lower()}, {scan}"


def _reference(case: ValidationCase, data: Path, cache: Path | None) -> Reference:
    if case.label_map:
        return _synthesised(case, data, cache)
    volume = read_volume_file(data / case.image)
    if case.labels:
        tissues = tissues_of_freesurfer(_on_grid(case.labels, data, volume).astype(int))
        return Reference(case.title, volume, {c: tissues == c for c in SCORED})
    masks = {}
    for name, file in case.probabilities.items():
        if name not in _CLASS_NAMES[1:]:
            raise ConfigError(
                f"validation: {case.title} has probabilities of {name!r}; known are "
                f"{', '.join(_CLASS_NAMES[1:])}"
            )
        probability = _on_grid(file, data, volume)
        masks[_CLASS_NAMES.index(name)] = probability > 0.5 * probability.max()
    return Reference(case.title, volume, masks)


def _on_grid(file: str, data: Path, volume: Volume) -> np.ndarray:
    """Read a reference [k, j, i] and check that it lies where its image does."""
    reference = read_volume_file(data / file)
    if not reference.geometry.has_voxels_of(volume.geometry):
        raise InputError(f"{data / file}: not on the grid of its image. Resample it to the image.")
    return reference.array


def _synthesised(case: ValidationCase, data: Path, cache: Path | None) -> Reference:
    (label_map,) = read_label_maps([data / case.label_map], cache)
    # On the CPU: the same image on every machine, so that runs can be compared.
    rng = Generator().manual_seed(case.seed)
    image, tissue = synthesise(label_map, case.synthesis, case.shape, case.voxel_size, rng)
    geometry = Geometry(case.shape, (case.voxel_size,) * 3, direction=RAS)
    tissue = tissue.numpy().T
    masks = {c: tissue == c for c in range(len(_CLASS_NAMES)) if c != OTHER}
    return Reference(case.title, Volume(np.ascontiguousarray(image.numpy().T), geometry), masks)


def _row(reference: Reference, labels: np.ndarray) -> list[np.ndarray]:
    """Return the image, its reference and the network's labels in the middle plane, as tiles."""
    known = np.zeros(labels.shape, np.uint8)
    for c, mask in reference.masks.items():
        known[mask] = c
    middle = labels.shape[0] // 2
    grey = reference.volume.array[middle].astype(np.float64)
    low, high = np.percentile(grey, (1, 99))
    grey = np.clip((grey - low) / max(high - low, 1e-9), 0, 1)
    colours = np.array([c["color"] for c in BRAIN_TISSUE_CLASSES], np.uint8)
    return [grey_tile(grey), colours[known[middle]], colours[labels[middle]]]


def grey_tile(values: np.ndarray) -> np.ndarray:
    """Return a plane of values 0..1 as (height, width, 3) uint8."""
    pixels = (np.clip(values, 0, 1) * 255).round().astype(np.uint8)
    return np.repeat(pixels[..., None], 3, axis=-1)


def stacked(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Put tiles of several sizes into one picture, a row each."""
    height = max(tile.shape[0] for row in rows for tile in row)
    width = max(tile.shape[1] for row in rows for tile in row)
    columns = max(map(len, rows))
    picture = np.zeros((len(rows) * height, columns * width, 3), np.uint8)
    for r, row in enumerate(rows):
        for c, tile in enumerate(row):
            top, left = r * height, c * width
            picture[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return picture
