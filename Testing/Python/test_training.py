"""Training: configuration, label maps, synthesis, and runs that resume to the step."""

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from MRFUNetSegmentationLib.checkpoints.load import load_checkpoint, save_checkpoint
from MRFUNetSegmentationLib.cli.main import main
from MRFUNetSegmentationLib.errors import InputError, MRFUNetError
from MRFUNetSegmentationLib.networks import MRFUNet, ProbabilisticUNet, ProbabilisticUNetConfig
from MRFUNetSegmentationLib.training.card import trained_card
from MRFUNetSegmentationLib.training.config import CONFIGS, ConfigError, ElboConfig, load_config
from MRFUNetSegmentationLib.training.labels import (
    CSF,
    GREY_MATTER,
    OTHER,
    VENTRICLES,
    WHITE_MATTER,
    read_label_maps,
    tissue_table,
)
from MRFUNetSegmentationLib.training.run import prepare
from MRFUNetSegmentationLib.training.synthesis import SynthesisConfig, synthesise
from MRFUNetSegmentationLib.training.trainer import STATE_FILE, finished
from MRFUNetSegmentationLib.training.validation import metric_name
from torch import Generator

TOML = """
name = "small"
seed = 3
label_maps = ["map.nii.gz"]
save_every = 3
validate_every = 4

[card]
title = "Small"
description = "For tests."
modality = "any"
voxel_size = [2.0, 2.0, 2.0]
data = ["a ball"]
licence = "Apache-2.0"
citation = "none"
intended_use = "tests"

[network]
classes = 5
encoder = [4, 8]
decoder = [8, 4]
norm = "instance"
iterations = 2

[[validation]]
image = "scan.nii.gz"
labels = "map.nii.gz"

[[stages]]
steps = 4
learning_rate = [1e-2, 1e-3]
training_iterations = [1, 3]
shape = [16, 20, 18]
voxel_size = [2.0, 3.0]

[[stages]]
steps = 2
learning_rate = [1e-3, 1e-4]
training_iterations = [2, 2]
shape = [16, 20, 18]
voxel_size = [2.0, 2.0]
"""


@pytest.fixture
def data(tmp_path) -> Path:
    """A head of shells: skull, fluid, grey, white matter and ventricles; and a scan of it."""
    k, j, i = np.mgrid[-24:24, -24:24, -24:24] + 0.5
    radius = np.sqrt(i**2 + j**2 + k**2)
    labels = np.select(
        [radius < 4, radius < 10, radius < 15, radius < 18, radius < 21], [4, 2, 3, 24, 515], 0
    )
    means = np.array([0, 400, 500, 100, 90, 300])[np.searchsorted([1, 3, 4, 24, 500], labels)]
    for name, array in (("map", labels.astype(np.int16)), ("scan", means.astype(np.float32))):
        sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / f"{name}.nii.gz"))
    (tmp_path / "small.toml").write_text(TOML, encoding="utf-8")
    return tmp_path


