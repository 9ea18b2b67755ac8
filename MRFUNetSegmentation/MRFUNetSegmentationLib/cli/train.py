"""`mrfunet train`: trains a model from a configuration; start it again to go on."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(commands) -> argparse.ArgumentParser:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "train",
        help="train a model",
        description="Train a model from a configuration file. Started again with the same folder, "
        "it goes on where it stopped.",
    )
    parser.add_argument("config", type=Path, help="TOML file; see training/configs")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="folder with the label maps"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="folder of the run"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="stop after this time; resume later"
    )
    return parser


def run(options: argparse.Namespace) -> int:
    """Train; return the exit code."""
    from ..inference.devices import resolve_device
    from ..training.config import load_config
    from ..training.labels import read_label_maps
    from ..training.trainer import Trainer
    from ..training.validation import RealScanValidation

    config = load_config(options.config)
    label_maps = read_label_maps(
        [options.data / name for name in config.label_maps], options.output / "label-maps"
    )
    validate = (
        RealScanValidation(config, options.data, options.device) if config.validation else None
    )
    trainer = Trainer(config, label_maps, options.output, resolve_device(options.device), validate)
    complete = trainer.run(options.minutes * 60, report=lambda line: print(line, flush=True))
    print(f"{'complete' if complete else 'stopped'} at step {trainer.step} of {config.steps}")
    if trainer.checkpoint_file.exists():
        print(f"best network: {trainer.checkpoint_file}")
    return 0
