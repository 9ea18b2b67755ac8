"""Names of files, and files that are replaced together: all, or none."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def as_file_name(text: str) -> str:
    """Return a text as the name of a file, or a part of it, on any system."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in text)


@contextmanager
def staged(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Give two new folders within a folder: for new files, and for those that they will replace.

    In the end they are removed with what they hold. After an error the second one stays if it holds
    files: these could not be put back.

    Args:
        folder: where the files are to be in the end, and so on the same disk.

    Raises:
        OSError: if they cannot be made.
    """
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
    new, old = partial / "new", partial / "old"
    try:
        new.mkdir()
        old.mkdir()
        yield new, old
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        remove_if_empty(old)
        remove_if_empty(partial)


def remove_if_empty(folder: Path) -> None:
    """Remove a folder, if it is there and holds nothing."""
    with suppress(OSError):
        folder.rmdir()


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