def test_shipped_configurations_are_valid():
    for path in CONFIGS.glob("*.toml"):
        assert load_config(path).name == path.stem


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed = 3", "sed = 3", "sed: no such entry"),
        ("seed = 3", "", "seed: missing"),
        ("seed = 3", "seed = 1.5", "seed: expected int"),
        ("seed = 3", "seed = true", "seed: expected int"),
        ('label_maps = ["map.nii.gz"]', "label_maps = []", "label_maps: at least one"),
        ("steps = 4", 'steps = "many"', r"stages\[0\].steps: expected int"),
        ("[1e-2, 1e-3]", "[1e-2]", r"stages\[0\].learning_rate: expected 2 entries"),
        ("iterations = 2", "iterations = 0", "network: mean-field iterations"),
        ("classes = 5", "classes = ", "Invalid value"),
        ("[card]", "[card]\nwindow = [0, 1]", "card.window: only with raters"),
        ("classes = 5", 'type = "mrf"', "network.type: expected one of mrf-unet, probabilistic"),
        ("classes = 5", "dim = 2", "network.dim: .* in 3D only"),
        ("seed = 3", 'seed = 3\nprecision = "16"', "precision: must be one of auto, bf16-mixed"),
        ("seed = 3", "seed = 3\npatience = 0", "patience: must be at least"),
        ("seed = 3", "seed = 3\nema = 1.0", "ema: must lie in"),
        ("seed = 3", "seed = 3\ngradient_norm = 0", "gradient_norm: must be above 0"),
        ("steps = 4", "steps = 0", r"stages\[0\]: steps must be at least 1"),
        ("steps = 4", "steps = 4\nbatch_size = 0", r"stages\[0\]: batch_size must be"),
        ("steps = 4", "steps = 4\nraters_per_image = 0", r"raters_per_image must be at least 1"),
        ("steps = 4", "steps = 4\nraters_per_image = 2", r"stages\[0\].raters_per_image: .* truth"),
        ("shape = [16, 20, 18]", "shape = [16, 20]", r"stages\[0\].shape: expected 3 sides"),
        ("voxel_size = [2.0, 3.0]", "", r"stages\[0\].voxel_size: missing"),
        ("voxel_size = [2.0, 3.0]", "voxel_size = [3.0, 2.0]", "voxel_size must be above 0 and in"),
        ('labels = "map.nii.gz"', "", r"validation\[0\]: give image and labels, or"),
        ('image = "scan.nii.gz"', "", r"validation\[0\]: give image and labels, or"),
        (
            'labels = "map.nii.gz"',
            "probabilities = 1",
            r"validation\[0\].probabilities: expected a",
        ),
        ('labels = "map.nii.gz"', "probabilities = {A = 1}", r"probabilities.A: expected str"),
        (
            'image = "scan.nii.gz"\nlabels = "map.nii.gz"',
            'label_map = "map.nii.gz"',
            r"validation\[0\].label_map: map.nii.gz is trained on",
        ),
        (
            'labels = "map.nii.gz"',
            'labels = "a"\n[[validation]]\nimage = "scan.nii.gz"\nlabels = "b"',
            r"validation\[1\]: scan.nii.gz is there twice",
        ),
    ],
)
def test_defects_of_a_configuration_are_named(data, old, new, message):
    (data / "small.toml").write_text(TOML.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(data / "small.toml")
    assert "small.toml" in str(caught.value)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_configuration_in_another_encoding_is_named(data, encoding):
    """As some editors save it."""
    (data / "small.toml").write_text(f"# Träning\n{TOML}", encoding=encoding)
    with pytest.raises(ConfigError, match=r"small\.toml: the file is no text in UTF-8 .*Save it"):
        load_config(data / "small.toml")


def test_stages_follow_each_other(data):
    config = load_config(data / "small.toml")
    assert config.steps == 6
    assert config.stage_at(0) == (config.stages[0], 0.0)
    assert config.stage_at(3) == (config.stages[0], 1.0)
    assert config.stage_at(4) == (config.stages[1], 0.0)
    assert config.stage_at(5) == (config.stages[1], 1.0)


def test_tissue_table_agrees_with_the_shared_convention(shared_data):
    import json

    convention = json.loads((shared_data / "label_to_tissue.json").read_text(encoding="utf-8"))
    tissues = convention["freesurfer_and_synthseg_maps"]
    table = tissue_table()
    for label in range(1000):
        expected = {
            v in tissues[key] and key for key in "123" for v in [label] if v in tissues[key]
        }
        ours = {CSF: "1", VENTRICLES: "1", GREY_MATTER: "2", WHITE_MATTER: "3"}.get(table[label])
        assert expected == ({ours} if ours else set()), label


def test_label_maps_are_cached_and_the_cache_is_the_same(data, tmp_path):
    (first,) = read_label_maps([data / "map.nii.gz"], tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir())
    (again,) = read_label_maps([data / "map.nii.gz"], tmp_path / "cache")
    assert torch.equal(first.groups, again.groups)
    assert first.spacing == again.spacing
    tissue = first.tissue_of_group[first.groups.long()]
    assert tissue.unique().tolist() == [OTHER, GREY_MATTER, WHITE_MATTER, VENTRICLES, CSF]


def test_maps_of_one_name_are_cached_apart(tmp_path):
    """As a folder for each subject has them; and one that is replaced by an older file."""
    for n, size in enumerate((6, 9)):
        file = tmp_path / f"sub-0{n}" / "labels.nii.gz"
        file.parent.mkdir()
        sitk.WriteImage(sitk.GetImageFromArray(np.full((size,) * 3, 2, np.int16)), str(file))
    files = sorted(tmp_path.glob("sub-*/labels.nii.gz"))
    for _ in range(2):
        first, second = read_label_maps(files, tmp_path / "cache")
        assert (first.groups.shape, second.groups.shape) == ((6, 6, 6), (9, 9, 9))
    os.replace(files[1], files[0])
    os.utime(files[0], (1, 1))
    (first,) = read_label_maps(files[:1], tmp_path / "cache")
    assert first.groups.shape == (9, 9, 9)


def test_a_label_map_of_nothing_and_one_that_is_not_there(tmp_path):
    file = tmp_path / "map.nii.gz"
    with pytest.raises(InputError, match=r"no such file\. Check the configuration, and --data"):
        read_label_maps([file], tmp_path / "cache")
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((5, 5, 5), np.int16)), str(file))
    with pytest.raises(InputError, match="marks nothing"):
        read_label_maps([file])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seed = 3", "seed = 20260101123456", "seed"),
        ("seed = 3", "seed = 3\nweight_decay = -1e-5", "weight_decay"),
        ("seed = 3", "seed = 3\ngradient_norm = nan", "gradient_norm"),
        ("learning_rate = [", "learning_rate = [-1e-3, 1e-3] # [", "learning_rate"),
    ],
)
def test_settings_that_cannot_be_trained_with(data, old, new, said):
    change(data, (old, new))
    with pytest.raises(ConfigError, match=said):
        load_config(data / "small.toml")


