"""What is needed to import a checkpoint of published code; knows no Qt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..checkpoints.card import read_card_file
from ..errors import InputError
from .i18n import _

# Of PyTorch's files; they hold weights, but not what the weights are for.
SUFFIXES = (".pth", ".pt", ".ckpt")
# The architecture is left out: the weights show it.
EXAMPLE = {
    "name": "my-model",
    "title": "My model (T1)",
    "description": "What it segments, in which images.",
    "classes": [
        {"value": 0, "name": "Other", "color": [0, 0, 0], "background": True},
        {"value": 1, "name": "Lesion", "color": [220, 80, 60]},
    ],
    "input": {
        "modality": "T1",
        "voxel_size": [1, 1, 1],
        "orientation": "RAS",
        "normalisation": {"method": "none"},
    },
    "training": {"data": [], "seed": None, "steps": None, "metrics": {}},
    "licence": "of the weights",
    "citation": "how to cite it",
    "intended_use": "what it is for, and what not",
}


def card_beside(checkpoint: Path) -> dict[str, Any]:
    """Return the model card that lies beside a checkpoint: the JSON file of the same name.

    Raises:
        InputError: if there is none that can be read. Its further lines are an example of one.
    """
    path = checkpoint.with_suffix(".json")
    if path.is_file():
        return read_card_file(path)
    text = _(
        "{checkpoint} holds weights only. Put its model card beside it, as {card}: a JSON file "
        "that names the classes, the voxel size and the normalisation; then load it again. Copy "
        "gives an example of such a file."
    ).format(checkpoint=checkpoint.name, card=path.name)
    raise InputError(f"{text}\n{json.dumps(EXAMPLE, indent=1)}")
