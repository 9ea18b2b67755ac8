"""The way from class probabilities on the network's grid to labels on the volume's."""

from dataclasses import replace

import pytest
import torch
from MRFUNetSegmentationLib.inference.grid import ModelGrid
from MRFUNetSegmentationLib.inference.to_volume import ToVolume
from MRFUNetSegmentationLib.inference.volume import Geometry

# Axes P, R and S, flipped and permuted against RAS.
OBLIQUE = Geometry((40, 33, 25), (0.9, 1.1, 2.2), (3, 4, 5), (0, 1, 0, 1, 0, 0, 0, 0, 1))
BOX = (slice(3, 17), slice(1, 15), slice(4, 25))


def smooth(shape, seed=0):
    """Probabilities of five classes that change over a few voxels."""
    torch.manual_seed(seed)
    noise = torch.randn(5, 4, 5, 6)
    logits = torch.nn.functional.interpolate(noise[None], size=shape, mode="trilinear")[0]
    logits[0] += 0.5
    return (4 * logits).softmax(0)


def to_volume(card, **changes):
    grid = ModelGrid.of(OBLIQUE, (2.0, 2.0, 2.0))
    assert grid.shape == (18, 18, 28)
    return ToVolume(replace(card, **changes), grid, BOX)


@pytest.mark.parametrize(("backgrounds", "one_piece"), [(1, ()), (2, ()), (1, (1, 2)), (2, (1, 2))])
def test_labels_are_the_most_probable_class_of_the_probabilities(tiny_card, backgrounds, one_piece):
    """Whatever part of the volume they are computed in."""
    classes = tuple(
        replace(c, background=n == 0 or (backgrounds == 2 and n == 4))
        for n, c in enumerate(tiny_card.classes)
    )
    way = to_volume(tiny_card, classes=classes, one_piece=one_piece)
    posterior = smooth([b.stop - b.start for b in BOX])
    labels = way.labels(posterior)
    probabilities = torch.stack(list(way.probabilities(posterior)))
    assert labels.shape == probabilities.shape[1:] == (25, 33, 40)
    torch.testing.assert_close(probabilities.sum(0), torch.ones(25, 33, 40), atol=1e-5, rtol=0)
    assert labels.dtype == torch.uint8
    best = probabilities.amax(0)
    chosen = probabilities.gather(0, labels[None].long())[0]
    torch.testing.assert_close(chosen, best, atol=1e-6, rtol=0)
    # Where classes are not as good as equal they are the same.
    second = probabilities.topk(2, dim=0).values[1]
    clear = best - second > 1e-5
    assert clear.float().mean() > 0.5  # around the box all are equal but for one background
    assert torch.equal(labels[clear].long(), probabilities.argmax(0)[clear])


def test_an_object_is_found_where_it_is(tiny_card):
    way = to_volume(tiny_card)
    posterior = torch.zeros(5, *(b.stop - b.start for b in BOX))
    posterior[0] = 1
    posterior[:, 3:11, 5:13, 10:18] = torch.tensor([0.0, 0, 1, 0, 0]).view(5, 1, 1, 1)
    labels = way.labels(posterior)
    assert set(labels.unique().tolist()) == {0, 2}
    # 8 x 8 x 8 voxels of (2 mm)^3.
    assert int((labels == 2).sum()) * OBLIQUE.voxel_ml == pytest.approx(4.1, rel=0.15)


def test_nothing_but_background_is_no_error(tiny_card):
    posterior = torch.zeros(5, *(b.stop - b.start for b in BOX))
    posterior[0] = 1
    labels = to_volume(tiny_card).labels(posterior)
    assert labels.shape == (25, 33, 40)
    assert not labels.any()


def test_fluid_apart_from_the_one_piece_becomes_background(tiny_card):
    """Though it is none of the classes that are in one piece."""
    posterior = torch.zeros(5, *(b.stop - b.start for b in BOX))
    posterior[0] = 1
    for value, along in ((1, slice(1, 9)), (3, slice(18, 21))):
        posterior[:, 2:10, 2:10, along] = 0
        posterior[value, 2:10, 2:10, along] = 1
    assert set(to_volume(tiny_card).labels(posterior).unique().tolist()) == {0, 1, 3}
    one_piece = to_volume(tiny_card, one_piece=(1, 2))
    assert set(one_piece.labels(posterior).unique().tolist()) == {0, 1}
