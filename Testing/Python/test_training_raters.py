"""Training from real images with the masks of several raters: files, draws, scores, a run."""

import csv
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from MRFUNetSegmentationLib.checkpoints.load import load_checkpoint
from MRFUNetSegmentationLib.cli.main import main
from MRFUNetSegmentationLib.errors import InputError
from MRFUNetSegmentationLib.evaluation.cases import Case, CaseList, load_case
from MRFUNetSegmentationLib.inference.engine import Segmenter
from MRFUNetSegmentationLib.inference.image_files import read_volume_file
from MRFUNetSegmentationLib.inference.volume import Geometry, Volume
from MRFUNetSegmentationLib.networks import MRFUNet, MRFUNetConfig
from MRFUNetSegmentationLib.training.config import (
    CONFIGS,
    Augmentation,
    ConfigError,
    RaterData,
    Stage,
    TrainingConfig,
    load_config,
)
from MRFUNetSegmentationLib.training.rater_data import (
    RaterCase,
    about_cases,
    held_back,
    read_rater_cases,
)
from MRFUNetSegmentationLib.training.rater_validation import RaterValidation
from MRFUNetSegmentationLib.training.run import prepare
from MRFUNetSegmentationLib.training.sources import RaterSource
from MRFUNetSegmentationLib.training.validation import Scores
from MRFUNetSegmentationLib.uncertainty.disagreement import generalised_energy_distance

CONFIG = CONFIGS / "raters-2d.toml"

SMALLER = (
    ("patient03-*", "case0"),
    ("filters = [16, 32, 64, 96]", "filters = [4, 8]\nconvolutions = 1"),
    ("steps = 600", "steps = 30"),
    ("steps = 2400", "steps = 30"),
    ("batch_size = 8", "batch_size = 8\nshape = [24, 20]"),
    ("validate_every = 200", "validate_every = 30"),
    ("warm_up = 400", "warm_up = 10"),
    ("learning_rate = [2e-3, 2e-3]", "learning_rate = [1e-2, 1e-2]"),
    ("learning_rate = [2e-3, 1e-5]", "learning_rate = [1e-2, 1e-3]"),
    ("ema = 0.99", "ema = 0.9"),
)
STILL = {"flip": (), "rotation": 0.0, "scaling": 0.0, "gamma": 0.0, "noise": 0.0}
LEFT_AXIAL = (-1, 0, 0, 0, 1, 0, 0, 0, 1)


def config_file(folder: Path, *changes: tuple[str, str]) -> Path:
    text = CONFIG.read_text(encoding="utf-8")
    for old, new in (*SMALLER, *changes):
        assert old in text, old
        text = text.replace(old, new)
    path = folder / "raters-2d.toml"
    path.write_text(text, encoding="utf-8")
    return path


def disc(radius: float, centre=(15.0, 20.0), shape=(32, 36)) -> np.ndarray:
    j, i = np.mgrid[: shape[0], : shape[1]]
    return np.hypot(j - centre[0], i - centre[1]) < radius


def write(path: Path, array: np.ndarray, direction=None, spacing=None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array, isVector=array.shape[-1] == 3)
    if spacing:
        image.SetSpacing(spacing)
    if direction:
        image.SetDirection(direction)
    sitk.WriteImage(image, str(path))


def add(folder: Path, name: str, image: np.ndarray, mask: np.ndarray | None = None) -> None:
    """Add an image, and a rater's mask of it."""
    write(folder / "images" / name, image)
    mask = disc(4).astype(np.uint8) if mask is None else mask
    write(folder / "raters" / name.split(".")[0] / "rater.nii.gz", mask)


@pytest.fixture
def data(tmp_path) -> Path:
    """Four slices of a blurred disc; a cautious and a generous rater."""
    rng = np.random.default_rng(0)
    for n in range(4):
        centre = rng.uniform(12, 20, 2)
        image = sum(disc(r, centre).astype(float) for r in np.linspace(3, 8, 9))
        image += rng.normal(0, 0.3, image.shape)
        write(tmp_path / "images" / f"case{n}.nii.gz", image.astype(np.float32))
        for name, radius in (("cautious", 4), ("generous", 7)):
            mask = disc(radius, centre).astype(np.uint8)
            write(tmp_path / "raters" / f"case{n}" / f"{name}.nii.gz", mask)
    return tmp_path


def test_cases_are_split_by_name(data):
    config = load_config(config_file(data, ("held_back = []", 'held_back = ["*3"]')))
    cases = read_rater_cases(config, data)
    assert [c.name for c in cases.training] == ["case1", "case2"]
    (case,) = cases.validation
    assert case.name == "case0"
    # A slice, its axes to the right and to the front.
    image = sitk.GetArrayFromImage(sitk.ReadImage(str(data / "images/case0.nii.gz")))
    assert case.images.shape == (1, 1, 36, 32)
    assert case.masks.shape == (2, 1, 36, 32)
    assert case.images.min() == 0
    assert case.images.max() == 1
    turned = np.flip(image.T)
    assert np.corrcoef(case.images[0, 0].numpy().ravel(), turned.ravel())[0, 1] > 0.99
    assert case.masks.flatten(1).sum(1).tolist() == [
        disc(4, _centre(0)).sum(),
        disc(7, _centre(0)).sum(),
    ]


def test_masks_as_programs_for_pictures_write_them(data):
    """Black and white, in colours, of no place in space; and what systems put into folders."""
    folder, mask = data / "raters/case1", disc(5).astype(np.uint8)
    image = sitk.ReadImage(str(data / "images/case1.nii.gz"))
    image.SetSpacing((0.5, 0.5))
    sitk.WriteImage(image, str(data / "images/case1.nii.gz"))
    for file in folder.iterdir():
        file.unlink()
    write(folder / "a.png", 255 * mask)
    write(folder / "b.png", np.stack([255 * mask] * 3, axis=-1))
    write(folder / "c.png", mask)
    write(folder / "empty.tif", 0 * mask)
    (folder / "Thumbs.db").write_bytes(b"x")
    half = ("voxel_size = [1.0, 1.0, 1.0]", "voxel_size = [0.5, 0.5, 1.0]")
    cases = read_rater_cases(load_config(config_file(data, half)), data)
    (case,) = (c for c in cases.training if c.name == "case1")
    assert case.masks.flatten(1).sum(1).tolist() == [mask.sum()] * 3 + [0]
    assert case.masks.max() == 1


