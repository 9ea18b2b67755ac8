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

# By name on the command line: takes a state dict and the hyper-parameters that the card gives (of
# which it uses those that weights do not show), and returns the network with its weights.
SOURCES: dict[str, Callable[[Mapping[str, Tensor], Mapping[str, Any]], nn.Module]] = {
    "nitorch": nitorch.convert,
    "probunet-pytorch": probunet_pytorch.convert,
}
# How the names of the weights begin that no other source has.
_MARKS = {"nitorch": ("unet.unet.", "mrf.mrf."), "probunet-pytorch": ("unet.contracting", "fcomb.")}


def convert(path: Path, source: str | None, card: Mapping[str, Any]) -> tuple[nn.Module, ModelCard]:
    """Convert a checkpoint file of published code; nothing in it is executed.

    The architecture is inferred from the names and shapes of the weights. The card says the rest:
    its "architecture" may be left out, or give what weights do not show (see the source's
    `convert`); what else it gives must agree with them. "format_version" may be left out.

    Args:
        path: a .pth file.
        source: one of `SOURCES`; told by the names of the weights if None.
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
        network = SOURCES[source or _source_of(state)](state, given)
        _check_agreement(given, architectures.describe(network))
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


def _source_of(state: Mapping[str, Tensor]) -> str:
    for source, marks in _MARKS.items():
        if any(name.startswith(marks) for name in state):
            return source
    raise CheckpointError(
        f"by the names of its weights it is from none of {', '.join(SOURCES)}, and no other code's "
        "checkpoints can be converted. Choose another file."
    )


def _check_agreement(given: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    for key, value in given.items():
        if key not in found:
            raise CheckpointError(
                f"the card's architecture gives {key}, which a {found['type']} does not have. "
                "Leave it out."
            )
        value = list(value) if isinstance(value, tuple) else value
        if value is not None and value != found[key]:
            raise CheckpointError(
                f"the card's architecture gives {key} = {value}, but the weights show "
                f"{found[key]}. Leave it out, or choose the file that the card belongs to."
            )
