"""CMakeLists.txt: every file is packaged, and the extensions index can read the values."""

import importlib.util
import json
import re
import struct
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TOP_LEVEL = REPOSITORY / "CMakeLists.txt"
INDEX_ENTRY = REPOSITORY / "Resources" / "ExtensionsIndex" / "MRFUNetSegmentation.json"

spec = importlib.util.spec_from_file_location(
    "update_cmake_lists", REPOSITORY / "Testing" / "update_cmake_lists.py"
)
update_cmake_lists = importlib.util.module_from_spec(spec)
spec.loader.exec_module(update_cmake_lists)


def listed(name: str) -> list[str]:
    text = update_cmake_lists.CMAKE_LISTS.read_text(encoding="utf-8")
    return re.search(rf"set\({name}\n([^)]*)\)", text).group(1).split()


@pytest.mark.parametrize("name", ["MODULE_PYTHON_SCRIPTS", "MODULE_PYTHON_RESOURCES"])
def test_lists_name_every_file_of_the_module_and_nothing_else(name):
    expected = update_cmake_lists.module_files()[name]
    remedy = "run: python Testing/update_cmake_lists.py"
    assert set(expected) - set(listed(name)) == set(), f"not packaged; {remedy}"
    assert set(listed(name)) - set(expected) == set(), f"no longer there; {remedy}"
    assert len(listed(name)) == len(expected), f"listed twice; {remedy}"


def test_lists_hold_what_must_be_packaged():
    scripts, resources = map(listed, ("MODULE_PYTHON_SCRIPTS", "MODULE_PYTHON_RESOURCES"))
    assert "MRFUNetSegmentation.py" in scripts
    assert "MRFUNetSegmentationLib/gui/panel.py" in scripts
    assert "MRFUNetSegmentationLib/checkpoints/card.schema.json" in resources
    assert "Resources/UI/MRFUNetSegmentation.ui" in resources
    assert not [file for file in scripts + resources if "__pycache__" in file]


def test_update_adds_and_removes_files_and_leaves_the_rest(monkeypatch):
    files = {"MODULE_PYTHON_SCRIPTS": ["a.py"], "MODULE_PYTHON_RESOURCES": ["b.ui", "c.png"]}
    monkeypatch.setattr(update_cmake_lists, "module_files", lambda: files)
    before = (
        "# head\nset(MODULE_PYTHON_SCRIPTS\n  gone.py\n  )\n\n"
        "set(MODULE_PYTHON_RESOURCES\n  )\nslicerMacro(x)\n"
    )
    after = (
        "# head\nset(MODULE_PYTHON_SCRIPTS\n  a.py\n  )\n\n"
        "set(MODULE_PYTHON_RESOURCES\n  b.ui\n  c.png\n  )\nslicerMacro(x)\n"
    )
    assert update_cmake_lists.with_lists(before) == after
    assert update_cmake_lists.with_lists(after) == after


def extension_value(name: str) -> str:
    """A value as the extensions index reads it: a double-quoted literal on one line."""
    found = re.findall(
        rf'^set\(EXTENSION_{name} "([^"$]+)"\)$', TOP_LEVEL.read_text(encoding="utf-8"), re.M
    )
    assert len(found) == 1, f"EXTENSION_{name} must be one double-quoted literal on one line"
    return found[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CATEGORY", "Segmentation"),
        ("CONTRIBUTORS", "the MRFUNetSegmentation contributors"),
        ("DEPENDS", "PyTorch"),
    ],
)
def test_extension_values(name, value):
    assert extension_value(name) == value


def test_extension_name():
    text = TOP_LEVEL.read_text(encoding="utf-8")
    assert re.findall(r"project\s*\(\s*([^\s)]+)", text, re.IGNORECASE) == ["MRFUNetSegmentation"]


def test_extension_images_are_files_of_this_repository():
    homepage = extension_value("HOMEPAGE")
    assert re.fullmatch(r"https://github\.com/[\w-]+/Slicer\w+", homepage)
    prefix = f"{homepage}/raw/main/"
    urls = [extension_value("ICONURL"), *extension_value("SCREENSHOTURLS").split()]
    for url in urls:
        assert url.startswith(prefix)
        assert (REPOSITORY / url.removeprefix(prefix)).is_file(), f"no such file: {url}"


def test_public_address_stands_where_the_extensions_index_reads_it_and_nowhere_else():
    address = extension_value("HOMEPAGE").removeprefix("https://")
    files = update_cmake_lists.repository_files()
    texts = [
        f for f in files if f.suffix in (".py", ".md", ".toml", ".txt", ".ui", ".json", ".yml")
    ]
    naming = {f for f in texts if address in f.read_text(encoding="utf-8", errors="replace")}
    assert naming == {TOP_LEVEL, INDEX_ENTRY}


def test_text_files_have_unix_line_ends():
    for file in (TOP_LEVEL, update_cmake_lists.CMAKE_LISTS):
        assert b"\r" not in file.read_bytes()


@pytest.mark.parametrize(
    "icon",
    [
        "Resources/MRFUNetSegmentation.png",
        "MRFUNetSegmentation/Resources/Icons/MRFUNetSegmentation.png",
    ],
)
def test_icons_have_the_size_that_slicer_expects(icon):
    header = (REPOSITORY / icon).read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", header[16:24]) == (128, 128)


def test_entry_of_the_extensions_index_agrees():
    entry = json.loads(INDEX_ENTRY.read_text(encoding="utf-8"))
    assert entry["category"] == extension_value("CATEGORY")
    assert entry["scm_url"] == extension_value("HOMEPAGE") + ".git"
    assert entry["build_dependencies"] == extension_value("DEPENDS").split()