@pytest.mark.parametrize("suffix", ["mhd", "nhdr", "hdr", "img.gz"])
def test_files_whose_voxels_lie_in_another_one_count_once(data, suffix):
    for name in ("images/case1", "raters/case1/cautious"):
        image = sitk.ReadImage(str(data / f"{name}.nii.gz"))
        sitk.WriteImage(image, str(data / f"{name}.{suffix}"), useCompression=suffix == "mhd")
        (data / f"{name}.nii.gz").unlink()
    assert len(list((data / "images").glob("case1.*"))) == 2
    config = load_config(config_file(data, ("held_back = []", 'held_back = ["case1"]')))
    ((image, masks),) = held_back(config, data).values()
    assert image.startswith("images/case1.") and len(masks) == 2
    case = read_rater_cases(load_config(config_file(data)), data).training[0]
    assert (case.name, len(case.masks)) == ("case1", 2) and case.masks.any(-1).any()


def test_images_are_taken_whole_where_no_shape_is_given(data, tmp_path):
    """As the networks see them later, which pad what they cannot halve themselves."""
    assert "\nshape" not in CONFIG.read_text(encoding="utf-8")
    none = ('validation = ["case0"]', "validation = []")
    config = load_config(config_file(data, ("\nshape = [24, 20]", ""), none))
    trainer = prepare(config, data, tmp_path / "run", "cpu")
    assert [stage.shape for stage in trainer.config.stages] == [()] * 2
    images, labels, _ = trainer._batch(trainer.config.stages[0], 0)
    assert images.shape == (8, 1, 36, 32)
    assert labels.shape == (8, 36, 32)
    trainer._validate(None, print)
    card = load_checkpoint(trainer.checkpoint_file).card
    assert card.training["configuration"]["stages"][0]["shape"] == []


SIZES = [(36, 32), (36, 32), (34, 30), (90, 70), (30, 44)]


def mixed_sizes(folder: Path) -> TrainingConfig:
    """A run on whole images of several sizes, which come as they are."""
    rng = np.random.default_rng(0)
    for n, (i, j) in enumerate(SIZES):
        write(folder / f"images/case{n}.nii.gz", 1 + rng.random((j, i), np.float32))
        for rater in range(2):
            mask = disc(4 + rater, shape=(j, i)).astype(np.uint8)
            write(folder / f"raters/case{n}/{rater}.nii.gz", mask)
    still = [
        ("flip = [0.5, 0.5]", "flip = []"),
        *((f"{key}\n", f"{key.split()[0]} = 0.0\n") for key in
          ("rotation = 15.0", "scaling = 0.1", "gamma = 0.2", "noise = 0.03")),
    ]  # fmt: skip
    none = ('validation = ["case0"]', "validation = []")
    small = ("batch_size = 8", "batch_size = 2\naccumulate = 2")
    path = config_file(folder, ("\nshape = [24, 20]", ""), none, small, *still)
    return load_config(path)


def test_a_batch_holds_images_of_one_size_and_every_image_is_drawn_as_often(tmp_path):
    """Padded by some voxels, with the values at their border, to others of nearly their size."""
    config = mixed_sizes(tmp_path)
    trainer = prepare(config, tmp_path, tmp_path / "run", "cpu")
    cases = {case.name: case for case in read_rater_cases(config, tmp_path).training}
    padded = torch.nn.functional.pad(cases["case2"].images, (1, 1, 1, 1), mode="replicate")[0]
    whole = [padded if name == "case2" else case.images[0] for name, case in cases.items()]
    counts = [0] * len(SIZES)
    for trainer.step in range(400):
        images, labels, _ = trainer._batch(config.stages[0], trainer.step % 2)
        for image, mask in zip(images, labels, strict=True):
            (number,) = (
                n
                for n, expected in enumerate(whole)
                if image.shape == expected.shape and torch.allclose(image, expected, atol=1e-4)
            )
            assert mask.shape == image.shape[1:]
            assert int(mask.sum()) in {disc(4).sum(), disc(5).sum()}
            counts[number] += 1
    assert sum(counts) == 800
    # 160 each, to be expected; draws of a batch depend on each other, which doubles the variance.
    assert all(abs(count - 160) < 4 * (2 * 160) ** 0.5 for count in counts)


def test_runs_on_images_of_several_sizes_go_on_as_they_would_have(tmp_path):
    config = mixed_sizes(tmp_path)
    whole = prepare(config, tmp_path, tmp_path / "whole", "cpu")
    whole.config = replace(whole.config, stages=[replace(s, steps=3) for s in config.stages])
    whole.run(report=lambda line: None)
    for _ in range(6):
        parts = prepare(config, tmp_path, tmp_path / "parts", "cpu")
        parts.config = whole.config
        parts.run(seconds=0, report=lambda line: None)
    assert parts.step == whole.step == 6
    weights = parts.network.state_dict()
    for name, weight in whole.network.state_dict().items():
        assert torch.equal(weight, weights[name])


def test_two_processes_see_images_of_one_size(tmp_path):
    config = mixed_sizes(tmp_path)
    trainer = prepare(config, tmp_path, tmp_path / "run", "cpu")
    single = replace(config.stages[0], batch_size=1)
    for trainer.step in range(20):
        trainer.fabric = SimpleNamespace(world_size=1, global_rank=0)
        expected = trainer._batch(config.stages[0], 1)[:2]
        parts = []
        for rank in range(2):
            trainer.fabric = SimpleNamespace(world_size=2, global_rank=rank)
            parts.append(trainer._batch(single, 1)[:2])
        for together, both in zip(zip(*parts, strict=True), expected, strict=True):
            assert torch.equal(torch.cat(together), both)


def test_whole_images_learn_by_their_own_number_of_voxels(tmp_path):
    """The target of the reconstruction is for a voxel, and images have different numbers."""
    config = mixed_sizes(tmp_path)
    trainer = prepare(config, tmp_path, tmp_path / "run", "cpu")
    seen, loss = set(), trainer.objective.loss

    def watched(terms, observed, step, voxels):
        seen.add(voxels)
        return loss(terms, observed, step, voxels)

    trainer.objective.loss = watched
    for trainer.step in range(20):
        trainer._train_step()
    assert seen == {36 * 32, 90 * 70, 30 * 44}


