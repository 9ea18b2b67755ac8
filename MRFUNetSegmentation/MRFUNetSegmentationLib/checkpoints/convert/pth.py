"""State dicts from PyTorch's own files, without executing what they may contain.

A .pth file is a pickle, and a pickle is a program. `torch.load` with `weights_only` restricts it
to tensors and plain containers; before torch 2.6 that could be circumvented (CVE-2025-32434).
"""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ...errors import CheckpointError

_FIRST_SAFE_TORCH = (2, 6)
# PyTorch stores its files uncompressed, so their content is never much larger than they are.
_LARGEST_INFLATION = 1.5
# Entries under which training programs keep the state dict.
_CONTAINERS = ("state_dict", "model_state_dict", "model")
# Put before every name by wrappers of the network.
_PREFIXES = ("module.", "net.", "model.")
_REMEDY = (
    "Save the network's state dict alone, with torch.save(network.state_dict(), FILE), where it "
    "was trained"
)


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the state dict of a .pth file, floating-point values as float32.

    Wrappers are taken off: an outer dict with the entry "state_dict", "model_state_dict" or
    "model", and the prefixes "module.", "net." and "model." where every name has them.

    Raises:
        CheckpointError: if the file cannot be read, needs code to be read, is no state dict, or
            holds values that are not finite.
    """
    _require_safe_torch()
    _refuse_bombs(path)
    state = _state_dict(path, _load(path))
    for key, value in state.items():
        _check_tensor(path, key, value)
    for prefix in _prefixes_of(state):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def _require_safe_torch() -> None:
    version = tuple(int(n) for n in torch.__version__.split("+")[0].split(".")[:2])
    if version < _FIRST_SAFE_TORCH:
        raise CheckpointError(
            f"torch {torch.__version__} cannot open .pth files without the risk of running code "
            "that is in them. Update torch to 2.6 or later."
        )


def _refuse_bombs(path: Path) -> None:
    """Refuse an archive that would unpack to more than its own size."""
    try:
        size = path.stat().st_size
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            content = sum(entry.file_size for entry in archive.infolist())
    except OSError as error:
        raise CheckpointError(
            f"{path}: the file cannot be read ({error.strerror}). "
            "Check the path and its permissions."
        ) from error
    # Damage in an archive's table can raise any of these.
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
        raise CheckpointError(
            f"{path}: the file is damaged ({error}). Get it again from where it came from."
        ) from error
    if content > size * _LARGEST_INFLATION:
        raise CheckpointError(
            f"{path}: {size} bytes would unpack to {content}; no file of PyTorch's does that. "
            "It is not opened. Get the checkpoint from a source that you trust."
        )


def _load(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported operand" in str(error):
            raise CheckpointError(
                f"{path}: damaged, or no file of PyTorch's. Choose a .pth or .pt file, or get it "
                "again from where it came from."
            ) from error
        raise CheckpointError(
            f"{path}: more than weights is in the file ({_reason(error)}), and to open it would "
            f"mean to run what it contains, so it is not opened. {_REMEDY}."
        ) from error
    except Exception as error:  # a damaged pickle can raise anything
        raise CheckpointError(
            f"{path}: truncated, damaged or no file of PyTorch's ({_reason(error)}). "
            "Get the file again from where it came from."
        ) from error


def _reason(error: Exception) -> str:
    """The line of torch's long message that names what was found."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "GLOBAL" in line or "global" in line]
    text = (named or lines or [type(error).__name__])[0]
    start = text.find("Unsupported")
    return " ".join(text[max(start, 0) :].split())[:200].rstrip(" .")


def _state_dict(path: Path, content: object) -> dict[str, Tensor]:
    while key := _container(content):
        content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(
            f"{path}: holds {type(content).__name__}, not a state dict. {_REMEDY}."
        )
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path}: not a state dict: {key!r} is {type(value).__name__}, no tensor. "
                f"{_REMEDY}."
            )
    return dict(content)


def _container(content: object) -> str | None:
    """Name of the entry that holds the state dict, or None if this is no container."""
    if not isinstance(content, Mapping):
        return None
    return next((k for k in _CONTAINERS if isinstance(content.get(k), Mapping)), None)


def _check_tensor(path: Path, key: str, value: Tensor) -> None:
    if value.is_complex() or value.is_quantized or value.layout != torch.strided:
        raise CheckpointError(
            f"{path}: {key} is complex, quantised or sparse, which no network here uses. "
            "Convert the weights to float32 first."
        )
    if not value.is_floating_point() and value.dim():
        raise CheckpointError(
            f"{path}: {key} holds {value.dtype}, no floating-point weights. "
            "Convert the weights to float32 first."
        )
    # A few bytes can claim to be any number of values: by a stride of 0, or by no storage at all.
    held = 0 if value.is_meta else value.untyped_storage().nbytes() // value.element_size()
    if not 0 < value.numel() <= held:
        raise CheckpointError(
            f"{path}: {key} has shape {tuple(value.shape)}, but the file holds {held} values for "
            f"it. {_REMEDY}."
        )
    if not torch.isfinite(value.float()).all():
        raise CheckpointError(
            f"{path}: {key} holds values that are not finite. Choose an earlier checkpoint of "
            "the training."
        )


def _prefixes_of(state: Mapping[str, Tensor]) -> list[str]:
    """Prefixes that every name has, outermost first."""
    found, names = [], list(state)
    while prefix := next((p for p in _PREFIXES if all(name.startswith(p) for name in names)), None):
        found.append(prefix)
        names = [name.removeprefix(prefix) for name in names]
    return found
