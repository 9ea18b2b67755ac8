"""The panel's section on export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import qt
import slicer

from ...mrml.dicom import export_dicom
from ...mrml.export import (
    export_file,
    export_labelmap_node,
    export_sample_files,
    export_sample_nodes,
)
from ...mrml.file_grid import FILE, VOLUME
from ...mrml.segmentations import reference_volume
from ..export_choices import (
    ALL_SAMPLES,
    DICOM,
    LABEL_MAP_NODE,
    SAMPLE,
    ExportChoices,
    export_choices,
)
from ..i18n import _
from ..panel_state import Message, error_message
from .widgets import Choice


class ExportSection:
    """Exports the segmentation or its samples, as chosen in the parameter node."""

    def __init__(self, ui, say: Callable[[Message], None]) -> None:
        """Take over the section's widgets.

        Args:
            ui: the panel's widgets.
            say: shows a message.
        """
        self._ui, self._say = ui, say
        self._parameters = self._segmentation = self._volume = self._samples = None
        self._choices: ExportChoices | None = None
        self._content = Choice(ui.exportContentSelector, self._choose("exportContent"))
        self._format = Choice(ui.exportFormatSelector, self._choose("exportFormat"))
        self._grid = Choice(ui.exportGridSelector, self._choose("exportGrid"))
        ui.exportButton.connect("clicked()", self._export)

    def show(self, parameters, segmentation_node, samples) -> None:
        """Show what can be exported.

        Args:
            parameters: the parameter node, or None.
            segmentation_node: the segmentation; without one, or a volume, there is nothing.
            samples: of which it is the consensus (`mrml.samples.SampleSet`), or None.
        """
        self._parameters, self._segmentation, self._samples = parameters, segmentation_node, samples
        # Its own: another one may be chosen as input for the next run.
        self._volume = reference_volume(segmentation_node) if segmentation_node else None
        if self._volume is None and parameters:
            self._volume = parameters.inputVolume
        ready = bool(segmentation_node and self._volume)
        self._ui.exportSection.setVisible(ready)
        if not ready:
            return
        self._choices = choices = export_choices(
            samples is not None,
            parameters.exportContent,
            parameters.exportFormat,
            bool(self._volume.GetAttribute("DICOM.instanceUIDs")),
        )
        self._content.show(choices.contents, choices.content)
        self._format.show(choices.formats, choices.format)
        grids = [(VOLUME, _("As in the scene")), (FILE, _("As in the scan's file"))]
        self._grid.show(grids, parameters.exportGrid)
        is_file = choices.format not in (LABEL_MAP_NODE, DICOM)
        self._ui.exportGridSelector.setVisible(is_file)
        self._ui.exportGridLabel.setVisible(is_file)
        self._ui.exportButton.setText(_("Export…") if self._asks else _("Export"))

    @property
    def _asks(self) -> bool:
        return self._choices.format != LABEL_MAP_NODE

    def _choose(self, parameter: str) -> Callable[[str], None]:
        def choose(value: str) -> None:
            setattr(self._parameters, parameter, value)

        return choose

    def _export(self) -> None:
        path = self._ask_for_path() if self._asks else ""
        if self._asks and not path:
            return
        try:
            text = self._write(Path(path))
        except Exception as error:
            self._say(error_message(error))
        else:
            self._say(Message(text))

    def _write(self, path: Path) -> str:
        """Export; return what is to be said about it."""
        kind, content = self._choices.format, self._choices.content
        volume, samples, grid = self._volume, self._samples, self._parameters.exportGrid
        if content == ALL_SAMPLES:
            if kind == LABEL_MAP_NODE:
                nodes = export_sample_nodes(samples)
                return _("{number} label maps were added.").format(number=len(nodes))
            paths = export_sample_files(path, samples, kind, grid=grid)
            return _("{number} files were written to {folder}.").format(
                number=len(paths), folder=path
            )
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
        if self._choices.content == ALL_SAMPLES or kind == DICOM:
            return qt.QFileDialog.getExistingDirectory(parent, _("Export to folder"))
        name = f"{self._segmentation.GetName()}{kind}"
        path = qt.QFileDialog.getSaveFileName(parent, _("Export to file"), name, f"*{kind}")
        if path and not path.endswith(kind):
            # The dialog has asked about a file of another name.
            path += kind
            question = _("{path} exists. Replace it?").format(path=path)
            if Path(path).exists() and not slicer.util.confirmOkCancelDisplay(question):
                return ""
        return path