def test_what_is_held_back_is_scored_in_the_end(data, tmp_path):
    config = config_file(
        data, ("held_back = []", 'held_back = ["*2", "*3"]'), ("steps = 30", "steps = 2")
    )
    run, out = tmp_path / "run", tmp_path / "out"
    options = ["--data", str(data), "--device", "cpu", "--debug"]
    assert main(["train", str(config), "-o", str(run), *options]) == 0
    model = ["--model", str(run / "raters-2d.safetensors")]
    assert main(["evaluate", str(run / "held-back.toml"), *model, "-o", str(out), *options]) == 0
    with (out / "raters.csv").open(encoding="utf-8") as file:
        assert {row["case"] for row in csv.DictReader(file)} == {"case2", "case3"}


def test_what_is_passed_over_or_not_held_back_is_said(data, tmp_path, capsys):
    """Masks may be there whose images are kept elsewhere."""
    write(data / "raters/case9/b.nii.gz", disc(4).astype(np.uint8))
    write(data / "raters/case1-c.nii.gz", disc(4).astype(np.uint8))
    (data / "raters/._case1").write_bytes(b"x")
    config = config_file(data, ("steps = 30", "steps = 1"))
    run = tmp_path / "run"
    assert main(["train", str(config), "-o", str(run), "--data", str(data), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "passed over: raters/case9, for there is no image case9" in said
    assert "passed over: raters/case1-c.nii.gz, for it is in no folder of an image's name" in said
    assert "no image was held back (raters.held_back)" in said
    missing = ["evaluate", str(run / "held-back.toml"), "--model", "brain-tissue"]
    assert main([*missing, "-o", str(tmp_path / "out"), "--data", str(data)]) != 0
    assert "no such list of cases" in capsys.readouterr().err


def _centre(number: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    for n in range(number + 1):
        centre = rng.uniform(12, 20, 2)
        if n < number:
            rng.normal(0, 0.3, (32, 36))
    return centre


def seen_by_the_engine(trainer, volume: Volume) -> torch.Tensor:
    """Images (B, C, *spatial) that the network of a run gets where the engine segments a volume."""
    trainer._validate(None, print)
    checkpoint = load_checkpoint(trainer.checkpoint_file)
    seen = []
    features = checkpoint.network.features
    checkpoint.network.features = lambda x: (seen.append(x.clone()), features(x))[1]
    Segmenter(checkpoint, "cpu").segment(volume)
    return torch.cat(seen)


@pytest.mark.parametrize("neighbours", [0, 2])
def test_volumes_are_taken_slice_by_slice_as_at_inference(tmp_path, neighbours):
    """Anisotropic, flipped and to be resampled in the plane; the engine sees the same images."""
    volume = np.random.default_rng(1).random((9, 16, 12)).astype(np.float32)
    mask = np.zeros(volume.shape, np.uint8)
    mask[4, 4:12, 2:6] = 1
    for path, array in (("images/a.nrrd", volume), ("raters/a/r.nrrd", mask)):
        write(tmp_path / path, array, LEFT_AXIAL)
        image = sitk.ReadImage(str(tmp_path / path))
        image.SetSpacing((2.0, 2.0, 5.0))
        sitk.WriteImage(image, str(tmp_path / path))
    more = ('slice_plane = "axial"', f'slice_plane = "axial"\nneighbours = {neighbours}')
    channels = (
        'type = "probabilistic-unet"',
        f'type = "probabilistic-unet"\nin_channels = {1 + 2 * neighbours}',
    )
    none = ('validation = ["case0"]', "validation = []")
    config = load_config(config_file(tmp_path, none, more, channels))
    (case,) = read_rater_cases(config, tmp_path).training
    assert case.images.shape == (9, 1 + 2 * neighbours, 24, 32)
    assert case.spacing == (1.0, 1.0)
    assert case.masks[0].flatten(1).sum(1).tolist() == [0, 0, 0, 0, 4 * 8 * 4, 0, 0, 0, 0]

    trainer = prepare(config, tmp_path, tmp_path / "run", "cpu")
    geometry = Geometry((12, 16, 9), (2.0, 2.0, 5.0), direction=LEFT_AXIAL)
    seen = seen_by_the_engine(trainer, Volume(volume, geometry))
    torch.testing.assert_close(seen, case.images, rtol=0, atol=1e-5)
    pair = RaterSource([case], config.raters, torch.device("cpu")).draw(
        stage(16, 16), torch.Generator().manual_seed(0)
    )
    assert pair[0].shape == (1 + 2 * neighbours, 16, 16)


def _mr() -> np.ndarray:
    """Background 0, and a row that a program has filled with -1000."""
    image = np.where(disc(13), np.random.default_rng(0).normal(100, 20, (32, 36)), 0)
    image[0] = -1000
    return image.astype(np.float32)


def _ct() -> np.ndarray:
    """Air where the detector ends, and beyond the circle it measures nothing."""
    image = np.where(disc(9), np.random.default_rng(0).normal(40, 20, (32, 36)), -1000)
    image[~disc(14)] = -3024
    return image.round().astype(np.int16)


@pytest.mark.parametrize(
    "image",
    [_mr(), _ct(), _mr().astype(np.float64) * 1e38, _ct().astype(np.int64) + 2**53],
    ids=["MR", "CT", "beyond float32", "64 bit"],
)
def test_training_sees_an_image_as_the_engine_does(data, tmp_path, image):
    """What fills the voxels that nobody measured, and large numbers, change nothing."""
    write(data / "images/case1.nrrd", image)
    (data / "images/case1.nii.gz").unlink()
    none = ('validation = ["case0"]', "validation = []")
    config = load_config(config_file(data, none))
    (case,) = (c for c in read_rater_cases(config, data).training if c.name == "case1")
    trainer = prepare(config, data, tmp_path / "run", "cpu")
    seen = seen_by_the_engine(trainer, read_volume_file(data / "images/case1.nrrd"))
    assert torch.equal(seen, case.images)
    assert case.images.std() > 0.2


def test_a_window_takes_the_place_of_percentiles(data, tmp_path):
    """In training, in the card and in use; what fills the rest of a CT plays no part."""
    write(data / "images/case1.nii.gz", _ct())
    window = ('slice_plane = "axial"', 'slice_plane = "axial"\nwindow = [-160, 240]')
    config = load_config(config_file(data, window, ('validation = ["case0"]', "validation = []")))
    (case,) = (c for c in read_rater_cases(config, data).training if c.name == "case1")
    expected = torch.from_numpy(((_ct() + 160.0) / 400).clip(0, 1)).float()
    torch.testing.assert_close(case.images[0, 0].T.flip(0, 1), expected)
    trainer = prepare(config, data, tmp_path / "run", "cpu")
    seen = seen_by_the_engine(trainer, read_volume_file(data / "images/case1.nii.gz"))
    card = load_checkpoint(trainer.checkpoint_file).card
    assert card.input.normalisation == {"method": "window", "window": [-160, 240]}
    assert torch.equal(seen, case.images)


def test_an_image_of_one_value_is_black(data):
    write(data / "images/case1.nii.gz", np.full((32, 36), 7.0, np.float32))
    cases = read_rater_cases(load_config(config_file(data)), data)
    (case,) = (c for c in cases.training if c.name == "case1")
    assert (case.images == 0).all()


def test_a_network_of_single_slices_begins_one_that_sees_neighbours(data, tmp_path):
    """It segments as before until it has learnt more, its prior and its posterior too."""
    none = ('validation = ["case0"]', "validation = []")
    trainer = prepare(load_config(config_file(data, none)), data, tmp_path / "single", "cpu")
    trainer._validate(None, print)
    config = load_config(
        config_file(
            data,
            ('slice_plane = "axial"', 'slice_plane = "axial"\nneighbours = 2'),
            ('type = "probabilistic-unet"', 'type = "probabilistic-unet"\nin_channels = 5'),
        )
    )
    again = prepare(config, data, tmp_path / "wider", "cpu", start_from=trainer.checkpoint_file)
    single, network = load_checkpoint(trainer.checkpoint_file).network, again.network.eval()
    image, labels = torch.rand(2, 5, 24, 16), torch.randint(2, (2, 24, 16))
    with torch.no_grad():
        torch.testing.assert_close(network(image), single(image[:, 2:3]))
        q, expected = network.posterior(image, labels), single.posterior(image[:, 2:3], labels)
    torch.testing.assert_close(q.mean, expected.mean)
    torch.testing.assert_close(q.stddev, expected.stddev)


def test_masks_that_programs_have_rounded_or_moved_a_little_count(data):
    """Of floating point, with NaN outside, a slice as thick as the program likes."""
    expected = disc(4).astype(np.uint8)
    values = np.where(disc(4), 0.999999, 0.0)
    values[0, 0] = np.nan
    write(data / "raters/case1/b.nrrd", values[None], spacing=(1.002, 1, 5))
    cases = read_rater_cases(load_config(config_file(data)), data)
    (case,) = (c for c in cases.training if c.name == "case1")
    np.testing.assert_array_equal(case.masks[0, 0].numpy(), np.flip(expected.T))


def place(path: Path, array: np.ndarray, spacing=(1, 1, 1), origin=(0, 0, 0)) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    sitk.WriteImage(image, str(path))


def test_single_slices_may_lie_anywhere_across_themselves(data, tmp_path):
    """As of one slice that a program took out of a volume, and another wrote without its place."""
    mask = disc(4)[None].astype(np.uint8)
    place(data / "raters/case1/b.nrrd", mask, (1, 1, 5), (0, 0, -87.5))
    config = load_config(config_file(data, ("held_back = []", 'held_back = ["case3"]')))
    (case,) = (c for c in read_rater_cases(config, data).training if c.name == "case1")
    assert case.masks[0].sum() == mask.sum()
    # `mrfunet evaluate` takes them, too.
    place(data / "raters/case3/b.nrrd", mask, (1, 1, 5), (0, 0, -87.5))
    files = {"image": "images/case3.nii.gz", "raters": ("raters/case3/b.nrrd",)}
    case = Case(name="c", values={"Nodule": (1,)}, **files)
    loaded = load_case(case, CaseList("t", ("Nodule",), (case,)), data)
    assert loaded.raters["Nodule"].sum() == mask.sum()
    assert loaded.notes == ()
    # In their plane they may not.
    place(data / "raters/case3/b.nrrd", mask, (1, 1, 5), (1, 0, -87.5))
    with pytest.raises(InputError, match=r"1\.0 mm from the scan"):
        load_case(case, CaseList("t", ("Nodule",), (case,)), data)
    place(data / "raters/case1/b.nrrd", mask, (1, 1, 5), (1, 0, -87.5))
    with pytest.raises(InputError, match=r"first voxel at 1 x 0 x -87\.5, the image 0 x 0 x 0"):
        read_rater_cases(config, data)


def test_masks_a_little_beside_their_images_are_taken_and_named(data, tmp_path):
    config = load_config(config_file(data))

    def said() -> str:
        return about_cases(read_rater_cases(config, data).training)

    assert "beside" not in said()
    place(data / "raters/case1/b.nrrd", disc(4)[None].astype(np.uint8), origin=(0.25, 0, 0))
    assert said().endswith("masks of case1 lie 0.25 voxels beside it; taken voxel for voxel")
    place(data / "raters/case2/b.nrrd", disc(4)[None].astype(np.uint8), origin=(0, 0.4, 0))
    assert said().endswith(
        "masks of 2 files lie up to 0.40 voxels beside them; taken voxel for voxel"
    )


def test_names_count_however_their_accents_are_written(data):
    """As of a folder that was copied from a Mac."""
    add(data, "Zu\u0308rich.nii.gz", disc(4) * 1.0)
    (data / "raters/Zu\u0308rich").rename(data / "raters/Z\u00fcrich")
    changes = ("held_back = []", 'held_back = ["Z\u00fcr*"]')
    config = load_config(config_file(data, changes))
    assert list(held_back(config, data)) == ["Z\u00fcrich"]
    assert [c.name for c in read_rater_cases(config, data).training] == ["case1", "case2", "case3"]


def test_the_prior_is_kept_as_wide_as_validates_best(data, tmp_path):
    few = ("steps = 30", "steps = 1")
    config = load_config(config_file(data, few))
    assert len(config.elbo.prior_scales) > 1
    scores = {}
    trainer = prepare(config, data, tmp_path / "run", "cpu")
    validation = trainer.validation

    def watched(network):
        found = validation(network)
        deviation = float(network.prior(validation.cases[0].images).stddev.mean().detach())
        scores[deviation] = found.selection
        return found

    trainer.validation = watched
    trainer.run(report=lambda line: None)
    last = dict(list(scores.items())[-len(config.elbo.prior_scales) :])
    narrowest = min(last)
    widths = [deviation / narrowest for deviation in sorted(last)]
    assert widths == pytest.approx(config.elbo.prior_scales, rel=1e-4)
    assert trainer.best == max(last.values())
    checkpoint = load_checkpoint(trainer.checkpoint_file)
    kept = checkpoint.network.prior(validation.cases[0].images).stddev.mean().detach()
    best = max(last, key=last.get)
    assert float(kept) == pytest.approx(best, rel=1e-5)
    scale = checkpoint.card.training["metrics"]["scale of the prior"]
    assert scale == pytest.approx(best / narrowest, rel=1e-4)


def test_scores_of_another_validation_are_forgotten(data, tmp_path):
    """Of fewer samples the distance is larger, so nothing would be better any more."""
    few, run = ("steps = 30", "steps = 1"), tmp_path / "run"
    prepare(load_config(config_file(data, few)), data, run, "cpu").run(report=lambda line: None)
    again = prepare(load_config(config_file(data, few)), data, run, "cpu")
    assert again.best > -np.inf
    for change in (
        ("validation_samples = 16", "validation_samples = 2"),
        ("prior_scales = [1.0, 1.25, 1.5, 2.0]", "prior_scales = [1.0]"),
        ('name = "raters-2d"', 'name = "other"'),
    ):
        again = prepare(load_config(config_file(data, few, change)), data, run, "cpu")
        assert (again.step, again.best, again.stale) == (2, -np.inf, 0)
    again.run(report=lambda line: None)
    assert again.checkpoint_file.exists() and again.checkpoint_file.stem == "other"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('slice_plane = "axial"', 'slice_plane = "transversal"', "slice_plane"),
        ("color = [221, 130, 101]", 'color = "red"', "color"),
        ("color = [221, 130, 101]", "", "color"),
        ("voxel_size = [1.0, 1.0, 1.0]", "voxel_size = [1.0, 0.0, 1.0]", "voxel_size"),
        ("filters = [4, 8]", "filters = [4, 0]", "filters"),
    ],
)
def test_a_model_that_cannot_be_is_refused_before_images_are_read(data, tmp_path, old, new, said):
    shutil.rmtree(data / "images")
    with pytest.raises(ConfigError, match=said):
        prepare(load_config(config_file(data, (old, new))), data, tmp_path / "run", "cpu")
    assert not (tmp_path / "run").exists()


def test_two_processes_train_without_the_latent_and_then_with_it(data, tmp_path):
    """Each waits for the gradients of all weights, and the latent's have none at first."""
    config = config_file(data, ("steps = 30", "steps = 3"), ("batch_size = 8", "batch_size = 1"))
    program = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "MRFUNetSegmentationLib", "train", str(config), "--data", str(data),
        "-o", str(tmp_path / "two"), "--device", "cpu", "--debug",
    ]  # fmt: skip
    library = str(CONFIGS.parents[2])
    environment = os.environ | {"PYTHONPATH": library}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("complete at step 6 of 6") == 1


