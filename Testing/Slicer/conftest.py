"""The application with the module's panel."""

import os
import subprocess
from pathlib import Path

import pytest
import slicer
from slicer_user import Panel, made_up_head

REPOSITORY = Path(__file__).resolve().parents[2]
_MAKE_MODEL = """
import sys
from pathlib import Path
sys.path[:0] = [r"{repository}/Testing/Python", r"{repository}/MRFUNetSegmentation"]
from conftest import make_tiny_card
from sampling_tools import write_model
print(write_model(Path(r"{folder}"), make_tiny_card()))
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
    from MRFUNetSegmentationLib.logic.logic import _python

    code = _MAKE_MODEL.format(repository=REPOSITORY, folder=tmp_path_factory.mktemp("model"))
    done = subprocess.run(
        [_python(), "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]
