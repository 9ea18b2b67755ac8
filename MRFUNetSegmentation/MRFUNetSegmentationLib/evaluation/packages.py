"""Packages that only evaluation needs, and that need not be there."""

from __future__ import annotations

import importlib
from types import ModuleType

from ..errors import InputError


def need(module: str, package: str, purpose: str) -> ModuleType:
    """Import a module of an optional package.

    Args:
        module: to import, such as "scipy.stats".
        package: by which pip knows it.
        purpose: what is impossible without it.

    Raises:
        InputError: if it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"{purpose} needs the package {package}, which cannot be imported ({error}): "
            f"pip install {package}, or all of them with pip install MRFUNetSegmentation[evaluate]."
        ) from error


def check_packages() -> None:
    """Find out that a package is missing before hours of computing, not after.

    Those of the peers are not checked: without them the others go on.

    Raises:
        InputError: naming the package.
    """
    need("surface_distance", "surface-distance-based-measures", "The surface distance")
    need("scipy.stats", "scipy", "The paired test")
    need("matplotlib.figure", "matplotlib", "The report's pictures")