def test_label_values_out_of_range_are_refused(tmp_path):
    path = tmp_path / "wrong.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(np.full((5, 5, 5), 1234, np.int16)), str(path))
    with pytest.raises(InputError, match=r"wrong.nii.gz: label values must lie in 0\.\.999"):
        read_label_maps([path])


@pytest.fixture
def label_map(data):
    return read_label_maps([data / "map.nii.gz"])[0]


def test_pairs_are_repeatable_and_differ_by_seed(label_map):
    def pair(seed):
        rng = torch.Generator().manual_seed(seed)
        return synthesise(label_map, SynthesisConfig(), (20, 22, 24), 2.0, rng)

    image, tissue = pair(1)
    again, tissue_again = pair(1)
    assert torch.equal(image, again)
    assert torch.equal(tissue, tissue_again)
    assert not torch.equal(image, pair(2)[0])


def test_pairs_over_many_draws(label_map):
    """Normalised images without NaN; every class occurs; images correlate with their labels."""
    config = SynthesisConfig(centre_spread=2.0)
    rng = torch.Generator().manual_seed(0)
    seen, explained = set(), []
    for _ in range(40):
        image, tissue = synthesise(label_map, config, (24, 24, 24), 2.0, rng)
        assert image.shape == tissue.shape == (24, 24, 24)
        assert torch.isfinite(image).all()
        assert image.min() >= 0
        assert image.max() <= 1
        seen |= set(tissue.unique().tolist())
        means = torch.stack(
            [image[tissue == c].mean() if (tissue == c).any() else image.mean() for c in range(5)]
        )
        explained.append(float(means[tissue].var() / image.var()))
    assert seen == {OTHER, GREY_MATTER, WHITE_MATTER, VENTRICLES, CSF}
    assert np.median(explained) > 0.2


def test_skull_stripping_removes_what_is_outside_and_its_labels(label_map):
    """Masks leak in a tenth of the images: bits of the skull stay, as by real tools."""
    left, kept = {1.0: [], 0.0: []}, []
    for skull_strip, shares in left.items():
        config = SynthesisConfig(
            skull_strip=skull_strip, cut=0.0, noise=0.0, artefact=0.0, low_resolution=0.0,
            centre_spread=0.0, rotation=0.0, scaling=0.0,
        )  # fmt: skip
        for seed in range(60):
            rng = torch.Generator().manual_seed(seed)
            image, tissue = synthesise(label_map, config, (44, 44, 44), 2.0, rng)
            outside = torch.ones_like(tissue, dtype=torch.bool)
            outside[4:-4, 4:-4, 4:-4] = False
            assert (tissue[outside] == OTHER).all()
            shares.append(float((image[outside] > 0).float().mean()))
            brain = (tissue == WHITE_MATTER) | (tissue == GREY_MATTER)
            kept.append(bool((image[brain] > 0).any()))
    # Of so small a head the mask that loses most may leave nothing.
    assert sum(kept) >= 118
    assert sum(share == 0 for share in left[1.0]) >= 48  # of 60: 53 to expect, give or take 2.4
    assert np.quantile(left[1.0], 0.9) < 0.05
    assert min(left[0.0]) > 0.2, left


