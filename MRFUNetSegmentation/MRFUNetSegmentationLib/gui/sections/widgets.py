"""What several sections need of Qt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def quietly(*widgets) -> Iterator[None]:
    """Change widgets without their signals, for what the user has not done."""
    before = [widget.blockSignals(True) for widget in widgets]
    try:
        yield
    finally:
        for widget, blocked in zip(widgets, before, strict=True):
            widget.blockSignals(blocked)


class Choice:
    """A combo box whose lines stand for values."""

    def __init__(self, selector, on_choice: Callable[[str], None]) -> None:
        """Take over a combo box.

        Args:
            selector: the combo box.
            on_choice: called with the value that the user chooses.
        """
        self._selector = selector
        self._on_choice = on_choice
        self._entries: list[tuple[str, str]] = []
        selector.connect("activated(int)", self._activated)

    def show(self, entries: Sequence[tuple[str, str]], chosen: str) -> None:
        """Show pairs of value and label, and which is chosen: the first, if it is none of them."""
        entries = list(entries)
        if entries != self._entries:
            self._entries = entries
            self._selector.clear()
            for _value, label in entries:
                self._selector.addItem(label)
        values = [value for value, _label in entries]
        self._selector.setCurrentIndex(values.index(chosen) if chosen in values else 0)

    def _activated(self, index: int) -> None:
        self._on_choice(self._entries[index][0])
