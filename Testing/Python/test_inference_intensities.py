"""The image's intensities draw borders that the network missed, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from MRFUNetSegmentationLib.checkpoints.card import ModelCard
from MRFUNetSegmentationLib.checkpoints.load import load_checkpoint
from MRFUNetSegmentationLib.errors import Cancelled, CheckpointError, InputError
from MRFUNetSegmentationLib.inference.engine import Segmenter
from MRFUNetSegmentationLib.inference.intensities import with_intensities
from MRFUNetSegmentationLib.inference.run import INTENSITIES, Run
from MRFUNetSegmentationLib.inference.volume import Volume
from test_inference_engine import geometry, head
from test_inference_main_piece import ball

SHAPE = (60, 50, 40)
SEGMENTS = [1, 2]
SPACING = (1.0, 1.0, 1.0)


def started_run(cancelled=lambda: False) -> Run:
    run = Run({INTENSITIES: 0.0}, lambda stage, fraction: None, cancelled)
    run.begin(INTENSITIES)
    return run


def one_hot(labels: torch.Tensor, certainty: float = 0.9) -> torch.Tensor:
    """Posterior (3, *shape) of a network that is as certain everywhere."""
    rest = (1 - certainty) / 2
    classes = torch.arange(3).view(-1, 1, 1, 1)
    return torch.where(labels[None] == classes, certainty, rest)


def truth() -> torch.Tensor:
    """Labels of a ball, 2, in a larger one, 1."""
    return ball((30, 25, 20), 17, SHAPE).long() + ball((30, 25, 20), 11, SHAPE).long()


def scan(labels: torch.Tensor, bias: float, dark: int = 1) -> torch.Tensor:
    """Image 0..1 of labels, with noise, and brighter by up to a factor towards one end."""
    generator = torch.Generator().manual_seed(0)
    values = torch.tensor([0.0, 0.4, 0.6] if dark == 1 else [0.0, 0.6, 0.4])
    ramp = torch.linspace(1, bias, SHAPE[0]).view(-1, 1, 1)
    noise = 0.03 * torch.randn(SHAPE, generator=generator)
    return torch.where(labels > 0, (values[labels] * ramp + noise).clamp(0.01, 1), 0.0)


def dice(labels: torch.Tensor, reference: torch.Tensor, value: int) -> float:
    a, b = labels == value, reference == value
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.mark.parametrize("dark", [1, 2])
@pytest.mark.parametrize("bias", [1.0, 1.5])
def test_borders_become_those_of_the_image(bias, dark):
    labels = truth()
    # The network has the inner ball 2 mm too far up, and the whole's border right.
    missed = torch.where(labels > 0, 1 + torch.roll(labels, 2, dims=2).eq(2).long(), 0)
    image, posterior = scan(labels, bias, dark), one_hot(missed)
    sharpened = with_intensities(posterior, image, SEGMENTS, SPACING, started_run())
    before, after = missed, sharpened.argmax(0)
    assert dice(before, labels, 2) < 0.89
    assert dice(after, labels, 2) > 0.96
    assert dice(after, labels, 1) > 0.96


def test_a_lesion_stays_in_the_segment_that_the_network_gives_it():
    """It is unlike both segments, and likelier in the one of the wider Gaussian."""
    labels = truth()
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    image = torch.where(labels == 2, 0.8 + 0.1 * noise, 0.3 + 0.03 * noise).clamp(0.01, 1)
    lesion = ball((30, 25, 6), 2.5, SHAPE) & (labels == 1)
    image = torch.where(lesion, 0.6, torch.where(labels > 0, image, 0.0))
    sharpened = with_intensities(one_hot(labels), image, SEGMENTS, SPACING, started_run())
    assert lesion.sum() > 50
    assert (sharpened.argmax(0)[lesion] == 1).all()
    # And yet the image has its say: what it shows to be the other segment becomes that.
    other = torch.where(lesion, 0.8, image)
    changed = with_intensities(one_hot(labels, 0.6), other, SEGMENTS, SPACING, started_run())
    assert (changed.argmax(0)[lesion] == 2).all()


def test_background_and_sums_stay():
    labels = truth()
    posterior = one_hot(torch.roll(labels, 2, dims=2), 0.8)
    sharpened = with_intensities(posterior, scan(labels, 1.2), SEGMENTS, SPACING, started_run())
    assert torch.equal(sharpened[0], posterior[0])
    assert torch.allclose(sharpened.sum(0), torch.ones(SHAPE), atol=1e-5)
    assert not torch.equal(sharpened, posterior)


def test_image_that_shows_no_difference_leaves_what_the_network_is_sure_of():
    labels = truth()
    flat = scan((labels > 0).long(), 1.0)
    sharpened = with_intensities(one_hot(labels), flat, SEGMENTS, SPACING, started_run())
    assert dice(sharpened.argmax(0), labels, 2) > 0.95


@pytest.mark.parametrize("values", [[0], [0, 1]])
def test_nothing_to_tell_apart_changes_nothing(values):
    labels = truth().clamp(max=values[-1])
    posterior = one_hot(labels)
    image = scan(truth(), 1.0)
    assert with_intensities(posterior, image, SEGMENTS, SPACING, started_run()) is posterior


def test_thick_slices_are_reckoned_in_mm():
    labels = truth()[:, :, ::4]
    missed = torch.where(labels > 0, 1 + torch.roll(labels, 2, dims=1).eq(2).long(), 0)
    image = scan(truth(), 1.2)[:, :, ::4]
    sharpened = with_intensities(one_hot(missed), image, SEGMENTS, (1, 1, 4), started_run())
    assert dice(sharpened.argmax(0), labels, 2) > dice(missed, labels, 2) + 0.05


def test_a_cancel_ends_it():
    with pytest.raises(Cancelled):
        asked = iter([False, False, False, True])
        run = started_run(lambda: next(asked))
        with_intensities(one_hot(truth()), scan(truth(), 1.0), SEGMENTS, SPACING, run)


def test_engine_uses_them_where_the_card_says_so(tiny_checkpoint):
    loaded = load_checkpoint(tiny_checkpoint)
    array = head()
    volume = Volume(array, geometry(array))
    alone = Segmenter(loaded, "cpu").segment(volume)
    assert INTENSITIES not in alone.timings

    asked = replace(loaded, card=replace(loaded.card, intensities=True))
    stages = []
    both = Segmenter(asked, "cpu").segment(volume, lambda stage, _: stages.append(stage))
    assert INTENSITIES in both.timings and INTENSITIES in stages
    changed = both.labels != alone.labels
    assert changed.any()
    left_out = Segmenter(asked, "cpu", intensities=False).segment(volume)
    assert np.array_equal(left_out.labels, alone.labels)
    with pytest.raises(InputError, match="does not use the intensities"):
        Segmenter(loaded, "cpu", intensities=False)


def test_card_keeps_it_and_refuses_it_of_a_network_that_samples(tiny_card):
    card = ModelCard.from_dict({**tiny_card.to_dict(), "intensities": True})
    assert ModelCard.from_dict(card.to_dict()).intensities
    assert not tiny_card.intensities and "intensities" not in tiny_card.to_dict()
    sampling = {**card.to_dict(), "architecture": {"type": "probabilistic-unet"}}
    with pytest.raises(CheckpointError, match="one segmentation"):
        ModelCard.from_dict(sampling)


def test_where_nothing_was_measured_the_network_decides():
    """0 is no measurement, however near it is to what a segment looks like."""
    labels, hole = truth(), ball((30, 25, 20), 4, SHAPE)
    image = scan(labels, 1.0)
    image = torch.where(labels == 1, (image - 0.35).clamp_min(0.01), image)
    image[hole] = 0
    posterior = torch.where(hole, one_hot(labels, 0.4), one_hot(labels, 0.99))
    sharpened = with_intensities(posterior, image, SEGMENTS, SPACING, started_run())
    assert (sharpened.argmax(0)[hole] == 2).all()


def test_a_segment_of_less_than_a_ml_says_too_little():
    labels = ball((30, 25, 20), 17, SHAPE).long() + ball((30, 25, 20), 5, SHAPE).long()
    assert 200 < (labels == 2).sum() < 1000
    posterior = one_hot(labels)
    found = with_intensities(posterior, scan(labels, 1.0), SEGMENTS, SPACING, started_run())
    assert found is posterior


def test_a_scan_without_noise_is_not_taken_at_its_word():
    """No tissue is of one intensity alone."""
    labels, missed = truth(), ball((30, 25, 20), 3, SHAPE)
    image = torch.tensor([0.0, 0.4, 0.6])[labels]
    image[missed] = 0.65
    network = torch.where(missed, 1, labels)
    posterior = torch.where(missed, one_hot(network, 0.6), one_hot(network, 0.99))
    sharpened = with_intensities(posterior, image, SEGMENTS, SPACING, started_run())
    assert (sharpened.argmax(0)[missed] == 2).all()


def test_thick_slices_are_blurred_by_mm():
    """By a quarter of a slice here, not by four."""
    labels = truth()[:, :, ::4]
    flat = scan((truth() > 0).long(), 1.0)[:, :, ::4]
    sharpened = with_intensities(one_hot(labels), flat, SEGMENTS, (1, 1, 4), started_run())
    assert dice(sharpened.argmax(0), labels, 2) > 0.95
