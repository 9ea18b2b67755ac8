"""Checkpoints with their weights: needs torch and safetensors."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ..errors import CheckpointError, OutputError
from . import architectures
from .card import ModelCard
from .header import CARD_KEY, find_checkpoint, read_info

_GET_AGAIN = "Get the file again from where it came from"
_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


@dataclass(frozen=True)
class Checkpoint:
    """A network with its weights, in evaluation mode on the CPU, and its card."""

    network: nn.Module
    card: ModelCard
    path: Path
    sha256: str


def build_network(card: ModelCard, source: str = "model card") -> nn.Module:
    """Build the network that a card describes, with initial weights."""
    try:
        network = architectures.build(card.architecture)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{source}: the card's architecture cannot be built ({error}). "
            "Correct the card, or update the extension."
        ) from error
    if defect := _mismatch(network, card):
        raise CheckpointError(f"{source}: {defect}. Correct the card.")
    return network


def load_checkpoint(name_or_path: str | Path) -> Checkpoint:
    """Load a checkpoint by the name of a bundled model or by path.

    Raises:
        CheckpointError: naming the file, the defect and the remedy.
    """
    info = read_info(find_checkpoint(name_or_path))
    try:
        state = load_file(info.path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{info.path}: not readable ({error}). {_GET_AGAIN}.") from error
    with torch.device("meta"):  # a card may describe a network that no memory holds
        expected = build_network(info.card, str(info.path)).state_dict()
    _check_state(info.path, state, expected)
    network = build_network(info.card, str(info.path))
    network.load_state_dict(state)
    return Checkpoint(network.eval(), info.card, info.path, info.sha256())


def halve(network: nn.Module) -> None:
    """Round the kernels and matrices of a network to float16, for a file of half the size.

    Biases, and what normalisation needs, stay as they are: they are few, and may be large.
    """
    with torch.no_grad():
        for value in filter(_can_be_halved, network.state_dict().values()):
            value.copy_(value.half())


def _can_be_halved(value: torch.Tensor) -> bool:
    return value.is_floating_point() and value.dim() > 1


def save_checkpoint(path: Path, network: nn.Module, card: ModelCard, half: bool = False) -> None:
    """Write a network and its card to one file; an existing file is replaced in one step.

    Args:
        path: of the file.
        network: in any mode, on any device.
        card: describes it.
        half: store kernels and matrices as float16; see `halve`, which makes that lossless.

    Raises:
        CheckpointError: if the card does not describe the network.
        OutputError: if the file cannot be written.
    """
    card = ModelCard.from_dict(card.to_dict(), str(path))
    state = {key: value.contiguous().cpu() for key, value in network.state_dict().items()}
    if half:
        state = {k: v.half() if _can_be_halved(v) else v for k, v in state.items()}
    _check_state(path, state, build_network(card, str(path)).state_dict())
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(state, partial, {CARD_KEY: json.dumps(card.to_dict(), ensure_ascii=False)})
        partial.chmod(0o644)  # safetensors makes files that only their owner can read
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):  # it may never have come to be
            partial.unlink()
        raise OutputError(
            f"{path}: cannot be written ({error}). Choose another folder, or check the permissions "
            "and the free space."
        ) from error


def _mismatch(network: nn.Module, card: ModelCard) -> str | None:
    """Return in what a card does not fit its network, or None."""
    classes, dim = architectures.number_of_classes(network), network.config.dim
    if classes != len(card.classes):
        return f"the card names {len(card.classes)} classes, but the network has {classes}"
    if dim == 2 and card.input.slice_plane is None:
        return (
            "the network is 2D, so the card's input.slice_plane must name the plane of its images: "
            "axial, coronal or sagittal"
        )
    if dim == 3 and card.input.slice_plane is not None:
        return (
            "the network is 3D, so the card's input.slice_plane must go: only the images of 2D "
            "networks have a plane"
        )
    return None


def _of_one_kind(value: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether weights can take the place of those of a network but for rounding."""
    if expected.is_floating_point():
        return value.dtype in _FLOATS
    return value.dtype == expected.dtype


def _check_state(path: Path, state: dict, expected: dict) -> None:
    missing = sorted(expected.keys() - state.keys())
    extra = sorted(state.keys() - expected.keys())
    wrong = [k for k in expected if k in state and state[k].shape != expected[k].shape]
    if missing:
        defect = f"{len(missing)} weights are missing, the first is {missing[0]}"
    elif extra:
        defect = f"{len(extra)} weights are unknown to the network, the first is {extra[0]}"
    elif wrong:
        key = wrong[0]
        defect = (
            f"{key} has shape {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
        )
    elif bad := [k for k, v in state.items() if not _of_one_kind(v, expected[k])]:
        defect = f"{bad[0]} holds {state[bad[0]].dtype} instead of {expected[bad[0]].dtype}"
    # As the network will hold them: a large double is infinite in float32.
    elif bad := [k for k, v in state.items() if not torch.isfinite(v.to(expected[k].dtype)).all()]:
        defect = f"{bad[0]} holds values that are not finite in {expected[bad[0]].dtype}"
    elif bad := [k for k, v in state.items() if k.endswith("running_var") and (v < 0).any()]:
        defect = f"{bad[0]} holds negative variances"
    else:
        return
    raise CheckpointError(
        f"{path}: the weights do not fit the model card: {defect}. "
        f"{_GET_AGAIN}, or export it with the card that belongs to it."
    )
