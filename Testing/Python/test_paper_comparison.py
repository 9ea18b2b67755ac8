"""The comparison of networks with and without MRF: fair pairs, and a report that says so."""

import csv

import pytest
import torch
from MRFUNetSegmentationLib.checkpoints.load import load_checkpoint
from MRFUNetSegmentationLib.evaluation import bundled_twin
from MRFUNetSegmentationLib.evaluation import paper_comparison as comparison
from MRFUNetSegmentationLib.evaluation.paper_comparison import NETWORKS, Score, configuration
from MRFUNetSegmentationLib.networks import MRFUNet
from MRFUNetSegmentationLib.training.run import launched_fabric
from MRFUNetSegmentationLib.training.trainer import Trainer


@pytest.mark.parametrize("width", comparison.WIDTHS)
def test_two_networks_of_a_width_differ_in_the_mrf_alone(width):
    unet, ours = (configuration(width, network, 2, 100) for network in NETWORKS)
    assert (unet.seed, unet.stages, unet.label_maps) == (ours.seed, ours.stages, ours.label_maps)
    without, with_mrf = (
        {name: tuple(p.shape) for name, p in MRFUNet(c.network).named_parameters()}
        for c in (unet, ours)
    )
    added = set(with_mrf) - set(without)
    assert added and all(name.startswith("mrf.") for name in added)
    assert {name: with_mrf[name] for name in without} == without


def test_no_anatomy_is_both_trained_and_tested_on():
    config = configuration(1, "U-Net", 1, 10)
    tested = {case.label_map for case in config.validation} - {""}
    assert len(tested) == 14
    assert not tested & set(config.label_maps)


def scores(gain):
    """Scores of two seeds in which the MRF changes every image by about `gain`."""
    for network in NETWORKS:
        for seed in (1, 2):
            for n in range(8):
                dice = 0.7 + 0.01 * n + 0.002 * seed
                if network == "MRF-UNet":
                    dice += gain * (1 + 0.1 * n)
                yield Score(1, network, seed, "thick slices", str(n), dice)
            yield Score(1, network, seed, comparison.REAL, "a scan", 0.5)


@pytest.mark.parametrize("gain", [0.05, -0.05])
def test_report_gives_the_difference_and_its_significance(tmp_path, gain):
    comparison.write_report(list(scores(gain)), tmp_path)
    lines = (tmp_path / "comparison.md").read_text(encoding="utf-8").splitlines()
    row = next(line for line in lines if line.startswith("| thick slices (8) | 1 |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[2] == "0.738"
    assert float(cells[4].split()[0]) == pytest.approx(1.35 * gain, abs=0.001)
    assert float(cells[5]) == pytest.approx(2 / 2**8, abs=1e-3)  # all eight of one sign
    one = next(line for line in lines if line.startswith("| real scans (1)"))
    assert "too few" in one
    assert any("the paper, out of distribution | 2 | 0.67 | 0.80" in line for line in lines)
    with (tmp_path / "scores.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 36
    assert (tmp_path / "comparison.png").stat().st_size > 10_000


def test_the_bundled_models_twin_begins_with_its_weights_but_the_mrf(tmp_path):
    bundled = load_checkpoint(bundled_twin.BUNDLED)
    networks = {}
    for name in NETWORKS:
        config = bundled_twin.configuration(name, 10)
        assert not {case.label_map for case in config.validation} & set(config.label_maps)
        trainer = Trainer(config, None, tmp_path / name, launched_fabric("cpu"), start_from=bundled)
        networks[name] = trainer.network
    assert networks["U-Net"].mrf is None
    image = torch.rand(1, 1, 32, 32, 32)
    expected = bundled.network.logits(image)
    for network in networks.values():
        torch.testing.assert_close(network.eval().logits(image), expected, rtol=0, atol=1e-4)
    for key, value in networks["MRF-UNet"].mrf.state_dict().items():
        torch.testing.assert_close(value, bundled.network.mrf.state_dict()[key])