def test_the_latent_begins_with_a_fresh_optimiser(data, tmp_path):
    """Gradients of 0 would count in the moments by which it takes its later steps."""
    config = load_config(config_file(data, ("steps = 30", "steps = 2")))
    trainer = prepare(config, data, tmp_path / "run", "cpu")
    of_latent = ("prior_encoder.", "posterior_encoder.", "f_comb.latent.")
    before = {n: w.clone() for n, w in trainer.network.named_parameters()}
    for trainer.step in (0, 1):
        trainer._train_step()
    for name, weight in trainer.network.named_parameters():
        is_of_latent = name.startswith(of_latent)
        assert torch.equal(weight, before[name]) is is_of_latent, name
        assert (weight in trainer.optimiser.state) is not is_of_latent, name


def test_what_was_trained_on_cannot_be_held_back_later(data, tmp_path):
    few = ("steps = 30", "steps = 1")

    def prepared(*changes):
        config = load_config(config_file(data, few, *changes))
        return prepare(config, data, tmp_path / "run", "cpu")

    # Until a step was taken nothing is known of any case.
    prepared(("held_back = []", 'held_back = ["case3"]'))
    prepared().run(report=lambda line: None)
    for later in (
        ("held_back = []", 'held_back = ["case3"]'),
        ('validation = ["case0"]', 'validation = ["case0", "case2"]'),
    ):
        with pytest.raises(InputError, match=r"trained on case[23].*Choose another folder"):
            prepared(later)
    assert prepared().best > -np.inf
    # Another case to validate on, from those that it has not seen: the best is looked for anew.
    add(data, "case4.nii.gz", disc(5) * 1.0)
    again = prepared(('validation = ["case0"]', 'validation = ["case4"]'))
    assert again.step == 2 and again.best == -np.inf
    # Now case0 was trained on.
    again.run(report=lambda line: None)
    with pytest.raises(InputError, match="trained on case0"):
        prepared()
    # What is not there any more cannot be taken for unseen.
    (data / "images/case0.nii.gz").unlink()
    shutil.rmtree(data / "raters/case0")
    assert prepared(('validation = ["case0"]', 'validation = ["case4"]')).step == 2