def train(data: Path, folder: Path, *more: str) -> int:
    return main(
        ["train", str(data / "small.toml"), "--data", str(data), "-o", str(folder),
         "--device", "cpu", "--debug", *more]
    )  # fmt: skip


def change(data: Path, *changes: tuple[str, str]) -> None:
    text = TOML
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (data / "small.toml").write_text(text, encoding="utf-8")


def state(folder: Path) -> dict:
    return torch.load(folder / STATE_FILE, weights_only=True)


def assert_same_weights(a: dict, b: dict) -> None:
    for kind in ("network", "average"):
        for key, value in a[kind].items():
            assert torch.equal(value, b[kind][key]), (kind, key)


@pytest.mark.parametrize(
    "changes",
    [
        (),
        (
            ('name = "small"', 'name = "small"\npatience = 3\nweight_decay = 0.01'),
            ("steps = 4", "steps = 4\nbatch_size = 2\naccumulate = 2"),
        ),
        (
            ('name = "small"', 'name = "small"\nprecision = "32-true"\nelbo = {target = 0.5}'),
            (
                'encoder = [4, 8]\ndecoder = [8, 4]\nnorm = "instance"',
                'type = "probabilistic-unet"\ndim = 3\nfilters = [4, 6]\nmrf = true',
            ),
        ),
    ],
    ids=["MRF-UNet", "in batches", "Probabilistic U-Net with MRF and GECO"],
)
def test_interrupted_and_uninterrupted_runs_give_the_same(data, tmp_path, changes):
    """Across the border of two stages, with a validation in between, a step at a time."""
    change(data, *changes)
    train(data, tmp_path / "whole")
    for _ in range(6):
        train(data, tmp_path / "parts", "--minutes", "0")
    whole, parts = state(tmp_path / "whole"), state(tmp_path / "parts")
    assert whole["step"] == parts["step"] == 6
    assert_same_weights(whole, parts)
    for key, moments in whole["optimiser"]["state"].items():
        for name, value in moments.items():
            assert torch.equal(value, parts["optimiser"]["state"][key][name])
    for key in ("best", "stale", "objective"):
        assert whole[key] == parts[key]
    files = [tmp_path / run / "small.safetensors" for run in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_network_draws_other_numbers_than_those_that_made_its_images(data):
    run = prepare(load_config(data / "small.toml"), data, data / "run", "cpu")
    drawn, draw = [], run.source.draw

    def watched(stage, rng):
        drawn.append(Generator().manual_seed(rng.initial_seed()))
        return draw(stage, rng)

    run.source.draw = watched
    for step in range(5):
        run.step = step
        run._batch(run.config.stages[0], 0)
        of_image = torch.rand(100, generator=drawn[-1])
        assert not torch.isin(torch.rand(100), of_image).any()


def test_killed_run_goes_on_from_its_last_state(data, tmp_path):
    change(
        data,
        ("save_every = 3", "save_every = 30"),
        ("steps = 4", "steps = 58"),
        ("validate_every = 4", "validate_every = 1000"),
    )
    config = load_config(data / "small.toml")
    killed = prepare(config, data, tmp_path / "run", "cpu")
    take_step, left = killed._train_step, iter(range(45))

    def killed_in_the_end():
        if next(left, None) is None:
            raise KeyboardInterrupt
        return take_step()

    killed._train_step = killed_in_the_end
    with pytest.raises(KeyboardInterrupt):
        killed.run(report=lambda line: None)
    assert state(tmp_path / "run")["step"] == 30
    train(data, tmp_path / "run")
    train(data, tmp_path / "whole")
    assert_same_weights(state(tmp_path / "run"), state(tmp_path / "whole"))
    logs = [
        np.genfromtxt(tmp_path / run / "log.csv", delimiter=",", names=True)
        for run in ("run", "whole")
    ]
    for log in logs:
        # What had been logged after the state is not there twice.
        assert log["step"].tolist() == [20, 40, 60]
        assert (log["samples_per_second"] > 0).all()
        assert ((log["share_of_drawing"] > 0) & (log["share_of_drawing"] < 1)).all()
    # The mean at step 40 is over fewer steps after a new start.
    assert logs[0]["loss"][[0, 2]].tolist() == logs[1]["loss"][[0, 2]].tolist()
    assert logs[0]["learning_rate"].tolist() == logs[1]["learning_rate"].tolist()


def test_state_of_an_earlier_version_can_be_gone_on_from(data, tmp_path):
    train(data, tmp_path / "new", "--minutes", "0")
    old = {
        key: value
        for key, value in state(tmp_path / "new").items()
        if key in ("step", "best", "network", "average", "optimiser")
    }
    (tmp_path / "old").mkdir()
    torch.save(old, tmp_path / "old" / STATE_FILE)
    (tmp_path / "old" / "log.csv").write_text(
        "step,loss,seconds_per_step\n1,0.5,1.2\n", encoding="utf-8"
    )
    for run in ("new", "old"):
        train(data, tmp_path / run)
    assert_same_weights(state(tmp_path / "new"), state(tmp_path / "old"))


@pytest.mark.parametrize("named", [True, False], ids=["named", "by weights alone"])
def test_state_of_another_network_is_refused_and_left_alone(data, tmp_path, named):
    train(data, tmp_path / "run", "--minutes", "0")
    path = tmp_path / "run" / STATE_FILE
    if not named:
        old = state(tmp_path / "run")
        del old["architecture"]
        torch.save(old, path)
    before = path.read_bytes()
    change(data, ("encoder = [4, 8]", "encoder = [6, 8]"))
    message = r"encoder is \[4, 8\] there and \[6, 8\] here" if named else "has shape .* there"
    with pytest.raises(MRFUNetError, match=rf"another network \(.*{message}.*nothing was changed"):
        train(data, tmp_path / "run")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change_to", "message"),
    [
        ("voxel_size = [1.0, 1.0, 1.0]", r"voxel_size is \(2.0, 2.0, 2.0\) there and \(1.0"),
        (
            "voxel_size = [2.0, 2.0, 2.0]\nnetwork_voxel_size = [1.0, 1.0, 1.0]",
            r"network_voxel_size is None there and \(1.0, 1.0, 1.0\) here",
        ),
    ],
)
def test_weights_get_no_card_of_what_they_were_not_trained_for(data, tmp_path, change_to, message):
    train(data, tmp_path / "run")
    best = tmp_path / "run" / "small.safetensors"
    before = best.read_bytes()
    change(data, ("voxel_size = [2.0, 2.0, 2.0]", change_to))
    with pytest.raises(MRFUNetError, match=message):
        train(data, tmp_path / "run")
    assert best.read_bytes() == before


