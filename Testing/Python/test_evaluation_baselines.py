"""Baselines of a Probabilistic U-Net: what is trained, and samples by dropout."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from MRFUNetSegmentationLib.checkpoints.load import build_network, save_checkpoint
from MRFUNetSegmentationLib.evaluation.baselines import (
    DROPOUT,
    DropoutMethod,
    configuration,
)
from MRFUNetSegmentationLib.evaluation.methods import ModelMethod
from MRFUNetSegmentationLib.inference.volume import Geometry, Volume
from MRFUNetSegmentationLib.training import config as config_module
from MRFUNetSegmentationLib.training.card import trained_card
from MRFUNetSegmentationLib.training.config import load_config

CONFIG = Path(config_module.__file__).with_name("configs") / "white-matter-lesions.toml"


@pytest.fixture(scope="module")
def config():
    return load_config(CONFIG)


def test_a_member_is_the_same_run_without_latent(config):
    member = configuration(config, seed=3, share=0.5)
    assert member.seed == 3
    assert (member.network.latent, member.network.dropout) == (0, DROPOUT)
    assert member.network.filters == config.network.filters
    assert member.steps == pytest.approx(config.steps / 2, abs=len(config.stages))
    assert member.lesions == config.lesions
    assert configuration(config, seed=1).steps == config.steps


@pytest.fixture(scope="module")
def checkpoint(config, tmp_path_factory):
    """An untrained member whose probabilities are near one half, so that samples differ."""
    member = configuration(config, seed=1)
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
    assert dropout.samples_differ
    assert not plain.samples_differ
    samples = dropout.samples(volume, 3, seed=5)
    assert samples.shape == (3, *array.shape)
    assert not np.array_equal(samples[0], samples[1])
    assert np.array_equal(samples, dropout.samples(volume, 3, seed=5))
    assert np.array_equal(dropout.labels(volume), plain.labels(volume))
    assert np.array_equal(plain.samples(volume, 3, seed=5), plain.labels(volume)[None])
