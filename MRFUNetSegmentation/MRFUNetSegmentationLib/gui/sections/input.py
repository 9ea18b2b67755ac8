"""The panel's section on what is segmented."""

from __future__ import annotations

from collections.abc import Callable

import vtk

from ...checkpoints.card import InputSpec
from ...errors import InputError
from ...mrml.browsers import browser_of, sequence_of, shown_index
from ...mrml.segmentations import ITEM, read_provenance, reference_volume
from ...mrml.volumes import geometry_in_world
from ..i18n import _
from ..model_list import ModelEntry
from ..observation import Observation
from ..suitability import about_sequence, suitability
from .widgets import quietly


class InputSection:
    """What is to be known of the chosen volume, and its sequence if there is one.

    The slider steps through the sequence as Slicer's own toolbar does, which it follows.
    """

    def __init__(self, ui, on_step: Callable[[], None] | None = None) -> None:
        """Take over the section's widgets.

        Args:
            ui: the panel's widgets.
            on_step: called when another item of the sequence is shown.
        """
        self._ui, self._on_step = ui, on_step
        self._parameters = None
        self._model = ModelEntry("", "")
        self._item: str | None = None
        self._observation = Observation(self._follow)
        ui.sequenceSlider.connect("valueChanged(int)", self._go)

    @property
    def sequence(self):
        """The sequence all volumes of which a run segments; None for one volume."""
        return self._offered if self._parameters and self._parameters.wholeSequence else None

    @property
    def item(self) -> str | None:
        """Index value of the item that is shown and segmented alone; None for a whole sequence."""
        volume = self._parameters.inputVolume if self._parameters else None
        return shown_index(volume) if volume and self.sequence is None else None

    def show(self, parameters, model: ModelEntry) -> None:
        """Show what is to be known of the volume.

        Args:
            parameters: the parameter node, or None.
            model: that segments it.
        """
        self._parameters, self._model = parameters, model
        volume = parameters.inputVolume if parameters else None
        # A volume may be chosen before it has its voxels, and move later.
        browser = browser_of(volume) if volume else None
        modified = vtk.vtkCommand.ModifiedEvent
        self._observation.watch([(volume, modified), (browser, modified)])
        self._show()

    def leave(self) -> None:
        """Stop to follow the volume."""
        self._observation.stop()

    def _follow(self) -> None:
        before = self._item
        self._show()
        if self._item != before and self._on_step:
            self._on_step()

    @property
    def _offered(self):
        """The sequence of several volumes of which the chosen one is shown; or None."""
        volume = self._parameters.inputVolume
        sequence = sequence_of(volume) if volume else None
        return sequence if sequence and sequence.GetNumberOfDataNodes() > 1 else None

    def _show(self) -> None:
        volume = self._parameters.inputVolume if self._parameters else None
        self._item = shown_index(volume) if volume else None
        offered = self._offered if volume else None
        number = offered.GetNumberOfDataNodes() if offered else 0
        box = self._ui.wholeSequenceCheckBox
        box.setVisible(number > 0)
        box.setText(_("Segment all {number} volumes of its sequence").format(number=number))
        self._show_place(browser_of(volume) if offered else None)
        lines = []
        if volume and volume.GetImageData() and self._model.input:
            lines.append(_about(volume, self._model.input))
        if self.sequence:
            lines.append(about_sequence(number, self._model.samples))
        if offered and (remark := self._about_output(volume, offered)):
            lines.append(remark)
        self._ui.inputRemark.setText("\n".join(lines))
        self._ui.inputRemark.setVisible(bool(lines))

    def _about_output(self, volume, sequence) -> str:
        """Return a remark if the segmentation is of another item than the one that is shown."""
        output = self._parameters.outputSegmentation
        if output is None or reference_volume(output) is not volume:
            return ""
        # One that shows a segmentation of each item shows that of the same one.
        index = read_provenance(output).get(ITEM)
        if index in (None, self._item):
            return ""
        # As the slider counts; the item may have been removed.
        place = sequence.GetItemNumberFromIndexValue(index)
        text = _("The segmentation shown is of item {item} of the sequence.")
        return text.format(item=place + 1 if place >= 0 else index)

    def _show_place(self, browser) -> None:
        """Show where a browser is; None hides the slider."""
        ui = self._ui
        for widget in (ui.sequenceLabel, ui.sequenceSlider):
            widget.setVisible(browser is not None)
        if browser is None:
            return
        place, number = browser.GetSelectedItemNumber() + 1, browser.GetNumberOfItems()
        with quietly(ui.sequenceSlider):
            ui.sequenceSlider.setMaximum(number)
            ui.sequenceSlider.setValue(place)
        ui.sequenceLabel.setText(_("{place} of {number}:").format(place=place, number=number))

    def _go(self, place: int) -> None:
        browser_of(self._parameters.inputVolume).SetSelectedItemNumber(place - 1)


def _about(volume, expected: InputSpec) -> str:
    try:
        return suitability(geometry_in_world(volume), expected)
    except InputError as error:  # its axes are no directions
        return str(error)
