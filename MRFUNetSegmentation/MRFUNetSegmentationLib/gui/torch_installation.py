"""Installs PyTorch and safetensors when they are needed; imports neither of them."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import platform
import sys

from ..errors import MRFUNetError
from .i18n import _

SAFETENSORS = "safetensors>=0.5"
_MODULE = "MRFUNetSegmentation"


class InstallationError(MRFUNetError):
    """What is needed to compute is not installed."""


def package_state(name: str) -> str:
    """Return "installed", "missing" or "incomplete" for a package, without importing it."""
    importlib.invalidate_caches()
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    try:
        has_metadata = bool(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        has_metadata = False
    # A folder that an interrupted installation left behind has no file to import from.
    has_code = spec is not None and spec.origin is not None
    if has_code and has_metadata:
        return "installed"
    return "incomplete" if spec is not None or has_metadata else "missing"


def torch_requirement(system: str = sys.platform) -> str:
    """Return the versions of PyTorch that can be used on an operating system."""
    # Paths inside newer packages exceed what Windows allows below Slicer's folder.
    return ">=2.6,<2.13" if system == "win32" else ">=2.6"


def require_installed() -> None:
    """Check that everything needed to compute is installed; never asks nor installs.

    Raises:
        InstallationError: saying what to do.
    """
    if all(package_state(name) == "installed" for name in ("torch", "safetensors")):
        return
    raise InstallationError(
        _(
            "PyTorch or safetensors is not installed. Press Apply once in the panel of the module "
            "MRFUNetSegmentation, or run this in Slicer's Python: "
            "slicer.util.getModuleLogic('PyTorchUtils').installTorch(); "
            "slicer.util.pip_install('safetensors')"
        )
    )


def ensure_installed() -> None:
    """Install what is missing, after one question; without a main window, only check.

    Raises:
        InstallationError: if it is not installed in the end; the message says what to do.
    """
    import slicer

    if slicer.util.mainWindow() is None:
        require_installed()
        return
    agreed = False
    if package_state("torch") != "installed":
        _install_torch()
        agreed = True
    if package_state("safetensors") != "installed":
        _install_safetensors(ask=not agreed)
    require_installed()


def _install_torch() -> None:
    _check_installable()
    logic = _pytorch_logic()
    # The extension's arguments differ between its versions; all of those with a question ask by
    # default or by askConfirmation.
    wanted = {"askConfirmation": True, "torchVersionRequirement": torch_requirement()}
    known = inspect.signature(logic.installTorch).parameters
    try:
        torch = logic.installTorch(**{k: v for k, v in wanted.items() if k in known})
    except Exception as error:
        raise _failure("PyTorch", error) from error
    if torch is None:
        raise InstallationError(
            _("PyTorch was not installed: nothing can be computed. Press Apply to be asked again.")
        )


def _check_installable() -> None:
    if package_state("torch") == "incomplete":
        raise InstallationError(
            _(
                "PyTorch is installed only in part. Open the module PyTorch Utils, press "
                "Uninstall, restart Slicer, then press Apply again."
            )
        )
    if sys.platform == "darwin" and platform.machine() == "x86_64":
        raise InstallationError(
            _(
                "PyTorch 2.6 or newer is not made for Macs with Intel processors. "
                "Use a Mac with an Apple processor, Windows or Linux."
            )
        )


def _pytorch_logic():
    try:
        import PyTorchUtils
    except ImportError as error:
        raise InstallationError(
            _(
                "The extension PyTorch is needed to install PyTorch. Open the Extensions Manager, "
                "install the extension PyTorch, restart Slicer, then press Apply again."
            )
        ) from error
    return PyTorchUtils.PyTorchUtilsLogic()


def _install_safetensors(ask: bool) -> None:
    import slicer

    declined = InstallationError(
        _("safetensors was not installed, so no model can be read. Press Apply to be asked again.")
    )
    question = _("To read models, the Python package safetensors (1 MB) is needed. Install it?")
    if ask and not slicer.util.confirmOkCancelDisplay(question, _MODULE):
        raise declined
    try:
        _pip_install(SAFETENSORS)
    except Exception as error:
        raise _failure("safetensors", error) from error


def _pip_install(requirement: str) -> None:
    import slicer

    try:
        from slicer.packaging import pip_ensure  # since Slicer 5.12
    except ImportError:
        slicer.util.pip_install(requirement)
    else:
        pip_ensure(requirement, requester=_MODULE, prompt_install=False)


def _failure(package: str, error: Exception) -> InstallationError:
    return InstallationError(
        _(
            "The installation of {package} failed. Check the connection to the internet and the "
            "free disk space, then press Apply again; Slicer's Python console says more.\n{error}"
        ).format(package=package, error=error)
    )
