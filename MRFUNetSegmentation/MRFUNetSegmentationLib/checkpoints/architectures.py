"""The networks that a checkpoint can hold, by the type that its card names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from ..networks import MRFUNet, MRFUNetConfig, ProbabilisticUNet, ProbabilisticUNetConfig


@dataclass(frozen=True)
class Architecture:
    """A kind of network.

    Attributes:
        type: its name in model cards.
        config: class of its hyper-parameters.
        network: class of the network, built from these.
    """

    type: str
    config: type
    network: type[nn.Module]


ARCHITECTURES = (
    Architecture("mrf-unet", MRFUNetConfig, MRFUNet),
    Architecture("probabilistic-unet", ProbabilisticUNetConfig, ProbabilisticUNet),
)


def build(architecture: dict[str, Any]) -> nn.Module:
    """Build the network of a card's architecture, with initial weights.

    Args:
        architecture: {"type": …} and the hyper-parameters.

    Raises:
        ValueError, TypeError: if there is no such type or hyper-parameters do not fit it.
    """
    kind = next((a for a in ARCHITECTURES if a.type == architecture["type"]), None)
    if kind is None:
        raise ValueError(f"unknown type {architecture['type']!r}")
    hyper_parameters = {k: v for k, v in architecture.items() if k != "type"}
    return kind.network(kind.config(**hyper_parameters))


def describe(network: nn.Module) -> dict[str, Any]:
    """Return the architecture of a network as its card states it; `build` reads it."""
    kind = next(a for a in ARCHITECTURES if isinstance(network, a.network))
    return {"type": kind.type, **network.config.to_dict()}


def number_of_classes(network: nn.Module) -> int:
    """Return the number of classes that a card must name, the background included."""
    channels = network.config.classes
    # A sigmoid gives the probability of one structure against the background.
    sigmoid = isinstance(network, ProbabilisticUNet) and channels == 1
    return 2 if sigmoid else channels
