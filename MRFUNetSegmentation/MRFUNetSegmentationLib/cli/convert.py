"""`mrfunet convert`: a checkpoint of published code becomes one of this program."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..checkpoints.card import read_card_file
from ..errors import OutputError

_SOURCES = ("nitorch", "probunet-pytorch")


def add_parser(commands) -> argparse.ArgumentParser:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "convert",
        help="convert a checkpoint of the networks' published code",
        description="Convert a state dict of nitorch's SegMRFNet (MRF-UNet) or of the PyTorch "
        "port of the Probabilistic U-Net. The architecture is inferred from the weights; what "
        "they do not show comes from the model card: classes, voxel size, normalisation, and for "
        "the MRF-UNet iterations (10 if left out), training_iterations (5 to 15) and w (1) under "
        '"architecture". Nothing in the file is executed.',
    )
    parser.add_argument("checkpoint", type=Path, help="PyTorch file (.pth, .pt, .ckpt)")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="safetensors file"
    )
    parser.add_argument(
        "--from",
        dest="source",
        choices=_SOURCES,
        help="code that it is from, if the names of the weights are not to tell",
    )
    parser.add_argument(
        "--card", type=Path, required=True, metavar="JSON", help="model card, as JSON"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing FILE")
    return parser


def run(options: argparse.Namespace) -> int:
    """Convert a file; return the exit code."""
    for file in (options.checkpoint, options.card):
        if options.output.exists() and file.exists() and options.output.samefile(file):
            raise OutputError(
                f"{options.output}: this is what is to be converted, and would be lost. Choose "
                "another file."
            )
    if options.output.exists() and not options.overwrite:
        raise OutputError(
            f"{options.output} exists already. Choose another file, or give --overwrite."
        )
    card = read_card_file(options.card)
    # torch takes seconds to import: wrong paths are reported before.
    from ..checkpoints.convert import convert
    from ..checkpoints.load import save_checkpoint

    network, checked = convert(options.checkpoint, options.source, card)
    save_checkpoint(options.output, network, checked)
    for key, value in checked.architecture.items():
        print(f"{key:20} {value}")
    print(f"{'parameters':20} {sum(p.numel() for p in network.parameters()):,}")
    print(f"written to {options.output}")
    return 0
