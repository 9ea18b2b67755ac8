"""The user's folder of imported checkpoints; knows no Qt."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from ..checkpoints.header import SUFFIX


class ModelFolder:
    """Checkpoints of published code that were converted here. Bundled models are elsewhere.

    Attributes:
        path: of the folder; it may not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def models(self) -> list[str]:
        """Return the paths of the checkpoints, by name."""
        return [str(path) for path in sorted(self.path.glob(f"*{SUFFIX}"))]

    def place_for(self, checkpoint: Path) -> Path:
        """Return a path at which there is no file yet, for what becomes of a checkpoint."""
        place, number = self.path / f"{checkpoint.stem}{SUFFIX}", 2
        while place.exists():
            place, number = self.path / f"{checkpoint.stem}-{number}{SUFFIX}", number + 1
        return place

    def clear(self, kept: Collection[str]) -> None:
        """Remove all checkpoints but some; what the system does not let go of stays, too."""
        # The same file may be named otherwise: by a link, or with the other slashes on Windows.
        stay = {Path(model).resolve() for model in kept}
        for model in map(Path, self.models()):
            if model.resolve() not in stay:
                with suppress(OSError):
                    model.unlink()
