"""What the readers of all published codes share: names into our names, and a close fit."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ...errors import CheckpointError

_OTHER_SOURCE = "Choose the code that it was trained with (--from), or the right file"


def load_exactly(
    network: nn.Module, state: Mapping[str, Tensor], upstream: Mapping[str, str]
) -> None:
    """Load weights into a network that was built from their shapes.

    Args:
        network: receives the weights.
        state: by our names.
        upstream: their names in the file, by ours.

    Raises:
        CheckpointError: if a weight is missing, too many, or of the wrong shape.
    """
    expected = network.state_dict()
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
    network.load_state_dict(dict(state))


def unknown_name(name: str, source: str) -> CheckpointError:
    """Return the error for a weight that the source's networks do not have."""
    return CheckpointError(f"{name} is no weight of a network of {source}. {_OTHER_SOURCE}.")