def test_texts_corrected_later_reach_the_card_of_the_best_network(data, tmp_path):
    train(data, tmp_path / "run")
    before = load_checkpoint(tmp_path / "run" / "small.safetensors")
    train(data, tmp_path / "run")
    assert load_checkpoint(before.path).sha256 == before.sha256
    change(data, ('title = "Small"', 'title = "Tiny"'), ('["a ball"]', '["two balls"]'))
    train(data, tmp_path / "run")
    after = load_checkpoint(before.path)
    assert after.card.title == "Tiny" and after.card.training["data"] == ["two balls"]
    assert after.card.training["configuration"]["card"]["title"] == "Tiny"
    for entry in ("steps", "metrics", "seed"):
        assert after.card.training[entry] == before.card.training[entry]
    for key, value in before.network.state_dict().items():
        assert torch.equal(after.network.state_dict()[key], value)


def test_a_best_network_that_cannot_be_read_does_not_end_the_run(data, tmp_path):
    train(data, tmp_path / "run", "--minutes", "0")
    (tmp_path / "run" / "small.safetensors").write_bytes(b"cut")
    train(data, tmp_path / "run")
    assert load_checkpoint(tmp_path / "run" / "small.safetensors").card.name == "small"


def test_damaged_state_is_named(data, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / STATE_FILE).write_bytes(b"no state")
    with pytest.raises(MRFUNetError, match=r"state.pt: the state of the run cannot be read"):
        train(data, tmp_path / "run")


def test_number_of_iterations_may_change_in_a_run(data, tmp_path):
    train(data, tmp_path / "run", "--minutes", "0")
    change(data, ("iterations = 2\n", "iterations = 4\n"))
    assert train(data, tmp_path / "run") == 0
    assert state(tmp_path / "run")["step"] == 6


