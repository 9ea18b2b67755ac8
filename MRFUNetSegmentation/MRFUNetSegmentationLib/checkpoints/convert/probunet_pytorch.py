"""Probabilistic U-Net checkpoints of the PyTorch port most in use.

github.com/stefanknegt/Probabilistic-Unet-Pytorch, revision 8015281. It is 2D; weights of the same
names for 3D are read as well.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...errors import CheckpointError
from ...networks import ProbabilisticUNet, ProbabilisticUNetConfig
from .weights import load_exactly, unknown_name

_LEAF = r"\.(?P<leaf>weight|bias)"
_CONTRACTING = re.compile(r"unet\.contracting_path\.(?P<scale>\d+)\.layers\.(?P<layer>\d+)" + _LEAF)
_UPSAMPLING = re.compile(
    r"unet\.upsampling_path\.(?P<scale>\d+)\.conv_block\.layers\.(?P<layer>\d+)" + _LEAF
)
_ENCODER = re.compile(r"(?P<part>prior|posterior)\.encoder\.layers\.(?P<layer>\d+)" + _LEAF)
_MOMENTS = re.compile(r"(?P<part>prior|posterior)\.conv_layer" + _LEAF)
_HIDDEN = re.compile(r"fcomb\.layers\.(?P<layer>\d+)" + _LEAF)
_LAST = re.compile(r"fcomb\.last_layer" + _LEAF)


def convert(state: Mapping[str, Tensor], given: Mapping[str, Any]) -> ProbabilisticUNet:
    """Return the network of a state dict.

    Args:
        state: by upstream's names.
        given: must be empty: the weights show everything.

    Raises:
        CheckpointError: if the weights are those of another network.
    """
    if given:
        raise CheckpointError(
            f"the card's architecture gives {sorted(given)[0]}, but the weights show it. "
            "Leave it out."
        )
    config = _inferred(state)
    upstream = {}
    for name in state:
        upstream[_renamed(name, config)] = name
    renamed = {ours: state[name] for ours, name in upstream.items()}
    renamed, upstream = _first_layer_split(renamed, upstream, config.filters[0])
    network = ProbabilisticUNet(config)
    load_exactly(network, renamed, upstream)
    return network


def _inferred(state: Mapping[str, Tensor]) -> ProbabilisticUNetConfig:
    """Hyper-parameters from the weights' names and shapes."""
    scales = defaultdict(list)
    for name, value in state.items():
        match = _CONTRACTING.fullmatch(name)
        if match and match["leaf"] == "weight":
            scales[int(match["scale"])].append(value)
    hidden = [n for n in state if (m := _HIDDEN.fullmatch(n)) and m["leaf"] == "weight"]
    last, moments = state.get("fcomb.last_layer.weight"), state.get("prior.conv_layer.weight")
    if sorted(scales) != list(range(len(scales))) or not scales or not hidden:
        raise _not_this_network()
    if last is None or moments is None:
        raise _not_this_network()
    return ProbabilisticUNetConfig(
        dim=scales[0][0].dim() - 2,
        classes=last.shape[0],
        in_channels=scales[0][0].shape[1],
        filters=tuple(scales[n][0].shape[0] for n in sorted(scales)),
        convolutions=len(scales[0]),
        latent=moments.shape[0] // 2,
        f_comb_layers=len(hidden) + 1,
    )


def _not_this_network() -> CheckpointError:
    return CheckpointError(
        "no Probabilistic U-Net of this port: U-Net, prior or f_comb are missing. "
        "Choose the code that it was trained with (--from), or the right file."
    )


def _renamed(name: str, config: ProbabilisticUNetConfig) -> str:
    """Return our name of a weight.

    Upstream counts activations and pooling among the layers. So do our stacks, but for the
    pooling, and each of our scales counts anew.
    """
    per_scale = 2 * config.convolutions
    if match := _CONTRACTING.fullmatch(name):
        pooled = int(match["scale"]) > 0
        return "unet.encoder.scales.{}.{}.{}".format(
            match["scale"], int(match["layer"]) - pooled, match["leaf"]
        )
    if match := _UPSAMPLING.fullmatch(name):
        return "unet.decoder.{}.{}.{}".format(match["scale"], match["layer"], match["leaf"])
    if match := _ENCODER.fullmatch(name):
        # One flat list: the layers of a scale, then a pooling, and so on.
        scale, layer = divmod(int(match["layer"]), per_scale + 1)
        return f"{match['part']}_encoder.encoder.scales.{scale}.{layer}.{match['leaf']}"
    if match := _MOMENTS.fullmatch(name):
        return f"{match['part']}_encoder.moments.{match['leaf']}"
    if match := _HIDDEN.fullmatch(name):
        layer = int(match["layer"])
        if layer == 0:
            return f"f_comb.features.{match['leaf']}"
        return f"f_comb.hidden.{layer // 2 - 1}.{match['leaf']}"
    if match := _LAST.fullmatch(name):
        return f"f_comb.final.{match['leaf']}"
    raise unknown_name(name, "Probabilistic-Unet-Pytorch")


def _first_layer_split(
    state: dict[str, Tensor], upstream: dict[str, str], width: int
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Part f_comb's first layer into features and latent; 1x1 layers of vectors lose their 1x1."""
    state, upstream = dict(state), dict(upstream)
    first = state["f_comb.features.weight"]
    state["f_comb.features.weight"] = first[:, :width].contiguous()
    state["f_comb.latent.weight"] = first[:, width:].flatten(1).contiguous()
    upstream["f_comb.latent.weight"] = upstream["f_comb.features.weight"]
    for part in ("prior", "posterior"):
        key = f"{part}_encoder.moments.weight"
        if key in state:
            state[key] = state[key].flatten(1)
    return state, upstream
