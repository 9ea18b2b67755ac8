"""The panel without Slicer's application: Qt by PySide6, and stand-ins for what only Slicer has."""

import os
import sys
import types
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
MODULE_FOLDER = REPOSITORY / "MRFUNetSegmentation"
MODULE_FILE = MODULE_FOLDER / "MRFUNetSegmentation.py"
GUI_FOLDER = MODULE_FOLDER / "MRFUNetSegmentationLib" / "gui"
UI_FILE = MODULE_FOLDER / "Resources" / "UI" / "MRFUNetSegmentation.ui"


@pytest.fixture(scope="session")
def qt() -> types.ModuleType:
    """What Slicer calls `qt`, made of PySide6: classes, and `connect` by a signal's signature."""
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    pytest.importorskip("PySide6")
    from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

    module = types.ModuleType("qt")
    for part in (QtCore, QtGui, QtUiTools, QtWidgets):
        vars(module).update({k: getattr(part, k) for k in dir(part) if k.startswith("Q")})
    # There must be an application as long as there are widgets.
    module.application = QtWidgets.QApplication.instance() or QtWidgets.QApplication([])
    module.QTimer = with_connect(QtCore.QTimer)
    return module


def with_connect(qt_class: type) -> type:
    """Subclass of a Qt class with PythonQt's `connect("signal(type)", slot)`."""

    def connect(self, signature, slot):
        getattr(self, signature.partition("(")[0]).connect(slot)

    return type(qt_class.__name__, (qt_class,), {"connect": connect})


def load_ui(qt, file: Path = UI_FILE):
    """Load a .ui file; returns its widget, and all its named widgets as attributes."""

    class Loader(qt.QUiLoader):
        def createWidget(self, class_name, parent=None, name=""):  # noqa: N802
            stand_ins = {
                "qMRMLWidget": qt.QWidget,
                "qMRMLNodeComboBox": qt.QComboBox,
                "ctkCollapsibleButton": qt.QGroupBox,
                "ctkCollapsibleGroupBox": qt.QGroupBox,
                "qMRMLSegmentationShow3DButton": type(
                    "Show3DButton",
                    (qt.QPushButton,),
                    {"setSegmentationNode": lambda self, node: None},
                ),
            }
            qt_class = stand_ins.get(class_name) or getattr(qt, class_name)
            widget = with_connect(qt_class)(parent)
            widget.setObjectName(name)
            return widget

    widget = Loader().load(str(file))
    children = widget.findChildren(qt.QWidget)
    return widget, types.SimpleNamespace(**{c.objectName(): c for c in children if c.objectName()})


class ParameterNode:
    """Stands in for a class made by `parameterNodeWrapper`: defaults, and observers of changes."""

    def __init__(self, node=None, **values):
        defaults = dict.fromkeys(("inputVolume", "outputSegmentation"))
        defaults |= {"model": "brain-tissue", "device": "auto", "replaceNonFinite": False}
        defaults |= {"wholeSequence": False}
        defaults |= {"samples": 32, "seed": 0, "consensus": "mean", "mapUncertainty": True}
        defaults |= {"exportContent": "segmentation", "exportFormat": "label map node"}
        defaults |= {"exportGrid": "volume"}
        self.__dict__.update(_observers=[], connected=None, **(defaults | values))

    def __setattr__(self, name, value):
        changed = self.__dict__[name] is not value and self.__dict__[name] != value
        self.__dict__[name] = value
        if changed and name != "connected":
            for observer in list(self._observers):
                observer()

    def connectGui(self, ui):  # noqa: N802
        self.connected = ui
        return 0

    def disconnectGui(self, tag):  # noqa: N802
        self.connected = None


@pytest.fixture
def library(monkeypatch, qt):
    """The library, imported anew with PySide6 as `qt`; afterwards it is as it was before."""
    before = {name: module for name, module in sys.modules.items() if _of_library(name)}
    monkeypatch.setitem(sys.modules, "qt", qt)
    yield
    for name in [name for name in sys.modules if _of_library(name)]:
        del sys.modules[name]
        # `from package import module` would find this test's module in the package.
        parent, _, child = name.rpartition(".")
        if parent in before and name not in before:
            vars(before[parent]).pop(child, None)
    sys.modules.update(before)


def _of_library(name: str) -> bool:
    return name.partition(".")[0] in ("MRFUNetSegmentation", "MRFUNetSegmentationLib")
