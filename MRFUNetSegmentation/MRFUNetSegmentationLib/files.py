"""Files that are replaced together: all, or none."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def move_together(moves: Iterable[tuple[Path, Path]]) -> None:
    """Move files one after the other; if one cannot be moved, all go back to where they were.

    Args:
        moves: where each file is and where it is to be, on the same disk; what is there is
            replaced, so move it away first. Folders are made.

    Raises:
        OSError: of the file that could not be moved.
    """
    done: list[tuple[Path, Path]] = []
    try:
        for source, target in moves:
            target.parent.mkdir(exist_ok=True)
            os.replace(source, target)
            done.append((source, target))
    except BaseException:  # Ctrl-C as well
        for source, target in reversed(done):
            with suppress(OSError):
                os.replace(target, source)
        raise
