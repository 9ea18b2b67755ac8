"""`mrfunet evaluate`: scores of models, beside classical methods, on a list of scans."""

from __future__ import annotations

import argparse
import os
import textwrap
from pathlib import Path

from ..errors import InputError, OutputError
from ..evaluation.peers import PEERS

EXAMPLE = Path(__file__).parents[1] / "evaluation" / "cases" / "brain-tissue.toml"


def add_parser(commands) -> argparse.ArgumentParser:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "evaluate",
        help="score models on a list of scans",
        # The example's path is to be copied, so it stays on a line of its own.
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=textwrap.fill(
            "Segment every scan of a list by every method and write a report: Dice, 95 % Hausdorff "
            "distance, surface Dice and volumes against references, agreement between scans of one "
            "brain, plausibility, samples against several raters, and pictures of all."
        ),
        epilog=f"a list, with comments on its entries:\n  {EXAMPLE}",
    )
    parser.add_argument("cases", type=Path, help="TOML file with the list; see below")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="folder with the list's files"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="folder for the report"
    )
    parser.add_argument(
        "--model", action="append", metavar="[NAME=]MODEL[,MODEL…]",
        help="bundled model or checkpoint file, again for each; the first is compared with the "
        "others; several with commas are an ensemble (default: brain-tissue)",
    )  # fmt: skip
    parser.add_argument(
        "--peer", action="append", choices=list(PEERS), default=[],
        help="classical method for comparison, again for each",
    )  # fmt: skip
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: %(default)s)"
    )
    parser.add_argument(
        "--replace-non-finite",
        action="store_true",
        help="replace NaN and infinite voxels of the scans by the smallest finite value",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier report in DIR")
    return parser


def run(options: argparse.Namespace) -> int:
    """Evaluate; return the exit code."""
    from ..evaluation.cases import load_case_list
    from ..evaluation.methods import ModelMethod
    from ..evaluation.packages import check_packages
    from ..evaluation.report import REPORT, write_report
    from ..evaluation.run import evaluate
    from .segment import DEFAULT_MODEL

    if (options.output / REPORT).exists() and not options.overwrite:
        raise OutputError(
            f"{options.output}: the folder already holds a report. Choose another folder, or "
            "replace it with --overwrite."
        )
    check_packages()
    cases = load_case_list(options.cases, options.data)
    named = _named(options.model or [DEFAULT_MODEL])
    models = [
        ModelMethod(name, files, cases.structures, options.device) for name, files in named.items()
    ]
    results = evaluate(
        cases,
        options.data,
        models,
        list(dict.fromkeys(options.peer)),
        options.output / "segmentations",
        lambda line: print(line, flush=True),
        replace_non_finite=options.replace_non_finite,
    )
    for note in results.notes:
        print(f"note: {note}")
    try:
        report = write_report(options.output, results, models)
    except OSError as error:
        raise OutputError(
            f"{options.output}: the report cannot be written ({error}). Check the free space and "
            "the permissions."
        ) from error
    print(f"written to {report}")
    return 0


def _named(models: list[str]) -> dict[str, list[str]]:
    """Return the checkpoints of each method by its name in the report."""
    named = {}
    for text in models:
        name, equals, files = text.partition("=")
        if not equals or os.path.isfile(text):  # a folder may be named lr=0.001
            name, files = Path(text).stem, text
        if name in named:
            raise InputError(
                f"Two methods are named {name}. Name them: --model FIRST=… --model SECOND=…."
            )
        named[name] = files.split(",")
    return named
