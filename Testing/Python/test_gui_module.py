"""The module file: what it imports, what it reloads, and how it follows the scene's life."""

import ast
import importlib.util
import sys
import types
from pathlib import Path

import pytest
from gui_tools import MODULE_FILE, UI_FILE, ParameterNode, load_ui

# What Slicer ships, but for its own packages.
SHIPPED = {"ctk", "numpy", "qt", "scipy", "SimpleITK", "slicer", "vtk"}


def imports_at_file_scope(tree: ast.Module) -> set[str]:
    names = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.partition(".")[0])
    return names


def test_file_scope_imports_only_what_slicer_ships():
    names = imports_at_file_scope(ast.parse(MODULE_FILE.read_text(encoding="utf-8")))
    assert "slicer" in names
    assert names <= SHIPPED | sys.stdlib_module_names
    assert "imp" not in names


class Widget:
    """Stands in for Slicer's base class of module widgets."""

    def __init__(self, parent=None):
        self.parent = parent
        self.children = []
        self.layout = types.SimpleNamespace(addWidget=self.children.append)

    def setup(self):
        pass

    def resourcePath(self, name):  # noqa: N802
        return str(MODULE_FILE.parent / "Resources" / name)


class Logic:
    """Stands in for Slicer's base class of module logics: one parameter node a scene."""

    def getParameterNode(self):  # noqa: N802
        return "node"


class Observers:
    """Stands in for VTKObservationMixin; `fire` calls who observes an event."""

    def __init__(self):
        self.observed = []

    def addObserver(self, observed, event, slot):  # noqa: N802
        self.observed.append((observed, event, slot))
        if isinstance(observed, ParameterNode):
            observed._observers.append(slot)

    def removeObserver(self, observed, event, slot):  # noqa: N802
        self.observed.remove((observed, event, slot))
        if isinstance(observed, ParameterNode):
            observed._observers.remove(slot)

    def removeObservers(self):  # noqa: N802
        for entry in list(self.observed):
            self.removeObserver(*entry)

    def fire(self, event):
        for _observed, name, slot in list(self.observed):
            if name == event:
                slot(None, None)


@pytest.fixture
def load_module(monkeypatch, scene, qt, library):
    """Function that loads the module file as Slicer does, with stand-ins for its base classes."""
    import slicer

    def add(name, **members):
        module = types.ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)

    same = {"tr": lambda text: text, "translate": lambda context, text: text}
    add("slicer.i18n", **same)
    add(
        "slicer.parameterNodeWrapper",
        parameterNodeWrapper=lambda _declaration: ParameterNode,
        WithinRange=lambda low, high: (low, high),
    )
    add(
        "slicer.ScriptedLoadableModule",
        ScriptedLoadableModule=type(
            "Module",
            (),
            {
                "__init__": lambda self, parent: setattr(self, "parent", parent),
                "resourcePath": lambda self, name: str(MODULE_FILE.parent / "Resources" / name),
            },
        ),
        ScriptedLoadableModuleWidget=Widget,
        ScriptedLoadableModuleLogic=Logic,
        ScriptedLoadableModuleTest=type("Test", (), {}),
    )
    monkeypatch.setattr(slicer.util, "VTKObservationMixin", Observers)
    monkeypatch.setattr(slicer.util, "loadUI", lambda path: loaded(path), raising=False)
    monkeypatch.setattr(slicer.util, "childWidgetVariables", lambda w: w.ui, raising=False)

    def loaded(path):
        assert path == str(UI_FILE)
        widget, ui = load_ui(qt)
        return types.SimpleNamespace(setMRMLScene=lambda scene: None, ui=ui, widget=widget)

    def load():
        spec = importlib.util.spec_from_file_location("MRFUNetSegmentation", MODULE_FILE)
        module = importlib.util.module_from_spec(spec)
        sys.modules["MRFUNetSegmentation"] = module
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def widget(load_module):
    widget = load_module().MRFUNetSegmentationWidget(types.SimpleNamespace(isEntered=True))
    widget.setup()
    yield widget
    widget.cleanup()


def library_modules() -> dict[str, types.ModuleType]:
    return {n: m for n, m in sys.modules.items() if n.startswith("MRFUNetSegmentationLib")}


def test_loading_the_module_does_not_load_the_library(load_module):
    load_module()
    assert library_modules() == {}


def test_reload_brings_a_new_library(load_module):
    load_module().MRFUNetSegmentationLogic()
    before = library_modules()
    assert "MRFUNetSegmentationLib.logic.logic" in before
    load_module().MRFUNetSegmentationLogic()
    after = library_modules()
    assert set(after) == set(before)
    assert not [name for name, module in after.items() if module is before[name]]


def test_old_widget_can_be_cleaned_up_after_a_reload(load_module, widget):
    load_module()
    widget.cleanup()
    assert widget.observed == []


