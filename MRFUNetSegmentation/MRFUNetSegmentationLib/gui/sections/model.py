"""The panel's section on the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import qt

from ..checkpoints.header import SUFFIX
from .i18n import _
from .model_list import model_entries


class ModelSection:
    """The list of models, which also loads checkpoint files, and what the chosen one is for.

    Attributes:
        problem: why the chosen model cannot be used.
    """

    def __init__(self, ui, on_choice: Callable[[str], None]) -> None:
        """Take over the section's widgets.

        Args:
            ui: the panel's widgets.
            on_choice: called with the name or path of the model that the user chooses.
        """
        self.problem: str | None = None
        self._ui = ui
        self._on_choice = on_choice
        self._model = ""
        self._models: list[str] = []
        self._files: list[str] = []
        ui.modelSelector.connect("activated(int)", self._activated)

    def show(self, model: str) -> None:
        """Show a model as the one that is chosen."""
        entries = model_entries(model, self._files)
        chosen = next(entry for entry in entries if entry.model == model)
        self._model = model
        self._models = [entry.model for entry in entries]
        self.problem = chosen.problem
        selector = self._ui.modelSelector
        selector.clear()
        for entry in entries:
            selector.addItem(entry.label)
        selector.insertSeparator(len(entries))
        selector.addItem(_("Load checkpoint from file…"))
        selector.setCurrentIndex(self._models.index(model))
        self._ui.modelDescription.setText(chosen.description)
        self._ui.modelDescription.setToolTip(chosen.intended_use)
        self._ui.modelDescription.setVisible(bool(chosen.description))

    def _activated(self, index: int) -> None:
        if index < len(self._models):
            self._on_choice(self._models[index])
            return
        file = self._ask_for_file()
        if file and file not in self._files:
            self._files.append(file)
        # Without a file the list must leave its last line again.
        self.show(self._model)
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
