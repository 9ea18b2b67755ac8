"""What the readers of all published codes share: names into our names, and a close fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from ...errors import CheckpointError

_OTHER_SOURCE = "Choose the code that it was trained with (--from), or the right file"

Network = TypeVar("Network", bound=nn.Module)


def by_our_names(state: Mapping[str, Tensor], renamed: Callable[[str], str]) -> dict[str, str]:
    """Return the names of a state dict's weights by ours.

    Args:
        state: by upstream's names.
        renamed: our name of one of them.

    Raises:
        CheckpointError: if two weights claim the same place.
    """
    upstream: dict[str, str] = {}
    for name in state:
        ours = renamed(name)
        if ours in upstream:
            raise CheckpointError(
                f"{upstream[ours]} and {name} claim the same place. {_OTHER_SOURCE}."
            )
        upstream[ours] = name
    return upstream


def convolution_weight(name: str, value: Tensor) -> Tensor:
    """Return the weight (out, in, *kernel) of a 2D or 3D convolution unchanged.

    Raises:
        CheckpointError: if it is none.
    """
    if value.dim() not in (4, 5):
        raise CheckpointError(
            f"{name} has shape {tuple(value.shape)}, which no 2D or 3D convolution has. "
            f"{_OTHER_SOURCE}."
        )
    return value


def built_and_loaded(
    build: Callable[[], Network], state: Mapping[str, Tensor], upstream: Mapping[str, str]
) -> Network:
    """Build the network that the weights' shapes ask for, and load the weights.

    Args:
        build: makes the network, with initial weights.
        state: by our names.
        upstream: their names in the file, by ours.

    Raises:
        CheckpointError: if there is no such network, or a weight is missing, too many, or of the
            wrong shape.
    """
    try:
        # First without storage: what a damaged file asks for may not fit in memory.
        with torch.device("meta"):
            expected = build().state_dict()
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"the network cannot be built: {error}. {_OTHER_SOURCE}.") from error
    missing = [key for key in expected if key not in state]
    extra = [upstream[key] for key in state if key not in expected]
    if missing:
        raise CheckpointError(
            f"{len(missing)} weights of the network are missing, the first is {missing[0]} (this "
            f"program's name). {_OTHER_SOURCE}."
        )
    if extra:
        raise CheckpointError(
            f"{len(extra)} weights do not belong to the network, the first is {extra[0]}. "
            f"{_OTHER_SOURCE}."
        )
    for key, value in expected.items():
        if state[key].shape != value.shape:
            raise CheckpointError(
                f"{upstream[key]} has shape {tuple(state[key].shape)}, but the other weights ask "
                f"for {tuple(value.shape)}. {_OTHER_SOURCE}."
            )
    network = build()
    network.load_state_dict(dict(state))
    return network


def unknown_name(name: str, source: str) -> CheckpointError:
    """Return the error for a weight that the source's networks do not have."""
    return CheckpointError(f"{name} is no weight of a network of {source}. {_OTHER_SOURCE}.")
