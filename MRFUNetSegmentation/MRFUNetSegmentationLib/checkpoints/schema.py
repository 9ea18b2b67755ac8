"""The part of JSON Schema that model cards use.

Slicer bundles no JSON Schema validator and cards must be checked before anything is installed;
the tests hold the verdicts of this one against the `jsonschema` package's.
"""

from __future__ import annotations

import re
from typing import Any

_TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}


def violations(value: Any, schema: dict[str, Any], where: str = "") -> list[str]:
    """Return what is wrong with a JSON value, each entry as "path: reason"; empty if valid.

    Knows the keywords type, enum, const, required, properties, additionalProperties (a
    boolean), items, minItems, maxItems, minLength, pattern (of the whole text), minimum,
    exclusiveMinimum and maximum.
    """
    name = where or "card"
    if "type" in schema and not _has_type(value, schema["type"]):
        return [f"{name}: expected {_words(schema['type'])}, got {value!r}"]
    if "const" in schema and not _equal(value, schema["const"]):
        return [f"{name}: must be {schema['const']!r}, got {value!r}"]
    if "enum" in schema and not any(_equal(value, v) for v in schema["enum"]):
        return [f"{name}: must be one of {schema['enum']}, got {value!r}"]
    if isinstance(value, dict):
        return _object(value, schema, where)
    if isinstance(value, list):
        return _array(value, schema, where)
    if isinstance(value, str):
        return _string(value, schema, name)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _number(value, schema, name)
    return []


def _object(value: dict, schema: dict[str, Any], where: str) -> list[str]:
    prefix = f"{where}." if where else ""
    found = [f"{prefix}{key}: missing" for key in schema.get("required", ()) if key not in value]
    properties = schema.get("properties", {})
    for key, entry in value.items():
        if key in properties:
            found += violations(entry, properties[key], prefix + key)
        elif schema.get("additionalProperties") is False:
            found.append(f"{prefix}{key}: no such entry")
    return found


def _array(value: list, schema: dict[str, Any], where: str) -> list[str]:
    found = []
    if len(value) < schema.get("minItems", 0):
        found.append(f"{where}: at least {schema['minItems']} entries are needed")
    if len(value) > schema.get("maxItems", len(value)):
        found.append(f"{where}: at most {schema['maxItems']} entries are allowed")
    for number, entry in enumerate(value):
        found += violations(entry, schema.get("items", {}), f"{where}[{number}]")
    return found


def _string(value: str, schema: dict[str, Any], name: str) -> list[str]:
    if len(value) < schema.get("minLength", 0):
        return [f"{name}: must not be empty"]
    try:
        value.encode()
    except UnicodeEncodeError:
        return [f"{name}: {value!r} is no text that can be written"]
    # Not `search`, for which $ also stands before a newline.
    if "pattern" in schema and not re.fullmatch(schema["pattern"], value):
        return [f"{name}: {value!r} does not match {schema['pattern']}"]
    return []


def _number(value: float, schema: dict[str, Any], name: str) -> list[str]:
    if "minimum" in schema and not value >= schema["minimum"]:
        return [f"{name}: must be at least {schema['minimum']}, got {value}"]
    if "exclusiveMinimum" in schema and not value > schema["exclusiveMinimum"]:
        return [f"{name}: must be above {schema['exclusiveMinimum']}, got {value}"]
    if "maximum" in schema and not value <= schema["maximum"]:
        return [f"{name}: must be at most {schema['maximum']}, got {value}"]
    return []


def _has_type(value: Any, kind: str | list[str]) -> bool:
    if isinstance(kind, list):
        return any(_has_type(value, k) for k in kind)
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[kind])


def _equal(a: Any, b: Any) -> bool:
    # In JSON true is not 1.
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def _words(kind: str | list[str]) -> str:
    return kind if isinstance(kind, str) else " or ".join(kind)