def test_run_starts_from_a_checkpoint(data, tmp_path):
    train(data, tmp_path / "first")
    file = tmp_path / "first" / "small.safetensors"
    config = load_config(data / "small.toml")
    trainer = prepare(config, data, tmp_path / "second", "cpu", start_from=file)
    weights = load_checkpoint(file).network.state_dict()
    for network in (trainer.network, trainer.average):
        for key, value in network.state_dict().items():
            assert torch.equal(value, weights[key])
    # Where a run goes on, its state counts.
    again = prepare(config, data, tmp_path / "first", "cpu", start_from=file)
    assert again.step == 6

    change(data, ("decoder = [8, 4]", "decoder = [8, 6]"))
    with pytest.raises(MRFUNetError, match=r"decoder is \[8, 4\] there and \[8, 6\] here"):
        train(data, tmp_path / "third", "--start-from", str(file))
    with pytest.raises(MRFUNetError, match="neither a file nor a bundled model"):
        train(data, tmp_path / "third", "--start-from", "nothing")


def test_run_without_better_validations_ends(data, tmp_path, capsys):
    # Without learning every validation after the first is the same.
    change(
        data,
        ('name = "small"', 'name = "small"\npatience = 2'),
        ("validate_every = 4", "validate_every = 1"),
        ("[1e-2, 1e-3]", "[0.0, 0.0]"),
        ("[1e-3, 1e-4]", "[0.0, 0.0]"),
    )
    train(data, tmp_path / "run")
    assert "complete at step 3 of 6" in capsys.readouterr().out
    train(data, tmp_path / "run")
    assert state(tmp_path / "run")["step"] == 3


def test_run_without_validation_keeps_its_last_average(data, tmp_path):
    change(data, ('[[validation]]\nimage = "scan.nii.gz"\nlabels = "map.nii.gz"\n', ""))
    train(data, tmp_path / "run")
    checkpoint = load_checkpoint(tmp_path / "run" / "small.safetensors")
    assert checkpoint.card.training["steps"] == 6
    for key, value in checkpoint.network.state_dict().items():
        assert torch.equal(value, state(tmp_path / "run")["average"][key])


def test_two_processes_see_what_one_sees_in_batches_of_two(data, tmp_path):
    changes = [
        ('name = "small"', 'name = "small"\nprecision = "32-true"'),
        ("training_iterations = [1, 3]", "training_iterations = [2, 2]"),
        # Normalisation of such a small network's few voxels would magnify the rounding of sums.
        ('norm = "instance"', 'norm = "none"'),
        ("steps = 4", "steps = 1"),
        ("steps = 2", "steps = 1"),
        ("validate_every = 4", "validate_every = 1"),
    ]
    change(data, *changes)
    program = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "MRFUNetSegmentationLib", "train", str(data / "small.toml"), "--data", str(data),
        "-o", str(tmp_path / "two"), "--device", "cpu", "--debug",
    ]  # fmt: skip
    library = str(CONFIGS.parents[2])
    done = subprocess.run(
        program, env=os.environ | {"PYTHONPATH": library}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("complete at step 2 of 2") == 1
    change(data, *changes, ("shape = ", "batch_size = 2\nshape = "))
    train(data, tmp_path / "one")
    # The mean of both steps' gradients, but for the order of sums.
    one, two = state(tmp_path / "one")["optimiser"], state(tmp_path / "two")["optimiser"]
    assert one["state"].keys() == two["state"].keys()
    for key, moments in one["state"].items():
        torch.testing.assert_close(
            moments["exp_avg"], two["state"][key]["exp_avg"], rtol=1e-3, atol=1e-6
        )


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_frozen_weights_stay_as_they_are(data, norm):
    """And so does what batch normalisation keeps of the images."""
    change(
        data,
        ("seed = 3", "seed = 3\nweight_decay = 0.1"),
        ('norm = "instance"', f'norm = "{norm}"'),
        ("steps = 2\n", 'steps = 2\nfrozen = ["unet.encoder", "mrf."]\n'),
    )
    run = prepare(load_config(data / "small.toml"), data, data / "run", "cpu")
    seen = {}

    def see(line: str) -> None:
        if "validation" in line:
            weights = run.network.state_dict()
            seen[run.step] = {name: weight.clone() for name, weight in weights.items()}

    run.run(report=see)
    same = {name for name, weight in seen[4].items() if torch.equal(weight, seen[6][name])}
    assert same == {name for name in seen[4] if name.startswith(("unet.encoder", "mrf."))}


@pytest.mark.parametrize(
    ("frozen", "message"), [("unet.coder", "no weight .* begins"), ("", "nothing to train")]
)
def test_weights_to_freeze_must_be_there_and_not_all(data, frozen, message):
    change(data, ("steps = 2\n", f'steps = 2\nfrozen = ["{frozen}"]\n'))
    with pytest.raises(ConfigError, match=rf"stages\[1\].frozen: .*{message}"):
        prepare(load_config(data / "small.toml"), data, data / "run", "cpu")


@pytest.mark.parametrize(
    ("can", "expected"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, "bf16-mixed"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bf16-mixed"),
        ({"avx512_bf16": False, "avx512_f": True}, "32-true"),
        (None, "32-true"),
    ],
)
def test_precision_is_what_the_device_is_fast_in(data, monkeypatch, can, expected):
    if can is None:  # PyTorch before 2.9
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: can, raising=False)
    run = prepare(load_config(data / "small.toml"), data, data / "run", "cpu")
    assert run.config.precision == expected
    assert run.objective.mixed is (expected == "bf16-mixed")
    change(data, ("seed = 3", 'seed = 3\nprecision = "32-true"'))
    asked_for = prepare(load_config(data / "small.toml"), data, data / "other", "cpu")
    assert asked_for.config.precision == "32-true"


