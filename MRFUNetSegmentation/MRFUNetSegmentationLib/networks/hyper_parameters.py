"""What the hyper-parameters of all networks share."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any


class HyperParameters:
    """Base of dataclasses of plain numbers, texts and tuples of these."""

    def to_dict(self) -> dict[str, Any]:
        """Return the hyper-parameters as JSON types, for a model card."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }
