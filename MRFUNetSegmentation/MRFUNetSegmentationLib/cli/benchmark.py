"""`mrfunet benchmark`: speed and agreement with the published implementations."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError

if TYPE_CHECKING:
    from ..benchmark.measure import Measurement, Row

_SIZE = (160, 192, 160)
_BATCH = (32, 128, 128)
_SAMPLES = (1, 16, 100)


def add_parser(commands) -> argparse.ArgumentParser:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "benchmark",
        help="compare speed and results with the published implementations",
        description="Time the published implementations and this one on the CPU: in turns, in one "
        "process, on the same random weights and input. Checkouts of the published code are "
        "yours to give; their Python code is run. What has none is timed on its own.",
    )
    parser.add_argument(
        "--nitorch", type=Path, metavar="DIR",
        help="checkout of github.com/balbasty/nitorch at revision c3676d0",
    )  # fmt: skip
    parser.add_argument(
        "--probunet", type=Path, metavar="DIR",
        help="checkout of github.com/stefanknegt/Probabilistic-Unet-Pytorch",
    )  # fmt: skip
    parser.add_argument(
        "--size", type=int, nargs=3, default=_SIZE, metavar="N",
        help=f"voxels of the MRF-UNet's volume (default: {' '.join(map(str, _SIZE))})",
    )  # fmt: skip
    parser.add_argument(
        "--batch", type=int, nargs=3, default=_BATCH, metavar="N",
        help="slices, rows and columns for the Probabilistic U-Net "
        f"(default: {' '.join(map(str, _BATCH))})",
    )  # fmt: skip
    parser.add_argument(
        "--samples", type=int, nargs="+", default=_SAMPLES, metavar="N",
        help=f"numbers of samples (default: {' '.join(map(str, _SAMPLES))})",
    )  # fmt: skip
    parser.add_argument("--repeats", type=int, default=3, help="timed calls (default: 3)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    return parser


def run(options: argparse.Namespace) -> int:
    """Print the tables; return the exit code."""
    _check(options)
    import torch

    from ..benchmark import (
        benchmark_mrf_unet,
        benchmark_probabilistic_unet,
        load_nitorch,
        load_probabilistic_unet,
    )

    threads = options.threads or torch.get_num_threads()
    # Before anything is timed, so that a wrong folder is reported at once.
    nitorch = load_nitorch(options.nitorch) if options.nitorch else None
    probunet = load_probabilistic_unet(options.probunet) if options.probunet else None
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        print(f"torch {torch.__version__}, CPU, {threads} threads, medians of {options.repeats}.")
        print("Peak memory is what a call takes beyond what the process holds before it.")
        _print_table(
            f"MRF-UNet, j = 3, K = 4, {_times(options.size)} voxels",
            "--nitorch" if nitorch is None else None,
            benchmark_mrf_unet(nitorch, options.size, options.repeats),
        )
        _print_table(
            f"Probabilistic U-Net, default, {_times(options.batch)}",
            "--probunet" if probunet is None else None,
            benchmark_probabilistic_unet(probunet, options.batch, options.samples, options.repeats),
        )
    finally:
        torch.set_num_threads(before)
    return 0


def _check(options: argparse.Namespace) -> None:
    counts = [*options.size, *options.batch, *options.samples, options.repeats]
    if min(counts) < 1 or (options.threads is not None and options.threads < 1):
        raise InputError("sizes, samples, repeats and threads must be at least 1.")
    if min(options.size) < 63:
        raise InputError("every side of the volume (--size) must have at least 63 voxels.")
    if options.batch[1] % 8 or options.batch[2] % 8:
        raise InputError(
            "rows and columns (--batch) must divide by 8: the published code takes no others."
        )


def _print_table(title: str, missing: str | None, rows: Iterable[Row]) -> None:
    """Print rows as they come; columns: seconds, ratio, peak memory, difference."""
    print(f"\n{title}", flush=True)
    if missing:
        print(f"upstream skipped: no checkout given ({missing})", flush=True)
    print(
        f"{'':44}{'upstream':>10}{'ours':>10}{'ratio':>8}{'upstream':>12}{'ours':>10}  difference"
    )
    for row in rows:
        cells = [_seconds(row.upstream), _seconds(row.ours), _ratio(row)]
        memory = [_gigabytes(row.upstream), _gigabytes(row.ours)]
        print(
            f"{row.name:44}{cells[0]:>10}{cells[1]:>10}{cells[2]:>8}{memory[0]:>12}{memory[1]:>10}"
            f"  {row.remark}".rstrip(),
            flush=True,
        )


def _times(numbers: Sequence[int]) -> str:
    return " x ".join(map(str, numbers))


def _seconds(measurement: Measurement | None) -> str:
    return f"{measurement.seconds:.3f} s" if measurement else "-"


def _gigabytes(measurement: Measurement | None) -> str:
    if measurement is None or measurement.peak_bytes is None:
        return "-"
    return f"{measurement.peak_bytes / 1e9:.2f} GB"


def _ratio(row: Row) -> str:
    return f"{row.ratio:.1f}x" if row.ratio else "-"
