"""What a checkpoint file says about itself, read without torch or safetensors.

Format: safetensors (8 bytes little-endian length of the header, the header as JSON, the data).
The model card is the JSON text under the key "card" of the header's metadata.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError
from .card import ModelCard

SUFFIX = ".safetensors"
CARD_KEY = "card"
BUNDLED_FOLDER = Path(__file__).with_name("bundled")
# The format's own limit; a larger length means that the file is something else.
_LARGEST_HEADER = 100_000_000
_GET_AGAIN = "Get the file again from where it came from"


@dataclass(frozen=True)
class CheckpointInfo:
    """A checkpoint file whose card has been read."""

    path: Path
    card: ModelCard

    def sha256(self) -> str:
        """Return the SHA-256 of the whole file, in hexadecimal digits."""
        with self.path.open("rb") as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()


def bundled_models() -> list[CheckpointInfo]:
    """Return the checkpoints that come with the package, by name."""
    return [read_info(path) for path in sorted(BUNDLED_FOLDER.glob(f"*{SUFFIX}"))]


def find_checkpoint(name_or_path: str | Path) -> Path:
    """Return the file of a bundled model's name or of a path.

    Raises:
        CheckpointError: if there is neither such a model nor such a file, or if the system does
            not let us look.
    """
    bundled = BUNDLED_FOLDER / f"{name_or_path}{SUFFIX}"
    try:
        if Path(name_or_path).name == str(name_or_path) and bundled.is_file():
            return bundled
        path = Path(name_or_path).expanduser()
        if path.is_file():
            return path
    except (OSError, RuntimeError) as error:  # RuntimeError: ~ of a user that there is not
        raise CheckpointError(
            f"{name_or_path}: the file cannot be looked up "
            f"({getattr(error, 'strerror', None) or error}). Check the path and its permissions, "
            "or choose another model."
        ) from error
    names = ", ".join(p.stem for p in sorted(BUNDLED_FOLDER.glob(f"*{SUFFIX}"))) or "none"
    raise CheckpointError(
        f"{name_or_path}: there is neither a file nor a bundled model of this name. "
        f"Bundled models: {names}. Check the path, or choose one of these."
    )


def read_info(path: Path) -> CheckpointInfo:
    """Read the card of a checkpoint and check that the file is whole.

    Raises:
        CheckpointError: naming the file, the defect and the remedy.
    """
    header, data_size = _read_header(path)
    metadata = header.pop("__metadata__", {})
    _check_data_size(path, header, data_size)
    if not isinstance(metadata, dict) or CARD_KEY not in metadata:
        raise CheckpointError(
            f"{path}: the file holds no model card, so it is no checkpoint of this program. "
            "Checkpoints of the networks' published code must be converted first."
        )
    try:
        card = json.loads(metadata[CARD_KEY])
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: the model card is no JSON ({error}). {_GET_AGAIN}."
        ) from error
    return CheckpointInfo(path, ModelCard.from_dict(card, str(path)))


def _read_header(path: Path) -> tuple[dict, int]:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            if len(start) < 8:
                raise CheckpointError(
                    f"{path}: the file is truncated ({size} bytes). {_GET_AGAIN}."
                )
            (length,) = struct.unpack("<Q", start)
            if length > _LARGEST_HEADER:
                raise CheckpointError(
                    f"{path}: not a safetensors file. Choose a checkpoint of this program (other "
                    "formats, such as .pth, can run code when opened and are not loaded)."
                )
            if 8 + length > size:
                raise CheckpointError(
                    f"{path}: the file is truncated or not a safetensors file. {_GET_AGAIN}."
                )
            header = json.loads(file.read(length).decode("utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"{path}: the file cannot be read ({error.strerror}). "
            "Check the path and its permissions."
        ) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: not a safetensors file (its header is no JSON). "
            "Choose a checkpoint of this program."
        ) from error
    if not isinstance(header, dict):
        raise CheckpointError(
            f"{path}: not a safetensors file. Choose a checkpoint of this program."
        )
    return header, size - 8 - length


def _check_data_size(path: Path, tensors: dict, data_size: int) -> None:
    try:
        expected = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
    except (TypeError, KeyError, IndexError) as error:
        raise CheckpointError(
            f"{path}: the file's table of tensors is damaged. {_GET_AGAIN}."
        ) from error
    if expected != data_size:
        raise CheckpointError(
            f"{path}: the file is truncated or damaged ({data_size} bytes of weights instead of "
            f"{expected}). {_GET_AGAIN}."
        )
