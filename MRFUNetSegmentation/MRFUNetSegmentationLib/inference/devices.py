"""The devices of this machine, and why there is no GPU where there is none."""

from __future__ import annotations

import os
import re
from functools import cache

import torch
from torch.nn import functional

from ..errors import DeviceError


def resolve_device(name: str = "auto") -> torch.device:
    """Return the device of a name: auto, cpu, cuda, cuda:N or mps.

    `auto` takes the first GPU, by CUDA or MPS, that this PyTorch can use, or else the CPU.

    Raises:
        DeviceError: if the name is unknown or the machine has no such device.
    """
    if name == "auto":
        if usable := _usable_cuda():
            return torch.device(f"cuda:{usable[0]}")
        return torch.device("mps" if _mps_works() else "cpu")
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise DeviceError(f"{name}: no such device. Choose auto, cpu, cuda, cuda:N or mps.")
    device = torch.device("cuda:0" if name == "cuda" else name)
    if device.type == "cuda" and device.index not in _usable_cuda():
        raise DeviceError(f"{name} is not available: {_why_no_cuda()} Choose auto or cpu.")
    if device.type == "mps" and not _mps_works():
        raise DeviceError(
            "mps is not available: it needs a Mac with an Apple GPU, and a PyTorch that computes "
            "3D networks on it (2.9 or newer). Choose auto."
        )
    return device


def describe_device(device: torch.device) -> str:
    """Return a device's name for users, such as "cuda:0 (NVIDIA RTX A4000)"."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.get_num_threads()} threads)" if device.type == "cpu" else str(device)


def describe_devices() -> list[dict]:
    """Return what can be chosen: dicts of `id`, `name` and `memory_gb` (None if unknown)."""
    devices = [
        {
            "id": f"cuda:{n}",
            "name": torch.cuda.get_device_name(n),
            "memory_gb": round(torch.cuda.get_device_properties(n).total_memory / 1e9, 1),
        }
        for n in _usable_cuda()
    ]
    if _mps_works():
        devices.append({"id": "mps", "name": "Apple GPU", "memory_gb": None})
    threads = torch.get_num_threads()
    devices.append({"id": "cpu", "name": f"CPU, {threads} threads", "memory_gb": _ram_gb()})
    return devices


def why_no_gpu() -> str | None:
    """Return why no GPU can be used, or None if there is one."""
    if _usable_cuda() or _mps_works():
        return None
    return _why_no_cuda()


def _usable_cuda() -> list[int]:
    """Return the numbers of the GPUs that this build of PyTorch has machine code for."""
    if not torch.cuda.is_available():
        return []
    return [n for n in range(torch.cuda.device_count()) if _has_code(n)]


def _has_code(number: int) -> bool:
    """Whether PyTorch was built for a GPU: newer builds leave old ones out.

    Without asking the GPU itself, which would take some of its memory. Code for a generation runs
    on it and its later members (sm_86: 8.6 and 8.9); what is to be compiled, on all later GPUs.
    """
    if torch.version.cuda is None:  # ROCm names its GPUs otherwise
        return True
    capability = torch.cuda.get_device_capability(number)
    built_for = [
        re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", a) for a in torch.cuda.get_arch_list()
    ]
    for match in filter(None, built_for):
        generation = int(match[2]), int(match[3])
        same = match[1] == "compute" or generation[0] == capability[0]
        if same and generation <= capability:
            return True
    return not any(built_for)


@cache
def _mps_works() -> bool:
    """Return whether there is an Apple GPU that has all that the networks need."""
    if not torch.backends.mps.is_available():
        return False
    try:  # older versions of PyTorch lack these in three dimensions
        image = torch.ones(1, 1, 4, 4, 4, device="mps")
        functional.conv_transpose3d(image, image, stride=2)
        functional.avg_pool3d(image, 2)
    except (RuntimeError, TypeError):  # NotImplementedError is a RuntimeError
        return False
    return True


def _why_no_cuda() -> str:
    if torch.version.cuda is None and torch.version.hip is None:
        return f"this build of PyTorch ({torch.__version__}) is for the CPU only."
    if torch.cuda.device_count() == 0:
        return "PyTorch finds no GPU; the graphics driver may be missing or too old."
    if not _usable_cuda():
        name = torch.cuda.get_device_name(0)
        return f"this build of PyTorch ({torch.__version__}) is not made for the GPU ({name})."
    return f"this machine has the GPUs {', '.join(map(str, _usable_cuda()))} that can be used."


def _ram_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None