def test_the_best_is_looked_for_anew_wherever_the_run_was_ended(data, tmp_path):
    """Else a network is kept that was chosen by what is held back now."""
    run, steps = tmp_path / "run", ("steps = 30", "steps = 1")
    later = (
        ('validation = ["case0"]', 'validation = ["case4"]'),
        (
            "held_back = []",
            'held_back = ["case0"]',
        ),
    )

    def prepared(*changes):
        return prepare(load_config(config_file(data, steps, *changes)), data, run, "cpu")

    prepared().run(report=lambda line: None)
    add(data, "case4.nii.gz", disc(5) * 1.0)
    # Ended before it had saved anything of its own.
    assert prepared(*later).best == -np.inf
    trainer = prepared(*later)
    assert trainer.complete and trainer.best == -np.inf
    # It had no step left to go.
    chosen = trainer.checkpoint_file.stat().st_mtime_ns
    trainer.run(report=lambda line: None)
    assert trainer.best > -np.inf
    assert trainer.checkpoint_file.stat().st_mtime_ns > chosen
    assert prepared(*later).best == trainer.best


def test_a_list_of_what_was_held_back_does_not_outlive_it(data, tmp_path):
    run = tmp_path / "run"
    options = ["-o", str(run), "--data", str(data), "--device", "cpu", "--debug"]
    few = ("steps = 30", "steps = 1")
    config = config_file(data, few, ("held_back = []", 'held_back = ["case3"]'))
    assert main(["train", str(config), *options]) == 0
    assert (run / "held-back.toml").exists()
    assert main(["train", str(config_file(data, few)), *options]) == 0
    assert not (run / "held-back.toml").exists()


def test_runs_that_do_not_say_what_they_have_seen(data, tmp_path):
    config = load_config(config_file(data, ("steps = 30", "steps = 1")))
    run = tmp_path / "run"
    prepare(config, data, run, "cpu").run(report=lambda line: None)
    (run / "cases.json").write_text('{"training": ["ca', encoding="utf-8")
    with pytest.raises(InputError, match=r"cases.json: .* cannot be read .*Choose another folder"):
        prepare(config, data, run, "cpu")
    # Begun by a version that did not keep them.
    (run / "cases.json").unlink()
    assert prepare(config, data, run, "cpu").step == 2


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda d: (d / "raters/case1/cautious.nii.gz").write_text("x", encoding="utf-8"),
            "cannot be read as an im",
        ),
        (lambda d: write(d / "raters/case1/b.nii.gz", np.zeros((5, 5), np.uint8)), "not on its im"),
        (lambda d: write(d / "raters/case1/b.nii.gz", disc(4) * np.uint8(7)), r"has values \[0, 7"),
        (
            lambda d: write(d / "images/case9.nii.gz", disc(4) * 1.0),
            "image case9 has no masks.*Add",
        ),
        (lambda d: write(d / "images/case1.nrrd", disc(4) * 1.0), "are both called case1"),
        (lambda d: add(d, "new.nrrd", np.where(disc(4), np.nan, 1)), "not finite"),
        # ITK reads these as 0.
        (lambda d: add(d, "new.nii.gz", np.where(disc(4), np.nan, 1)), "not finite"),
        (lambda d: write(d / "images/more/case9.nii.gz", disc(4) * 1.0), "images/more: is a fol"),
        (
            lambda d: write(d / "raters/case1/second/b.nii.gz", disc(4).astype(np.uint8)),
            "case1/second: is a folder.*passed over",
        ),
        (
            lambda d: config_file(d, ("held_back = []", 'held_back = ["case0"]')),
            "no image is left to validate on",
        ),
        (
            lambda d: config_file(
                d,
                ('validation = ["case0"]', 'validation = ["case0", "case3*"]'),
                ("held_back = []", 'held_back = ["case3"]'),
            ),
            r"no image is left to validate on of case3\*, for raters.held_back",
        ),
        (
            lambda d: (
                write(d / "raters/Zu\u0308rich/a.nii.gz", disc(4).astype(np.uint8))
                or add(d, "Z\u00fcrich.nii.gz", disc(4) * 1.0)
            ),
            "two folders are called Z\u00fcrich.*Put their files into one",
        ),
        (
            lambda d: (d / "raters/case9").mkdir() or write(d / "images/case9.nrrd", disc(4) * 1.0),
            "raters/case9: the folder holds no files. Add its raters' masks, or take the image out",
        ),
        (
            lambda d: add(d, "new.nrrd", np.stack([disc(4) * 1.0] * 2)),
            "it has 36 x 32 x 1 voxels, the image 36 x 32 x 2: several images in one file",
        ),
        (
            lambda d: add(d, "new.nrrd", np.stack([disc(4) * 1.0] * 3, -1)),
            "holds 3 values a voxel.*save the one to train on",
        ),
        (
            lambda d: write(d / "raters/case1/b.nrrd", disc(4) * 0.9),
            r"has values \[0.0, 0.9",
        ),
        (
            lambda d: write(d / "raters/case1/b.nrrd", np.where(disc(4), np.inf, 0.0)),
            r"has values \[0.0, inf\]",
        ),
        (
            lambda d: write(
                d / "raters/case1/b.nii.gz", np.uint8(255) * disc(4) - np.uint8(9) * disc(2)
            ),
            r"has values \[0, 246, 255\], but",
        ),
        (
            lambda d: write(d / "raters/case1/b.nrrd", disc(4).astype(np.uint8), spacing=(2, 2)),
            r"it has a voxel size of 2 x 2 x 1, the image 1 x 1 x 1",
        ),
        (
            lambda d: config_file(d, ('slice_plane = "axial"', 'slice_plane = "sagittal"')),
            r"the sagittal slices of the image would have 32 x 1 voxels.*2D files count as axial",
        ),
        (
            lambda d: config_file(d, ("held_back = []", 'held_back = ["x*"]')),
            "no image is called x",
        ),
        (lambda d: config_file(d, ("held_back = []", 'held_back = ["*"]')), "no image is left"),
        (
            lambda d: config_file(d, ("held_back = []", 'held_back = ["*1", "*2", "*3"]')),
            "no image is left to train on.*Add images, or name fewer",
        ),
        (
            lambda d: add(d, "more.nrrd", np.zeros((2, 3, 32, 36), np.float32)),
            "has 4 dimensions, not 2 or 3. Save the volume to train on as a file of its own",
        ),
        (
            lambda d: config_file(d, ('masks = "raters"', 'masks = "no"')),
            "no: no such folder",
        ),
    ],
)
def test_defects_of_the_data_are_named(data, spoil, message):
    config_file(data)
    spoil(data)
    with pytest.raises(InputError, match=message):
        read_rater_cases(load_config(data / "raters-2d.toml"), data)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("flip = [0.5, 0.5]", "flip = [2.0]", "raters.augmentation: flip holds probabilities"),
        ("foreground = 0.7", "foreground = 7", "raters: foreground must lie in"),
        ("beta = 1.0", "beta = -1.0", "elbo: beta and warm_up"),
        (
            'slice_plane = "axial"',
            'slice_plane = "axial"\nneighbours = 1',
            "network.in_channels: expected 3, a slice and",
        ),
        ('slice_plane = "axial"', "neighbours = 1", "card.neighbours: only of 2D networks"),
        ('slice_plane = "axial"', "neighbours = 9", r"card.neighbours: must lie in 0\.\.8"),
        ('slice_plane = "axial"', "", "card.slice_plane: missing"),
        (
            'slice_plane = "axial"',
            'slice_plane = "axial"\nwindow = [240, -160]',
            r"card: window must be two finite numbers in order, got \[240.0, -160.0\]",
        ),
        ('slice_plane = "axial"', "window = [-inf, 240]", "card: window must be two finite"),
        ('slice_plane = "axial"', "window = [240]", "card.window: expected 2 entries, got 1"),
        ('name = "raters-2d"', 'name = "Growth 2D"', "name: 'Growth 2D' must be of small letters"),
        ("\nclasses = 1", "\nclasses = 3", "network.classes: 3 is for 3 classes, .* and 2 are"),
        ("beta = 1.0", "target = 0", "elbo: target must be above 0"),
        ("[raters]", 'label_maps = ["a"]\n[raters]', "card.label_maps: no such entry"),
        ("[elbo]", '[[validation]]\nlabel_map = "a"\n[elbo]', "validation: name cases in raters"),
    ],
)
def test_defects_of_the_configuration_are_named(tmp_path, old, new, message):
    with pytest.raises(ConfigError, match=message):
        load_config(config_file(tmp_path, (old, new)))


