"""What belongs to the main object is kept, what is apart from it is not."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from MRFUNetSegmentationLib.checkpoints.card import ModelCard
from MRFUNetSegmentationLib.checkpoints.load import load_checkpoint
from MRFUNetSegmentationLib.errors import CheckpointError
from MRFUNetSegmentationLib.inference.engine import Segmenter
from MRFUNetSegmentationLib.inference.grid import ModelGrid
from MRFUNetSegmentationLib.inference.main_piece import main_piece
from MRFUNetSegmentationLib.inference.to_volume import ToVolume
from MRFUNetSegmentationLib.inference.volume import Geometry, Volume
from test_inference_engine import geometry, head


def ball(centre, radius, shape=(60, 50, 40)) -> torch.Tensor:
    axes = np.ogrid[tuple(slice(0, n) for n in shape)]
    distance = sum((x - c) ** 2 for x, c in zip(axes, centre, strict=True))
    return torch.from_numpy(distance <= radius**2)


NOTHING = torch.zeros(60, 50, 40, dtype=torch.bool)


def test_smaller_pieces_sheets_and_thin_bridges_go():
    brain = ball((25, 25, 20), 14)
    muscle = ball((52, 25, 20), 6)
    scalp = ball((25, 25, 20), 22) & ~ball((25, 25, 20), 18)
    bridge = NOTHING.clone()
    bridge[24:27, 24:27, :] = True
    kept = main_piece(brain | muscle | scalp | bridge, NOTHING)
    assert torch.equal(kept & brain, brain)
    assert not (kept & muscle).any()
    assert (kept & scalp).sum() < 0.03 * scalp.sum()  # the feet of the bridge


def test_thin_parts_of_the_main_piece_stay():
    brain = ball((25, 25, 20), 14)
    gyri = NOTHING.clone()
    for start in range(17, 32, 4):
        gyri[start : start + 2, 22:28, 28:33] = True
    assert torch.equal(main_piece(brain | gyri, NOTHING), brain | gyri)


def test_fluid_stays_where_it_touches_the_main_piece():
    brain, muscle = ball((20, 25, 20), 12), ball((50, 25, 20), 8)
    fluid = ball((20, 25, 20), 15) & ~brain
    elsewhere = ball((50, 25, 20), 9) & ~muscle
    kept = main_piece(brain | muscle, fluid | elsewhere)
    assert torch.equal(kept, brain | fluid)


def test_object_that_the_field_of_view_cuts_stays_whole():
    mask = ball((0, 25, 20), 20)
    assert torch.equal(main_piece(mask, NOTHING), mask)


@pytest.mark.parametrize("end", [0, -1])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_what_is_connected_beyond_the_field_of_view_stays(axis, end):
    """As the poles of the temporal lobes, in front of where they join the brain."""

    def at(centre, radius):
        centre = np.roll(centre, axis)
        shape = np.roll((30, 60, 60), axis)
        mask = ball(centre, radius, tuple(shape))
        return mask.flip(axis) if end else mask

    brain, lobe, muscle = at((0, 18, 18), 14), at((0, 48, 18), 8), at((15, 40, 50), 6)
    everything, nothing = brain | lobe | muscle, torch.zeros_like(brain)
    assert torch.equal(main_piece(everything, nothing, [(axis, end)]), brain | lobe)
    assert torch.equal(main_piece(everything, nothing, [(axis, -1 - end)]), brain)
    assert torch.equal(main_piece(everything, nothing), brain)


def test_pieces_at_an_end_that_the_main_piece_does_not_reach_go():
    """As the neck under a brain."""
    brain, neck = ball((35, 25, 20), 14), ball((0, 25, 20), 10)
    assert torch.equal(main_piece(brain | neck, NOTHING, [(0, 0), (0, -1)]), brain)


def test_specks_and_long_pieces_at_the_end_go():
    """As muscles that lie along the head are."""
    brain, speck = ball((0, 25, 20), 18), ball((0, 4, 4), 4)
    muscle = NOTHING.clone()
    muscle[:35, 44:, 30:] = True
    assert torch.equal(main_piece(brain | speck | muscle, NOTHING, [(0, 0)]), brain)


def test_the_field_of_view_ends_with_the_volume(tiny_card):
    """And not with the part of it that was computed."""
    brain, lobe = ball((0, 16, 18), 14), ball((0, 40, 18), 8)
    mask = brain | lobe
    posterior = torch.stack([~mask, mask, NOTHING, NOTHING, NOTHING]).float()
    card = replace(tiny_card, one_piece=(1,))

    def kept(before: int) -> int:
        size = (mask.shape[0] + before, *mask.shape[1:])
        grid = ModelGrid.of(Geometry(size, (1.0, 1.0, 1.0)), (1.0, 1.0, 1.0), "LPS")
        box = (slice(before, size[0]), slice(0, size[1]), slice(0, size[2]))
        return int((ToVolume(card, grid, box).labels(posterior) == 1).sum())

    assert kept(0) == int(mask.sum())
    assert kept(5) == int(brain.sum())


@pytest.mark.parametrize("mask", [NOTHING, ball((4, 4, 4), 2)])
def test_nothing_thick_enough_stays_as_it_is(mask):
    around = ball((30, 30, 30), 5)
    assert torch.equal(main_piece(mask, around), mask | around)


def test_engine_makes_background_of_what_is_apart(tiny_checkpoint):
    checkpoint = load_checkpoint(tiny_checkpoint)
    array = head()
    volume = Volume(array, geometry(array))
    labels = Segmenter(checkpoint, "cpu").segment(volume).labels
    one_piece = tuple(c.value for c in checkpoint.card.segments)
    checkpoint = replace(checkpoint, card=replace(checkpoint.card, one_piece=one_piece))
    together = Segmenter(checkpoint, "cpu").segment(volume).labels
    changed = together != labels
    assert (together[changed] == 0).all()
    assert (together > 0).any()


@pytest.mark.parametrize(
    ("one_piece", "message"),
    [([0, 1], "must be values of classes"), ([9], "must be values"), ([], "one_piece")],
)
def test_card_with_an_impossible_piece(tiny_card, one_piece, message):
    with pytest.raises(CheckpointError, match=message):
        ModelCard.from_dict({**tiny_card.to_dict(), "one_piece": one_piece})


def test_card_keeps_the_piece(tiny_card):
    card = ModelCard.from_dict({**tiny_card.to_dict(), "one_piece": [1, 2]})
    assert ModelCard.from_dict(card.to_dict()).one_piece == (1, 2)
    assert tiny_card.one_piece == ()


def test_sheet_along_a_side_of_the_image_is_a_sheet():
    """Outside the image there is no more of it."""
    brain, sheet = ball((25, 25, 20), 9), NOTHING.clone()
    sheet[57:] = True
    assert torch.equal(main_piece(brain | sheet, NOTHING), brain)


def test_thin_parts_as_long_as_gyri_stay():
    brain = ball((25, 25, 20), 14)
    fins = NOTHING.clone()
    for start in range(21, 30, 4):
        fins[start : start + 2, 23:27, 28:36] = True
    assert int((fins & ~brain).sum()) > 40
    assert torch.equal(main_piece(brain | fins, NOTHING), brain | fins)
