"""The panel's section on export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import qt
import slicer

from ...files import as_file_name
from ...mrml.browsers import sequence_of
from ...mrml.dicom import export_dicom
from ...mrml.export import export_file, export_labelmap_node
from ...mrml.export_series import Series, Steps, files_in_steps, nodes_in_steps
from ...mrml.file_grid import FILE, VOLUME
from ...mrml.segmentations import reference_volume
from ...mrml.sequences import segmented_items
from ..export_choices import (
    ALL_SAMPLES,
    DICOM,
    LABEL_MAP_NODE,
    SAMPLE,
    SERIES,
    ExportChoices,
    export_choices,
)
from ..i18n import _
from ..panel_state import Message, error_message
from .widgets import Choice


class ExportSection:
    """Exports the segmentation or several, as chosen in the parameter node.

    Several are exported in steps, between which the application goes on.

    Attributes:
        asks: whether a dialog is open that asks where to.
    """

    def __init__(self, ui, say: Callable[[Message], None], on_end: Callable[[], None]) -> None:
        """Take over the section's widgets.

        Args:
            ui: the panel's widgets.
            say: shows a message.
            on_end: called when an export in steps has ended, so that `show` is to be called.
        """
        self._ui, self._say, self._on_end = ui, say, on_end
        self._parameters = self._segmentation = self._volume = self._samples = None
        self._choices: ExportChoices | None = None
        self._content = Choice(ui.exportContentSelector, self._choose("exportContent"))
        self._format = Choice(ui.exportFormatSelector, self._choose("exportFormat"))
        self._grid = Choice(ui.exportGridSelector, self._choose("exportGrid"))
        self._steps: Steps | None = None
        self._said = ""
        self.asks = False
        self._timer = qt.QTimer()
        self._timer.setInterval(0)
        self._timer.connect("timeout()", self._step)
        ui.exportButton.connect("clicked()", self._export_or_cancel)

    def show(self, parameters, segmentation_node, samples) -> None:
        """Show what can be exported.

        Args:
            parameters: the parameter node, or None.
            segmentation_node: the segmentation; without one, or a volume, there is nothing.
            samples: of which it is the consensus (`mrml.samples.SampleSet`), or None.
        """
        if self._steps is not None:
            return  # as it was when the export began
        self._parameters, self._segmentation, self._samples = parameters, segmentation_node, samples
        # Its own: another one may be chosen as input for the next run.
        self._volume = reference_volume(segmentation_node) if segmentation_node else None
        if self._volume is None and parameters:
            self._volume = parameters.inputVolume
        ready = bool(segmentation_node and self._volume)
        self._ui.exportSection.setVisible(ready)
        if not ready:
            return
        _sequence, items = segmented_items(segmentation_node)
        self._choices = choices = export_choices(
            samples is not None,
            len(items),
            parameters.exportContent,
            parameters.exportFormat,
            from_dicom=bool(self._volume.GetAttribute("DICOM.instanceUIDs")),
            in_sequence=sequence_of(self._volume) is not None,
        )
        self._content.show(choices.contents, choices.content)
        self._format.show(choices.formats, choices.format)
        grids = [(VOLUME, _("As in the scene")), (FILE, _("As in the scan's file"))]
        self._grid.show(grids, parameters.exportGrid)
        self._ui.exportGridSelector.setVisible(choices.has_grids)
        self._ui.exportGridLabel.setVisible(choices.has_grids)
        self._ui.exportButton.setText(_("Export…") if self._has_path else _("Export"))

    def cancel(self) -> None:
        """End an export in steps, if there is one; nothing is kept of it."""
        if self._steps is not None:
            self._steps.close()
            self._show_steps(None)

    @property
    def _has_path(self) -> bool:
        """Whether what was chosen goes to a file or folder."""
        return self._choices.format != LABEL_MAP_NODE

    @property
    def _chosen_grid(self) -> str:
        """The grid that was chosen, perhaps for another volume, where there is a choice."""
        return self._parameters.exportGrid if self._choices.has_grids else VOLUME

    def _choose(self, parameter: str) -> Callable[[str], None]:
        def choose(value: str) -> None:
            setattr(self._parameters, parameter, value)

        return choose

    def _export_or_cancel(self) -> None:
        if self._steps is not None:
            self.cancel()
            self._say(Message(_("The export was cancelled; nothing of it was kept.")))
            self._on_end()
            return
        path = ""
        if self._has_path:
            self.asks = True
            try:
                path = self._ask_for_path()
            finally:
                self.asks = False
            if not path:
                return
        try:
            if self._choices.content in SERIES:
                self._begin(Path(path))
            else:
                self._say(Message(self._write(Path(path))))
        except Exception as error:
            self._say(error_message(error))

    def _begin(self, folder: Path) -> None:
        """Begin to export several segmentations."""
        kind, grid = self._choices.format, self._chosen_grid
        if self._choices.content == ALL_SAMPLES:
            series = Series.of_samples(self._samples)
        else:
            series = Series.of_sequence(self._segmentation)
        if kind == LABEL_MAP_NODE:
            steps = nodes_in_steps(series)
            text = _("{number} label maps were added.")
        else:
            steps = files_in_steps(folder, series, kind, grid=grid)
            text = _("{number} label maps and a table of volumes were written to {folder}.")
        self._said = text.format(number=len(series.items), folder=folder)
        self._show_steps(steps)

    def _step(self) -> None:
        try:
            fraction = next(self._steps)
        except StopIteration:
            self._end(Message(self._said))
        except Exception as error:
            self._end(error_message(error))
        else:
            self._ui.exportProgressBar.setValue(round(100 * fraction))

    def _end(self, message: Message) -> None:
        self._show_steps(None)
        self._say(message)
        self._on_end()

    def _show_steps(self, steps: Steps | None) -> None:
        """Take up steps, or none any longer."""
        self._steps = steps
        ui, active = self._ui, steps is not None
        for selector in (ui.exportContentSelector, ui.exportFormatSelector, ui.exportGridSelector):
            selector.setEnabled(not active)
        ui.exportProgressBar.setVisible(active)
        ui.exportProgressBar.setValue(0)
        if active:
            ui.exportButton.setText(_("Cancel the export"))
            self._timer.start()
        else:
            self._timer.stop()

    def _write(self, path: Path) -> str:
        """Export one segmentation; return what is to be said about it."""
        kind, content = self._choices.format, self._choices.content
        volume, samples, grid = self._volume, self._samples, self._chosen_grid
        node = samples.shown if content == SAMPLE else self._segmentation
        if kind == LABEL_MAP_NODE:
            name = export_labelmap_node(node, volume).GetName()
            return _("The label map {name} was added.").format(name=name)
        if kind == DICOM:
            path = export_dicom(path, node, volume)
        else:
            # It was asked before whether to replace an existing file.
            path = export_file(path, node, volume, grid=grid, overwrite=True)
        return _("Written to {path}.").format(path=path)

    def _ask_for_path(self) -> str:
        """Return the file or folder that the user chooses, or nothing."""
        kind, parent = self._choices.format, self._ui.exportButton
        if self._choices.content in SERIES or kind == DICOM:
            return qt.QFileDialog.getExistingDirectory(parent, _("Export to folder"))
        # Names from DICOM have slashes, of which the dialog would make folders.
        name = f"{as_file_name(self._segmentation.GetName())}{kind}"
        path = qt.QFileDialog.getSaveFileName(parent, _("Export to file"), name, f"*{kind}")
        if path and not path.endswith(kind):
            # The dialog has asked about a file of another name.
            path += kind
            question = _("{path} exists. Replace it?").format(path=path)
            if Path(path).exists() and not slicer.util.confirmOkCancelDisplay(question):
                return ""
        return path
