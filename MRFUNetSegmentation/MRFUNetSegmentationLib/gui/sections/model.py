"""The panel's section on the model."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import qt
import slicer

from ...checkpoints.header import SUFFIX, find_checkpoint, read_info
from ...errors import CheckpointError
from ..checkpoint_import import SUFFIXES
from ..i18n import _
from ..model_folder import ModelFolder
from ..model_list import (
    FAST,
    NORMAL,
    ModelEntry,
    found,
    listed,
    model_entries,
    qualities,
    searched,
)
from .widgets import Choice

_LOAD = "…"


class ModelSection:
    """The list of models, which also loads checkpoint files, and what the chosen one is for.

    Models that are made for quick results have no lines of their own: quality chooses them.

    Attributes:
        chosen: the entry of the model that is chosen.
    """

    def __init__(
        self,
        ui,
        folder: ModelFolder,
        on_choice: Callable[[str], None],
        on_import: Callable[[Path], None],
    ) -> None:
        """Take over the section's widgets.

        Args:
            ui: the panel's widgets.
            folder: of imported models.
            on_choice: called with the name or path of the model that the user chooses.
            on_import: called with a checkpoint of published code that the user wants to load.
        """
        self.chosen = ModelEntry("", "")
        self._ui, self._folder = ui, folder
        self._on_choice, self._on_import = on_choice, on_import
        self._files: list[str] = []
        self._entries: list[ModelEntry] = []
        self._searched = ""
        self._list = Choice(ui.modelSelector, self._choose)
        self._quality = Choice(ui.qualitySelector, on_choice)
        ui.modelSearchEdit.connect("textChanged(QString)", self._search)
        ui.modelSearchEdit.connect("returnPressed()", ui.modelSelector.showPopup)
        ui.openModelFolderButton.connect("clicked()", self._open_folder)
        ui.clearModelFolderButton.connect("clicked()", self._clear_folder)

    def show(self, model: str) -> None:
        """Show a model as the one that is chosen."""
        self._entries = model_entries(model, [*self._folder.models(), *self._files])
        self.chosen = next(entry for entry in self._entries if entry.model == model)
        self._show_list()
        self._show_quality()
        self._ui.modelDescription.setText(self.chosen.description)
        self._ui.modelDescription.setToolTip(self.chosen.intended_use)
        self._ui.modelDescription.setVisible(bool(self.chosen.description))
        self._ui.modelCardLabel.setText(self.chosen.card_text)
        self._ui.modelCard.setVisible(bool(self.chosen.card_text))
        imported = bool(self._folder.models())
        for widget in (
            self._ui.modelFolderLabel,
            self._ui.openModelFolderButton,
            self._ui.clearModelFolderButton,
        ):
            widget.setVisible(imported)

    @property
    def sha256(self) -> str | None:
        """SHA-256 of the chosen model's checkpoint; None if there is none that can be read."""
        return _sha256(self.chosen.model)

    def model_of(self, name: str, sha256: str | None = None) -> str:
        """Return the model in the list that made a result; nothing if there is none.

        Args:
            name: in the model's card.
            sha256: of its checkpoint; any if None.
        """
        named = [entry.model for entry in self._entries if entry.name == name]
        return next((model for model in named if sha256 in (None, _sha256(model))), "")

    def _search(self, text: str) -> None:
        self._searched = text
        self._show_list()

    def _show_list(self) -> None:
        """Show the models that are searched for, and the chosen one."""
        chosen = self._qualities[NORMAL]
        matching = searched(self._entries, self._searched)
        lines = [
            (entry.model, entry.label)
            for entry in listed(self._entries)
            if entry.model == chosen or entry in matching
        ]
        load = (_LOAD, _("Load checkpoint from file…"))
        self._list.show([*lines, load], chosen)
        remark = found(self._entries, self._searched)
        self._ui.modelSearchRemark.setText(remark)
        self._ui.modelSearchRemark.setVisible(bool(remark))

    @property
    def _qualities(self) -> dict[str, str]:
        """Models of the qualities that the chosen line of the list comes in."""
        return qualities(self.chosen.model, self._entries)

    def _show_quality(self) -> None:
        labels = {NORMAL: _("Normal"), FAST: _("Fast")}
        models = [(model, labels[quality]) for quality, model in self._qualities.items()]
        self._quality.show(models, self.chosen.model)
        for widget in (self._ui.qualityLabel, self._ui.qualitySelector):
            widget.setVisible(len(models) > 1)

    def _choose(self, model: str) -> None:
        if model != _LOAD:
            was_fast = self._qualities.get(FAST) == self.chosen.model
            variants = qualities(model, self._entries)
            self._on_choice(variants[FAST] if was_fast and FAST in variants else model)
            return
        file = self._ask_for_file()
        if file:
            file = str(Path(file))  # as the folder's models are named
        is_published = file.endswith(SUFFIXES)
        if file and file not in self._files and not is_published:
            self._files.append(file)
        # Without a file the list must leave its last line again.
        self.show(self.chosen.model)
        if is_published:
            self._on_import(Path(file))
        elif file:
            self._on_choice(file)

    def _ask_for_file(self) -> str:
        folder = str(Path(self._files[-1]).parent) if self._files else ""
        patterns = " ".join(f"*{suffix}" for suffix in (SUFFIX, *SUFFIXES))
        return qt.QFileDialog.getOpenFileName(
            self._ui.modelSelector,
            _("Load checkpoint"),
            folder,
            _("Checkpoints") + f" ({patterns})",
        )

    def _open_folder(self) -> None:
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(self._folder.path)))

    def _clear_folder(self) -> None:
        question = _(
            "Remove the imported models from {folder}? The one that is chosen stays, and so do the "
            "files that they were imported from."
        ).format(folder=self._folder.path)
        if slicer.util.confirmOkCancelDisplay(question):
            self._folder.clear([self.chosen.model])
            self.show(self.chosen.model)


def _sha256(model: str) -> str | None:
    """Return the SHA-256 of a model's checkpoint; None if there is none that can be read."""
    try:
        path = find_checkpoint(model)
        return _sha256_of_file(path, path.stat().st_mtime_ns)
    except (CheckpointError, OSError):
        return None


@lru_cache(maxsize=256)
def _sha256_of_file(path: Path, modified: int) -> str:
    """Return the SHA-256 of a checkpoint file, which is read once as long as it is unmodified."""
    return read_info(path).sha256()