def case_of(images: np.ndarray, *masks: np.ndarray) -> RaterCase:
    return RaterCase(
        "case",
        torch.from_numpy(images.astype(np.float32))[:, None],
        torch.from_numpy(np.stack(masks).astype(np.uint8)),
        (1.0,) * (images.ndim - 1),
    )


def stage(*shape: int) -> Stage:
    return Stage(steps=1, learning_rate=(0.1, 0.1), shape=shape)


def source(case: RaterCase, foreground: float = 0.5, **augmentation) -> RaterSource:
    options = RaterData(foreground=foreground, augmentation=Augmentation(**STILL | augmentation))
    return RaterSource([case], options, torch.device("cpu"))


@pytest.mark.parametrize("size", [(9, 11), (6, 7, 8)])
def test_whole_images_come_as_they_are_and_all_raters_are_drawn(size):
    rng = np.random.default_rng(0)
    image = rng.random((1, *size))
    masks = [rng.random((1, *size)) < share for share in (0.2, 0.5, 0.8)]
    drawn = set()
    for seed in range(20):
        pair = source(case_of(image, *masks)).draw(
            stage(*size), torch.Generator().manual_seed(seed)
        )
        torch.testing.assert_close(pair[0], torch.from_numpy(image).float(), rtol=0, atol=1e-5)
        drawn |= {n for n, mask in enumerate(masks) if (pair[1].numpy() == mask).all()}
    assert drawn == {0, 1, 2}


@pytest.mark.parametrize("wanted", [2, 3, 5])
def test_several_raters_of_an_image_are_different_ones(wanted):
    rng = np.random.default_rng(0)
    masks = [rng.random((1, 6, 7)) < share for share in (0.2, 0.5, 0.8)]
    several = replace(stage(6, 7), raters_per_image=wanted)
    first = set()
    for seed in range(20):
        drawn = source(case_of(rng.random((1, 6, 7)), *masks)).draw(
            several, torch.Generator().manual_seed(seed)
        )[1]
        assert drawn.shape == (wanted, 6, 7)
        found = [next(n for n, m in enumerate(masks) if (d == m[0]).all()) for d in drawn.numpy()]
        counts = np.bincount(found, minlength=3)
        assert counts.max() - counts.min() <= 1, "one is there again before all were"
        first.add(found[0])
    assert first == {0, 1, 2}


def test_parts_of_images_show_what_is_marked_as_often_as_is_asked():
    """Image and mask move together; parts stay inside; their marks are seldom in the middle."""
    image = np.zeros((3, 40, 40))
    image[1, 30:33, 5:8] = 1
    case = case_of(image, image)
    shown, middles = 0, set()
    for seed in range(60):
        rng = torch.Generator().manual_seed(seed)
        part, (labels,) = source(case, foreground=1.0).draw(stage(10, 12), rng)
        # Linear interpolation between voxels: half of a border voxel may be lost.
        inner = (part[0] > 0.99) | (part[0] < 0.01)
        assert ((part[0] > 0.5) == labels.bool())[inner].all()
        shown += bool(labels.any())
        middles.add(bool(labels[5, 6]))
        rng = torch.Generator().manual_seed(seed)
        assert source(case, foreground=0.0).draw(stage(10, 12), rng)[0].shape == (1, 10, 12)
    assert shown == 60
    assert middles == {True, False}


def test_images_smaller_than_a_part_lie_in_the_middle_of_nothing():
    part, (labels,) = source(case_of(np.ones((1, 4, 6)), np.ones((1, 4, 6)))).draw(
        stage(8, 8), torch.Generator().manual_seed(0)
    )
    expected = torch.zeros(8, 8)
    expected[2:6, 1:7] = 1
    torch.testing.assert_close(part[0], expected)
    assert torch.equal(labels, expected.long())


def test_mirrors_turns_and_intensities():
    image = np.zeros((1, 21, 21))
    image[0, 4:7, 9:12] = 1  # three voxels off the middle along the first axis
    case = case_of(image, image)

    def draw(seed=0, **augmentation):
        rng = torch.Generator().manual_seed(seed)
        part, (labels,) = source(case, **augmentation).draw(stage(21, 21), rng)
        return part, labels

    mirrored, labels = draw(flip=(1.0,))
    torch.testing.assert_close(mirrored[0], torch.from_numpy(image[0]).float().flip(0))
    assert torch.equal(labels, torch.from_numpy(image[0]).long().flip(0))
    angles = []
    for seed in range(30):
        _, labels = draw(seed, rotation=30.0)
        r, a = (labels.nonzero().float().mean(0) - 10).tolist()
        assert np.hypot(r, a) == pytest.approx(5, abs=0.5)
        angles.append(np.degrees(np.arctan2(a, -r)))
    assert max(np.abs(angles)) <= 33
    assert np.ptp(angles) > 30
    noisy, labels = draw(noise=0.2, gamma=0.3)
    assert torch.equal(labels, torch.from_numpy(image[0]).long())
    assert (noisy.min(), noisy.max()) == (0, 1)
    assert 0 < noisy[0, 12:].std() < 0.2


