"""`mrfunet segment`: a volume in, a folder of results out."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..inference.image_files import read_volume_file
from .progress import ProgressBar
from .results import ResultFolder

DEFAULT_MODEL = "brain-tissue"


def add_parser(commands) -> argparse.ArgumentParser:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "segment",
        help="segment a volume",
        description="Segment a 3D MRI volume. Writes the label map, a Slicer segmentation, a "
        "report and a picture.",
    )
    parser.add_argument("input", type=Path, help="NIfTI, NRRD or MHA file, or DICOM series folder")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="folder for the results"
    )
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        metavar="NAME|FILE",
        help="bundled model or checkpoint file (default: %(default)s)",
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: %(default)s)"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        metavar="T",
        help="end the mean field once an iteration moves less than this share of the probability; "
        "5e-4 changes at most one voxel in a thousand (default: run all iterations)",
    )
    parser.add_argument("--series", metavar="UID", help="DICOM series, where there are several")
    parser.add_argument(
        "--replace-non-finite",
        action="store_true",
        help="replace NaN and infinite voxels by the smallest finite value",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace earlier results in DIR")
    return parser


def run(options: argparse.Namespace) -> int:
    """Segment a file; return the exit code."""
    folder = ResultFolder(options.output, overwrite=options.overwrite)
    volume = read_volume_file(
        options.input, options.series, replace_non_finite=options.replace_non_finite
    )
    # torch takes seconds to import: wrong paths are reported before.
    from ..checkpoints.load import load_checkpoint
    from ..inference.engine import Segmenter

    segmenter = Segmenter(
        load_checkpoint(options.model), options.device, tolerance=options.tolerance
    )
    with ProgressBar() as bar:
        segmentation = segmenter.segment(volume, bar.show)
    folder.write(options.input, volume, segmentation)

    volumes = segmentation.volumes_ml()
    for c in segmentation.card.segments:
        print(f"{c.name:30} {volumes[c.value]:9.1f} ml")
    for warning in segmentation.warnings:
        print(f"warning: {warning}")
    print(f"written to {folder.path}")
    return 0
