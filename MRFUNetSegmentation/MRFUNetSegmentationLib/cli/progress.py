"""A progress bar on a terminal; silence elsewhere."""

from __future__ import annotations

import sys
import time

_WIDTH = 30


class ProgressBar:
    """Shows stage, share and elapsed time in one line of stderr. Use as a context manager."""

    def __init__(self) -> None:
        self.stream = sys.stderr
        self.visible = self.stream.isatty()
        self.start = time.monotonic()

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_) -> None:
        if self.visible:
            self.stream.write("\r\x1b[K")
            self.stream.flush()

    def show(self, stage: str, fraction: float) -> None:
        """Update the line."""
        if self.visible:
            filled = round(_WIDTH * fraction)
            bar = "#" * filled + "." * (_WIDTH - filled)
            elapsed = time.monotonic() - self.start
            self.stream.write(f"\r\x1b[K[{bar}] {fraction:4.0%}  {elapsed:4.0f} s  {stage}")
            self.stream.flush()
