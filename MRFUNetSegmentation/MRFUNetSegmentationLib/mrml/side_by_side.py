"""A few samples beside each other, each in a slice view of its own."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import slicer

from ..errors import InputError
from .hiding import hide, show_hidden
from .removal import remove_node
from .samples import SampleSet
from .segmentations import check_item, ensure_display, follow_volume
from .tables import VOLUME_UNIT

MAXIMUM_VIEWS = 4
# Any number that Slicer does not use for a layout of its own.
_LAYOUT = 26_1117
_VIEW = """<item><view class="vtkMRMLSliceNode" singletontag="{tag}">
<property name="orientation" action="default">Axial</property>
<property name="viewlabel" action="default">{label}</property>
<property name="viewcolor" action="default">#888888</property></view></item>"""


def leave_layout(scene) -> None:
    """Show the usual views in a scene that was saved while samples were compared."""
    layout = scene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    if layout is not None and layout.GetViewArrangement() == _LAYOUT:
        layout.SetViewArrangement(layout.SlicerLayoutFourUpView)


class SideBySide:
    """Shows up to four samples of different size, from the smallest to the largest.

    The views move together. What was shown before returns with `close`. The copies of the samples
    that are shown are not saved with the scene.

    Attributes:
        samples: numbers of the samples that are shown, from 1, as drawn.
    """

    def __init__(self, samples: SampleSet) -> None:
        """Show them.

        Raises:
            InputError: if there is nothing to show, or no views.
        """
        volume_node = samples.volume
        if volume_node is None:
            raise InputError("The samples' volume was removed, so there is nothing to compare.")
        check_item(samples.sequence.GetNthDataNode(0), volume_node)
        scene = volume_node.GetScene()
        layout = scene.GetFirstNodeByClass("vtkMRMLLayoutNode")
        # The application makes the views that a layout names.
        if layout is None or not hasattr(slicer, "app"):
            raise InputError("Samples can be compared only in the application's own views.")
        self.samples = _spread(samples)
        self._tags = [f"MRFUNetSample{n + 1}" for n in range(len(self.samples))]
        self._undo = ExitStack()
        try:
            self._show(samples, scene, layout)
        except BaseException:
            self._undo.close()
            raise

    def fit(self) -> None:
        """Show the whole slices, once the views have got their size."""
        for tag in self._tags:
            slicer.app.layoutManager().sliceWidget(tag).sliceLogic().FitSliceToAll()

    def close(self) -> None:
        """Show again what was shown before."""
        self._undo.close()

    def _show(self, samples: SampleSet, scene, layout) -> None:
        undo = self._undo
        undo.callback(show_hidden, scene)
        nodes = [node for node in (samples.consensus, samples.shown) if node is not None]
        hide(node.GetDisplayNode() for node in nodes)
        tags = self._tags
        description = _layout([_VIEW.format(tag=tag, label=tag[-1]) for tag in tags])
        if layout.IsLayoutDescription(_LAYOUT):
            layout.SetLayoutDescription(_LAYOUT, description)
        else:
            layout.AddLayoutDescription(_LAYOUT, description)
        undo.callback(layout.SetViewArrangement, layout.GetViewArrangement())
        layout.SetViewArrangement(_LAYOUT)
        for tag, sample in zip(tags, self.samples, strict=True):
            _show_volume(scene, tag, samples.volume)
            name = f"Sample {sample}"
            node = slicer.vtkMRMLSegmentationNode()
            node.SetName(name)
            node.SetSaveWithScene(False)
            node = scene.AddNode(node)
            undo.callback(remove_node, node)
            # All goes with the node; its display alone, before it, would end the application.
            with_node = ExitStack()
            # Before the segments: the application's lists ask it for each one that is added.
            ensure_display(node, with_node)
            display = node.GetDisplayNode()
            display.SetSaveWithScene(False)
            node.CopyContent(samples.sequence.GetDataNodeAtValue(str(sample)))
            if samples.shown is not None and samples.shown.GetDisplayNode() is not None:
                display.CopyContent(samples.shown.GetDisplayNode())
            display.SetVisibility(True)
            display.RemoveAllViewNodeIDs()
            view = scene.GetSingletonNode(tag, "vtkMRMLSliceNode")
            view.SetLayoutLabel(str(sample))
            display.AddViewNodeID(view.GetID())
            follow_volume(node, samples.volume, with_node)
            # Not before: the application keeps an account of the segments of those in its lists.
            node.SetHideFromEditors(True)


def _spread(samples: SampleSet) -> list[int]:
    """Numbers of samples from the smallest to the largest, evenly spread over the ranks."""
    table = samples.samples_table
    if table is None:
        return samples.samples[:MAXIMUM_VIEWS]
    columns = [table.GetTable().GetColumnName(n) for n in range(table.GetNumberOfColumns())]
    numbers = samples.sorted_by([c for c in columns if c.endswith(VOLUME_UNIT)])
    ranks = np.linspace(0, len(numbers) - 1, min(MAXIMUM_VIEWS, len(numbers)))
    return [numbers[rank] for rank in np.round(ranks).astype(int)]


def _show_volume(scene, tag: str, volume_node) -> None:
    composite = scene.GetSingletonNode(tag, "vtkMRMLSliceCompositeNode")
    composite.SetBackgroundVolumeID(volume_node.GetID())
    composite.SetForegroundVolumeID(None)
    axial = scene.GetSingletonNode("Red", "vtkMRMLSliceNode")
    if axial is not None:
        scene.GetSingletonNode(tag, "vtkMRMLSliceNode").SetSliceOffset(axial.GetSliceOffset())
    composite.SetLinkedControl(True)


def _layout(views: list[str]) -> str:
    """Return a layout of two rows, or of one for two views."""
    rows = [views] if len(views) < 3 else [views[:2], views[2:]]
    items = [f'<item><layout type="horizontal">{"".join(row)}</layout></item>' for row in rows]
    return f'<layout type="vertical" split="true">{"".join(items)}</layout>'
