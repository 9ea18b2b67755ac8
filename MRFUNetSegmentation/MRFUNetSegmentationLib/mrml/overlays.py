"""Maps of uncertainty, as volumes to lay over the scan.

Each has the window from 0 to the largest value that its map can take anywhere, so that the colours
of two scans, or of two runs, can be compared.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import numpy as np
import slicer
import vtk

from ..inference.overlay_colors import LOW, inferno
from ..inference.sampled import AGREEMENT, PROBABILITY
from .geometry import ijk_to_ras, to_vtk
from .nodes import nodes_of_class
from .segmentations import PREFIX
from .volumes import voxels

OPACITY = 0.6
# Characters in a line of a legend's title, which stands over a narrow bar.
_TITLE_WIDTH = 28
# Points; Slicer's own 25 would hide the brain in a small view.
_TITLE_SIZE, _LABEL_SIZE = 13, 12
# Attribute of an overlay: the name of its map.
MAP = PREFIX + "Map"
# Attribute of an overlay: the largest value that its map can take; users may change the window.
MAXIMUM = PREFIX + "Maximum"
# What tells an overlay apart, and is no provenance.
OVERLAY_ATTRIBUTES = (MAP, MAXIMUM)
# Marks the colour tables of overlays, which all overlays of a scene share.
_COLOR_TABLE = PREFIX + "OverlayColors"


def add_overlay(scene, name: str, values: np.ndarray, maximum: float, title: str, volume_node):
    """Add a map as a scalar volume on the grid of a volume, with colours and a legend.

    Low values are transparent; of the agreement the high ones are, for there the samples differ
    least.

    Args:
        scene: to add to.
        name: of the map.
        values: float32 [k, j, i] on the grid of the volume node.
        maximum: largest value that the map can take.
        title: what it shows, with its unit.
        volume_node: the volume that was segmented.

    Returns:
        The volume node.
    """
    node = scene.AddNewNodeByClass(
        "vtkMRMLScalarVolumeNode",
        scene.GenerateUniqueName(f"{volume_node.GetName()} {_words(name, title)}"),
    )
    image = vtk.vtkImageData()
    image.SetExtent(volume_node.GetImageData().GetExtent())
    image.AllocateScalars(vtk.VTK_FLOAT, 1)
    voxels(image)[:] = values
    node.SetIJKToRASMatrix(to_vtk(ijk_to_ras(volume_node)))
    node.SetAndObserveImageData(image)
    node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    node.SetAttribute(MAP, name)
    node.SetAttribute(MAXIMUM, repr(float(maximum)))
    node.CreateDefaultDisplayNodes()
    _set_display(node, maximum)
    _add_legend(node, title)
    return node


def show_overlay(scene, overlay_node, opacity: float = OPACITY) -> None:
    """Lay a volume over what all slice views show; None takes the layer away.

    Args:
        scene: of the slice views.
        overlay_node: the volume.
        opacity: 0..1.
    """
    changed = {overlay_node}
    for composite in nodes_of_class(scene, "vtkMRMLSliceCompositeNode"):
        changed.add(scene.GetNodeByID(composite.GetForegroundVolumeID() or ""))
        composite.SetForegroundVolumeID(overlay_node.GetID() if overlay_node else None)
        composite.SetForegroundOpacity(opacity if overlay_node else 0.0)
    for node in changed - {None}:
        # Views draw a legend when it changes, not when its volume comes to be shown, or goes.
        if legend := legend_of(node):
            legend.Modified()


def shown_overlay(scene, overlays: Mapping[str, object]) -> tuple[str | None, float]:
    """Return which of some overlays lies over the first slice view that shows one, and how opaque.

    Args:
        scene: of the slice views.
        overlays: volumes by the name of their map.

    Returns:
        The name and the opacity 0..1; None and `OPACITY` if no view shows one of them.
    """
    names = {node.GetID(): name for name, node in overlays.items()}
    for composite in nodes_of_class(scene, "vtkMRMLSliceCompositeNode"):
        name = names.get(composite.GetForegroundVolumeID())
        if name is not None:
            return name, composite.GetForegroundOpacity()
    return None, OPACITY


def set_threshold(overlay_node, fraction: float) -> None:
    """Hide the values that say least: the low ones, of the agreement the high ones.

    Args:
        overlay_node: an overlay.
        fraction: 0..1 of the largest value that the map can take.
    """
    display = overlay_node.GetDisplayNode()
    maximum = float(overlay_node.GetAttribute(MAXIMUM))
    reverse = overlay_node.GetAttribute(MAP) == AGREEMENT
    # Sums of float32 may come out a little above what they can be.
    limits = (-maximum, (1 - fraction) * maximum) if reverse else (fraction * maximum, 2 * maximum)
    display.SetThreshold(*limits)


def threshold(overlay_node) -> float:
    """Return which fraction `set_threshold` was given last."""
    display = overlay_node.GetDisplayNode()
    maximum = float(overlay_node.GetAttribute(MAXIMUM))
    if overlay_node.GetAttribute(MAP) == AGREEMENT:
        return 1 - display.GetUpperThreshold() / maximum
    return display.GetLowerThreshold() / maximum


def show_overlays_instead(scene, successors: Mapping[str, str]) -> None:
    """Let slice views that show a volume show another one.

    Args:
        scene: of the slice views.
        successors: by the ID of a volume that of the one that is to take its place.
    """
    for composite in nodes_of_class(scene, "vtkMRMLSliceCompositeNode"):
        for layer in ("Background", "Foreground"):
            shown = getattr(composite, f"Get{layer}VolumeID")()
            if shown in successors:
                getattr(composite, f"Set{layer}VolumeID")(successors[shown])


def legend_of(overlay_node):
    """Return the display node of an overlay's legend; None in a Slicer without legends."""
    for index in range(overlay_node.GetNumberOfDisplayNodes()):
        display = overlay_node.GetNthDisplayNode(index)
        if display is not None and display.IsA("vtkMRMLColorLegendDisplayNode"):
            return display
    return None


