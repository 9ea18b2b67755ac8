"""Checkpoint files: round trip, and every defect with its name and remedy."""

import errno
import hashlib
import json
import pickle
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from MRFUNetSegmentationLib.checkpoints import architectures
from MRFUNetSegmentationLib.checkpoints.card import ModelCard
from MRFUNetSegmentationLib.checkpoints.header import bundled_models, find_checkpoint, read_info
from MRFUNetSegmentationLib.checkpoints.load import (
    build_network,
    load_checkpoint,
    save_checkpoint,
)
from MRFUNetSegmentationLib.errors import CheckpointError, OutputError
from MRFUNetSegmentationLib.gui.model_list import describe_model
from safetensors.torch import load_file, save_file


@pytest.fixture
def rewrite(tiny_checkpoint, tmp_path):
    """Return a function that writes the small checkpoint with changed weights or card."""

    def write(change_state=lambda s: s, change_card=lambda c: c, keep_card=True):
        state = change_state(load_file(tiny_checkpoint))
        card = change_card(read_info(tiny_checkpoint).card.to_dict())
        path = tmp_path / "changed.safetensors"
        save_file(state, path, {"card": json.dumps(card)} if keep_card else None)
        return path

    return write


def refused(path, *words):
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    text = str(caught.value)
    assert str(path) in text
    for word in words:
        assert word in text
    assert text.endswith(".")


def test_round_trip(tiny_checkpoint, tiny_card):
    checkpoint = load_checkpoint(tiny_checkpoint)
    assert checkpoint.card == tiny_card
    assert not checkpoint.network.training
    assert len(checkpoint.sha256) == 64
    again = load_checkpoint(str(tiny_checkpoint))
    image = torch.randn(1, 1, 9, 10, 11)
    torch.testing.assert_close(checkpoint.network(image), again.network(image))


PROBABILISTIC = {"type": "probabilistic-unet", "dim": 3, "classes": 5, "filters": [2, 3]}


def with_architecture(card: ModelCard, architecture: dict, plane=None, classes=5) -> ModelCard:
    changed = card.to_dict()
    changed["architecture"] = architecture
    changed["classes"] = changed["classes"][:classes]
    if plane:
        changed["input"]["slice_plane"] = plane
    return ModelCard.from_dict(changed)


@pytest.mark.parametrize(
    ("architecture", "plane", "classes"),
    [
        (PROBABILISTIC, None, 5),
        ({**PROBABILISTIC, "dim": 2}, "coronal", 5),
        ({**PROBABILISTIC, "classes": 1}, None, 2),
        ({"type": "mrf-unet", "dim": 2, "classes": 3}, "axial", 3),
    ],
)
def test_round_trip_of_every_architecture(tmp_path, tiny_card, architecture, plane, classes):
    card = with_architecture(tiny_card, architecture, plane, classes)
    network = build_network(card).eval()
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, network, card)
    checkpoint = load_checkpoint(path)
    assert checkpoint.card == card
    assert architectures.describe(checkpoint.network) == architectures.describe(network)
    image = torch.randn(1, 1, *[33] * architecture["dim"])
    torch.testing.assert_close(checkpoint.network(image), network(image))


@pytest.mark.parametrize(
    ("architecture", "plane", "classes", "words"),
    [
        ({**PROBABILISTIC, "dim": 2}, None, 5, ["2D", "slice_plane must name the plane"]),
        (PROBABILISTIC, "axial", 5, ["3D", "slice_plane must go"]),
        ({**PROBABILISTIC, "classes": 1}, None, 5, ["5 classes", "has 2"]),
        ({**PROBABILISTIC, "dim": 4}, None, 5, ["4D"]),
        ({**PROBABILISTIC, "filters": [-2, 3]}, None, 5, ["cannot be built"]),
        ({**PROBABILISTIC, "filters": []}, None, 5, ["at least one scale"]),
        ({**PROBABILISTIC, "encoder": [4]}, None, 5, ["cannot be built", "encoder"]),
        ({**PROBABILISTIC, "filters": [4] * 11}, None, 5, ["cannot be built", "10 levels, got 11"]),
        ({**PROBABILISTIC, "filters": 4}, None, 5, ["filters must be tuple[int, ...], got 4"]),
        ({**PROBABILISTIC, "mrf_extra_layers": -1}, None, 5, ["layers of a kind, got -1"]),
        ({**PROBABILISTIC, "mrf": "false"}, None, 5, ["mrf must be bool, got 'false'"]),
        ({**PROBABILISTIC, "latent": True}, None, 5, ["latent must be int, got True"]),
        ({**PROBABILISTIC, "w": "1"}, None, 5, ["w must be float, got '1'"]),
        ({"type": "mrf-unet", "strided_padding": 0.0}, None, 4, ["strided_padding must be int"]),
        ({"type": "mrf-unet", "training_iterations": [5]}, None, 4, ["training_iterations"]),
        (
            {"type": "mrf-unet", "encoder": [1] * 9, "decoder": [1] * 20000},
            None,
            4,
            ["0 to 100 layers of a kind, got 20000"],
        ),
    ],
)
def test_card_that_does_not_fit_its_network(tiny_card, architecture, plane, classes, words):
    card = with_architecture(tiny_card, architecture, plane, classes)
    with pytest.raises(CheckpointError) as caught:
        build_network(card, "some-file")
    for word in ("some-file", *words):
        assert word in str(caught.value)


def test_one_channel_is_the_structure_and_not_the_background(tiny_card):
    changed = with_architecture(tiny_card, {**PROBABILISTIC, "classes": 1}, None, 2).to_dict()
    changed["classes"][0]["background"], changed["classes"][1]["background"] = False, True
    with pytest.raises(CheckpointError, match="has value 0, which must be the background"):
        build_network(ModelCard.from_dict(changed))


@pytest.mark.parametrize("kind", ["mrf-unet", "probabilistic-unet"])
def test_card_is_read_without_torch(tiny_checkpoint, tiny_card, tmp_path, kind):
    path = tiny_checkpoint
    if kind == "probabilistic-unet":
        path, card = tmp_path / "model.safetensors", with_architecture(tiny_card, PROBABILISTIC)
        save_checkpoint(path, build_network(card), card)
    program = (
        "import sys; from pathlib import Path;"
        "from MRFUNetSegmentationLib.checkpoints.header import read_info, bundled_models;"
        f"card = read_info(Path({str(path)!r})).card; bundled_models();"
        f"assert card.architecture['type'] == {kind!r};"
        "assert 'torch' not in sys.modules and 'safetensors' not in sys.modules"
    )
    path = [p for p in sys.path if p]
    subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path}; {program}"], check=True
    )


def test_saving_replaces_in_one_step_and_leaves_nothing_behind(tmp_path, tiny_card):
    path = tmp_path / "new" / "model.safetensors"
    save_checkpoint(path, build_network(tiny_card), tiny_card)
    save_checkpoint(path, build_network(tiny_card), tiny_card)
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_where_nothing_can_be_saved(tmp_path, tiny_card):
    (tmp_path / "afile").write_text("mine", encoding="utf-8")
    path = tmp_path / "afile" / "model.safetensors"
    with pytest.raises(OutputError, match=r"afile/model.*Choose another folder, or check the perm"):
        save_checkpoint(path, build_network(tiny_card), tiny_card)
    assert (tmp_path / "afile").read_text(encoding="utf-8") == "mine"


def test_card_of_another_network_is_not_saved(tmp_path, tiny_card):
    other = ModelCard.from_dict(
        {
            **tiny_card.to_dict(),
            "architecture": {**tiny_card.architecture, "encoder": [4, 9]},
        }
    )
    with pytest.raises(CheckpointError, match="has shape"):
        save_checkpoint(tmp_path / "x.safetensors", build_network(tiny_card), other)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [0, 5, 100, 3000])
def test_truncated(tiny_checkpoint, tmp_path, size):
    path = tmp_path / "short.safetensors"
    path.write_bytes(tiny_checkpoint.read_bytes()[:size])
    refused(path, "truncated", "Get the file again")


def test_one_byte_short(tiny_checkpoint, tmp_path):
    path = tmp_path / "short.safetensors"
    path.write_bytes(tiny_checkpoint.read_bytes()[:-1])
    refused(path, "truncated", "Get the file again")


def test_pickle_is_refused_and_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    path = tmp_path / "model.pth"
    path.write_bytes(pickle.dumps(Bomb()))
    refused(path, "not a safetensors file")
    torch.save({"a": torch.zeros(3)}, path)
    refused(path, "not a safetensors file")
    assert not (tmp_path / "ran").exists()


def test_text_and_json_that_is_no_header(tmp_path):
    path = tmp_path / "text.safetensors"
    path.write_text("This is a text, not a checkpoint, and it is long enough.", encoding="utf-8")
    refused(path, "not a safetensors file")
    path.write_bytes(struct.pack("<Q", 6) + b"[1, 2]")
    refused(path, "not a safetensors file")
    path.write_bytes(struct.pack("<Q", 13) + b'{"a": "tensor')
    refused(path, "not a safetensors file")
    path.write_bytes(struct.pack("<Q", 14) + b'{"a":"tensor"}')
    refused(path, "damaged")


def test_header_and_card_that_are_no_tables(tmp_path):
    path = tmp_path / "odd.safetensors"
    deep = b"[" * 200_000
    path.write_bytes(struct.pack("<Q", len(deep)) + deep)
    refused(path, "not a safetensors file")
    for card in (b"7", b'"' + b"[" * 200_000 + b'"'):
        header = b'{"__metadata__": {"card": ' + card + b"}}"
        path.write_bytes(struct.pack("<Q", len(header)) + header)
        refused(path, "the model card is no JSON")
        assert "no JSON" in describe_model(str(path)).problem


