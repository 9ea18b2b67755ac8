"""Model cards: the schema, our validator against the jsonschema package, round trips."""

import copy
import json

import jsonschema
import pytest
from MRFUNetSegmentationLib.checkpoints.card import ModelCard, schema
from MRFUNetSegmentationLib.checkpoints.schema import violations
from MRFUNetSegmentationLib.errors import CheckpointError


@pytest.fixture
def card(tiny_card) -> dict:
    return copy.deepcopy(tiny_card.to_dict())


def every_mutation(card: dict):
    """Yield the card with each entry, at any depth, removed or replaced by unfit values."""

    def places(value, path=()):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, entry in items:
            yield (*path, key)
            if isinstance(entry, (dict, list)):
                yield from places(entry, (*path, key))

    for path in places(card):
        for unfit in ("remove", None, True, 0, -1, 1.5, 300, "", "x", [], [1], {}, {"a": 1}):
            mutated = copy.deepcopy(card)
            parent = mutated
            for key in path[:-1]:
                parent = parent[key]
            if unfit == "remove":
                del parent[path[-1]]
            else:
                parent[path[-1]] = unfit
            yield path, unfit, mutated


def test_our_validator_agrees_with_jsonschema(card):
    reference = jsonschema.Draft202012Validator(schema())
    verdicts = {True: 0, False: 0}
    for path, unfit, mutated in every_mutation(card):
        expected = reference.is_valid(mutated)
        assert (violations(mutated, schema()) == []) == expected, (path, unfit)
        verdicts[expected] += 1
    assert verdicts[True] > 20
    assert verdicts[False] > 500


def test_round_trip(card):
    assert ModelCard.from_dict(card).to_dict() == card
    assert json.loads(json.dumps(card)) == card


def test_plane_of_the_slices(card):
    for plane in ("axial", "coronal", "sagittal"):
        card["input"]["slice_plane"] = plane
        assert ModelCard.from_dict(card).input.slice_plane == plane
        assert ModelCard.from_dict(card).to_dict() == card
    card["input"]["slice_plane"] = "oblique"
    with pytest.raises(CheckpointError, match=r"input\.slice_plane: must be one of"):
        ModelCard.from_dict(card)


def test_neighbours_are_kept_and_refused_of_3d_networks(tiny_card):
    card = tiny_card.to_dict()
    assert tiny_card.input.neighbours == 0
    card["input"] |= {"slice_plane": "axial", "neighbours": 3}
    kept = ModelCard.from_dict(card)
    assert kept.input.neighbours == 3
    assert kept.to_dict() == card
    del card["input"]["slice_plane"]
    with pytest.raises(CheckpointError, match=r"input\.neighbours: only of 2D networks"):
        ModelCard.from_dict(card)


def test_network_voxel_size_is_kept_and_refused_where_nothing_uses_it(tiny_card):
    card = tiny_card.to_dict()
    assert tiny_card.input.network_voxel_size is None
    card["input"]["network_voxel_size"] = [1.3, 1.3, 2]
    kept = ModelCard.from_dict(card)
    assert kept.input.network_voxel_size == (1.3, 1.3, 2.0)
    assert ModelCard.from_dict(kept.to_dict()) == kept
    sampling = {**card, "architecture": {"type": "probabilistic-unet"}}
    by_slices = {**card, "input": {**card["input"], "slice_plane": "axial"}}
    for refused in (sampling, by_slices):
        with pytest.raises(CheckpointError, match="only of 3D networks that give one"):
            ModelCard.from_dict(refused)


def test_window_of_intensities(card):
    window = {"method": "window", "window": [-160, 240]}
    kept = ModelCard.from_dict({**card, "input": {**card["input"], "normalisation": window}})
    assert kept.input.normalisation == window
    assert ModelCard.from_dict(kept.to_dict()) == kept


@pytest.mark.parametrize(
    ("normalisation", "message"),
    [
        ({"method": "window"}, "a window belongs to the method window"),
        ({"method": "percentile", "window": [0, 1]}, "a window belongs to the method window"),
        ({"method": "window", "window": [1, 1]}, "two finite numbers in order"),
        ({"method": "window", "window": [0, float("inf")]}, "two finite numbers in order"),
        ({"method": "window", "window": [float("nan"), 0]}, "two finite numbers in order"),
        ({"method": "window", "window": [0]}, "input.normalisation.window"),
        ({"method": "window", "window": [0, 10**400]}, "two finite numbers in order"),
        ({"method": "percentile", "low": 99.8}, "low percentile must be below"),
        ({"method": "percentile", "high": 0.3}, "low percentile must be below"),
    ],
)
def test_defects_of_a_window_are_named(card, normalisation, message):
    with pytest.raises(CheckpointError, match=message):
        ModelCard.from_dict({**card, "input": {**card["input"], "normalisation": normalisation}})


