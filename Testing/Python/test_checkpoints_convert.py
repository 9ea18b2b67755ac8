"""Checkpoints of the networks' published code give their numbers; anything else is refused."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from MRFUNetSegmentationLib.checkpoints.convert import (
    SOURCES,
    convert,
    nitorch,
    probunet_pytorch,
    pth,
)
from MRFUNetSegmentationLib.checkpoints.load import load_checkpoint
from MRFUNetSegmentationLib.cli.main import main
from MRFUNetSegmentationLib.errors import CheckpointError
from MRFUNetSegmentationLib.networks import ProbabilisticUNet, ProbabilisticUNetConfig
from torch import nn
from torch.nn import functional

TOLERANCE = 1e-5


def card(classes: int, dim: int = 3, **architecture) -> dict:
    """A card as a user would write it: no architecture but what weights do not show."""
    result = {
        "name": "converted",
        "title": "Converted",
        "description": "For tests.",
        "classes": [
            {"value": n, "name": f"class {n}", "color": [n, n, n], "background": n == 0}
            for n in range(classes)
        ],
        "input": {
            "modality": "MRI",
            "voxel_size": [1.0, 1.0, 1.0],
            "orientation": "RAS",
            "normalisation": {"method": "none"},
        },
        "training": {"data": [], "seed": None, "steps": None, "metrics": {}},
        "licence": "MIT",
        "citation": "none",
        "intended_use": "tests",
    }
    if dim == 2:
        result["input"]["slice_plane"] = "axial"
    if architecture:
        result["architecture"] = architecture
    return result


# ---- The published forward passes, written on the state dicts ------------------------------


def seg_mrf_net(
    state: dict, image: torch.Tensor, iterations: int, w: float, revision: str = "c3676d0"
):
    """Logits and posterior of nitorch's SegMRFNet (revision c3676d0 or 266f856)."""
    pad = {"c3676d0": 0, "266f856": 1}[revision]
    dim = image.dim() - 2
    conv = {2: functional.conv2d, 3: functional.conv3d}[dim]
    transposed = {2: functional.conv_transpose2d, 3: functional.conv_transpose3d}[dim]

    def block(x, name, operation, **options):
        norm = f"{name}.batch_norm.batchnorm."
        if norm + "weight" in state:
            x = functional.batch_norm(
                x, *(state[norm + k] for k in ("running_mean", "running_var", "weight", "bias"))
            )
        return operation(x, state[f"{name}.conv.weight"], state[f"{name}.conv.bias"], **options)

    def number(part):
        return len({k.split(".")[3] for k in state if k.startswith(f"unet.unet.{part}.")})

    def leaky(x):
        return functional.leaky_relu(x, 0.2)

    def plain(x):
        return x

    last = number("stack") - 1
    last_up, full_resolution = leaky, leaky
    if revision == "266f856":
        last_up = leaky if last else plain
        full_resolution = torch.relu if last == 1 else plain

    skips = [image]
    for n in range(number("encoder")):
        skips.append(leaky(block(skips[-1], f"unet.unet.encoder.{n}", conv, stride=2, padding=pad)))
    x = skips.pop()
    for n in range(number("decoder")):
        skip = skips.pop()
        more = [s - (2 * i + 1 - 2 * pad) for s, i in zip(skip.shape[2:], x.shape[2:], strict=True)]
        x = block(
            x, f"unet.unet.decoder.{n}", transposed, stride=2, padding=pad, output_padding=more
        )
        x = torch.cat((leaky(x) if skips else last_up(x), skip), 1)
    for n in range(last + 1):
        x = block(x, f"unet.unet.stack.{n}", conv, padding=1)
        x = full_resolution(x) if n < last else x
    logits = x
    if "mrf.mrf.mrf.conv.weight" not in state:
        return logits, logits.softmax(1)
    log_likelihood = logits - logits.logsumexp(1, keepdim=True)
    r = torch.full_like(logits, 1 / logits.shape[1])
    for _ in range(iterations):
        x = leaky(block(r, "mrf.mrf.mrf", conv, padding=1))
        if "mrf.mrf.extra.conv.weight" in state:
            x = leaky(block(x, "mrf.mrf.extra", conv))
        new = (log_likelihood + block(x, "mrf.mrf.final", conv)).softmax(1)
        r = w * new + (1 - w) * r
    return logits, r


