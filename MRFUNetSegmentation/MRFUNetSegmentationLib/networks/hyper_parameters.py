"""What the hyper-parameters of all networks share."""

from __future__ import annotations

from dataclasses import asdict, fields
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints


class HyperParameters:
    """Base of dataclasses of plain numbers, texts and tuples of these.

    Raises:
        ValueError: if an entry is not of the kind that its annotation says.
    """

    def __post_init__(self) -> None:
        kinds = get_type_hints(type(self))
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):
                value = tuple(value)
                object.__setattr__(self, field.name, value)
            if not _is(value, kinds[field.name]):
                raise ValueError(f"{field.name} must be {field.type}, got {value!r}")

    @property
    def minimum_size(self) -> int:
        """Smallest side (voxels) of an image that the network takes as it is."""
        return 1

    def to_dict(self) -> dict[str, Any]:
        """Return the hyper-parameters as JSON types, for a model card."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }


def _is(value: Any, kind: Any) -> bool:
    """Whether a value is what an annotation says; true is not 1, as in JSON."""
    if isinstance(kind, UnionType):
        return any(_is(value, k) for k in get_args(kind))
    if get_origin(kind) is tuple:
        first, *others = get_args(kind)
        if not isinstance(value, tuple) or not all(_is(v, first) for v in value):
            return False
        return others == [...] or len(value) == 1 + len(others)
    return type(value) is kind or (kind is float and type(value) is int)
