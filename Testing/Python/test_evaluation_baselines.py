"""Baselines of a Probabilistic U-Net: what is trained, and samples by dropout."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from MRFUNetSegmentationLib.checkpoints.load import build_network, save_checkpoint
from MRFUNetSegmentationLib.evaluation.baselines import (
    DROPOUT,
    DropoutMethod,
    shortened,
    without_latent,
)
from MRFUNetSegmentationLib.evaluation.methods import ModelMethod
from MRFUNetSegmentationLib.inference.volume import Geometry, Volume
from MRFUNetSegmentationLib.training.card import trained_card
from MRFUNetSegmentationLib.training.config import CONFIGS, load_config

CONFIG = CONFIGS / "white-matter-lesions.toml"


@pytest.fixture(scope="module")
def config():
    return load_config(CONFIG)


def test_a_member_is_the_same_run_without_latent(config):
    member = without_latent(config, seed=3)
    assert member.seed == 3
    assert (member.network.latent, member.network.dropout) == (0, DROPOUT)
    assert member.network.filters == config.network.filters
    assert (member.steps, member.lesions) == (config.steps, config.lesions)


@pytest.mark.parametrize("steps", [3, 100, 3001])
def test_a_shortened_run_lasts_so_many_steps_and_uses_the_latent_from_a_third_on(config, steps):
    short = shortened(config, steps)
    assert short.steps == steps
    assert [stage.latent for stage in short.stages] == [False, False, True]
    assert short.stages[-1].steps == pytest.approx(2 * steps / 3, abs=1)
    assert {stage.synthesis for stage in short.stages} == {config.stages[-1].synthesis}
    rates = [rate for stage in short.stages for rate in stage.learning_rate]
    assert rates[0] == config.stages[0].learning_rate[0]
    assert max(rates) == rates[1] == rates[2] == config.stages[0].learning_rate[1]
    assert rates[-1] == config.stages[-1].learning_rate[1]
    assert short.lesions.slabs == max(1, steps // 4)
    assert short.lesions.masks == config.lesions.masks


@pytest.fixture(scope="module")
def checkpoint(config, tmp_path_factory):
    """An untrained member whose probabilities are near one half, so that samples differ."""
    member = without_latent(config, seed=1)
    member = replace(member, network=replace(member.network, filters=(4, 4, 4, 4)))
    card = trained_card(member, 0, {})
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("member") / "member.safetensors"
    save_checkpoint(path, build_network(card), card)
    return str(path)


def test_samples_leave_out_channels_and_the_segmentation_does_not(config, checkpoint):
    array = np.random.default_rng(0).random((10, 40, 40), dtype=np.float32)
    volume = Volume(array, Geometry((40, 40, 10), (1.0, 1.0, 1.0)))
    structures = [config.classes[1]["name"]]
    plain, dropout = (
        method("m", [checkpoint], structures, "cpu") for method in (ModelMethod, DropoutMethod)
    )
    samples = dropout.samples(volume, 3, seed=5)
    assert samples.shape == (3, *array.shape)
    assert not np.array_equal(samples[0], samples[1])
    assert np.array_equal(samples, dropout.samples(volume, 3, seed=5))
    assert np.array_equal(dropout.labels(volume), plain.labels(volume))
    assert np.array_equal(plain.samples(volume, 3, seed=5), plain.labels(volume)[None])