def random_seg_mrf_net(
    dim=3, classes=3, channels=1, encoder=(4, 6), decoder=(6, 5, 4), mrf=True, extra=False,
    batch_norm=True, centre=False, seed=0,
) -> dict:  # fmt: skip
    """A state dict of nitorch's SegMRFNet with random weights."""
    rng = torch.Generator().manual_seed(seed)
    state = {}

    def add(name, i, o, kernel=3, transposed=False, norm=batch_norm):
        if norm:
            prefix = f"{name}.batch_norm.batchnorm."
            state[prefix + "weight"] = 0.5 + torch.rand(i, generator=rng)
            state[prefix + "bias"] = torch.randn(i, generator=rng) * 0.1
            state[prefix + "running_mean"] = torch.randn(i, generator=rng) * 0.1
            state[prefix + "running_var"] = 0.5 + torch.rand(i, generator=rng)
            state[prefix + "num_batches_tracked"] = torch.tensor(7)
        shape = (i, o) if transposed else (o, i)
        scale = 1 / (i * kernel**dim) ** 0.5
        state[f"{name}.conv.weight"] = scale * torch.randn(*shape, *[kernel] * dim, generator=rng)
        state[f"{name}.conv.bias"] = 0.1 * torch.randn(o, generator=rng)

    widths = [channels, *encoder]
    for n, o in enumerate(encoder):
        add(f"unet.unet.encoder.{n}", widths[n], o)
    x = widths.pop()
    for n, o in enumerate(decoder[: len(encoder)]):
        add(f"unet.unet.decoder.{n}", x, o, transposed=True)
        x = o + widths.pop()
    for n, o in enumerate((*decoder[len(encoder) :], classes)):
        add(f"unet.unet.stack.{n}", x, o)
        x = o
    if mrf:
        filters = min(classes**2, 64)
        add("mrf.mrf.mrf", classes, filters, norm=False)
        if not centre:
            state["mrf.mrf.mrf.conv.weight"][(slice(None), slice(None), *[1] * dim)] = 0
        if extra:
            add("mrf.mrf.extra", filters, filters, 1, norm=False)
        add("mrf.mrf.final", filters, classes, 1, norm=False)
    return state


def in_other_spelling(state: dict) -> dict:
    """The same weights with the convolutions one level deeper."""
    return {key.replace(".conv.", ".conv.conv."): value for key, value in state.items()}


def nested(state: dict) -> dict:
    """Names of the class of March to May 2021 (266f856)."""
    last = max(int(k.split(".")[3]) for k in state if k.startswith("unet.unet.stack."))
    extra = any(k.startswith("mrf.mrf.extra.") for k in state)
    result = {}
    for key, value in in_other_spelling(state).items():
        name = key
        for part in ("encoder", "decoder"):
            if name.startswith(f"unet.unet.{part}."):
                words = name.split(".")
                name = ".".join([*words[:4], "0", *words[4:]])
        name = name.replace(f"unet.unet.stack.{last}.", "unet.unet.final.")
        name = name.replace("mrf.mrf.extra.", "mrf.mrf.extra.0.")
        name = name.replace("mrf.mrf.final.", f"mrf.mrf.extra.{int(extra)}.")
        result[name] = value
    return result


def saved(tmp_path: Path, content, name="upstream.pth") -> Path:
    torch.save(content, tmp_path / name)
    return tmp_path / name


@torch.no_grad()
def largest_difference(a: torch.Tensor, b) -> float:
    return float((a - torch.as_tensor(b)).abs().max())


CONFIGURATIONS = {
    "3D": {},
    "2D": {"dim": 2, "encoder": (4, 6, 8), "decoder": (8, 6, 4)},
    "many classes": {"classes": 11},
    "one extra layer": {"extra": True},
    "no extra layer, three channels": {"channels": 3},
    "U-Net only": {"mrf": False},
    "one level, deep output": {"encoder": (5,), "decoder": (5, 7, 6, 5)},
    "four levels": {"encoder": (2, 3, 4, 5), "decoder": (5, 4, 3, 2)},
    "two layers at full resolution": {"encoder": (4, 6), "decoder": (6, 5, 4, 3)},
    "no batch normalisation": {"batch_norm": False},
    "centre of the MRF kernel kept": {"centre": True},
}
SIZES = {2: (41, 30), 3: (33, 40, 31)}


