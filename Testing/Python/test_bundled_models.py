"""What the bundled models do on real scans. Without the scans these tests are skipped."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from MRFUNetSegmentationLib.checkpoints.load import load_checkpoint
from MRFUNetSegmentationLib.cli.main import main
from MRFUNetSegmentationLib.inference.engine import Segmenter
from MRFUNetSegmentationLib.inference.image_files import read_volume_file
from MRFUNetSegmentationLib.training.labels import GREY_MATTER, WHITE_MATTER, tissue_table
from MRFUNetSegmentationLib.training.metrics import SCORED, dice
from MRFUNetSegmentationLib.training.validation import metric_name


@pytest.fixture(scope="module", autouse=True)
def both_cores():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def brain_tissue() -> Segmenter:
    return Segmenter(load_checkpoint("brain-tissue"), "cpu")


def labels_of(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


@pytest.mark.parametrize("model", ["brain-tissue", "brain-tissue-fast"])
def test_labelled_t1_reaches_the_bar_and_the_card_tells_the_scores(model, shared_data):
    folder = shared_data / "voxelmorph_test_scan"
    segmenter = Segmenter(load_checkpoint(model), "cpu")
    labels = segmenter.segment(read_volume_file(folder / "vxm_test_T1.nii.gz")).labels
    values = labels_of(folder / "vxm_test_aseg_label.nii.gz").astype(int)
    reference = tissue_table()[values]
    scores = {c: dice(labels == c, reference == c) for c in SCORED}
    assert np.mean(list(scores.values())) >= 0.90
    metrics = segmenter.checkpoint.card.training["metrics"]
    for tissue, score in scores.items():
        name = metric_name(tissue, "voxelmorph_test_scan/vxm_test_T1.nii.gz")
        assert metrics[name] == pytest.approx(score, abs=0.005)


def test_entropy_is_as_high_as_errors_call_for(brain_tissue, shared_data):
    """At these means the probabilities are calibrated; twice as much hides the borders."""
    folder = shared_data / "voxelmorph_test_scan"
    volume = read_volume_file(folder / "vxm_test_T1.nii.gz")
    entropy = brain_tissue.segment(volume, maps=["entropy"]).maps["entropy"]
    values = labels_of(folder / "vxm_test_aseg_label.nii.gz").astype(int)
    reference = tissue_table()[values]
    assert entropy[reference == GREY_MATTER].mean() == pytest.approx(0.42, abs=0.05)
    assert entropy[reference == WHITE_MATTER].mean() == pytest.approx(0.23, abs=0.05)


def test_grey_matter_of_another_t1(brain_tissue, shared_data):
    folder = shared_data / "niimath_bitmap"
    labels = brain_tissue.segment(read_volume_file(folder / "T1.nii.gz")).labels
    probability = labels_of(folder / "GM_prob.nii.gz") / 255
    score = dice(labels == GREY_MATTER, probability > 0.5)
    assert score == pytest.approx(0.858, abs=0.005)  # the README tells it


def test_contrasts_of_one_brain_agree_as_far_as_is_told(brain_tissue, shared_data):
    files = [shared_data / f"open_ms_MNI/patient26_{c}.nii.gz" for c in ("T1", "T2", "FLAIR")]
    labels = [brain_tissue.segment(read_volume_file(file)).labels for file in files]
    segments = [c.value for c in brain_tissue.checkpoint.card.segments]
    scores = [dice(a == s, b == s) for a, b in combinations(labels, 2) for s in segments]
    assert np.mean(scores) == pytest.approx(0.766, abs=0.005)  # README and card tell it


@pytest.mark.parametrize(
    "scan",
    [
        pytest.param("whole_head/t1_crop.nii.gz", id="T1 with skull and neck"),
        pytest.param("whole_head/FLAIR.nii.gz", id="FLAIR with skull"),
        pytest.param("ds002748_T1w/sub-28_T1w.nii.gz", id="T1 without skull"),
    ],
)
def test_unlabelled_scan_has_a_plausible_brain(brain_tissue, shared_data, scan):
    volumes = brain_tissue.segment(read_volume_file(shared_data / scan)).volumes_ml()
    assert 900 < volumes[GREY_MATTER] + volumes[WHITE_MATTER] < 1700


def test_demo(tmp_path, capsys):
    pytest.importorskip("nilearn")
    assert main(["demo", "-o", str(tmp_path / "demo"), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    for tissue in ("Grey matter", "White matter"):
        (line,) = [x for x in printed.splitlines() if x.startswith(tissue) and "Dice" in x]
        assert float(line.split()[2]) > 0.88
    assert (tmp_path / "demo" / "preview.png").stat().st_size > 10_000


@pytest.fixture(scope="module")
def agreement_of_tiles(brain_tissue, shared_data) -> dict[int, float]:
    """Dice of grey and white matter of small tiles and of the whole.

    Only volumes above 18 million voxels, or a device that is out of memory, need tiles.
    """
    folder = shared_data / "voxelmorph_test_scan"
    volume = read_volume_file(folder / "vxm_test_T1.nii.gz")
    whole = brain_tissue.segment(volume).labels
    tiled = Segmenter(brain_tissue.checkpoint, "cpu", whole_voxels=1_200_000).segment(volume).labels
    return {c: dice(whole == c, tiled == c) for c in (GREY_MATTER, WHITE_MATTER)}


def test_tiles_agree_with_the_whole_as_far_as_is_told(agreement_of_tiles):
    assert agreement_of_tiles[GREY_MATTER] == pytest.approx(0.98, abs=0.01)  # the README tells it
    assert agreement_of_tiles[WHITE_MATTER] > 0.95


def test_samples_of_lesions_on_a_real_flair(shared_data):
    folder = shared_data / "open_ms_MNI"
    segmenter = Segmenter(load_checkpoint("white-matter-lesions"), "cpu")
    result = segmenter.sample(read_volume_file(folder / "patient26_FLAIR.nii.gz"), 32, seed=0)
    experts = labels_of(folder / "patient26_lesion_consensus.nii.gz") > 0
    # The README tells these figures.
    assert dice(result.consensus > 0, experts) == pytest.approx(0.66, abs=0.01)
    (lesions,) = result.structures
    assert lesions["consensus_ml"] == pytest.approx(5.3, abs=0.1)
    interval = [lesions["volume_ml"][end] for end in ("p5", "p95")]
    assert interval == pytest.approx([1.2, 15.5], abs=0.2)
    # They differ, but not all over: most of what is in the smallest is in the largest.
    assert 0.4 < lesions["pairwise_dice"] < 0.95
