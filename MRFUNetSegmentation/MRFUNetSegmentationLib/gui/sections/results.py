"""The panel's section on the structures of a segmentation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import qt
import vtk

from ...inference.sampled import FEWEST_FOR_INTERVAL
from ...mrml.results import Structure, structures_of, volumes_ml
from ..i18n import _
from ..observation import Observation
from .widgets import Choice, quietly

FILL_AND_OUTLINE, FILL, OUTLINE = "fill and outline", "fill", "outline"
_STYLES = {FILL_AND_OUTLINE: (True, True), FILL: (True, False), OUTLINE: (False, True)}


class ResultsSection:
    """Structures with their volumes, and how the views show them."""

    def __init__(self, ui, on_change: Callable[[], None]) -> None:
        """Take over the section's widgets.

        Args:
            ui: the panel's widgets.
            on_change: called when the segmentation has changed, so that `show` is to be called.
        """
        self._ui = ui
        self._node = self._segmentation = None
        self._volumes: dict[str, float] | None = None
        self._structures: list[Structure] = []
        self._on_change = on_change
        self._display = Observation(on_change)
        self._content = Observation(self._content_changed)
        self._style = Choice(ui.resultStyleSelector, self._set_style)
        # Names may be long; what they leave to the numbers must be enough for these.
        header = ui.structuresTree.header()
        header.setStretchLastSection(False)
        header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        header.setSectionResizeMode(0, qt.QHeaderView.Stretch)
        ui.structuresTree.connect("itemChanged(QTreeWidgetItem*,int)", self._item_changed)
        ui.resultOpacitySlider.connect("valueChanged(int)", self._set_opacity)

    def show(self, segmentation_node, samples) -> None:
        """Show a segmentation node's structures; None hides the section.

        Args:
            segmentation_node: the node.
            samples: of which it is the consensus (`mrml.samples.SampleSet`), or None.
        """
        ui = self._ui
        if segmentation_node is not self._node:
            self._node = segmentation_node
            ui.show3DButton.setSegmentationNode(segmentation_node)
        ui.resultsSection.setVisible(segmentation_node is not None)
        if segmentation_node is None:
            self.leave()
            return
        segmentation, display = (
            segmentation_node.GetSegmentation(),
            segmentation_node.GetDisplayNode(),
        )
        # Each item of a sequence has one of its own, which the node that shows it takes over.
        if segmentation is not self._segmentation:
            self._segmentation, self._volumes = segmentation, None
        modified = vtk.vtkCommand.ModifiedEvent
        self._display.watch(
            [
                (segmentation_node, modified),
                (display, modified),
                (segmentation, segmentation.SegmentModified),
            ]
        )
        changes = (
            segmentation.SourceRepresentationModified,
            segmentation.SegmentAdded,
            segmentation.SegmentRemoved,
        )
        self._content.watch([(segmentation, event) for event in changes])
        if self._volumes is None:
            self._volumes = volumes_ml(segmentation_node)
        few = samples is not None and samples.number < FEWEST_FOR_INTERVAL
        column = _("Range [ml]") if few else _("5 to 95 % [ml]")
        ui.structuresTree.headerItem().setText(2, column)
        structures = structures_of(segmentation_node, samples, self._volumes)
        if structures != self._structures or not structures:
            self._structures = structures
            self._fill_tree()
        self._show_display(display)

    def leave(self) -> None:
        """Stop to follow the nodes."""
        self._display.stop()
        self._content.stop()
        self._segmentation = self._volumes = None

    def _content_changed(self) -> None:
        self._volumes = None
        self._on_change()

    def _fill_tree(self) -> None:
        tree = self._ui.structuresTree
        with quietly(tree):
            tree.clear()
            for structure in self._structures:
                item = qt.QTreeWidgetItem(tree)
                item.setText(0, structure.name)
                item.setIcon(0, _swatch(structure.color))
                item.setCheckState(0, qt.Qt.Checked if structure.visible else qt.Qt.Unchecked)
                if structure.volume_ml is not None:
                    item.setText(1, f"{structure.volume_ml:.1f}")
                if structure.interval_ml:
                    item.setText(2, "{:.1f} to {:.1f}".format(*structure.interval_ml))
                for column in (1, 2):
                    item.setTextAlignment(column, qt.Qt.AlignRight)
            tree.setColumnHidden(2, not any(s.interval_ml for s in self._structures))

    def _show_display(self, display) -> None:
        ui = self._ui
        if display is None:
            return
        now = bool(display.GetVisibility2DFill()), bool(display.GetVisibility2DOutline())
        chosen = next((style for style, parts in _STYLES.items() if parts == now), FILL)
        labels = {
            FILL_AND_OUTLINE: _("Fill and outline"),
            FILL: _("Fill"),
            OUTLINE: _("Outline"),
        }
        self._style.show(list(labels.items()), chosen)
        with quietly(ui.resultOpacitySlider):
            ui.resultOpacitySlider.setValue(round(100 * display.GetOpacity()))

    def _item_changed(self, item, _column: int) -> None:
        row = self._ui.structuresTree.indexOfTopLevelItem(item)
        visible = item.checkState(0) == qt.Qt.Checked
        structure = self._structures[row] = replace(self._structures[row], visible=visible)
        self._node.GetDisplayNode().SetSegmentVisibility(structure.segment_id, visible)

    def _set_style(self, style: str) -> None:
        fill, outline = _STYLES[style]
        display = self._node.GetDisplayNode()
        display.SetVisibility2DFill(fill)
        display.SetVisibility2DOutline(outline)

    def _set_opacity(self, percent: int) -> None:
        self._node.GetDisplayNode().SetOpacity(percent / 100)


def _swatch(color: tuple[float, float, float]):
    pixmap = qt.QPixmap(12, 12)
    pixmap.fill(qt.QColor(*(round(255 * c) for c in color)))
    return qt.QIcon(pixmap)
