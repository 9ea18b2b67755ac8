"""Checkpoints of the networks' published code become checkpoints of this program.

One file for each published code, and one that opens PyTorch's files without running any code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...errors import CheckpointError
from .. import architectures
from ..card import FORMAT_VERSION, ModelCard
from ..load import build_network
from . import nitorch, probunet_pytorch
from .pth import read_state

# By name on the command line: reads a state dict and what the card says of the architecture, and
# returns the network with its weights.
SOURCES: dict[str, Callable[[Mapping[str, Tensor], Mapping[str, Any]], nn.Module]] = {
    "nitorch": nitorch.convert,
    "probunet-pytorch": probunet_pytorch.convert,
}


def convert(path: Path, source: str, card: Mapping[str, Any]) -> tuple[nn.Module, ModelCard]:
    """Convert a checkpoint file of published code; nothing in it is executed.

    The architecture is inferred from the names and shapes of the weights. The card says the rest:
    its "architecture" may be left out, or give what weights do not show (see the source's
    `convert`); "format_version" may be left out.

    Args:
        path: a .pth file.
        source: one of `SOURCES`.
        card: model card as JSON types.

    Returns:
        The network, in evaluation mode, and its card.

    Raises:
        CheckpointError: naming the file, the defect and the remedy.
    """
    state = read_state(path)
    given = card.get("architecture", {})
    if not isinstance(given, Mapping):
        raise CheckpointError("model card: architecture must be an object. Correct the card.")
    try:
        network = SOURCES[source](state, {k: v for k, v in given.items() if k != "type"})
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    full = {
        "format_version": FORMAT_VERSION,
        **card,
        "architecture": architectures.describe(network),
    }
    checked = ModelCard.from_dict(full)
    build_network(checked)  # refuses a card that names other classes than the network has
    return network.eval(), checked