def _words(name: str, title: str) -> str:
    if name.startswith(PROBABILITY):
        return title[0].lower() + title[1:].split(" over ")[0]
    return name.replace("_", " ")


def _set_display(node, maximum: float) -> None:
    display = node.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(0.0, maximum)
    display.SetAutoThreshold(False)
    display.SetApplyThreshold(True)
    set_threshold(node, LOW)
    reverse = node.GetAttribute(MAP) == AGREEMENT
    display.SetAndObserveColorNodeID(_colors(display.GetScene(), reverse).GetID())


def _colors(scene, reverse: bool):
    kind = "reversed" if reverse else "inferno"
    for table in nodes_of_class(scene, "vtkMRMLColorTableNode"):
        if table.GetAttribute(_COLOR_TABLE) == kind:
            return table
    table = slicer.vtkMRMLColorTableNode()
    name = "Ambiguity (reversed)" if reverse else "Ambiguity"
    table.SetName(scene.GenerateUniqueName(name))
    table.SetAttribute(_COLOR_TABLE, kind)
    table.SetTypeToUser()
    colors = inferno(reverse=reverse)
    table.SetNumberOfColors(len(colors))
    for value, color in enumerate(colors):
        table.SetColor(value, str(value), *color, 1.0)
    return scene.AddNode(table)


def _add_legend(node, title: str) -> None:
    if not hasattr(slicer, "vtkMRMLColorLegendDisplayNode"):
        return
    legend = slicer.vtkMRMLColorLegendDisplayNode()
    legend.SetName(f"{node.GetName()} legend")
    legend = node.GetScene().AddNode(legend)
    legend.SetAndObservePrimaryDisplayNode(node.GetDisplayNode())
    legend.SetTitleText(textwrap.fill(title, _TITLE_WIDTH))
    legend.GetTitleTextProperty().SetFontSize(_TITLE_SIZE)
    legend.GetLabelTextProperty().SetFontSize(_LABEL_SIZE)
    legend.SetLabelFormat("%.2g")
    legend.SetVisibility(True)
    # A slice view shows the legend of a volume that it shows, and no other.
    node.AddAndObserveDisplayNodeID(legend.GetID())
