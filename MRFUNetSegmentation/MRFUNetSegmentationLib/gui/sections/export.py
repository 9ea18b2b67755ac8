"""The panel's section on export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import qt

from ...errors import MRFUNetError
from ...mrml.dicom import export_dicom
from ...mrml.export import (
    export_file,
    export_labelmap_node,
    export_sample_files,
    export_sample_nodes,
)
from ...mrml.file_grid import FILE, VOLUME
from ..export_choices import ALL_SAMPLES, DICOM, LABEL_MAP_NODE, SAMPLE, export_choices
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
        self._parameters = self._samples = None
        self._content = Choice(ui.exportContentSelector, self._choose("exportContent"))
        self._format = Choice(ui.exportFormatSelector, self._choose("exportFormat"))
        self._grid = Choice(ui.exportGridSelector, self._choose("exportGrid"))
        ui.exportButton.connect("clicked()", self._export)

    def show(self, parameters, samples) -> None:
        """Show what can be exported.

        Args:
            parameters: the parameter node; without volume and segmentation there is nothing.
            samples: of the segmentation, or None.
        """
        self._parameters, self._samples = parameters, samples
        ready = bool(parameters and parameters.inputVolume and parameters.outputSegmentation)
        self._ui.exportSection.setVisible(ready)
        if not ready:
            return
        from_dicom = bool(parameters.inputVolume.GetAttribute("DICOM.instanceUIDs"))
        choices = export_choices(samples is not None, parameters.exportContent, from_dicom)
        self._content.show(choices.contents, parameters.exportContent)
        self._format.show(choices.formats, parameters.exportFormat)
        grids = [(VOLUME, _("As in the scene")), (FILE, _("As in the scan's file"))]
        self._grid.show(grids, parameters.exportGrid)
        is_file = parameters.exportFormat not in (LABEL_MAP_NODE, DICOM)
        self._ui.exportGridSelector.setVisible(is_file)
        self._ui.exportGridLabel.setVisible(is_file)
        self._ui.exportButton.setText(_("Export…") if self._asks else _("Export"))

    @property
    def _asks(self) -> bool:
        return self._parameters.exportFormat != LABEL_MAP_NODE

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
        except MRFUNetError as error:
            self._say(error_message(error))
        else:
            self._say(Message(text))

    def _write(self, path: Path) -> str:
        """Export; return what is to be said about it."""
        parameters, samples = self._parameters, self._samples
        volume, kind, grid = (
            parameters.inputVolume,
            parameters.exportFormat,
            parameters.exportGrid,
        )
        node = parameters.outputSegmentation
        if samples is not None and parameters.exportContent == ALL_SAMPLES:
            if kind == LABEL_MAP_NODE:
                nodes = export_sample_nodes(samples)
                return _("{number} label maps were added.").format(number=len(nodes))
            paths = export_sample_files(path, samples, kind, grid=grid)
            return _("{number} files were written to {folder}.").format(
                number=len(paths), folder=path
            )
        if samples is not None and parameters.exportContent == SAMPLE:
            node = samples.shown
        if kind == LABEL_MAP_NODE:
            name = export_labelmap_node(node, volume).GetName()
            return _("The label map {name} was added.").format(name=name)
        if kind == DICOM:
            path = export_dicom(path, node, volume)
        else:
            # The file dialog has asked already whether to replace an existing file.
            path = export_file(path, node, volume, grid=grid, overwrite=True)
        return _("Written to {path}.").format(path=path)

    def _ask_for_path(self) -> str:
        """Return the file or folder that the user chooses, or nothing."""
        parameters = self._parameters
        kind = parameters.exportFormat
        several = self._samples is not None and parameters.exportContent == ALL_SAMPLES
        parent = self._ui.exportButton
        if several or kind == DICOM:
            return qt.QFileDialog.getExistingDirectory(parent, _("Export to folder"))
        name = f"{parameters.outputSegmentation.GetName()}{kind}"
        path = qt.QFileDialog.getSaveFileName(parent, _("Export to file"), name, f"*{kind}")
        return path if not path or path.endswith(kind) else path + kind
