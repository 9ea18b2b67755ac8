"""Scores on references of every kind, of a network that is known to be right or wrong."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from MRFUNetSegmentationLib.errors import InputError
from MRFUNetSegmentationLib.networks import MRFUNet
from MRFUNetSegmentationLib.training import validation as validation_module
from MRFUNetSegmentationLib.training.config import (
    CONFIGS,
    ConfigError,
    TrainingConfig,
    ValidationCase,
    load_config,
)
from MRFUNetSegmentationLib.training.synthesis import SynthesisConfig
from MRFUNetSegmentationLib.training.validation import TissueValidation, metric_name

CONFIG = CONFIGS / "brain-tissue.toml"
GREY, WHITE, VENTRICLES, CSF = 1, 2, 3, 4


@pytest.fixture
def data(tmp_path) -> Path:
    """A head of shells: fluid, grey matter, white matter and ventricles, and a scan of it."""
    k, j, i = np.mgrid[-16:16, -18:18, -20:20] + 0.5
    radius = np.sqrt(i**2 + j**2 + k**2)
    labels = np.select([radius < 4, radius < 8, radius < 12, radius < 15], [4, 2, 3, 24], 0)
    write(tmp_path / "labels.nii.gz", labels.astype(np.int16))
    write(tmp_path / "scan.nii.gz", np.cos(radius / 4).astype(np.float32))
    for name, value in (("grey", 3), ("white", 2)):
        # At most 200, in the next voxels 90: below half of that.
        write(tmp_path / f"{name}.nii.gz", np.where(labels == value, 200.0, 90.0).astype("f4"))
    return tmp_path


def write(path: Path, array: np.ndarray, origin=(0.0, 0.0, 0.0)) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetOrigin(origin)
    sitk.WriteImage(image, str(path))


def configuration(*cases: ValidationCase) -> TrainingConfig:
    return replace(load_config(CONFIG), validation=cases)


@pytest.fixture
def answer(monkeypatch):
    """Let the engine answer with given labels, in turn; the scores are the matter here."""
    answers = []

    class Answering:
        def __init__(self, checkpoint, device):
            self.asked = iter(answers)

        def segment(self, volume):
            return type("Segmentation", (), {"labels": next(self.asked)})

    monkeypatch.setattr(validation_module, "Segmenter", Answering)
    return answers


def tissues(data: Path) -> np.ndarray:
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(data / "labels.nii.gz")))
    table = np.zeros(100, np.uint8)
    table[[3, 2, 4, 24]] = GREY, WHITE, VENTRICLES, CSF
    return table[labels]


def network() -> MRFUNet:
    return MRFUNet(load_config(CONFIG).network)


def test_each_kind_of_reference_scores_its_classes_and_references_count_alike(data, answer):
    """All right on the first, white matter missed on the second, all missed on the third."""
    config = configuration(
        ValidationCase(image="scan.nii.gz", labels="labels.nii.gz"),
        ValidationCase(
            image="scan.nii.gz",
            probabilities={"Grey matter": "grey.nii.gz", "White matter": "white.nii.gz"},
            name="priors",
        ),
        ValidationCase(
            label_map="labels.nii.gz",
            seed=4,
            shape=(24, 22, 20),
            voxel_size=1.5,
            synthesis=SynthesisConfig(centre_spread=0.0, cut=0.0),
        ),
    )
    validation = TissueValidation(config, data, "cpu")
    right = tissues(data)
    right[right == CSF] = 0  # neither kind of reference on real scans knows it
    answer += [right, np.where(right == WHITE, 0, right), np.zeros((20, 22, 24), np.uint8)]
    scores = validation(network())
    assert scores.metrics == {
        metric_name(GREY, "scan.nii.gz"): 1.0,
        metric_name(WHITE, "scan.nii.gz"): 1.0,
        metric_name(VENTRICLES, "scan.nii.gz"): 1.0,
        metric_name(GREY, "priors"): 1.0,
        metric_name(WHITE, "priors"): 0.0,
        **{metric_name(c, "labels.nii.gz"): 0.0 for c in (GREY, WHITE, VENTRICLES, CSF)},
    }
    assert scores.selection == pytest.approx((1 + 0.5 + 0) / 3)
    assert scores.picture.shape == (3 * 36, 3 * 40, 3)
    # Reference and answer are the same picture in the first row, and not in the second.
    first, second = scores.picture[:36], scores.picture[36:72]
    assert (first[:, 40:80] == first[:, 80:]).all()
    assert (second[:, 40:80] != second[:, 80:]).any()


def test_synthesised_references_are_the_same_every_time_and_follow_their_ranges(data):
    def volume(**changes):
        case = ValidationCase(
            label_map="labels.nii.gz", shape=(20, 20, 20), voxel_size=1.5, **changes
        )
        (reference,) = TissueValidation(configuration(case), data, "cpu").references
        return reference

    one, same, other = volume(seed=1), volume(seed=1), volume(seed=2)
    assert (one.volume.array == same.volume.array).all()
    assert (one.volume.array != other.volume.array).any()
    t1 = SynthesisConfig(
        known_contrast=1.0, t1_share=1.0, noise=0.0, lesions=0.0, cavity=0.0,
        low_resolution=0.0, skull_strip=0.0, bias=0.0, artefact=0.0, centre_spread=0.0,
        mixed_borders=(0.0, 0.0), mixed_surface=(0.0, 0.0),
    )  # fmt: skip
    reference = volume(seed=3, synthesis=t1)
    grey, white = (reference.volume.array[reference.masks[c]].mean() for c in (GREY, WHITE))
    assert grey < white
    # Axes to the right, the front and above, as the array is k, j, i.
    assert reference.volume.geometry.direction == (-1, 0, 0, 0, -1, 0, 0, 0, 1)


def test_network_goes_through_the_engine_and_stays_as_it_is(data):
    config = configuration(ValidationCase(image="scan.nii.gz", labels="labels.nii.gz"))
    torch.manual_seed(0)
    trained = network()
    before = {key: value.clone() for key, value in trained.state_dict().items()}
    scores = TissueValidation(config, data, "cpu")(trained.train())
    assert 0 <= scores.selection <= 1
    assert trained.training
    assert all(torch.equal(value, before[key]) for key, value in trained.state_dict().items())


def test_references_that_do_not_fit_are_named(data):
    image = ValidationCase(image="scan.nii.gz", probabilities={"Grey": "grey.nii.gz"})
    with pytest.raises(
        ConfigError, match=r"scan.nii.gz has probabilities of 'Grey'; known are Gre"
    ):
        TissueValidation(configuration(image), data, "cpu")
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(data / "labels.nii.gz")))
    for array, origin in ((labels[1:], (0.0, 0.0, 0.0)), (labels, (0.0, 3.0, 0.0))):
        write(data / "labels.nii.gz", array, origin)
        case = ValidationCase(image="scan.nii.gz", labels="labels.nii.gz")
        with pytest.raises(InputError, match=r"labels.nii.gz: not on the grid of its image"):
            TissueValidation(configuration(case), data, "cpu")