@pytest.mark.parametrize(
    ("spelling", "revision"),
    [(dict, "c3676d0"), (in_other_spelling, "c3676d0"), (nested, "266f856")],
    ids=["conv", "conv.conv", "nested"],
)
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_any_configuration_of_nitorch_gives_the_published_numbers(
    tmp_path, name, spelling, revision
):
    options = {"dim": 3, "classes": 3, "channels": 1, "mrf": True, **CONFIGURATIONS[name]}
    state = random_seg_mrf_net(**CONFIGURATIONS[name])
    given = {"iterations": 4, "w": 0.6} if options["mrf"] else {}
    path = saved(tmp_path, spelling(state))
    network, checked = convert(path, None, card(options["classes"], options["dim"], **given))
    image = torch.randn(2, options["channels"], *SIZES[options["dim"]])
    logits, posterior = seg_mrf_net(state, image, 4, 0.6, revision)
    with torch.no_grad():
        assert largest_difference(network.logits(image), logits) <= TOLERANCE
        assert largest_difference(network(image), posterior) <= TOLERANCE
    assert checked.architecture["mrf"] is options["mrf"]
    assert checked.architecture["strided_padding"] == (revision == "266f856")
    if "centre" in CONFIGURATIONS[name]:
        assert checked.architecture["mrf_free_centre"]


@pytest.mark.parametrize("fixture", ["2d_k4", "3d_k3_default", "3d_k4_paper_j1"])
def test_nitorch_fixtures(upstream_fixtures, fixture):
    path = upstream_fixtures / f"nitorch_segmrfnet_{fixture}.pth"
    arrays = np.load(path.with_suffix(".npz"))
    classes = arrays["posterior"].shape[1]
    network, _ = convert(path, "nitorch", card(classes, arrays["image"].ndim - 2))
    image = torch.from_numpy(arrays["image"])
    with torch.no_grad():
        assert largest_difference(network.logits(image), arrays["unet_logits"]) <= TOLERANCE
        assert largest_difference(network(image), arrays["posterior"]) <= TOLERANCE


def test_nitorch_fixture_without_mrf(upstream_fixtures):
    path = upstream_fixtures / "nitorch_segnet_only_3d_k3.pth"
    arrays = np.load(path.with_suffix(".npz"))
    network, _ = convert(path, "nitorch", card(3))
    image = torch.from_numpy(arrays["image"])
    with torch.no_grad():
        assert largest_difference(network.logits(image), arrays["unet_logits"]) <= TOLERANCE
        assert largest_difference(network(image), arrays["posterior"]) <= TOLERANCE


@pytest.mark.parametrize("fixture", ["c1_latent2_small", "c3_latent6_small"])
def test_probunet_fixtures(upstream_fixtures, fixture):
    path = upstream_fixtures / f"probunet_{fixture}.pth"
    a = {k: torch.from_numpy(v) for k, v in np.load(path.with_suffix(".npz")).items()}
    classes = a["logits"].shape[2]
    network, checked = convert(path, None, card(max(2, classes), 2))
    assert checked.architecture["latent"] == a["prior_mean"].shape[1]
    with torch.no_grad():
        features, prior = network.features(a["image"]), network.prior(a["image"])
        posterior = network.posterior(a["image"], a["segmentation"][:, 0])
        projected = network.project(features)
        assert largest_difference(features, a["unet_features"]) <= TOLERANCE
        assert largest_difference(prior.mean, a["prior_mean"]) <= TOLERANCE
        assert largest_difference(prior.stddev, a["prior_scale"]) <= TOLERANCE
        assert largest_difference(posterior.mean, a["posterior_mean"]) <= TOLERANCE
        assert largest_difference(posterior.stddev, a["posterior_scale"]) <= TOLERANCE
        for epsilon, logits in zip(a["epsilon"], a["logits"], strict=True):
            z = prior.mean + prior.stddev * epsilon
            assert largest_difference(network.decode(projected, z), logits) <= TOLERANCE


