"""`mrfunet segment`: a volume in, a folder of results out."""

from __future__ import annotations

import argparse
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from ..inference.image_files import read_volume_file, write_map
from ..inference.result_files import SAMPLES, probabilities_file
from ..inference.sampled import (
    CAPTIONS,
    CONSENSUS_METHODS,
    FEWEST_FOR_INTERVAL,
    PROBABILITY,
    SampledResult,
    check_number,
)
from ..inference.volume import Volume
from .progress import ProgressBar
from .results import ResultFolder, write_samples

if TYPE_CHECKING:
    from ..inference.engine import Segmenter

DEFAULT_MODEL = "brain-tissue"
# What --keep-samples can keep.
LABELS, PROBABILITIES = "labels", "probabilities"
# What --uncertainty can name.
MEAN_PROBABILITY = "probability"
MAPS = (*CAPTIONS, MEAN_PROBABILITY)
# Of the arguments that a command need not offer.
DEFAULTS = {
    "series": None,
    "replace_non_finite": False,
    "tolerance": 0.0,
    "mrf": True,
    "intensities": True,
    "uncertainty": [],
    "samples": None,
    "seed": None,
    "consensus": None,
    "keep_samples": None,
}


def add_parser(commands) -> argparse.ArgumentParser:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "segment",
        help="segment a volume",
        description="Segment an MRI volume. Writes the label map, a Slicer segmentation, a "
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
    parser.add_argument(
        "--no-mrf",
        dest="mrf",
        action="store_false",
        help="leave the model's Markov random field out",
    )
    parser.add_argument(
        "--no-intensities",
        dest="intensities",
        action="store_false",
        help="leave the image's intensities out, where the model uses them beside its network",
    )
    parser.add_argument(
        "--uncertainty",
        type=lambda text: text.split(","),
        default=[],
        metavar="NAME,...",
        help=f"maps to write: {', '.join(MAPS)}; without --samples, entropy and variance of an "
        "MRF-UNet's posterior",
    )
    sampling = parser.add_argument_group(
        "plausible segmentations", "with a model of the kind Probabilistic U-Net"
    )
    sampling.add_argument(
        "--samples", type=int, metavar="N", help="draw N of them (1 to 1000); 32 will do mostly"
    )
    sampling.add_argument(
        "--seed", type=int, metavar="S", help="the same one gives the same samples (default: 0)"
    )
    sampling.add_argument(
        "--consensus",
        choices=CONSENSUS_METHODS,
        help="how they become one segmentation: largest mean probability, most frequent label, or "
        "STAPLE (default: mean)",
    )
    sampling.add_argument(
        "--keep-samples",
        nargs="?",
        type=_what_is_kept,
        metavar=f"{{{LABELS},{PROBABILITIES}}}",
        const=LABELS,
        help="write each sample's label map; with `probabilities` also its class probabilities, "
        "which are large files",
    )
    parser.set_defaults(usage_error=parser.error, interrupted="interrupted; nothing was written")
    return parser


def _what_is_kept(text: str) -> str:
    if text not in (LABELS, PROBABILITIES):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither {LABELS} nor {PROBABILITIES}. If it is what to segment, put it "
            f"before the options, or write --keep-samples {LABELS}."
        )
    return text


def run(options: argparse.Namespace) -> int:
    """Segment a file; return the exit code."""
    _check(options)
    volume = read_volume_file(
        options.input, options.series, replace_non_finite=options.replace_non_finite
    )
    folder = ResultFolder(options.output, options.input, overwrite=options.overwrite)
    if not volume.geometry.right_angled:
        raise InputError(
            f"{options.input}: the axes of the voxels are not at right angles (sheared), which the "
            "NIfTI files of the results could not hold. Segment it in Slicer, or resample it first "
            "(in Slicer: Resample Scalar/Vector/DWI Volume)."
        )
    # torch takes seconds to import: wrong paths are reported before.
    from ..checkpoints.load import load_checkpoint
    from ..inference.engine import Segmenter

    segmenter = Segmenter(
        load_checkpoint(options.model),
        options.device,
        tolerance=options.tolerance,
        mrf=options.mrf,
        intensities=options.intensities,
    )
    with _ending_like_an_interrupt():
        act = _segment if options.samples is None else _sample
        act(options, folder, volume, segmenter)
    print(f"written to {folder.path}")
    return 0