def test_missing_packages_are_named(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    code = main(["train", str(data / "small.toml"), "--data", str(data), "-o", str(tmp_path / "r")])
    assert code == 1
    assert "(tensorboard): pip install MRFUNetSegmentation[train]" in capsys.readouterr().err


def test_loss_that_is_not_finite_ends_the_run_and_keeps_the_state(data, tmp_path):
    train(data, tmp_path / "run", "--minutes", "0")
    before = (tmp_path / "run" / STATE_FILE).read_bytes()
    trainer = prepare(load_config(data / "small.toml"), data, tmp_path / "run", "cpu")
    with torch.no_grad():
        next(trainer.network.parameters()).fill_(float("nan"))
    with pytest.raises(MRFUNetError, match="not finite at step 1"):
        trainer.run(report=lambda line: None)
    assert (tmp_path / "run" / STATE_FILE).read_bytes() == before


def test_a_run_without_stages_gives_weights_another_card(data, tmp_path):
    """As brain-tissue-fast, which has the weights of brain-tissue."""
    train(data, tmp_path / "first")
    first = tmp_path / "first" / "small.safetensors"
    text = TOML[: TOML.index("[[stages]]")].replace(
        'name = "small"', 'name = "other"\nstages = []\nlogit_offsets = [1.0, 0.0, 0.0, 0.0, 0.0]'
    )
    (data / "other.toml").write_text(text, encoding="utf-8")
    config = load_config(data / "other.toml")
    with pytest.raises(ConfigError, match="--start-from must name the weights"):
        prepare(config, data, tmp_path / "second", "cpu")
    trainer = prepare(config, data, tmp_path / "second", "cpu", start_from=first)
    assert trainer.run(report=lambda line: None)
    before, after = load_checkpoint(first).network, load_checkpoint(trainer.checkpoint_file)
    assert after.card.name == "other" and after.card.training["metrics"]
    image = torch.rand(1, 1, 16, 20, 18)
    with torch.no_grad():
        change = after.network.unet(image) - before.unet(image)
    expected = torch.tensor([1.0, 0, 0, 0, 0]).view(1, 5, 1, 1, 1)
    torch.testing.assert_close(change, expected.expand_as(change), atol=1e-4, rtol=0)


def test_card_that_cannot_be_is_reported_before_the_run(data, tmp_path):
    change(data, ('title = "Small"', 'title = ""'))
    with pytest.raises(ConfigError, match=r"makes no valid model: .*title: must not be empty"):
        train(data, tmp_path / "run")
    change(data, ("classes = 5", "classes = 4"))
    with pytest.raises(ConfigError, match=r"network\.classes: expected 5, .*, got 4"):
        train(data, tmp_path / "run")


def test_run_learns_and_writes_a_checkpoint_with_its_card(data, tmp_path, capsys):
    text = TOML.replace("steps = 4", "steps = 60").replace(
        "validate_every = 4", "validate_every = 31"
    )
    (data / "small.toml").write_text(text, encoding="utf-8")
    assert train(data, tmp_path / "run") == 0
    assert "complete at step 62 of 62" in capsys.readouterr().out
    checkpoint = load_checkpoint(tmp_path / "run" / "small.safetensors")
    training = checkpoint.card.training
    assert training["seed"] == 3
    assert training["steps"] in (31, 62)
    assert training["configuration"]["network"]["encoder"] == [4, 8]
    assert list(training["metrics"]) == [
        metric_name(c, "scan.nii.gz") for c in (GREY_MATTER, WHITE_MATTER, VENTRICLES)
    ]
    log = np.genfromtxt(tmp_path / "run" / "log.csv", delimiter=",", names=True)
    assert log["loss"][-1] < log["loss"][0]
    assert (tmp_path / "run" / "contact-sheet.png").exists()

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("training/loss")] == [20, 40, 60]
    assert [e.step for e in events.Scalars("validation/selection")] == [31, 62]
    assert {"terms/likelihood", "training/samples_per_second"} <= set(events.Tags()["scalars"])
    picture = events.Images("validation")[0]
    assert (picture.width, picture.height) == (3 * 48, 48)


