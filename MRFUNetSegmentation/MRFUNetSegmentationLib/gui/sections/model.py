"""The panel's section on the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import qt

from ...checkpoints.header import SUFFIX
from ..i18n import _
from ..model_list import ModelEntry, model_entries
from .widgets import Choice

_LOAD = "…"


class ModelSection:
    """The list of models, which also loads checkpoint files, and what the chosen one is for.

    Attributes:
        chosen: the entry of the model that is chosen.
    """

    def __init__(self, ui, on_choice: Callable[[str], None]) -> None:
        """Take over the section's widgets.

        Args:
            ui: the panel's widgets.
            on_choice: called with the name or path of the model that the user chooses.
        """
        self.chosen = ModelEntry("", "")
        self._ui = ui
        self._on_choice = on_choice
        self._files: list[str] = []
        self._list = Choice(ui.modelSelector, self._choose)

    def show(self, model: str) -> None:
        """Show a model as the one that is chosen."""
        entries = model_entries(model, self._files)
        self.chosen = next(entry for entry in entries if entry.model == model)
        lines = [(entry.model, entry.label) for entry in entries]
        self._list.show([*lines, (_LOAD, _("Load checkpoint from file…"))], model)
        self._ui.modelDescription.setText(self.chosen.description)
        self._ui.modelDescription.setToolTip(self.chosen.intended_use)
        self._ui.modelDescription.setVisible(bool(self.chosen.description))
        self._ui.modelCardLabel.setText(self.chosen.card_text)
        self._ui.modelCard.setVisible(bool(self.chosen.card_text))

    def _choose(self, model: str) -> None:
        if model != _LOAD:
            self._on_choice(model)
            return
        file = self._ask_for_file()
        if file and file not in self._files:
            self._files.append(file)
        # Without a file the list must leave its last line again.
        self.show(self.chosen.model)
        if file:
            self._on_choice(file)

    def _ask_for_file(self) -> str:
        folder = str(Path(self._files[-1]).parent) if self._files else ""
        return qt.QFileDialog.getOpenFileName(
            self._ui.modelSelector,
            _("Load checkpoint"),
            folder,
            _("Checkpoints") + f" (*{SUFFIX})",
        )
