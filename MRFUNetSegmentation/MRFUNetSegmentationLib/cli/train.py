"""`mrfunet train`: trains a model from a configuration; start it again to go on."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import MRFUNetError

HELD_BACK_FILE = "held-back.toml"


def add_parser(commands) -> argparse.ArgumentParser:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "train",
        help="train a model",
        description="Train a model from a configuration file. Started again with the same folder, "
        "it goes on where it stopped. Several GPUs: torchrun --nproc-per-node N -m "
        "MRFUNetSegmentationLib train …",
    )
    parser.add_argument("config", type=Path, help="TOML file; see training/configs")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder with the label maps, or with the images and their raters' masks",
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="folder of the run"
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: %(default)s)"
    )
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="stop after this time; resume later"
    )
    parser.add_argument(
        "--start-from",
        metavar="CHECKPOINT",
        help="bundled model or file with the initial weights; not used where a run goes on",
    )
    return parser


def run(options: argparse.Namespace) -> int:
    """Train; return the exit code."""
    try:
        import lightning.fabric  # noqa: F401
        import tensorboard  # noqa: F401
    except ImportError as error:
        raise MRFUNetError(
            f"Training needs packages that are not installed ({error.name}): "
            "pip install MRFUNetSegmentation[train]"
        ) from error
    from ..training.config import load_config
    from ..training.rater_data import split_of
    from ..training.run import leave, prepare

    config = load_config(options.config)
    trainer = prepare(
        config, options.data, options.output, options.device, start_from=options.start_from
    )
    first = trainer.fabric.is_global_zero
    if first and config.raters is not None:
        # What an earlier configuration held back may be trained on now.
        (options.output / HELD_BACK_FILE).unlink(missing_ok=True)
        if config.raters.held_back:
            _write_held_back(config, options.data, options.output / HELD_BACK_FILE)
        split, masks = split_of(config, options.data), config.raters.masks
        for name in split.without_image:
            print(f"passed over: {masks}/{name}, for there is no image {name}")
        for name in split.in_no_folder:
            print(f"passed over: {masks}/{name}, for it is in no folder of an image's name")
    if first:
        print(f"training on {trainer.source.description}")
    try:
        trainer.run(options.minutes * 60, report=lambda line: print(line, flush=True))
    except KeyboardInterrupt:
        raise MRFUNetError(
            f"interrupted at step {trainer.step}. The same command goes on from the last saved "
            f"state (there is one every {config.save_every} steps)."
        ) from None
    if first:
        state = "complete" if trainer.complete else "stopped"
        print(f"{state} at step {trainer.step} of {config.steps}")
        if trainer.checkpoint_file.exists():
            print(f"best network: {trainer.checkpoint_file}")
        if config.raters is not None and config.raters.held_back:
            print(f"held back, for mrfunet evaluate: {options.output / HELD_BACK_FILE}")
        elif config.raters is not None:
            print("no image was held back (raters.held_back), so none is left to evaluate it on")
    return leave(0)


def _write_held_back(config, data: Path, path: Path) -> None:
    """List what a run holds back, for `mrfunet evaluate`."""
    from ..evaluation.cases import Case, write_case_list
    from ..training.card import BRAIN_TISSUE_CLASSES
    from ..training.rater_data import WHITE, held_back

    classes = config.classes or BRAIN_TISSUE_CLASSES
    values = {c["name"]: (c["value"],) for c in classes if not c.get("background")}
    if len(values) == 1:  # of two classes masks may be black and white
        values = {name: (*value, WHITE) for name, value in values.items()}
    cases = [
        Case(name, image, raters=tuple(masks), values=values)
        for name, (image, masks) in held_back(config, data).items()
    ]
    write_case_list(path, f"Held back from {config.name}", list(values), cases)
