"""Fixtures of all tests."""

import os

# Before torch: the tests' arrays are small, and threads that wait for each other cost more than
# they bring where other tests' workers compute beside them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
import torch
from gui_tools import library, qt  # noqa: F401 - fixtures of several files
from MRFUNetSegmentationLib.checkpoints.card import ModelCard
from MRFUNetSegmentationLib.checkpoints.load import build_network, save_checkpoint
from MRFUNetSegmentationLib.training.card import BRAIN_TISSUE_CLASSES
from MRFUNetSegmentationLib.worker.client import Worker
from mrml_scene import load_volume, scene, scene_logics  # noqa: F401
from sequence_tools import sequences  # noqa: F401

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real scans; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("MRFUNET_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("needs the folder of real scans (environment variable MRFUNET_TEST_DATA)")
    return folder


@pytest.fixture(scope="session")
def upstream_fixtures(shared_data) -> Path:
    """Folder of state dicts of the published classes, with inputs and outputs."""
    folder = shared_data.parent / "fixtures" / "upstream"
    if not folder.is_dir():
        pytest.skip(f"needs the published networks' numbers in {folder}")
    return folder


@pytest.fixture(scope="module")
def worker():
    """One worker for all tests of a module that leave it alive."""
    worker = Worker()
    yield worker
    worker.close()


@pytest.fixture
def logic(worker):
    """The module's logic with that worker."""
    from MRFUNetSegmentationLib.logic import SegmentationLogic

    return SegmentationLogic(worker)


def make_tiny_card() -> ModelCard:
    """Return the card of a small network on a coarse grid: fast, of no use but for tests."""
    return ModelCard.from_dict(
        {
            "format_version": 1,
            "name": "tiny",
            "title": "Tiny network for tests",
            "description": "Random weights.",
            "architecture": {
                "type": "mrf-unet",
                "dim": 3,
                "classes": 5,
                "encoder": [4, 8],
                "decoder": [8, 4],
                "iterations": 3,
            },
            "classes": list(BRAIN_TISSUE_CLASSES),
            "input": {
                "modality": "any MRI contrast",
                "voxel_size": [8, 8, 8],
                "orientation": "RAS",
                "normalisation": {"method": "percentile", "low": 0.5, "high": 99.5},
            },
            "training": {"data": [], "seed": None, "steps": None, "metrics": {}},
            "licence": "Apache-2.0",
            "citation": "none",
            "intended_use": "tests",
        }
    )


@pytest.fixture(scope="session")
def tiny_card() -> ModelCard:
    """Card of a small network on a coarse grid."""
    return make_tiny_card()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory, tiny_card) -> Path:
    """Checkpoint file of the small network: random weights from a fixed seed."""
    torch.manual_seed(0)
    network = build_network(tiny_card)
    # Weights so large that every class occurs.
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)
    path = tmp_path_factory.mktemp("checkpoints") / "tiny.safetensors"
    save_checkpoint(path, network, tiny_card)
    return path
