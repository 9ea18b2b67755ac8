"""The comparison of networks with and without MRF: fair pairs, and a report that says so."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from MRFUNetSegmentationLib.checkpoints.load import load_checkpoint
from MRFUNetSegmentationLib.evaluation import bundled_twin
from MRFUNetSegmentationLib.evaluation import paper_comparison as comparison
from MRFUNetSegmentationLib.evaluation.paper_comparison import configuration
from MRFUNetSegmentationLib.evaluation.twins import NETWORKS, REAL, Score, Twins
from MRFUNetSegmentationLib.networks import MRFUNet
from MRFUNetSegmentationLib.training.config import ValidationCase
from MRFUNetSegmentationLib.training.run import launched_fabric
from MRFUNetSegmentationLib.training.trainer import STATE_FILE, Trainer


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
            yield Score(1, network, seed, REAL, "a scan", 0.5)


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


def test_networks_are_trained_and_scored_once(tmp_path):
    k, j, i = np.mgrid[-16:16, -16:16, -16:16] + 0.5
    radius = np.sqrt(i**2 + j**2 + k**2)
    shells = [radius < 3, radius < 8, radius < 11, radius < 13]
    labels = sitk.GetImageFromArray(np.select(shells, [4, 2, 3, 24], 0).astype(np.int16))
    for name in ("map", "other"):
        sitk.WriteImage(labels, str(tmp_path / f"{name}.nii.gz"))
    side = (24, 24, 24)
    cases = tuple(
        ValidationCase(
            label_map="other.nii.gz", seed=n, shape=side, voxel_size=1.2, name=f"any/{n}"
        )
        for n in (1, 2)
    )

    def run(network: str) -> list[Score]:
        config = configuration(1, network, 5, 2)
        stage = replace(config.stages[0], shape=side, voxel_size=(1.0, 1.4))
        small = replace(
            config,
            network=replace(config.network, encoder=(2, 4), decoder=(4, 2)),
            stages=(stage,),
            label_maps=("map.nii.gz",),
            validation=cases,
        )
        return list(Twins(tmp_path, tmp_path / "runs", "cpu").scores(small, network, width=1))

    first = {network: run(network) for network in NETWORKS}
    for network, found in first.items():
        assert [(s.width, s.network, s.seed, s.condition) for s in found] == [
            (1, network, 5, "any")
        ] * 2
        assert [s.image for s in found] == ["1", "2"]
        assert all(0 <= s.dice <= 1 for s in found)
    assert first["U-Net"][0].dice != first["MRF-UNet"][0].dice
    states = list((tmp_path / "runs").glob(f"*/{STATE_FILE}"))
    assert len(states) == 2
    for path in states:
        path.write_text("would not be read")
    assert {network: run(network) for network in NETWORKS} == first


def test_the_bundled_models_twin_begins_with_its_weights_but_the_mrf(tmp_path):
    bundled = load_checkpoint(bundled_twin.BUNDLED)
    networks = {}
    for name in NETWORKS:
        config = bundled_twin.configuration(name, 10)
        assert not {case.label_map for case in config.validation} & set(config.label_maps)
        # Of one seed, images of two anatomies are posed and tinted alike.
        synthesised = [c for c in config.validation if c.label_map]
        for condition in bundled_twin.CONDITIONS:
            seeds = [c.seed for c in synthesised if c.name.startswith(f"{condition}/")]
            assert len(set(seeds)) == len(seeds) == 12
        trainer = Trainer(config, None, tmp_path / name, launched_fabric("cpu"), start_from=bundled)
        networks[name] = trainer.network
    assert networks["U-Net"].mrf is None
    image = torch.rand(1, 1, 32, 32, 32)
    expected = bundled.network.logits(image)
    for network in networks.values():
        torch.testing.assert_close(network.eval().logits(image), expected, rtol=0, atol=1e-4)
    for key, value in networks["MRF-UNet"].mrf.state_dict().items():
        torch.testing.assert_close(value, bundled.network.mrf.state_dict()[key])
