"""The devices that can be chosen; knows neither Qt nor torch."""

from __future__ import annotations

from typing import Any

from .i18n import _


def device_entries(selected: str, answer: dict[str, Any] | None = None) -> list[tuple[str, str]]:
    """Return pairs of a device and its label.

    Args:
        selected: the device that is chosen now; it is listed even if the machine lacks it, so
            that a scene made elsewhere shows what it asks for.
        answer: the worker's answer on this machine's devices, once there is one.
    """
    entries = {"auto": _("Automatic"), "cpu": _("CPU")}
    for device in (answer or {}).get("devices", []):
        entries[device["id"]] = _label(device)
    entries.setdefault(selected, selected)
    return list(entries.items())


def gpu_remark(answer: dict[str, Any] | None) -> str:
    """Return why no graphics processor can be used, or nothing if one can or it is not known."""
    reason = (answer or {}).get("why_no_gpu")
    return _("No graphics processor can be used: {reason}").format(reason=reason) if reason else ""


def _label(device: dict[str, Any]) -> str:
    memory = device.get("memory_gb")
    name = device["name"] if device["id"] == "cpu" else f"{device['name']} ({device['id']})"
    return f"{name}, {memory:g} GB" if memory else name
