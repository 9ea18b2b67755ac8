"""Training: configuration, label maps, synthesis, and runs that resume to the step."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from MRFUNetSegmentationLib.checkpoints.load import load_checkpoint
from MRFUNetSegmentationLib.cli.main import main
from MRFUNetSegmentationLib.training import config as config_module
from MRFUNetSegmentationLib.training.config import ConfigError, load_config
from MRFUNetSegmentationLib.training.labels import (
    CSF,
    GREY_MATTER,
    OTHER,
    VENTRICLES,
    WHITE_MATTER,
    read_label_maps,
    tissue_table,
)
from MRFUNetSegmentationLib.training.synthesis import SynthesisConfig, synthesise
from MRFUNetSegmentationLib.training.trainer import STATE_FILE
from MRFUNetSegmentationLib.training.validation import metric_name

CONFIGS = Path(config_module.__file__).with_name("configs")

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
    (tmp_path / "small.toml").write_text(TOML)
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
    ],
)
def test_defects_of_a_configuration_are_named(data, old, new, message):
    (data / "small.toml").write_text(TOML.replace(old, new, 1))
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(data / "small.toml")
    assert "small.toml" in str(caught.value)


def test_stages_follow_each_other(data):
    config = load_config(data / "small.toml")
    assert config.steps == 6
    assert config.stage_at(0) == (config.stages[0], 0.0)
    assert config.stage_at(3) == (config.stages[0], 1.0)
    assert config.stage_at(4) == (config.stages[1], 0.0)
    assert config.stage_at(5) == (config.stages[1], 1.0)


def test_tissue_table_agrees_with_the_shared_convention(shared_data):
    import json

    convention = json.loads((shared_data / "label_to_tissue.json").read_text())
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


def test_label_values_out_of_range_are_refused(tmp_path):
    path = tmp_path / "wrong.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(np.full((5, 5, 5), 1234, np.int16)), str(path))
    with pytest.raises(ValueError, match=r"wrong.nii.gz: label values must lie in 0\.\.999"):
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
    config = SynthesisConfig(
        skull_strip=1.0, cut=0.0, noise=0.0, low_resolution=0.0, centre_spread=0.0, rotation=0.0,
        scaling=0.0,
    )  # fmt: skip
    for seed in range(5):
        rng = torch.Generator().manual_seed(seed)
        image, tissue = synthesise(label_map, config, (44, 44, 44), 2.0, rng)
        outside = torch.ones_like(tissue, dtype=torch.bool)
        outside[4:-4, 4:-4, 4:-4] = False
        assert (tissue[outside] == OTHER).all()
        assert (image[outside] == 0).all()
        assert (image[tissue == WHITE_MATTER] > 0).any() or (image[tissue == GREY_MATTER] > 0).any()


def test_known_contrasts_order_the_tissues_as_real_scans_do(label_map):
    """T1-like images without noise: white matter above grey matter above fluid."""
    config = SynthesisConfig(
        known_contrast=1.0, t1_share=1.0, skull_strip=0.0, cut=0.0, noise=0.0, bias=0.0,
        low_resolution=0.0, centre_spread=0.0, deformation=0.0,
    )  # fmt: skip
    in_order = 0
    for seed in range(20):
        rng = torch.Generator().manual_seed(seed)
        image, tissue = synthesise(label_map, config, (36, 36, 36), 1.5, rng)
        fluid, grey, white = (
            image[tissue == c].median() for c in (VENTRICLES, GREY_MATTER, WHITE_MATTER)
        )
        in_order += bool(fluid < grey < white)
    assert in_order >= 18


def train(data: Path, folder: Path, *more: str) -> int:
    return main(
        ["train", str(data / "small.toml"), "--data", str(data), "-o", str(folder),
         "--device", "cpu", "--debug", *more]
    )  # fmt: skip


def test_interrupted_and_uninterrupted_runs_give_the_same(data, tmp_path, monkeypatch):
    train(data, tmp_path / "whole")
    # Every call trains a single step: time is up after it.
    from MRFUNetSegmentationLib.training import trainer

    for _ in range(6):
        ticks = iter([0.0, 0.0, 1e9])
        monkeypatch.setattr(trainer.time, "monotonic", lambda ticks=ticks: next(ticks, 1e9))
        train(data, tmp_path / "parts", "--minutes", "1")
    whole = torch.load(tmp_path / "whole" / STATE_FILE, weights_only=True)
    parts = torch.load(tmp_path / "parts" / STATE_FILE, weights_only=True)
    assert whole["step"] == parts["step"] == 6
    for kind in ("network", "average"):
        for key, value in whole[kind].items():
            assert torch.equal(value, parts[kind][key]), key


def test_run_learns_and_writes_a_checkpoint_with_its_card(data, tmp_path, capsys):
    text = TOML.replace("steps = 4", "steps = 60").replace(
        "validate_every = 4", "validate_every = 31"
    )
    (data / "small.toml").write_text(text)
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


def test_missing_label_map_is_reported(data, tmp_path, capsys):
    (data / "map.nii.gz").unlink()
    code = main(["train", str(data / "small.toml"), "--data", str(data), "-o", str(tmp_path / "r")])
    assert code == 1
    assert "map.nii.gz" in capsys.readouterr().err
