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
from .weights import built_and_loaded, by_our_names, convolution_weight, unknown_name

_LEAF = r"\.(?P<leaf>weight|bias)"
_CONTRACTING = re.compile(
    r"unet\.contracting_path\.(?P<scale>\d{1,3})\.layers\.(?P<layer>\d{1,3})" + _LEAF
)
_UPSAMPLING = re.compile(
    r"unet\.upsampling_path\.(?P<scale>\d{1,3})\.conv_block\.layers\.(?P<layer>\d{1,3})" + _LEAF
)
_ENCODER = re.compile(r"(?P<part>prior|posterior)\.encoder\.layers\.(?P<layer>\d{1,3})" + _LEAF)
_MOMENTS = re.compile(r"(?P<part>prior|posterior)\.conv_layer" + _LEAF)
_HIDDEN = re.compile(r"fcomb\.layers\.(?P<layer>\d{1,3})" + _LEAF)
_LAST = re.compile(r"fcomb\.last_layer" + _LEAF)
# Whose shapes show the hyper-parameters.
_NEEDED = (
    "unet.contracting_path.0.layers.0.weight",
    "fcomb.layers.0.weight",
    "fcomb.last_layer.weight",
    "prior.conv_layer.weight",
)


def convert(state: Mapping[str, Tensor], given: Mapping[str, Any]) -> ProbabilisticUNet:
    """Return the network of a state dict.

    Args:
        state: by upstream's names.
        given: not used: the weights show everything.

    Raises:
        CheckpointError: if the weights are those of another network.
    """
    config = _inferred(state)
    upstream = by_our_names(state, lambda name: _renamed(name, config))
    renamed = {ours: state[name] for ours, name in upstream.items()}
    renamed, upstream = _first_layer_split(renamed, upstream, config.filters[0])
    return built_and_loaded(lambda: ProbabilisticUNet(config), renamed, upstream)


def _inferred(state: Mapping[str, Tensor]) -> ProbabilisticUNetConfig:
    """Hyper-parameters from the weights' names and shapes."""
    scales = defaultdict(list)
    for name, value in state.items():
        match = _CONTRACTING.fullmatch(name)
        if match and match["leaf"] == "weight":
            scales[int(match["scale"])].append(convolution_weight(name, value))
    if sorted(scales) != list(range(len(scales))) or not state.keys() >= set(_NEEDED):
        raise _not_this_network()
    first, _, last, moments = (convolution_weight(name, state[name]) for name in _NEEDED)
    hidden = [n for n in state if (m := _HIDDEN.fullmatch(n)) and m["leaf"] == "weight"]
    try:
        return ProbabilisticUNetConfig(
            dim=first.dim() - 2,
            classes=last.shape[0],
            in_channels=first.shape[1],
            filters=tuple(scales[n][0].shape[0] for n in sorted(scales)),
            convolutions=len(scales[0]),
            latent=moments.shape[0] // 2,
            f_comb_layers=len(hidden) + 1,
        )
    except ValueError as error:
        raise CheckpointError(f"the network cannot be built: {error}.") from error


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
        if key in state and state[key].shape[2:] == (1,) * (first.dim() - 2):
            state[key] = state[key].flatten(1)
    return state, upstream