def test_card_of_a_network_that_no_memory_holds(rewrite):
    def change(card):
        card["architecture"]["encoder"] = [10**5] * len(card["architecture"]["encoder"])
        return card

    refused(rewrite(change_card=change), "has shape")


@pytest.mark.parametrize(("name", "value"), [("w", 0.0), ("iterations", 10.5), ("iterations", 0)])
def test_impossible_mean_field(rewrite, name, value):
    def change(card):
        card["architecture"][name] = value
        return card

    refused(rewrite(change_card=change), "architecture cannot be built", f"{value}")


def test_safetensors_without_card(rewrite):
    refused(rewrite(keep_card=False), "no model card", "converted")


def test_newer_version(rewrite):
    path = rewrite(change_card=lambda c: {**c, "format_version": 99})
    refused(path, "version 99", "Update the extension")


def test_missing_weight(rewrite):
    path = rewrite(lambda s: {k: v for k, v in s.items() if k != "mrf.final.bias"})
    refused(path, "missing", "mrf.final.bias")


def test_unknown_weight(rewrite):
    refused(rewrite(lambda s: {**s, "surplus": torch.zeros(1)}), "unknown", "surplus")


def test_shape_mismatch(rewrite):
    path = rewrite(lambda s: {**s, "mrf.final.bias": torch.zeros(7)})
    refused(path, "mrf.final.bias", "(7,) instead of (5,)")


def test_weights_that_are_not_finite(rewrite):
    def spoil(state):
        state["mrf.final.bias"][0] = float("nan")
        return state

    refused(rewrite(spoil), "mrf.final.bias", "not finite")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v.double() * 1e300, "not finite in torch.float32"),
        (lambda v: v.to(torch.complex64), "torch.complex64 instead of torch.float32"),
        (lambda v: v.to(torch.int32), "torch.int32 instead of torch.float32"),
        (lambda v: v > 0, "torch.bool instead of torch.float32"),
        (lambda v: v.to(torch.float8_e4m3fn), "torch.float8_e4m3fn instead of torch.float32"),
    ],
)
def test_weights_that_no_network_holds(rewrite, change, words):
    """They would become infinite, or round, without a word."""
    name = "mrf.final.weight"
    refused(rewrite(lambda s: {**s, name: change(1 + s[name].abs())}), name, words)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_precision_load(rewrite, kind):
    path = rewrite(lambda s: {k: v.to(kind) if v.is_floating_point() else v for k, v in s.items()})
    weights = load_checkpoint(path).network.state_dict().values()
    assert {v.dtype for v in weights if v.is_floating_point()} == {torch.float32}


def test_negative_variances(tmp_path, tiny_card):
    """Of their square root every label would be the background."""
    card = with_architecture(tiny_card, {**tiny_card.architecture, "norm": "batch"}, None, 5)
    path = tmp_path / "negative.safetensors"
    state = build_network(card).state_dict()
    key = next(k for k in state if k.endswith("running_var"))
    state[key][0] = -1
    save_file(state, path, {"card": json.dumps(card.to_dict())})
    refused(path, key, "negative variances")


def test_unknown_hyper_parameter(rewrite):
    def change(card):
        card["architecture"]["depth"] = 3
        return card

    refused(rewrite(change_card=change), "architecture cannot be built", "depth")


def test_number_of_classes_must_agree(rewrite):
    refused(rewrite(change_card=lambda c: {**c, "classes": c["classes"][:4]}), "4 classes", "has 5")


def test_neither_name_nor_file():
    with pytest.raises(CheckpointError, match=r"no-such-model.*Bundled models: "):
        find_checkpoint("no-such-model")


def test_folder_that_may_not_be_entered(monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(CheckpointError, match=r"/locked/a\.safetensors.*Permission denied.*Check"):
        find_checkpoint("/locked/a.safetensors")


def test_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path)


def test_bundled_models_load():
    for info in bundled_models():
        assert load_checkpoint(info.card.name).path == info.path
        assert info.path.stat().st_size < 10e6


def test_digest_is_of_the_whole_file(tiny_checkpoint, tmp_path):
    path = tmp_path / "large.safetensors"
    path.write_bytes(bytes(3 << 20) + b"end")
    info = replace(read_info(tiny_checkpoint), path=path)
    assert info.sha256() == hashlib.sha256(path.read_bytes()).hexdigest()


def test_biases_keep_their_precision_in_a_file_of_half_the_size(tmp_path, tiny_checkpoint):
    checkpoint = load_checkpoint(tiny_checkpoint)
    save_checkpoint(tmp_path / "half.safetensors", checkpoint.network, checkpoint.card, half=True)
    stored = load_file(tmp_path / "half.safetensors")
    assert {v.dtype for v in stored.values() if v.dim() > 1} == {torch.float16}
    few = [v.dtype for v in stored.values() if v.dim() <= 1 and v.is_floating_point()]
    assert set(few) == {torch.float32}
