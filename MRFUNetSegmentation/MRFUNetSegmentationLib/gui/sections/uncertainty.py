"""The panel's section on maps of uncertainty."""

from __future__ import annotations

from collections.abc import Callable

import slicer
import vtk

from ...inference.sampled import AGREEMENT, PROBABILITY
from ...mrml.hiding import clear_fill, restore_fill
from ...mrml.nodes import nodes_of_class
from ...mrml.overlays import legend_of, set_threshold, show_overlay, shown_overlay, threshold
from ..i18n import _
from ..observation import Observation
from .widgets import Choice, quietly

_NONE = ""


class UncertaintySection:
    """Lays one of the maps over the scan, in all slice views."""

    def __init__(self, ui, on_change: Callable[[], None]) -> None:
        """Take over the section's widgets.

        Args:
            ui: the panel's widgets.
            on_change: called when a map or a view has changed, so that `show` is to be called.
        """
        self._ui = ui
        self._overlays: dict = {}
        self._segmentation = None
        self._observation = Observation(on_change)
        self._map = Choice(ui.overlaySelector, self._choose)
        self._opacity = 0.0
        ui.overlayOpacitySlider.connect("valueChanged(int)", self._set_opacity)
        ui.overlayThresholdSlider.connect("valueChanged(int)", self._set_threshold)
        ui.overlayLegendCheckBox.connect("toggled(bool)", self._show_legend)

    def show(self, segmentation_node, overlays: dict, sampled: bool) -> None:
        """Show which map the slice views show; without maps the section is hidden.

        Args:
            segmentation_node: the segmentation; while a map is shown it is without its fill, which
                would hide the map.
            overlays: volumes by the name of their map.
            sampled: whether they are of samples, not of one network's probabilities.
        """
        ui = self._ui
        if segmentation_node is not self._segmentation and self._segmentation is not None:
            self._take_away()
        self._overlays, self._segmentation = overlays, segmentation_node
        ui.uncertaintySection.setVisible(bool(overlays))
        if not overlays:
            self.leave()
            if segmentation_node is not None:
                restore_fill(segmentation_node)
            return
        scene = slicer.mrmlScene
        modified = vtk.vtkCommand.ModifiedEvent
        views = nodes_of_class(scene, "vtkMRMLSliceCompositeNode")
        displays = [node.GetDisplayNode() for node in overlays.values()]
        self._observation.watch([(node, modified) for node in [*views, *displays]])
        name, self._opacity = shown_overlay(scene, overlays)
        entries = [(n, node.GetName()) for n, node in overlays.items()]
        self._map.show([(_NONE, _("None")), *entries], name or _NONE)
        if name is None:
            restore_fill(segmentation_node)
        details = (ui.overlayOpacitySlider, ui.overlayThresholdSlider, ui.overlayLegendCheckBox)
        for widget in details:
            widget.setEnabled(name is not None)
        if name is not None:
            legend = legend_of(overlays[name])
            with quietly(*details):
                ui.overlayOpacitySlider.setValue(round(100 * self._opacity))
                ui.overlayThresholdSlider.setValue(round(100 * threshold(overlays[name])))
                ui.overlayLegendCheckBox.setChecked(legend is not None and legend.GetVisibility())
            ui.overlayLegendCheckBox.setEnabled(legend is not None)
        ui.overlayRemark.setText(_how_to_read(name, sampled))

    def leave(self) -> None:
        """Stop to follow the nodes."""
        self._observation.stop()

    def _take_away(self) -> None:
        """Let the slice views show nothing of the segmentation that was shown until now."""
        restore_fill(self._segmentation)
        scene = slicer.mrmlScene
        present = {n: node for n, node in self._overlays.items() if scene.IsNodePresent(node)}
        if shown_overlay(scene, present)[0] is not None:
            show_overlay(scene, None)

    @property
    def _shown(self):
        return self._overlays[shown_overlay(slicer.mrmlScene, self._overlays)[0]]

    def _choose(self, name: str) -> None:
        if name:
            clear_fill(self._segmentation)
        show_overlay(slicer.mrmlScene, self._overlays.get(name), self._opacity)

    def _set_opacity(self, percent: int) -> None:
        show_overlay(slicer.mrmlScene, self._shown, percent / 100)

    def _set_threshold(self, percent: int) -> None:
        set_threshold(self._shown, percent / 100)

    def _show_legend(self, visible: bool) -> None:
        legend_of(self._shown).SetVisibility(visible)


def _how_to_read(name: str | None, sampled: bool) -> str:
    if name is None:
        return ""
    if name.startswith(PROBABILITY):
        return _(
            "Bright: nearly all plausible segmentations have the structure there; dark: few have. "
            "In between they differ."
        )
    if name == AGREEMENT:
        return _("Shown is where the plausible segmentations agree least.")
    if sampled:
        return _(
            "Bright: plausible segmentations differ. That is how ambiguous the image is, as the "
            "model has learnt it; it is not how far the model may be wrong."
        )
    return _(
        "Bright: the network wavers between structures, mostly at their borders. Where it is dark "
        "the network is sure, which is not the same as right."
    )