def test_missing_label_map_is_reported(data, tmp_path, capsys):
    (data / "map.nii.gz").unlink()
    code = main(["train", str(data / "small.toml"), "--data", str(data), "-o", str(tmp_path / "r")])
    assert code == 1
    assert "map.nii.gz" in capsys.readouterr().err


def test_offsets_move_the_logits_of_what_is_kept(data):
    config = load_config(data / "small.toml")
    network = MRFUNet(config.network).eval()
    assert finished(network, config) is network
    offsets = tuple(float(k) for k in range(config.network.classes))
    moved = finished(network, replace(config, logit_offsets=offsets))
    image = torch.randn(1, 1, *[network.unet.minimum_size] * 3)
    difference = moved.logits(image) - network.logits(image)
    for value, offset in enumerate(offsets):
        torch.testing.assert_close(
            difference[:, value], torch.full_like(difference[:, value], offset)
        )


def test_prior_of_what_is_kept_is_wider(data):
    config = load_config(data / "small.toml")
    network = ProbabilisticUNet(ProbabilisticUNetConfig(dim=2, classes=2, filters=(4, 8), latent=3))
    image = torch.randn(1, 1, 16, 16)
    before, after = network.eval().prior(image), finished(network, config, 1.5).prior(image)
    torch.testing.assert_close(after.mean, before.mean)
    torch.testing.assert_close(after.stddev, 1.5 * before.stddev)
    for scales in ((), (1.0, 0.0), (math.nan,)):
        with pytest.raises(ConfigError, match="prior_scales must be one or more numbers above 0"):
            ElboConfig(prior_scales=scales)


def test_what_is_kept_in_half_of_the_space_is_what_was_validated(data, tmp_path):
    config = load_config(data / "small.toml")
    network = MRFUNet(config.network).eval()
    sizes = []
    for half in (False, True):
        kept = finished(network, replace(config, half=half))
        path = tmp_path / f"{half}.safetensors"
        save_checkpoint(path, kept, trained_card(config, 1, {}), half)
        sizes.append(path.stat().st_size)
        loaded = load_checkpoint(path).network.state_dict()
        for name, value in kept.state_dict().items():
            assert loaded[name].dtype == value.dtype
            assert torch.equal(loaded[name], value)
    assert sizes[1] < 0.8 * sizes[0]  # much of so small a network is its card
    rounded = dict(kept.named_parameters())
    for name, value in network.named_parameters():
        assert torch.equal(rounded[name], value) == (value.dim() == 1)
        torch.testing.assert_close(rounded[name], value, rtol=5e-4, atol=1e-7)


def test_offsets_must_fit_the_network(data):
    config = load_config(data / "small.toml")
    with pytest.raises(
        ConfigError, match=r"logit_offsets: expected one for each of \d classes, got 2"
    ):
        replace(config, logit_offsets=(1.0, 0.0))
