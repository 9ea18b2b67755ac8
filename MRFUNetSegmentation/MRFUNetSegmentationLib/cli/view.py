"""`mrfunet view`: opens the results of `mrfunet segment` in 3D Slicer."""

from __future__ import annotations

import argparse
import shutil
import subprocess
from pathlib import Path

from ..errors import InputError
from ..inference.result_files import read_result_folder

_PACKAGE = Path(__file__).parents[1]


def add_parser(commands) -> argparse.ArgumentParser:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "view",
        help="open results in 3D Slicer",
        description="Open a folder of results in 3D Slicer: the scan with its segmentation, and "
        "where samples were drawn a browser to step through them and the maps with their legends.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="what `mrfunet segment` wrote")
    parser.add_argument(
        "--slicer", metavar="FILE", help="Slicer's program (default: the one on the PATH)"
    )
    return parser


def run(options: argparse.Namespace) -> int:
    """Start Slicer and wait for its end; return its exit code."""
    folder = options.folder.resolve()
    source = read_result_folder(folder).source
    if not source.exists():
        raise InputError(
            f"{source}: the scan that was segmented is not there any more, so there is nothing to "
            "show the results on. Put it back, or segment it again."
        )
    slicer = shutil.which(options.slicer or "Slicer")
    if slicer is None:
        raise InputError(
            f"{options.slicer or 'Slicer'}: there is no such program on the PATH. Install 3D "
            "Slicer (https://download.slicer.org), or say where it is with --slicer FILE."
        )
    # Last, and no longer than needed: beside an installed package lie others, numpy say, that are
    # not built for Slicer's Python.
    where = str(_PACKAGE.parent)
    code = (
        f"import sys; sys.path.append({where!r}); "
        f"from {_PACKAGE.name}.logic.view import show_result_folder; sys.path.remove({where!r}); "
        f"show_result_folder({str(folder)!r})"
    )
    return subprocess.run([slicer, "--python-code", code], check=False).returncode
