"""How long runs took on this machine, and so how long the next one may take; knows no Qt."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress


class Durations:
    """Seconds per ml of the last run of each kind, kept between sessions as a text."""

    def __init__(self, text: str = "", save: Callable[[str], None] = lambda text: None) -> None:
        """Read what was kept.

        Args:
            text: that `save` was given last; one that cannot be read counts as empty.
            save: keeps a text.
        """
        self._save = save
        self._seconds: dict[str, float] = {}
        with suppress(ValueError, TypeError, AttributeError):
            self._seconds = {str(k): float(v) for k, v in json.loads(text).items()}

    def note(self, kind: str, size: float, seconds: float) -> None:
        """Note how long a run took.

        Args:
            kind: what it depends on beside the size: model, device, number of samples.
            size: of the volume, in ml.
            seconds: that it took.
        """
        self._seconds[kind] = seconds / size
        self._save(json.dumps(self._seconds))

    def estimate(self, kind: str, size: float) -> float | None:
        """Return the seconds that a run may take; None if there was none of this kind."""
        per_ml = self._seconds.get(kind)
        return None if per_ml is None else per_ml * size