# ---- The port's names, made from a network of ours -----------------------------------------


def as_the_port_names_it(network: ProbabilisticUNet) -> dict:
    """The state dict that the published port would have for this network."""
    n, result = network.config.convolutions, {}
    state = network.state_dict()
    vector = (1,) * network.config.dim
    for key, value in state.items():
        words = key.split(".")
        leaf = words[-1]
        if key.startswith("unet.encoder.scales."):
            scale, layer = int(words[3]), int(words[4])
            name = f"unet.contracting_path.{scale}.layers.{layer + (scale > 0)}.{leaf}"
        elif key.startswith("unet.decoder."):
            name = f"unet.upsampling_path.{words[2]}.conv_block.layers.{words[3]}.{leaf}"
        elif ".encoder.scales." in key:
            part, layer = words[0].removesuffix("_encoder"), int(words[4])
            name = f"{part}.encoder.layers.{int(words[3]) * (2 * n + 1) + layer}.{leaf}"
        elif ".moments." in key:
            name = f"{words[0].removesuffix('_encoder')}.conv_layer.{leaf}"
            value = value.view(*value.shape, *vector) if leaf == "weight" else value
        elif key == "f_comb.features.weight":
            latent = state["f_comb.latent.weight"]
            name = "fcomb.layers.0.weight"
            value = torch.cat((value, latent.view(*latent.shape, *vector)), 1)
        elif key == "f_comb.features.bias":
            name = "fcomb.layers.0.bias"
        elif key.startswith("f_comb.hidden."):
            name = f"fcomb.layers.{2 * int(words[2]) + 2}.{leaf}"
        elif key.startswith("f_comb.final."):
            name = f"fcomb.last_layer.{leaf}"
        else:
            assert key == "f_comb.latent.weight"
            continue
        result[name] = value
    return result


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"classes": 4, "in_channels": 2, "latent": 3},
        {"filters": (6,), "f_comb_layers": 2},
        {"filters": (4, 5, 6, 7, 8), "convolutions": 1, "f_comb_layers": 6},
        {"dim": 3, "convolutions": 2},
    ],
    ids=str,
)
def test_any_configuration_of_the_port_is_inferred(tmp_path, options):
    config = ProbabilisticUNetConfig(**{"filters": (4, 6, 8), **options})
    original = ProbabilisticUNet(config).eval()
    path = saved(tmp_path, as_the_port_names_it(original))
    network, _ = convert(path, "probunet-pytorch", card(max(2, config.classes), config.dim))
    assert network.config == config
    for key, value in original.state_dict().items():
        assert torch.equal(value, network.state_dict()[key]), key


# ---- Files in other clothes ----------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model_state_dict": s},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {"state_dict": {f"model.net.{k}": v for k, v in s.items()}, "lr": 1e-3},
        lambda s: {"model": {"state_dict": s}},
        lambda s: {k: v.bfloat16().float() if v.is_floating_point() else v for k, v in s.items()},
    ],
    ids=[
        "Lightning",
        "model_state_dict",
        "DataParallel",
        "both prefixes",
        "dict in a dict",
        "rounded",
    ],
)
def test_wrappers_are_taken_off(tmp_path, wrap):
    state = random_seg_mrf_net()
    network, _ = convert(saved(tmp_path, wrap(state)), "nitorch", card(3))
    weight = network.state_dict()["unet.stack.1.conv.weight"]
    assert largest_difference(weight, state["unet.unet.stack.1.conv.weight"]) < 1e-2


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(tmp_path, precision):
    state = random_seg_mrf_net()
    state = {k: v.to(precision) if v.is_floating_point() else v for k, v in state.items()}
    network, _ = convert(saved(tmp_path, state), "nitorch", card(3))
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_old_format_of_files_is_read(tmp_path):
    path = tmp_path / "old.pth"
    torch.save(random_seg_mrf_net(), path, _use_new_zipfile_serialization=False)
    convert(path, "nitorch", card(3))


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def changed(part: str, value: torch.Tensor) -> dict:
    return {**random_seg_mrf_net(), f"unet.unet.encoder.{part}": value}


