"""MRF-UNet checkpoints of nitorch (`SegMRFNet`, February to mid-May 2021).

github.com/balbasty/nitorch is the reference implementation of Brudfors et al., MIDL 2021. Three
generations of its class have that name; measured on the class itself, from what its forward pass
returns:

- February 2021 (c3676d0): the paper's network.
- March to mid-May 2021 (0927724 to cf54d74, and so 266f856): blocks are nested, and the last
  layers have other names. The strided convolutions are padded, which the paper's are not. The
  activations at full resolution are lost: with one such layer it is a ReLU, with more there is
  none, with none the last decoder layer has no activation. Such a checkpoint becomes a network with
  these hyper-parameters, and gives upstream's numbers.
- From 18 May 2021 (f123100) on: another U-Net, without any activation; not converted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...errors import CheckpointError
from ...networks import MRFUNet, MRFUNetConfig
from .weights import built_and_loaded, by_our_names, convolution_weight, unknown_name

# What the weights do not show, and the card may give; upstream's defaults, which are the paper's.
DEFAULTS = {"iterations": 10, "training_iterations": (5, 15), "w": 1.0}

_NAMES = (
    (r"unet\.unet\.(?P<part>encoder|decoder|stack)\.(?P<n>\d{1,3})", "unet.{part}.{n}"),
    (r"mrf\.mrf\.mrf", "mrf.neighbours"),
    (r"mrf\.mrf\.extra(\.(?P<n>\d{1,3}))?", "mrf.extra.{n}"),
    (r"mrf\.mrf\.final", "mrf.final"),
)
_NESTED_NAMES = (
    (r"unet\.unet\.(?P<part>encoder|decoder)\.(?P<n>\d{1,3})\.0", "unet.{part}.{n}"),
    (r"unet\.unet\.stack\.(?P<n>\d{1,3})", "unet.stack.{n}"),
    (r"unet\.unet\.final", "unet.final"),
    (r"mrf\.mrf\.mrf", "mrf.neighbours"),
    (r"mrf\.mrf\.extra\.(?P<n>\d{1,3})", "mrf.extra.{n}"),
)
_LEAVES = (
    (r"\.batch_norm\.batchnorm\.(?P<leaf>\w+)", ".norm.{leaf}"),
    (r"\.conv(\.conv)?\.(?P<leaf>weight|bias)", ".conv.{leaf}"),
)
_NESTED = re.compile(r"unet\.unet\.(final|(encoder|decoder)\.\d+\.\d+)\..*")


def convert(state: Mapping[str, Tensor], given: Mapping[str, Any]) -> MRFUNet:
    """Return the network of a state dict.

    Args:
        state: by nitorch's names.
        given: "iterations", "training_iterations" and "w", each `DEFAULTS` where it is left out;
            other entries are not used.

    Raises:
        CheckpointError: if the weights are those of another network.
    """
    _refuse_last_generation(state)
    nested = any(_NESTED.fullmatch(name) for name in state)
    names = _NESTED_NAMES if nested else _NAMES
    upstream = by_our_names(state, lambda name: _renamed(name, names))
    if nested:
        upstream = _last_layers_renamed(upstream)
    renamed = {ours: state[name] for ours, name in upstream.items()}
    for key in [k for k in renamed if k.endswith(".running_var")]:
        if (renamed[key] < 0).any():
            raise CheckpointError(
                f"{upstream[key]} holds negative variances: the file is damaged. "
                "Get it again from where it came from."
            )
        # Not kept by every version of torch, and of no use here.
        renamed.setdefault(key.replace("running_var", "num_batches_tracked"), torch.tensor(0))
    config = _inferred(renamed)
    if nested:
        config |= {
            "strided_padding": 1,
            "decoder_activations": _nested_activations(
                len(config["encoder"]), len(config["decoder"])
            ),
        }
    config |= DEFAULTS | _valid({k: given[k] for k in DEFAULTS if k in given})
    return built_and_loaded(lambda: MRFUNet(MRFUNetConfig(**config)), renamed, upstream)


def _refuse_last_generation(state: Mapping[str, Tensor]) -> None:
    if any(name.startswith(("unet.unet.first.", "unet.unet.bottleneck.")) for name in state):
        raise CheckpointError(
            "written by nitorch's class of 18 May 2021 or later. That class lost the U-Net's "
            "activations by mistake, so it is another network than the paper's, and one whose "
            "results are of little use; it is not converted. Train again with a revision of "
            "February 2021 (c3676d0), or with this program."
        )


def _nested_activations(levels: int, layers: int) -> tuple[str, ...]:
    """Activations of the decoder's layers in the class of March to May 2021."""
    full_resolution = layers - levels
    if full_resolution == 0:
        return ("leaky_relu",) * (levels - 1) + ("none",)
    lost = "relu" if full_resolution == 1 else "none"
    return ("leaky_relu",) * levels + (lost,) * full_resolution


def _valid(given: dict[str, Any]) -> dict[str, Any]:
    """Hyper-parameters from the card, which may be of any JSON type."""
    iterations, w = given.get("iterations", 1), given.get("w", 1.0)
    training = given.get("training_iterations", [1, 1])
    if not _is_count(iterations):
        raise _invalid("iterations", iterations, "a whole number, at least 1")
    if not isinstance(training, (list, tuple)) or not all(_is_count(n) for n in training):
        raise _invalid("training_iterations", training, "two whole numbers, at least 1")
    if len(training) != 2 or training[0] > training[1]:
        raise _invalid("training_iterations", training, "two whole numbers in order")
    if type(w) not in (int, float) or not 0 < w <= 1:
        raise _invalid("w", w, "a number above 0, at most 1")
    return given


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def _invalid(name: str, value: Any, expected: str) -> CheckpointError:
    return CheckpointError(
        f"the card's architecture gives {name} = {value!r}, not {expected}. Correct the card."
    )


def _renamed(name: str, names: tuple[tuple[str, str], ...]) -> str:
    for stem, our_stem in names:
        for leaf, our_leaf in _LEAVES:
            match = re.fullmatch(stem + leaf, name)
            if match:
                found = {k: v or "0" for k, v in match.groupdict().items()}
                ours = (our_stem + our_leaf).format(**found)
                # The MRF's layers are plain convolutions here.
                return ours.replace(".conv.", ".") if ours.startswith("mrf.") else ours
    raise unknown_name(name, "nitorch")


def _last_layers_renamed(upstream: dict[str, str]) -> dict[str, str]:
    """Bring the nested names' last layers to their place.

    There the U-Net's output is "final" and follows the stack, and the MRF's is the last "extra".
    """
    stack = {int(key.split(".")[2]) for key in upstream if key.startswith("unet.stack.")}
    extra = {int(key.split(".")[2]) for key in upstream if key.startswith("mrf.extra.")}
    output, mrf_output = f"unet.stack.{len(stack)}.", f"mrf.extra.{max(extra, default=0)}."
    return {
        key.replace("unet.final.", output).replace(mrf_output, "mrf.final."): name
        for key, name in upstream.items()
    }


def _inferred(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Hyper-parameters from the weights' names and shapes."""
    encoder = _weights(state, "unet.encoder.{}.conv.weight")
    decoder = _weights(state, "unet.decoder.{}.conv.weight")
    stack = _weights(state, "unet.stack.{}.conv.weight")
    if not encoder or not decoder or not stack:
        raise CheckpointError(
            "no U-Net of nitorch's: encoder, decoder or output layers are missing. "
            "Choose the code that it was trained with (--from), or the right file."
        )
    config: dict[str, Any] = {
        "dim": encoder[0].dim() - 2,
        "classes": stack[-1].shape[0],
        "in_channels": encoder[0].shape[1],
        "encoder": tuple(w.shape[0] for w in encoder),
        # Transposed convolutions keep their output channels in the second place.
        "decoder": (*(w.shape[1] for w in decoder), *(w.shape[0] for w in stack[:-1])),
        "norm": "batch" if any(".norm." in key for key in state) else "none",
        "mrf": any(key.startswith("mrf.") for key in state),
    }
    neighbours = state.get("mrf.neighbours.weight")
    if neighbours is not None:
        convolution_weight("mrf.mrf.mrf", neighbours)
        centre = neighbours[(slice(None), slice(None), *[n // 2 for n in neighbours.shape[2:]])]
        config |= {
            "mrf_filters": neighbours.shape[0],
            "mrf_extra_layers": len(_weights(state, "mrf.extra.{}.weight")),
            "mrf_free_centre": bool((centre != 0).any()),
        }
    return config


def _weights(state: Mapping[str, Tensor], name: str) -> list[Tensor]:
    """Weights of layers 0, 1, 2, …"""
    found = []
    while (weight := state.get(name.format(len(found)))) is not None:
        found.append(convolution_weight(name.format(len(found)), weight))
    return found
