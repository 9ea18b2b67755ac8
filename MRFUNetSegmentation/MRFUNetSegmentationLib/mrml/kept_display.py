"""What the user set of segments' display, kept while the segments are replaced."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import vtk


@contextmanager
def kept_display(segmentation_node) -> Iterator[None]:
    """Bring a segmentation node's display back when its content was replaced.

    Slicer forgets what is set of a segment's display (visible or not, opacity) when the segment
    goes, though another one with the same ID comes at once.
    """
    display = segmentation_node.GetDisplayNode()
    before = _copy(display) if display else None
    yield
    if display:
        display.CopyContent(before)


# The browser nodes that are watched. Not a mark on the node: it would be saved with the scene, and
# tell of a node that was loaded that it is watched.
_watched: list[vtk.vtkWeakReference] = []


class DisplayKeeper:
    """Does the same for the steps that the user makes with Slicer's own browser controls.

    The nodes it watches keep it, and not the other way round, so that all can go with the scene.
    """

    def __init__(self, browser, segmentation_node) -> None:
        """Watch a browser node and the segmentation node that it changes; once is enough."""
        display = segmentation_node.GetDisplayNode() if segmentation_node is not None else None
        _watched[:] = [reference for reference in _watched if reference.Get() is not None]
        if display is None or any(reference.Get() is browser for reference in _watched):
            return
        self._browser, self._display = vtk.vtkWeakReference(), vtk.vtkWeakReference()
        self._browser.Set(browser)
        self._display.Set(display)
        _watched.append(self._browser)
        self._remember()
        modified = vtk.vtkCommand.ModifiedEvent
        display.AddObserver(modified, self._on_display)
        # After the sequences' logic, which watches it since it is in the scene.
        browser.AddObserver(modified, self._on_browser)

    def _remember(self) -> None:
        self._item = self._browser.Get().GetSelectedItemNumber()
        self._kept = _copy(self._display.Get())

    def _on_display(self, caller, event) -> None:
        browser = self._browser.Get()
        # Between two items it is the change of the segments that changes the display.
        if browser is not None and browser.GetSelectedItemNumber() == self._item:
            self._kept = _copy(caller)

    def _on_browser(self, caller, event) -> None:
        display = self._display.Get()
        if display is not None and caller.GetSelectedItemNumber() != self._item:
            display.CopyContent(self._kept)
            self._remember()


def _copy(display):
    copy = display.NewInstance()
    copy.CopyContent(display)
    return copy