def _segment(
    options: argparse.Namespace, folder: ResultFolder, volume: Volume, segmenter: Segmenter
) -> None:
    with ProgressBar() as bar:
        segmentation = segmenter.segment(volume, bar.show, maps=options.uncertainty)
    folder.write(options.input, options.series, volume, segmentation)
    volumes = segmentation.volumes_ml()
    for c in segmentation.card.segments:
        print(f"{c.name:30} {volumes[c.value]:9.1f} ml")
    _print_warnings(segmentation.warnings)


def _sample(
    options: argparse.Namespace, folder: ResultFolder, volume: Volume, segmenter: Segmenter
) -> None:
    with ExitStack() as stack:
        partial, on_sample = None, {}
        if options.keep_samples == PROBABILITIES:
            # They are too large to be kept until all are drawn.
            partial = stack.enter_context(folder.writing())
            (partial / SAMPLES).mkdir()

            def write(sample: int, _: bytes, probabilities: np.ndarray) -> None:
                write_map(partial / probabilities_file(sample), probabilities, volume.geometry)

            on_sample = {"on_sample": write, "keep_probabilities": True}
        with ProgressBar() as bar:
            result = segmenter.sample(
                volume,
                options.samples,
                options.seed or 0,
                bar.show,
                consensus=options.consensus or "mean",
                **on_sample,
            )
        # A run that is killed before leaves nothing behind.
        partial = partial or stack.enter_context(folder.writing())
        write_samples(
            partial,
            options.input,
            options.series,
            volume,
            result,
            _names(options.uncertainty, result),
            keep_samples=options.keep_samples is not None,
        )
    for structure in result.structures:
        interval = _interval(structure["volume_ml"], result.number)
        print(f"{structure['name']:30} {structure['consensus_ml']:9.1f} ml{interval}")
    _print_warnings(result.warnings)


def _interval(ml: dict[str, float], samples: int) -> str:
    """Return where the volumes of samples lie, in words."""
    if samples == 1:
        return ""
    between = f", {ml['p5']:.1f} to {ml['p95']:.1f} ml"
    if samples < FEWEST_FOR_INTERVAL:
        return f"{between} from the least to the largest of {samples} samples"
    return f"{between} hold a further sample with 90 % ({samples} drawn)"


def _check(options: argparse.Namespace) -> None:
    """End with exit code 2 where arguments contradict each other."""
    if unknown := [name for name in options.uncertainty if name not in MAPS]:
        options.usage_error(f"--uncertainty: no {', '.join(unknown)}; there are {', '.join(MAPS)}")
    if options.seed is not None and not -(2**63) <= options.seed < 2**64:
        options.usage_error(f"--seed: {options.seed} has more than 64 bits")
    if options.samples is not None:
        check_number(options.samples)
        return
    for name in ("seed", "consensus", "keep_samples"):
        if getattr(options, name) is not None:
            options.usage_error(f"--{name.replace('_', '-')} needs --samples")


def _names(asked: list[str], result: SampledResult) -> list[str]:
    """Return the names of maps that were asked for; `probability` stands for all classes'."""
    return [
        name
        for name in result.maps
        if name in asked or (name.startswith(PROBABILITY) and MEAN_PROBABILITY in asked)
    ]


def _print_warnings(warnings: list[str]) -> None:
    for warning in warnings:
        print(f"warning: {warning}")


@contextmanager
def _ending_like_an_interrupt() -> Iterator[None]:
    """Clean up after SIGTERM as well, which job schedulers send."""

    def end(*_) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
