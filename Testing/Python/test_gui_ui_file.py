"""The .ui file: it loads, and it, the parameter node and the code agree with each other."""

import ast
import xml.etree.ElementTree as ElementTree

import pytest
from gui_tools import GUI_FOLDER, MODULE_FILE, UI_FILE, load_ui

# Which parameter types Slicer's parameter node can connect to which widgets.
CONNECTABLE = {
    "QCheckBox": {"bool"},
    "QSpinBox": {"int"},
    "qMRMLNodeComboBox": {"vtkMRMLScalarVolumeNode", "vtkMRMLSegmentationNode"},
}


@pytest.fixture(scope="module")
def root():
    return ElementTree.parse(UI_FILE).getroot()


@pytest.fixture(scope="module")
def widgets(root) -> dict[str, ElementTree.Element]:
    elements = [*root.iter("widget")]
    names = [element.get("name") for element in elements]
    assert len(set(names)) == len(names)
    return dict(zip(names, elements, strict=True))


def parameters() -> dict[str, tuple[str, bool]]:
    """Type of each parameter, and whether it has a default."""
    tree = ast.parse((GUI_FOLDER / "parameter_node.py").read_text(encoding="utf-8"))
    (node_class,) = [n for n in tree.body if isinstance(n, ast.ClassDef)]
    assert [d.id for d in node_class.decorator_list] == ["parameterNodeWrapper"]
    fields = [n for n in node_class.body if isinstance(n, ast.AnnAssign)]
    return {n.target.id: (ast.unparse(n.annotation), n.value is not None) for n in fields}


def property_text(widget, name: str) -> str | None:
    found = widget.find(f"property[@name='{name}']")
    return None if found is None else "".join(found.itertext()).strip()


def used_widgets(source: str) -> set[str]:
    """Names x in `ui.x` and `….ui.x`, but for what is passed on whole."""
    used = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            owner = node.value
            name = owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", None)
            if name in ("ui", "_ui"):
                used.add(node.attr)
    return used


def test_ui_file_loads(qt, widgets):
    widget, ui = load_ui(qt)
    assert widget.objectName() == "MRFUNetSegmentation"
    assert set(widgets) - {widget.objectName()} <= set(vars(ui))
    assert ui.applyButton.text() == "Apply"
    assert not ui.applyButton.isEnabled()
    assert ui.progressBar.isHidden()
    assert ui.copyMessageButton.isHidden()


def test_each_bound_widget_names_a_parameter_that_it_can_show(widgets):
    bound = {}
    for widget in widgets.values():
        name = property_text(widget, "SlicerParameterName")
        if name is not None:
            assert name in parameters(), f"{widget.get('name')}: no parameter {name}"
            kind = parameters()[name][0].removeprefix("Annotated[").partition(",")[0]
            assert kind in CONNECTABLE[widget.get("class")]
            bound[name] = widget
    assert set(bound) == {
        *("inputVolume", "wholeSequence", "outputSegmentation", "replaceNonFinite"),
        *("samples", "seed", "mapUncertainty"),
    }
    for name in ("inputVolume", "outputSegmentation"):
        assert property_text(bound[name], "nodeTypes") == parameters()[name][0]
        assert property_text(bound[name], "noneEnabled") == "true"


def test_all_other_parameters_have_defaults():
    assert {n for n, (_type, default) in parameters().items() if not default} == {
        "inputVolume",
        "outputSegmentation",
    }


def test_node_selectors_get_the_scene(root, widgets):
    connected = set()
    for connection in root.iter("connection"):
        assert connection.findtext("sender") == "MRFUNetSegmentation"
        assert connection.findtext("signal") == "mrmlSceneChanged(vtkMRMLScene*)"
        assert connection.findtext("slot") == "setMRMLScene(vtkMRMLScene*)"
        connected.add(connection.findtext("receiver"))
    selectors = {n for n, w in widgets.items() if w.get("class") == "qMRMLNodeComboBox"}
    assert connected == selectors == {"inputSelector", "outputSelector"}


def test_every_widget_used_in_code_exists(widgets):
    files = [MODULE_FILE, *GUI_FOLDER.rglob("*.py")]
    used = set().union(*[used_widgets(file.read_text(encoding="utf-8")) for file in files])
    assert {"applyButton", "messageLabel", "modelSelector"} <= used
    assert used - set(widgets) == set()


def test_used_widgets_are_found_in_code():
    source = "self.ui.a.setText(x)\nui.b.show()\nself._ui.c.clear()\nother.d.e()\nf(self.ui)"
    assert used_widgets(source) == {"a", "b", "c"}


def test_every_control_is_explained(widgets):
    controls = {"qMRMLNodeComboBox", "QComboBox", "QCheckBox", "QToolButton", "QSlider", "QSpinBox"}
    for name, widget in widgets.items():
        if widget.get("class") in controls:
            assert property_text(widget, "toolTip"), f"{name} has no tool tip"


def test_labels_belong_to_selectors(widgets):
    buddies = {property_text(w, "buddy") for w in widgets.values() if w.get("class") == "QLabel"}
    selectors = {n for n in widgets if n.endswith("Selector")}
    assert selectors <= buddies
