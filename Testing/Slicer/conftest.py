"""The application with the module's panel."""

import os
import subprocess
from pathlib import Path

import pytest
import slicer
from slicer_user import MODULE, Panel, made_up_head

REPOSITORY = Path(__file__).resolve().parents[2]
_MAKE_MODEL = """
from conftest import make_tiny_card
from sampling_tools import write_model
print(write_model(folder, make_tiny_card()))
"""
_MAKE_PUBLISHED = """
import json
from test_checkpoints_convert import card, random_seg_mrf_net, saved
(folder / "upstream.json").write_text(json.dumps(card(3)))
print(saved(folder, random_seg_mrf_net()))
"""


@pytest.fixture
def panel():
    """The panel, with an empty scene."""
    slicer.mrmlScene.Clear()
    panel = Panel()
    yield panel
    if panel.running:
        panel.ui.applyButton.click()
    panel.wait(lambda: panel.idle)
    slicer.mrmlScene.Clear()


@pytest.fixture
def scan(panel):
    """A scan in the scene: the user's, or a made-up head."""
    if path := os.environ.get("MRFUNET_SCAN"):
        return slicer.util.loadVolume(path)
    return made_up_head("Head")


@pytest.fixture(scope="session")
def sampling_model(tmp_path_factory) -> str:
    """Path of a small Probabilistic U-Net of random weights; torch makes it elsewhere."""
    return made_elsewhere(_MAKE_MODEL, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def published_checkpoint(tmp_path_factory) -> Path:
    """Checkpoint of published code, of random weights, with its model card beside it."""
    return Path(made_elsewhere(_MAKE_PUBLISHED, tmp_path_factory.mktemp("published")))


def made_elsewhere(code: str, folder: Path) -> str:
    """Run code of the tests with torch in a process of its own; return its last line."""
    from MRFUNetSegmentationLib.logic.logic import _python

    paths = [str(REPOSITORY / "Testing" / "Python"), str(REPOSITORY / MODULE)]
    setup = f"import sys\nfrom pathlib import Path\nsys.path[:0] = {paths}\n"
    done = subprocess.run(
        [_python(), "-c", f"{setup}folder = Path({str(folder)!r})\n{code}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]
