"""The panel's section on sampled segmentations."""

from __future__ import annotations

from collections.abc import Callable

import qt
import vtk

from ...errors import MRFUNetError
from ...mrml.side_by_side import SideBySide
from ..i18n import _
from ..observation import Observation
from ..panel_state import Message, error_message
from .widgets import Choice, quietly

# After it new views have their size.
_LAYOUT_MILLISECONDS = 200


class SamplesSection:
    """Steps through a set of samples, as Slicer's own sequence browser does, which it follows."""

    def __init__(
        self,
        ui,
        say: Callable[[Message], None],
        on_change: Callable[[], None],
        before: Callable[[], None],
    ) -> None:
        """Take over the section's widgets.

        Args:
            ui: the panel's widgets.
            say: shows a message.
            on_change: called when the browser has changed, so that `show` is to be called.
            before: called before samples are compared, to end what else has changed the views.
        """
        self._ui, self._say = ui, say
        self._on_change, self._before = on_change, before
        self._samples = None
        self._side_by_side: SideBySide | None = None
        self._observation = Observation(on_change)
        self._order = Choice(ui.sampleOrderSelector, self._set_order)
        ui.sampleSlider.connect("valueChanged(int)", self._go)
        ui.previousSampleButton.connect("clicked()", lambda: self._step(-1))
        ui.nextSampleButton.connect("clicked()", lambda: self._step(1))
        ui.playSamplesButton.connect("toggled(bool)", self._play)
        ui.showSampleCheckBox.connect("toggled(bool)", self._set_visible)
        ui.keepSampleButton.connect("clicked()", self._keep)
        ui.compareSamplesButton.connect("toggled(bool)", self._compare)

    def show(self, samples, exploring: bool) -> None:
        """Show where the browser of a set is; None hides the section.

        Args:
            samples: `mrml.samples.SampleSet`.
            exploring: whether the views show something else than samples.
        """
        ui = self._ui
        if self._samples is not None and (
            samples is None or samples.browser is not self._samples.browser
        ):
            self.end_comparison()
        self._samples = samples
        ui.samplesSection.setVisible(samples is not None)
        if samples is None:
            self.leave()
            return
        browser = samples.browser
        samples.watch()
        steps = (
            ui.sampleSlider,
            ui.previousSampleButton,
            ui.nextSampleButton,
            ui.playSamplesButton,
            ui.showSampleCheckBox,
        )
        for widget in steps:
            widget.setEnabled(not exploring and self._side_by_side is None)
        display = samples.shown.GetDisplayNode()
        modified = vtk.vtkCommand.ModifiedEvent
        watched = browser, display, samples.sequence
        self._observation.watch([(node, modified) for node in watched])
        with quietly(ui.sampleSlider, ui.playSamplesButton, ui.showSampleCheckBox):
            ui.showSampleCheckBox.setChecked(bool(display and display.GetVisibility()))
            ui.sampleSlider.setMaximum(samples.number)
            ui.sampleSlider.setValue(browser.GetSelectedItemNumber() + 1)
            ui.playSamplesButton.setChecked(bool(browser.GetPlaybackActive()))
        ui.sampleLabel.setText(
            _("Sample {sample} of {number}").format(sample=samples.sample, number=samples.number)
        )
        self._order.show(list(samples.orders.items()), samples.order)

    def leave(self) -> None:
        """Stop to follow the browser."""
        self._observation.stop()

    def close(self) -> None:
        """Put back what the section has changed of the views."""
        self.leave()
        self.end_comparison()

    def _go(self, place: int) -> None:
        self._samples.show(self._samples.samples[place - 1])

    def _step(self, by: int) -> None:
        place = self._samples.browser.GetSelectedItemNumber() + by
        self._go(place % self._samples.number + 1)

    def _set_order(self, order: str) -> None:
        try:
            self._samples.set_order(order)
        except MRFUNetError as error:
            self._say(error_message(error))
            self._on_change()

    def _play(self, active: bool) -> None:
        browser = self._samples.browser
        if active:  # also where no sample has been shown yet
            self._samples.show(self._samples.sample)
        browser.SetPlaybackLooped(True)
        browser.SetPlaybackActive(active)

    def _set_visible(self, visible: bool) -> None:
        display = self._samples.shown.GetDisplayNode()
        if display is not None:
            display.SetVisibility(visible)

    def _keep(self) -> None:
        try:
            node = self._samples.keep()
        except Exception as error:
            self._say(error_message(error))
        else:
            self._say(Message(_("Kept as the segmentation {name}.").format(name=node.GetName())))

    def _compare(self, active: bool) -> None:
        if not active:
            self.end_comparison()
            return
        self._before()
        self._samples.browser.SetPlaybackActive(False)
        try:
            self._side_by_side = SideBySide(self._samples)
        except Exception as error:
            self.end_comparison()
            self._say(error_message(error))
        else:
            qt.QTimer.singleShot(_LAYOUT_MILLISECONDS, self._fit)
            numbers = ", ".join(str(sample) for sample in self._side_by_side.samples)
            self._say(
                Message(
                    _("Samples {numbers}, by volume of all structures.").format(numbers=numbers)
                )
            )
        self._on_change()

    def _fit(self) -> None:
        if self._side_by_side is not None:
            self._side_by_side.fit()

    def end_comparison(self) -> None:
        """Show one sample again."""
        if self._side_by_side is not None:
            self._side_by_side.close()
            self._side_by_side = None
        with quietly(self._ui.compareSamplesButton):
            self._ui.compareSamplesButton.setChecked(False)