def test_what_the_module_list_shows(load_module, monkeypatch):
    import slicer

    started, offered = [], []
    application = types.SimpleNamespace(connect=lambda signal, slot: started.append(slot))
    monkeypatch.setattr(slicer, "app", application, raising=False)
    shown = load_module().MRFUNetSegmentation(types.SimpleNamespace()).parent
    assert shown.categories == ["Segmentation"]
    assert shown.contributors == ["the MRFUNetSegmentation contributors"]
    assert "research" in shown.helpText
    assert "Brudfors" in shown.acknowledgementText
    logic = types.SimpleNamespace(registerCustomSampleDataSource=lambda **d: offered.append(d))
    sample_data = types.SimpleNamespace(SampleDataLogic=logic)
    monkeypatch.setitem(sys.modules, "SampleData", sample_data)
    started[0]()
    assert Path(offered[0]["thumbnailFileName"]).is_file()
    assert offered[0]["uris"].endswith(offered[0]["checksums"].removeprefix("SHA256:"))


def test_panel_follows_the_parameter_node(widget):
    parameters = widget._parameterNode
    assert parameters.connected is widget.ui
    parameters.device = "cpu"
    assert widget.ui.deviceSelector.currentText() == "CPU"


def test_exit_and_enter(widget):
    first = widget._parameterNode
    widget.exit()
    assert first.connected is None
    widget.enter()
    assert widget._parameterNode.connected is widget.ui
    assert first._observers == []


def test_volume_that_is_loaded_while_the_panel_is_open_is_chosen(widget, scene):
    volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    widget.fire(scene.NodeAddedEvent)
    assert widget._parameterNode.inputVolume is volume
    widget._parameterNode.inputVolume = None
    scene.RemoveNode(volume)
    widget.fire(scene.NodeRemovedEvent)
    assert not widget.ui.applyButton.isEnabled()


def test_volume_that_is_loaded_while_another_module_is_shown_is_chosen_on_return(widget, scene):
    widget.parent.isEntered = False
    volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    widget.fire(scene.NodeAddedEvent)
    assert widget._parameterNode.inputVolume is None
    widget.enter()
    assert widget._parameterNode.inputVolume is volume


def test_scene_close(widget, scene):
    parameters = widget._parameterNode
    widget.fire(scene.StartCloseEvent)
    assert widget._parameterNode is None
    assert parameters.connected is None
    assert parameters._observers == []
    assert not widget.ui.applyButton.isEnabled()
    widget.fire(scene.NodeRemovedEvent)
    widget.fire(scene.EndCloseEvent)
    assert widget._parameterNode.connected is widget.ui


def test_scene_close_while_another_module_is_shown(widget, scene):
    widget.parent.isEntered = False
    widget.fire(scene.StartCloseEvent)
    widget.fire(scene.EndCloseEvent)
    assert widget._parameterNode is None
    widget.enter()
    assert widget._parameterNode is not None


def test_panel_is_connected_again_after_a_scene_was_loaded(widget, scene):
    """In the application the node lists stay empty otherwise: they do not follow an import."""
    before = widget._parameterNode
    widget.fire(scene.EndImportEvent)
    assert before.connected is None
    assert widget._parameterNode is not before
    assert widget._parameterNode.connected is widget.ui


def test_cleanup_ends_everything(widget, monkeypatch):
    ended = []
    monkeypatch.setattr(widget.logic._logic, "cleanup", lambda: ended.append(True))
    widget.cleanup()
    assert ended == [True]
    assert widget.observed == []
    assert widget._parameterNode is None


def test_script_interface(load_module, scene, tiny_checkpoint):
    import numpy as np
    from mrml_scene import OBLIQUE, add_volume

    array = np.random.default_rng(0).normal(100, 30, (12, 16, 20)).astype(np.int16)
    volume = add_volume(scene, array, OBLIQUE @ np.diag([6, 4.8, 3, 1]))
    logic = load_module().MRFUNetSegmentationLogic()
    try:
        output = logic.segment(volume, model=tiny_checkpoint, device="cpu")
        assert output.GetSegmentation().GetNumberOfSegments() == 4
        run = logic.segment(
            volume, tiny_checkpoint, "cpu", outputNode=output, waitForCompletion=False
        )
        assert run.wait() is output
    finally:
        logic.cleanup()


def test_script_without_torch_gets_an_error_that_says_what_to_do(load_module, monkeypatch):
    logic = load_module().MRFUNetSegmentationLogic()
    from MRFUNetSegmentationLib.gui import torch_installation

    monkeypatch.setattr(torch_installation, "package_state", lambda name: "missing")
    with pytest.raises(torch_installation.InstallationError, match="installTorch"):
        logic.segment(None)
