"""What a user does in the application, and what is seen there."""

import os
import time
from pathlib import Path

import numpy as np
import qt
import SimpleITK as sitk
import slicer

MODULE = "MRFUNetSegmentation"


def process_events(seconds: float = 0.0) -> None:
    """Let the application work for a while."""
    end = time.monotonic() + seconds
    while True:
        slicer.app.processEvents()
        if time.monotonic() >= end:
            return
        time.sleep(0.002)


class Panel:
    """The module's panel as users see it."""

    def __init__(self):
        slicer.util.selectModule(MODULE)
        process_events(0.2)

    @property
    def widget(self):
        return slicer.util.getModuleWidget(MODULE)

    @property
    def ui(self):
        return self.widget.ui

    @property
    def parameters(self):
        return self.widget.logic.getParameterNode()

    @property
    def message(self) -> str:
        return self.ui.messageLabel.text

    @property
    def running(self) -> bool:
        return self.ui.applyButton.text != "Apply"

    @property
    def idle(self) -> bool:
        return not self.running and not self.widget.panel._controller.active

    def wait(self, condition, seconds: float = 300.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"still waiting; message: {self.message}"
            process_events(0.01)

    def apply(self) -> None:
        assert self.ui.applyButton.enabled, self.message
        self.ui.applyButton.click()

    def apply_and_wait(self) -> None:
        self.apply()
        self.wait(lambda: self.idle)
        process_events(0.2)

    def choose(self, selector, text: str) -> None:
        """Choose the entry of a combo box that contains a text, as a click does."""
        texts = [selector.itemText(i) for i in range(selector.count)]
        index = next((i for i, entry in enumerate(texts) if text in entry), None)
        assert index is not None, f"{text!r} is not among {texts}"
        selector.setCurrentIndex(index)
        selector.activated(index)
        process_events(0.1)


def made_up_head(name: str, inner: float = 0.6):
    """Return a volume of 96 x 96 x 96 voxels: two balls, one in the other, and some noise."""
    radius = np.sqrt(sum(x**2 for x in np.mgrid[-1:1:96j, -1:1:96j, -1:1:96j]))
    noise = np.random.default_rng(0).normal(0, 5, radius.shape)
    array = (100 * (radius < 0.9) + 50 * (radius < inner) + noise).astype(np.int16)
    volume = slicer.util.addVolumeFromArray(array, name=name)
    volume.SetSpacing(2, 2, 2)
    volume.SetOrigin(-96, -96, -96)
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    return volume


def made_up_series(name: str, number: int):
    """Return the browser of a sequence of heads whose inner balls differ in size."""
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", name)
    for n in range(number):
        head = made_up_head(f"{name} {n + 1}", 0.4 + 0.1 * n)
        sequence.SetDataNodeAtValue(head, str(n))
        slicer.mrmlScene.RemoveNode(head)
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", f"{name} browser")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    process_events(0.2)
    volume = browser.GetProxyNode(sequence)
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    return browser


class Heartbeat:
    """Measures how long the event loop is blocked at a time."""

    def __init__(self):
        self.gaps: list[float] = []
        self._last = None
        self._timer = qt.QTimer()
        self._timer.setInterval(5)
        self._timer.connect("timeout()", self._beat)

    def __enter__(self):
        self._timer.start()
        return self

    def __exit__(self, *_):
        self._timer.stop()

    def _beat(self):
        now = time.monotonic()
        if self._last is not None:
            self.gaps.append(now - self._last)
        self._last = now


def look_at_data() -> None:
    """Show the Data module and return; its list then asks every new node what it is."""
    slicer.util.selectModule("Data")
    process_events(0.2)
    slicer.util.selectModule(MODULE)
    process_events(0.2)


def complaints() -> list[str]:
    """Return the errors that the application has logged of itself, which light its red sign."""
    process_events(0.1)
    log = Path(slicer.app.errorLogModel().filePath).read_text(encoding="utf-8", errors="replace")
    return [line for line in log.splitlines() if line.startswith("[CRITICAL]")]


def picture(name: str) -> None:
    """Save a picture of the main window, if a folder for it was named."""
    if folder := os.environ.get("MRFUNET_PICTURES"):
        process_events(0.5)
        slicer.util.mainWindow().grab().save(str(Path(folder) / f"{name}.png"))


def slice_pixels(view: str = "Red") -> np.ndarray:
    """Return what a slice view shows, (height, width, 4) uint8."""
    widget = slicer.app.layoutManager().sliceWidget(view)
    widget.sliceView().forceRender()
    image = widget.sliceView().grab().toImage().convertToFormat(qt.QImage.Format_RGBA8888)
    path = Path(slicer.app.temporaryPath) / "slice.png"
    image.save(str(path))
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
