"""The panel's section with sliders through the latent space."""

from __future__ import annotations

from collections.abc import Callable

import slicer

from ...mrml.hiding import hide, show_hidden
from ..panel_state import Message, error_message
from ..run_controller import Logic
from .widgets import quietly

# Positions of a slider for a standard deviation.
_STEPS = 100


class ExploreSection:
    """Shows at once what a move through the latent space changes.

    Attributes:
        explorer: `logic.LatentExplorer` while exploring, else None; the panel polls it.
    """

    def __init__(
        self,
        ui,
        logic: Logic,
        say: Callable[[Message], None],
        wake: Callable[[], None],
        before: Callable[[], None],
    ) -> None:
        """Take over the section's widgets.

        Args:
            ui: the panel's widgets.
            logic: the module's logic.
            say: shows a message.
            wake: called when there is something to poll.
            before: called before it begins, to end what else has changed the views.
        """
        self.explorer = None
        self._ui, self._logic = ui, logic
        self._say, self._wake, self._before = say, wake, before
        self._run = None
        self._dragging = False
        self._sliders = [getattr(ui, f"latentSlider{n}") for n in (1, 2, 3, 4)]
        self._labels = [getattr(ui, f"latentLabel{n}") for n in (1, 2, 3, 4)]
        self._positions = [0.0] * len(self._sliders)
        ui.exploreButton.connect("toggled(bool)", self._toggle)
        ui.latentResetButton.connect("clicked()", self._reset)
        for index, slider in enumerate(self._sliders):
            slider.connect("sliderPressed()", self._press)
            slider.connect("sliderReleased()", self._release)
            slider.connect("valueChanged(int)", lambda value, n=index: self._move(n, value))

    def show(self, run) -> None:
        """Offer to explore what a run has sampled; None hides the section."""
        if run is not self._run:
            self.close()
        self._run = run
        self._ui.exploreSection.setVisible(run is not None)
        self._show_sliders()

    def poll(self) -> None:
        """Take note of what the worker has answered."""
        self.explorer.poll()
        if self.explorer.error is not None:
            error = self.explorer.error
            self.close()
            self._say(error_message(error))

    def close(self) -> None:
        """End it: what was shown goes, what was hidden returns."""
        if self.explorer is not None:
            self.explorer.close()
            self.explorer = None
            show_hidden(slicer.mrmlScene)
        with quietly(self._ui.exploreButton):
            self._ui.exploreButton.setChecked(False)
        self._show_sliders()

    def _toggle(self, active: bool) -> None:
        if not active:
            self.close()
            return
        self._before()
        try:
            self.explorer = self._logic.explore(self._run)
        except Exception as error:
            self.close()
            self._say(error_message(error))
            return
        samples = self._run.samples
        hide(node.GetDisplayNode() for node in (samples.consensus, samples.shown) if node)
        self._show_sliders()
        self._reset()

    def _show_sliders(self) -> None:
        number = self.explorer.sliders if self.explorer else 0
        for index, (label, slider) in enumerate(zip(self._labels, self._sliders, strict=True)):
            label.setVisible(index < number)
            slider.setVisible(index < number)
        self._ui.latentResetButton.setVisible(number > 0)

    def _press(self) -> None:
        self._dragging = True

    def _release(self) -> None:
        self._dragging = False
        self._go()

    def _move(self, index: int, value: int) -> None:
        self._positions[index] = value / _STEPS
        self._go()

    def _reset(self) -> None:
        with quietly(*self._sliders):
            for slider in self._sliders:
                slider.setValue(0)
        self._positions = [0.0] * len(self._sliders)
        self._go()

    def _go(self) -> None:
        if self.explorer is None:
            return
        positions = self._positions[: self.explorer.sliders]
        if self._dragging:
            self.explorer.move(positions)
        else:
            self.explorer.release(positions)
        if self.explorer.error is not None:
            self.poll()  # it could not even begin
            return
        self._wake()