def without(state: dict, part: str) -> dict:
    return {k: v for k, v in state.items() if part not in k}


REFUSED = {
    "whole module": (lambda: nn.Conv2d(1, 1, 1), "more than weights"),
    "no dict": (lambda: [1, 2], "holds list, not a state dict"),
    "empty": (dict, "not a state dict"),
    "no tensors": (lambda: {"a": "b"}, "'a' is str"),
    "another network": (lambda: nn.Linear(2, 2).state_dict(), "weight is no weight of a network"),
    "the other source": (
        lambda: as_the_port_names_it(ProbabilisticUNet(ProbabilisticUNetConfig(filters=(4, 4)))),
        "no weight of a network of nitorch",
    ),
    "missing bias": (
        lambda: without(random_seg_mrf_net(), "encoder.1.conv.bias"),
        "1 weights of the network are missing",
    ),
    "missing level": (lambda: without(random_seg_mrf_net(), "encoder.0"), "missing"),
    "extra weight": (
        lambda: changed("5.conv.weight", torch.zeros(2)),
        r"do not belong to the network, the first is unet.unet.encoder.5",
    ),
    "wrong shape": (
        lambda: changed("1.conv.bias", torch.zeros(99)),
        r"encoder.1.conv.bias has shape \(99,\)",
    ),
    "larger kernel": (
        lambda: changed("1.conv.weight", torch.zeros(6, 4, 5, 5, 5)),
        r"encoder.1.conv.weight has shape \(6, 4, 5, 5, 5\)",
    ),
    "NaN": (
        lambda: changed("1.conv.bias", torch.full((6,), torch.nan)),
        "not finite",
    ),
    "negative variance": (
        lambda: changed("0.batch_norm.batchnorm.running_var", -torch.ones(1)),
        "negative variances",
    ),
    "two spellings of a weight": (
        lambda: changed("1.conv.conv.bias", torch.zeros(6)),
        "claim the same place",
    ),
    "nested names and others": (
        lambda: nested(random_seg_mrf_net()) | random_seg_mrf_net(),
        "is no weight of a network of nitorch",
    ),
    "class of 18 May 2021 or later": (
        lambda: {"unet.unet.first.conv.conv.weight": torch.zeros(4, 1, 3, 3, 3)},
        "class of 18 May 2021 or later.* lost the U-Net's activations",
    ),
    "integers": (lambda: changed("1.conv.bias", torch.zeros(6, dtype=torch.int32)), "torch.int32"),
    "no values": (lambda: changed("1.conv.bias", torch.zeros(0)), "the file holds 0 values"),
    "one value for a million": (
        lambda: changed("1.conv.bias", torch.zeros(1).expand(10**6)),
        r"shape \(1000000,\), but the file holds 1 values",
    ),
    "no storage": (
        lambda: changed("1.conv.bias", torch.zeros(6, device="meta")),
        "the file holds 0 values",
    ),
    "widths beyond all memory": (
        lambda: {
            key: torch.zeros(10**6, 1, 1, 1, 1) if key.endswith(".conv.weight") else value
            for key, value in random_seg_mrf_net().items()
        },
        "ask for",
    ),
    "complex": (lambda: {"a": torch.zeros(2, dtype=torch.complex64)}, "complex"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_defects_are_refused_with_their_reason(tmp_path, name):
    content, message = REFUSED[name]
    path = saved(tmp_path, content())
    with pytest.raises(CheckpointError, match=message) as caught:
        convert(path, "nitorch", card(3))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("source", ["nitorch", "nitorch, nested", "probunet-pytorch"])
def test_no_change_of_a_single_weight_goes_unnoticed(source):
    """Left out, renamed, or of another shape: refused, whichever weight it is."""
    if source.startswith("nitorch"):
        state, read = random_seg_mrf_net(extra=True), nitorch.convert
        state = nested(state) if "nested" in source else state
    else:
        config = ProbabilisticUNetConfig(filters=(2, 3), convolutions=2, latent=1)
        state = as_the_port_names_it(ProbabilisticUNet(config))
        read = probunet_pytorch.convert
    read(state, {})
    for key in state:
        if key.endswith("num_batches_tracked"):
            continue
        rest = without(state, key)
        for changes in (
            {},
            {key + "x": state[key]},
            {key: torch.zeros(())},
            {key: torch.zeros(7, 7)},
            {key: state[key][None]},
            {key: torch.cat((state[key], state[key]))},
        ):
            with pytest.raises(CheckpointError):
                read({**rest, **changes}, {})


def test_order_of_the_weights_does_not_matter():
    config = ProbabilisticUNetConfig(filters=(2, 3), convolutions=6, latent=1)
    state = as_the_port_names_it(ProbabilisticUNet(config))
    network = probunet_pytorch.convert(dict(sorted(state.items(), reverse=True)), {})
    assert network.config == config


def test_code_in_a_file_does_not_run(tmp_path):
    trap = tmp_path / "trap"
    with (tmp_path / "bad.pth").open("wb") as file:
        pickle.dump(Malicious(trap), file)
    torch.save({"state_dict": {}, "payload": Malicious(trap)}, tmp_path / "bad2.pth")
    for name in ("bad.pth", "bad2.pth"):
        with pytest.raises(CheckpointError, match=r"so it is not opened|no file of PyTorch"):
            convert(tmp_path / name, "nitorch", card(3))
    assert not trap.exists()


def test_truncated_and_foreign_files(tmp_path):
    whole = saved(tmp_path, random_seg_mrf_net()).read_bytes()
    for name, content in (("half", whole[: len(whole) // 2]), ("empty", b""), ("text", b"hello")):
        path = tmp_path / f"{name}.pth"
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=f"{name}.pth"):
            convert(path, "nitorch", card(3))
    with pytest.raises(CheckpointError, match=r"gone.pth: the file cannot be read"):
        convert(tmp_path / "gone.pth", "nitorch", card(3))


@pytest.mark.parametrize(
    "damage",
    [{6: b"\xff"}, {8: b"\x00\x08", 46: b"\xff\xfe"}],
    ids=["version that is needed", "name that is no UTF-8"],
)
def test_damaged_table_of_an_archive(tmp_path, damage):
    """Python's reader of archives raises other errors than that of a bad archive."""
    whole = saved(tmp_path, random_seg_mrf_net()).read_bytes()
    entry = whole.index(b"PK\x01\x02")
    path = tmp_path / "damaged.pth"
    changed = bytearray(whole)
    for at, value in damage.items():
        changed[entry + at : entry + at + len(value)] = value
    path.write_bytes(changed)
    with pytest.raises(CheckpointError, match=r"damaged\.pth: the file is damaged"):
        convert(path, "nitorch", card(3))


def test_zip_bomb_is_not_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 50_000_000)
    monkeypatch.setattr(pth.torch, "load", lambda *a, **k: pytest.fail("opened"))
    with pytest.raises(CheckpointError, match="would unpack to"):
        convert(path, "nitorch", card(3))


def test_old_torch_is_refused(tmp_path, monkeypatch):
    path = saved(tmp_path, random_seg_mrf_net())
    monkeypatch.setattr(pth.torch, "__version__", "2.5.1+cpu")
    with pytest.raises(CheckpointError, match=r"Update torch to 2.6"):
        convert(path, "nitorch", card(3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": card(4)["classes"]}, "names 4 classes, but the network has 3"),
        ({"architecture": {"iterations": 0}}, "iterations = 0, not a whole number"),
        ({"architecture": {"iterations": 2.5}}, "iterations = 2.5, not a whole number"),
        ({"architecture": {"training_iterations": [9, 5]}}, "two whole numbers in order"),
        ({"architecture": {"training_iterations": "5"}}, "two whole numbers"),
        ({"architecture": {"w": 0}}, "w = 0, not a number above 0, at most 1"),
        ({"architecture": {"w": 1.5}}, "w = 1.5, not a number above 0, at most 1"),
        (
            {"architecture": {"encoder": [1]}},
            r"gives encoder = \[1\], but the weights show \[4, 6\]",
        ),
        ({"architecture": {"type": "probabilistic-unet"}}, "but the weights show mrf-unet"),
        ({"architecture": {"depth": 3}}, "gives depth, which a mrf-unet does not have"),
        ({"architecture": 3}, "must be an object"),
        ({"title": ""}, "title"),
        ({"input": card(3, 2)["input"]}, "3D, so the card's input.slice_plane must go"),
    ],
)
def test_card_that_does_not_fit(tmp_path, changes, message):
    path = saved(tmp_path, random_seg_mrf_net())
    with pytest.raises(CheckpointError, match=message):
        convert(path, "nitorch", {**card(3), **changes})


def test_card_of_a_converted_network_converts_it_again(tmp_path):
    path = saved(tmp_path, random_seg_mrf_net())
    _, checked = convert(path, "nitorch", card(3, iterations=7, w=0.5, training_iterations=[2, 3]))
    _, again = convert(path, "nitorch", checked.to_dict())
    assert again == checked
    assert again.architecture["iterations"] == 7


def test_defaults_are_the_published_ones(tmp_path):
    _, checked = convert(saved(tmp_path, random_seg_mrf_net()), "nitorch", card(3))
    assert checked.architecture["iterations"] == 10
    assert checked.architecture["training_iterations"] == [5, 15]
    assert checked.architecture["w"] == 1


def test_weights_of_other_code_are_named_as_such(tmp_path):
    path = saved(tmp_path, {"layer1.weight": torch.ones(2)})
    with pytest.raises(CheckpointError, match="from none of nitorch, probunet-pytorch"):
        convert(path, None, card(3))


# ---- Command line --------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    saved(tmp_path, random_seg_mrf_net())
    (tmp_path / "card.json").write_text(json.dumps(card(3)), encoding="utf-8")
    return tmp_path


def run_convert(folder: Path, *more: str) -> int:
    return main(
        ["convert", str(folder / "upstream.pth"), "-o", str(folder / "out.safetensors"),
         "--from", "nitorch", "--card", str(folder / "card.json"), *more]
    )  # fmt: skip


def test_command_line_offers_every_source(capsys):
    with pytest.raises(SystemExit):
        main(["convert", "a", "-o", "b", "--from", "elsewhere", "--card", "c"])
    error = capsys.readouterr().err
    assert all(source in error for source in SOURCES)


def test_command_line_writes_a_checkpoint_that_loads(files, capsys):
    assert run_convert(files) == 0
    assert "encoder" in capsys.readouterr().out
    checkpoint = load_checkpoint(files / "out.safetensors")
    assert checkpoint.card.name == "converted"
    image = torch.randn(1, 1, 20, 20, 20)
    _, posterior = seg_mrf_net(random_seg_mrf_net(), image, 10, 1.0)
    with torch.no_grad():
        assert largest_difference(checkpoint.network(image), posterior) <= TOLERANCE


def test_command_line_tells_the_source_by_the_weights(files):
    checkpoint, card_file = str(files / "upstream.pth"), str(files / "card.json")
    output = files / "out.safetensors"
    assert main(["convert", checkpoint, "-o", str(output), "--card", card_file]) == 0
    assert output.is_file()


def test_command_line_keeps_what_is_there(files, capsys):
    (files / "out.safetensors").write_text("precious", encoding="utf-8")
    assert run_convert(files) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert (files / "out.safetensors").read_text(encoding="utf-8") == "precious"
    (files / "upstream.pth").write_bytes(b"broken")
    assert run_convert(files, "--overwrite") == 1
    assert (files / "out.safetensors").read_text(encoding="utf-8") == "precious"


@pytest.mark.parametrize("name", ["upstream.pth", "card.json", "link.safetensors"])
def test_command_line_never_replaces_what_it_converts(files, name, capsys):
    (files / "link.safetensors").symlink_to(files / "upstream.pth")
    before = (files / name).read_bytes()
    assert run_convert(files, "--overwrite", "-o", str(files / name)) == 1
    assert f"{name}: this is what is to be converted" in capsys.readouterr().err
    assert (files / name).read_bytes() == before


@pytest.mark.parametrize("text", ["{", "[]", None])
def test_command_line_with_an_unreadable_card(files, text, capsys):
    if text is None:
        (files / "card.json").unlink()
    else:
        (files / "card.json").write_text(text, encoding="utf-8")
    assert run_convert(files) == 1
    assert "card.json" in capsys.readouterr().err
    assert not (files / "out.safetensors").exists()
