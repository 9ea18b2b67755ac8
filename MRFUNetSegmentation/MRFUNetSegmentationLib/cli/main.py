"""Entry point: parses the arguments, runs a command, turns errors into one line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import MRFUNetError, lacks_memory, too_little_memory
from . import benchmark, convert, demo, evaluate, models, segment, train, view

FAILURE = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code (0, or 1 on failure; usage errors exit with 2)."""
    for stream in (sys.stdout, sys.stderr):
        # A name that the console has no letters for must not end a run; a test's stream has none.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments)
    try:
        code = options.run(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read the output has seen enough; Python must not complain of it at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except (Exception, KeyboardInterrupt) as error:
        if options.debug:
            raise
        if isinstance(error, KeyboardInterrupt):
            text = getattr(options, "interrupted", "interrupted")
        else:
            text = _one_line(error)
        print(f"mrfunet: error: {text}", file=sys.stderr)
        return FAILURE


def _one_line(error: Exception) -> str:
    if lacks_memory(error):
        error = too_little_memory()
    text = " ".join(str(error).split())
    if isinstance(error, PermissionError) and error.filename:
        return f"{error.filename}: no permission. Check the path and who may read and write there."
    if isinstance(error, MRFUNetError):
        return text
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}. Check the path."
    # A defect of the program.
    return f"unexpected {type(error).__name__}: {text} (--debug shows where)"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mrfunet", description="Segment brain MRI with MRF-UNet models."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (segment, view, models, convert, train, evaluate, demo, benchmark):
        sub = command.add_parser(commands)
        sub.set_defaults(run=command.run)
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser
