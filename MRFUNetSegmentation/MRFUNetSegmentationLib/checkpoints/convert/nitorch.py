"""MRF-UNet checkpoints of nitorch (`SegMRFNet`, February to April 2021).

github.com/balbasty/nitorch is the reference implementation of Brudfors et al., MIDL 2021. Two
spellings of its names are read: that of revision c3676d0, and that of revision 266f856, where
blocks are nested and the last layers have other names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...errors import CheckpointError
from ...networks import MRFUNet, MRFUNetConfig
from .weights import load_exactly, unknown_name

# What the weights do not show, and the card may give; upstream's defaults, which are the paper's.
DEFAULTS = {"iterations": 10, "training_iterations": (5, 15), "w": 1.0}

# The group "inner" is the nesting of the later spelling.
_NAMES = (
    (r"unet\.unet\.(?P<part>encoder|decoder)\.(?P<n>\d+)(?P<inner>\.0)?", "unet.{part}.{n}"),
    (r"unet\.unet\.(?P<part>stack)\.(?P<n>\d+)", "unet.{part}.{n}"),
    (r"unet\.unet\.(?P<part>final)", "unet.final"),
    (r"mrf\.mrf\.(?P<part>mrf)", "mrf.neighbours"),
    (r"mrf\.mrf\.(?P<part>extra)(\.(?P<n>\d+))?", "mrf.extra.{n}"),
    (r"mrf\.mrf\.(?P<part>final)", "mrf.final"),
)
_LEAVES = (
    (r"\.batch_norm\.batchnorm\.(?P<leaf>\w+)", ".norm.{leaf}"),
    (r"\.conv(\.conv)?\.(?P<leaf>weight|bias)", ".conv.{leaf}"),
)


def convert(state: Mapping[str, Tensor], given: Mapping[str, Any]) -> MRFUNet:
    """Return the network of a state dict.

    Args:
        state: by nitorch's names.
        given: "iterations", "training_iterations" and "w", each `DEFAULTS` where it is left out.

    Raises:
        CheckpointError: if the weights are those of another network.
    """
    _refuse_later_generation(state)
    unknown = sorted(given.keys() - DEFAULTS.keys())
    if unknown:
        raise CheckpointError(
            f"the card's architecture gives {unknown[0]}, but the weights show it. Leave it out; "
            f"only {', '.join(DEFAULTS)} can be given."
        )
    upstream = {_renamed(name): name for name in state}
    upstream = _last_layers_renamed(upstream)
    renamed = {ours: state[name] for ours, name in upstream.items()}
    # Not kept by every version of torch, and of no use here.
    for key in [k for k in renamed if k.endswith("running_var")]:
        if (renamed[key] < 0).any():
            raise CheckpointError(
                f"{upstream[key]} holds negative variances: the file is damaged. "
                "Get it again from where it came from."
            )
        renamed.setdefault(key.replace("running_var", "num_batches_tracked"), torch.tensor(0))
    config = _inferred(renamed)
    try:
        network = MRFUNet(MRFUNetConfig(**{**DEFAULTS, **config, **given}))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the network cannot be built: {error}.") from error
    load_exactly(network, renamed, upstream)
    return network


def _refuse_later_generation(state: Mapping[str, Tensor]) -> None:
    if any(name.startswith(("unet.unet.first.", "unet.unet.bottleneck.")) for name in state):
        raise CheckpointError(
            "written by nitorch's class of May 2021 or later. That class lost the U-Net's "
            "activations by mistake, so it is another network than the paper's, and one whose "
            "results are of little use; it is not converted. Train again with a revision of "
            "February to April 2021 (c3676d0), or with this program."
        )


def _renamed(name: str) -> str:
    for stem, our_stem in _NAMES:
        for leaf, our_leaf in _LEAVES:
            match = re.fullmatch(stem + leaf, name)
            if match:
                found = {k: v or "0" for k, v in match.groupdict().items()}
                ours = (our_stem + our_leaf).format(**found)
                # The MRF's layers are plain convolutions here.
                return ours.replace(".conv.", ".") if ours.startswith("mrf.") else ours
    raise unknown_name(name, "nitorch")


def _last_layers_renamed(upstream: dict[str, str]) -> dict[str, str]:
    """Bring the later spelling's last layers to their place.

    There the U-Net's output is "final" instead of the stack's last, and the MRF's last "extra"
    layer is its output.
    """
    result = dict(upstream)
    stack = {int(key.split(".")[2]) for key in upstream if key.startswith("unet.stack.")}
    for key in [k for k in result if k.startswith("unet.final.")]:
        last = max(stack, default=-1) + 1
        result[key.replace("unet.final.", f"unet.stack.{last}.")] = result.pop(key)
    extra = {int(key.split(".")[2]) for key in upstream if key.startswith("mrf.extra.")}
    if extra and not any(key.startswith("mrf.final.") for key in upstream):
        prefix = f"mrf.extra.{max(extra)}."
        for key in [k for k in result if k.startswith(prefix)]:
            result[key.replace(prefix, "mrf.final.")] = result.pop(key)
    return result


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
        found.append(weight)
    return found