def test_dict_is_the_callers_own(tiny_card):
    before = copy.deepcopy(tiny_card)
    changed = tiny_card.to_dict()
    changed["architecture"]["encoder"].append(1)
    changed["input"]["normalisation"]["low"] = 3
    changed["training"]["metrics"]["x"] = 1
    assert tiny_card == before


def test_segments_leave_the_background_out(tiny_card):
    assert [c.segment_id for c in tiny_card.segments] == [
        "grey_matter",
        "white_matter",
        "ventricles",
        "csf_outside_the_ventricles",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "format version 2 is not supported"),
        ({"name": "Has Spaces"}, "name"),
        ({"unknown": 1}, "unknown: no such entry"),
        ({"classes": []}, "classes"),
        ({"name": "tiny\n"}, "name"),
        ({"title": "\ud800"}, "title: .* is no text"),
        ({"architecture": {"type": "other"}}, "architecture.type"),
    ],
)
def test_defects_are_named(card, change, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        ModelCard.from_dict({**card, **change}, "some-file")
    assert "some-file" in str(caught.value)


def test_classes_must_be_numbered_as_channels(card):
    card["classes"][2]["value"] = 7
    with pytest.raises(CheckpointError, match=r"values must be 0, 1, 2"):
        ModelCard.from_dict(card)


@pytest.mark.parametrize("background", [None, 2])
def test_value_0_is_the_backgrounds(card, background):
    """Label maps and Slicer's segments take 0 for nothing."""
    for n, entry in enumerate(card["classes"]):
        entry["background"] = n == background
    with pytest.raises(CheckpointError, match="has value 0, which must be the background"):
        ModelCard.from_dict(card)


@pytest.mark.parametrize("number", [1, 5])
def test_something_must_be_segmented(card, number):
    classes = [{**c, "background": True} for c in card["classes"][:number]]
    with pytest.raises(CheckpointError, match="at least one must not be background"):
        ModelCard.from_dict({**card, "classes": classes})


def test_whole_numbers_may_be_written_as_floats(card):
    """As JSON allows; they number arrays in the end."""
    exact = copy.deepcopy(card)
    for entry in card["classes"]:
        entry["value"], entry["color"] = float(entry["value"]), [*map(float, entry["color"])]
    card["one_piece"] = exact["one_piece"] = [1]
    found = json.dumps(ModelCard.from_dict({**card, "one_piece": [1.0]}).to_dict())
    assert found == json.dumps(ModelCard.from_dict(exact).to_dict())


def test_names_must_differ(card):
    card["classes"][2]["name"] = card["classes"][1]["name"]
    with pytest.raises(CheckpointError, match="names must differ"):
        ModelCard.from_dict(card)


@pytest.mark.parametrize("orientation", ["RRS", "RLS", "RA", "xyz", "RAS\n"])
def test_orientation_must_name_each_axis_once(card, orientation):
    card["input"]["orientation"] = orientation
    with pytest.raises(CheckpointError, match=r"input\.orientation"):
        ModelCard.from_dict(card)


def test_not_even_an_object():
    with pytest.raises(CheckpointError, match="expected object"):
        ModelCard.from_dict([1, 2])


def test_names_that_make_one_segment_are_refused(card):
    """Segments are told apart by letters and digits: one of the two would be lost."""
    card["classes"][1]["name"], card["classes"][2]["name"] = "Grey matter", "grey-matter"
    with pytest.raises(CheckpointError, match="names must differ"):
        ModelCard.from_dict(card)


@pytest.mark.parametrize("name", ["★", "---", "_", " "])
def test_names_that_make_no_segment_are_refused(card, name):
    """Slicer would give the segment an ID that no later run finds again: each would add one."""
    card["classes"][1]["name"] = name
    with pytest.raises(CheckpointError, match=r"classes: the name .* letter or a digit"):
        ModelCard.from_dict(card)


@pytest.mark.parametrize("name", ["灰质", "é", "7", "B+"])
def test_names_of_any_language_make_a_segment(card, name):
    card["classes"][1]["name"] = name
    assert ModelCard.from_dict(card).classes[1].segment_id


def test_background_may_have_any_name(card):
    """It makes no segment."""
    card["classes"][0]["name"] = "-"
    assert ModelCard.from_dict(card).classes[0].name == "-"
