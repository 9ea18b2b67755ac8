"""Puts a run together from its configuration."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lightning.fabric import Fabric
from lightning.fabric.strategies import DDPStrategy
from torch import Generator, distributed

from ..checkpoints.load import load_checkpoint
from ..errors import InputError
from ..inference.devices import resolve_device
from .card import BRAIN_TISSUE_CLASSES
from .config import ConfigError, TrainingConfig
from .contact_sheet import write_contact_sheet
from .labels import read_label_maps
from .lesion_validation import lesion_cases
from .lesions import read_lesion_maps
from .rater_data import read_rater_cases, split_of
from .rater_validation import RaterValidation
from .seen_cases import SeenCases, write_seen
from .sources import LesionSource, RaterSource, Source, SynthesisSource
from .trainer import STATE_FILE, Trainer, built
from .validation import TissueValidation, Validation

CONTACT_SHEET_FILE = "contact-sheet.png"


def prepare(
    config: TrainingConfig,
    data: Path,
    folder: Path,
    device: str = "auto",
    start_from: str | Path | None = None,
) -> Trainer:
    """Return the trainer of a run, ready to go on where the run stopped.

    Args:
        config: the run.
        data: folder below which its files lie.
        folder: of the run; also receives a picture of training pairs when the run begins.
        device: as of `resolve_device`. Under `torchrun` every process takes one device of this
            kind, and the gradients are averaged.
        start_from: a bundled model or a checkpoint whose weights the run begins with.
    """
    if not config.stages and start_from is None:
        raise ConfigError("stages: without any, --start-from must name the weights")
    built(config)  # what is wrong with card or network shows before the data are read
    fabric = launched_fabric(device)
    checkpoint = None if start_from is None else load_checkpoint(start_from)
    read = _label_map_data if config.label_maps else _rater_data
    if config.lesions is not None:
        read = _lesion_data
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file. Name a folder for the run.")
    folder.mkdir(parents=True, exist_ok=True)
    source, validation = read(config, data, folder, fabric)
    split = split_of(config, data) if config.raters is not None else None
    before = SeenCases.of(folder)
    if split and before:
        before.check(split, folder)
    if config.stages and fabric.is_global_zero and not (folder / STATE_FILE).exists():
        colours = [c["color"] for c in config.classes or BRAIN_TISSUE_CLASSES]
        rng = Generator(fabric.device).manual_seed(config.seed)
        write_contact_sheet(folder / CONTACT_SHEET_FILE, source, config.stages, colours, rng)
    trainer = Trainer(config, source, folder, fabric, validation, checkpoint)
    if split:
        fabric.barrier()  # all processes have read what the first one writes now
        if fabric.is_global_zero:
            write_seen(folder, split, before)
    return trainer


def launched_fabric(device: str) -> Fabric:
    """Return Fabric on a device; under `torchrun` with as many processes as that started."""
    chosen = resolve_device(device)
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if processes > 1:
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        # Buffers are constants, or statistics that only the first process's copy is saved of.
        strategy = DDPStrategy(broadcast_buffers=False)
        fabric = Fabric(
            accelerator=chosen.type, devices=here, num_nodes=processes // here, strategy=strategy
        )
    else:
        devices = [chosen.index or 0] if chosen.type == "cuda" else 1
        fabric = Fabric(accelerator=chosen.type, devices=devices)
    fabric.launch()
    return fabric


def leave(code: int) -> int:
    """Return the exit code, or end the process with it at once where it is one of several.

    As Python ends, a thread of gloo may still wait for the interpreter to drop its last tensor: now
    and then the process is aborted or hangs. All is written by now, so nothing is lost.
    """
    if distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _label_map_data(
    config: TrainingConfig, data: Path, folder: Path, fabric: Fabric
) -> tuple[Source, Validation | None]:
    cache = folder / "label-maps"
    paths = [data / name for name in config.label_maps]
    with fabric.rank_zero_first():  # it fills the cache for the others
        label_maps = read_label_maps(paths, cache)
    source = SynthesisSource(label_maps, fabric.device)
    # The first process validates for all.
    if not (config.validation and fabric.is_global_zero):
        return source, None
    return source, TissueValidation(config, data, str(fabric.device), cache)


def _lesion_data(
    config: TrainingConfig, data: Path, folder: Path, fabric: Fabric
) -> tuple[Source, Validation | None]:
    options = config.lesions

    def read(label_maps, masks):
        with fabric.rank_zero_first():
            return (
                read_label_maps([data / name for name in label_maps], folder / "label-maps"),
                read_lesion_maps([data / name for name in masks], folder / "lesion-maps"),
            )

    neighbours = config.card.neighbours
    anatomies = read(config.label_maps, options.masks)
    source = LesionSource(*anatomies, options, fabric.device, neighbours)
    held_out = read(options.validation_label_maps, options.validation_masks)
    if not (options.validation_masks and fabric.is_global_zero):
        return source, None
    cases = lesion_cases(*held_out, options, config.stages[-1], neighbours)
    number = options.validation_samples
    return source, RaterValidation(cases, number, len(config.classes), fabric.device)


def _rater_data(
    config: TrainingConfig, data: Path, folder: Path, fabric: Fabric
) -> tuple[Source, Validation | None]:
    cases = read_rater_cases(config, data)
    source = RaterSource(cases.training, config.raters, fabric.device)
    if not (cases.validation and fabric.is_global_zero):
        return source, None
    classes = len(config.classes) or config.network.classes
    number = config.raters.validation_samples
    return source, RaterValidation(cases.validation, number, classes, fabric.device)
