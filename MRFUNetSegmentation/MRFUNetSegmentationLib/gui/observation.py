"""Being told when nodes change; knows no Qt."""

from __future__ import annotations

from collections.abc import Callable, Iterable


class Observation:
    """Calls back when one of the objects changes that it watches at present."""

    def __init__(self, callback: Callable[[], None]) -> None:
        """Watch nothing yet."""
        self._callback = callback
        self._watched: list[tuple] = []
        self._tags: list[int] = []

    def watch(self, objects: Iterable[tuple]) -> None:
        """Watch these, and no longer what was watched before.

        Args:
            objects: pairs of an object of VTK and an event; an object may be None.
        """
        wanted = [(o, event) for o, event in objects if o is not None]
        if wanted == self._watched:
            return
        self.stop()
        self._watched = wanted
        self._tags = [o.AddObserver(event, self._changed) for o, event in wanted]

    def stop(self) -> None:
        """Watch nothing any longer."""
        for (watched, _event), tag in zip(self._watched, self._tags, strict=True):
            watched.RemoveObserver(tag)
        self._watched, self._tags = [], []

    def _changed(self, _caller, _event) -> None:
        self._callback()