def test_scores_of_a_network_that_does_not_sample_by_hand():
    """Samples that are all the same: only their distance from the raters counts."""
    torch.manual_seed(0)
    network = MRFUNet(
        MRFUNetConfig(dim=2, classes=2, encoder=(4, 4), decoder=(4, 4), norm="instance", mrf=False)
    ).eval()
    rng = np.random.default_rng(0)
    case = case_of(
        rng.random((2, 16, 16)),
        rng.random((2, 16, 16)) < 0.3,
        disc(5, (8, 8), (16, 16)) & np.ones((2, 1, 1), bool),
    )
    scores = RaterValidation([case], 4, 2, torch.device("cpu"))(network)
    with torch.no_grad():
        labels = network(case.images).argmax(1).numpy()
    expected = generalised_energy_distance(labels[None], case.masks.numpy())
    assert scores.metrics["GED^2, 4 samples"] == pytest.approx(expected.squared, abs=1e-4)
    assert scores.metrics["distance of two samples"] == 0
    assert scores.selection == -scores.metrics["GED^2, 4 samples"]
    assert scores.picture.shape == (16, 3 * 16, 3)


def test_run_learns_the_raters(data, tmp_path, capsys):
    """From the command to a checkpoint that the engine samples: both raters are among them."""
    path = config_file(
        data, ("steps = 30", "steps = 120"), ("validate_every = 30", "validate_every = 120")
    )
    run = tmp_path / "run"
    command = [
        "train",
        str(path),
        "--data",
        str(data),
        "-o",
        str(run),
        "--device",
        "cpu",
        "--debug",
    ]
    assert main(command) == 0
    checkpoint = load_checkpoint(run / "raters-2d.safetensors")
    metrics = checkpoint.card.training["metrics"]
    assert metrics["GED^2, 16 samples"] < 0.5
    assert metrics["latent dimensions in use"] >= 1
    assert [c.name for c in checkpoint.card.classes] == ["Background", "Nodule"]
    assert checkpoint.card.input.slice_plane == "axial"
    assert checkpoint.card.training["configuration"]["raters"]["validation"] == ["case0"]


def test_a_stage_without_latent_leaves_its_weights_alone(data, tmp_path):
    """They wait for the next stage; weight decay must not wear them down until then."""
    path = config_file(
        data, ("[1e-2, 1e-3]", "[1e-2, 1e-3]\nlatent = false"), ('norm = "batch"', 'norm = "none"')
    )
    trainer = prepare(load_config(path), data, tmp_path / "run", "cpu")
    before = {n: w.clone() for n, w in trainer.network.state_dict().items()}
    assert trainer.run(report=lambda line: None)
    after = trainer.network.state_dict()
    waiting = ("prior_encoder", "posterior_encoder", "f_comb.latent")
    for name, weight in before.items():
        change = (after[name] - weight).norm() / weight.norm().clamp_min(1e-9)
        assert (change < 1e-4) == name.startswith(waiting), name


def test_the_best_is_chosen_among_networks_whose_latent_has_been_trained(data, tmp_path):
    """Nor do validations before count for the patience."""
    one_width = ("prior_scales = [1.0, 1.25, 1.5, 2.0]", "prior_scales = [1.0]")
    config = load_config(config_file(data, one_width))
    stage = config.stages[-1]
    stages = (replace(stage, steps=3, latent=False), replace(stage, steps=3))
    config = replace(config, stages=stages, validate_every=1, patience=2)
    trainer = prepare(config, data, tmp_path / "run", "cpu")
    scores = iter([9.0, 8.0, 7.0, 1.0, 3.0, 2.0])
    trainer.validation = lambda network: Scores(next(scores), {})
    assert trainer.run(report=lambda line: None)
    assert (trainer.step, trainer.best, trainer.stale) == (6, 3.0, 1)
    assert load_checkpoint(trainer.checkpoint_file).card.training["steps"] == 5


def plain_unet(dim: int, entries: str) -> list[tuple[str, str]]:
    """Changes of `config_file` that put a U-Net without MRF in the place of the network."""
    return [
        (
            'type = "probabilistic-unet"\ndim = 2',
            f'type = "mrf-unet"\nmrf = false\ndim = {dim}\nnorm = "instance"\n{entries}',
        ),
        ("classes = 1", "classes = 2"),
        ("filters = [4, 8]\nconvolutions = 1\n", ""),
        *[(f"{entry}\n", "") for entry in ('norm = "batch"', "latent = 6", "informed = true")],
    ]


def test_images_and_parts_too_small_for_a_plain_unet(data):
    four = plain_unet(2, "encoder = [4, 4, 4, 4]\ndecoder = [4, 4, 4, 4]")
    with pytest.raises(ConfigError, match=r"stages\[0\].shape: this network needs at least 31"):
        load_config(config_file(data, *four))
    five = plain_unet(2, "encoder = [4, 4, 4, 4, 4]\ndecoder = [4, 4, 4, 4, 4]")
    config = load_config(config_file(data, *five, ("\nshape = [24, 20]", "")))
    with pytest.raises(InputError, match=r"36 x 32 voxels; at least 63 .*encoder fewer levels"):
        read_rater_cases(config, data)


@pytest.mark.parametrize("dim", [2, 3])
def test_plain_unet_trains_on_the_same_data(data, tmp_path, dim, capsys):
    """For comparison: a U-Net without MRF, which gives one segmentation."""
    changes = [
        *plain_unet(dim, "encoder = [4, 8]\ndecoder = [8, 4]\nstrided_padding = 1"),
        ("steps = 30", "steps = 6"),
    ]
    if dim == 3:
        changes += [('slice_plane = "axial"\n', ""), ("shape = [24, 20]", "shape = [16, 20, 8]")]
        for file in [*data.glob("images/*"), *data.glob("raters/*/*")]:
            write(file, np.repeat(sitk.GetArrayFromImage(sitk.ReadImage(str(file)))[None], 8, 0))
    path = config_file(data, *changes)
    run = tmp_path / "run"
    command = [
        "train",
        str(path),
        "--data",
        str(data),
        "-o",
        str(run),
        "--device",
        "cpu",
        "--debug",
    ]
    assert main(command) == 0
    checkpoint = load_checkpoint(run / "raters-2d.safetensors")
    assert checkpoint.card.training["metrics"]["distance of two samples"] == 0
    assert checkpoint.network.mrf is None
    sheet = sitk.GetArrayFromImage(sitk.ReadImage(str(run / "contact-sheet.png")))
    grey = (sheet[..., 0] == sheet[..., 1]) & (sheet[..., 1] == sheet[..., 2])
    assert 0.01 < (~grey).mean() < 0.6  # what raters mark is in colour, images are not
    read = "training on 3 images of 3 files, 2 raters each, 36 x 32"
    assert read in capsys.readouterr().out
