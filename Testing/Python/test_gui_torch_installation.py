"""Installing PyTorch and safetensors: what is asked, what is called, what is said."""

import subprocess
import sys
import types

import pytest
from gui_tools import MODULE_FOLDER
from MRFUNetSegmentationLib.gui import torch_installation
from MRFUNetSegmentationLib.gui.torch_installation import (
    InstallationError,
    ensure_installed,
    package_state,
    require_installed,
    torch_requirement,
)


class FakeSlicer:
    """Slicer, its PyTorch extension and pip: what is installed, and what was called."""

    def __init__(self, monkeypatch):
        self.installed = {"torch": "installed", "safetensors": "installed"}
        self.calls, self.agrees, self.main_window = [], True, object()
        util = types.SimpleNamespace(
            mainWindow=lambda: self.main_window,
            confirmOkCancelDisplay=self.ask,
            pip_install=self.pip_install,
        )
        self.module = types.ModuleType("slicer")
        self.module.util = util
        self.pytorch = types.SimpleNamespace(PyTorchUtilsLogic=lambda: self)
        monkeypatch.setitem(sys.modules, "slicer", self.module)
        monkeypatch.setitem(sys.modules, "slicer.packaging", None)
        monkeypatch.setitem(sys.modules, "PyTorchUtils", self.pytorch)
        monkeypatch.setattr(torch_installation, "package_state", self.installed.__getitem__)

    def ask(self, question, title):
        self.calls.append("ask")
        return self.agrees

    def pip_install(self, requirement):
        self.calls.append(f"pip {requirement}")
        self.installed["safetensors"] = "installed"

    def installTorch(self, askConfirmation=False, torchVersionRequirement=None):  # noqa: N802, N803
        self.calls.append(f"torch{torchVersionRequirement} asking={askConfirmation}")
        if not self.agrees:
            return None
        self.installed["torch"] = "installed"
        return "torch"


@pytest.fixture
def application(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    return FakeSlicer(monkeypatch)


def test_nothing_happens_when_everything_is_there(application):
    ensure_installed()
    require_installed()
    assert application.calls == []


def test_both_are_installed_after_one_question(application):
    application.installed.update(torch="missing", safetensors="missing")
    ensure_installed()
    assert application.calls == ["torch>=2.6 asking=True", "pip safetensors>=0.5"]


def test_safetensors_alone_is_asked_for(application):
    application.installed["safetensors"] = "missing"
    ensure_installed()
    assert application.calls == ["ask", "pip safetensors>=0.5"]


@pytest.mark.parametrize("package", ["torch", "safetensors"])
def test_no_means_no(application, package):
    application.installed[package] = "missing"
    application.agrees = False
    with pytest.raises(InstallationError, match="Apply to be asked again"):
        ensure_installed()
    assert application.installed[package] == "missing"


def test_newer_slicer_installs_with_pip_ensure(application, monkeypatch):
    def pip_ensure(requirement, requester, prompt_install):
        application.calls.append(f"ensure {requirement} {requester} asking={prompt_install}")
        application.installed["safetensors"] = "installed"

    packaging = types.SimpleNamespace(pip_ensure=pip_ensure)
    monkeypatch.setitem(sys.modules, "slicer.packaging", packaging)
    application.installed["safetensors"] = "missing"
    ensure_installed()
    assert application.calls[1:] == ["ensure safetensors>=0.5 MRFUNetSegmentation asking=False"]


@pytest.mark.parametrize("package", ["torch", "safetensors"])
def test_without_main_window_nothing_is_asked_nor_installed(application, package):
    application.main_window = None
    application.installed[package] = "missing"
    with pytest.raises(InstallationError, match="installTorch"):
        ensure_installed()
    assert application.calls == []


def test_scripts_are_told_what_to_do(application):
    application.installed["torch"] = "incomplete"
    with pytest.raises(InstallationError, match="Press Apply once"):
        require_installed()
    assert application.calls == []


def test_older_extension_with_other_arguments(application):
    def install_torch(confirm=True):
        application.calls.append("old")
        application.installed["torch"] = "installed"
        return "torch"

    application.installTorch = install_torch
    application.installed["torch"] = "missing"
    ensure_installed()
    assert application.calls == ["old"]


def test_missing_extension(application, monkeypatch):
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    application.installed["torch"] = "missing"
    with pytest.raises(InstallationError, match="Extensions Manager"):
        ensure_installed()


def test_half_installed_torch_is_not_installed_over(application):
    application.installed["torch"] = "incomplete"
    with pytest.raises(InstallationError, match="press Uninstall"):
        ensure_installed()
    assert application.calls == []


def test_mac_with_intel_processor(application, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(torch_installation.platform, "machine", lambda: "x86_64")
    application.installed["torch"] = "missing"
    with pytest.raises(InstallationError, match="Intel"):
        ensure_installed()
    assert application.calls == []


def test_failure_is_reported_with_its_reason(application):
    def install_torch():
        raise subprocess.CalledProcessError(1, ["pip"])

    application.installTorch = install_torch
    application.installed["torch"] = "missing"
    with pytest.raises(InstallationError, match=r"(?s)installation of PyTorch failed.*status 1"):
        ensure_installed()


def test_installation_without_effect_is_an_error(application):
    application.installTorch = lambda: "torch"
    application.installed["torch"] = "missing"
    with pytest.raises(InstallationError, match="is not installed"):
        ensure_installed()


def test_versions_that_windows_can_hold():
    assert torch_requirement("win32") == ">=2.6,<2.13"
    assert torch_requirement("linux") == ">=2.6"


@pytest.mark.parametrize(
    ("code", "metadata", "state"),
    [
        (True, True, "installed"),
        (True, False, "incomplete"),
        (False, True, "incomplete"),
        (False, False, "missing"),
    ],
)
def test_package_state(tmp_path, monkeypatch, code, metadata, state):
    monkeypatch.syspath_prepend(tmp_path)
    if code:
        (tmp_path / "madeup").mkdir()
        (tmp_path / "madeup" / "__init__.py").write_text(
            "raise SystemExit('imported')", encoding="utf-8"
        )
    if metadata:
        (tmp_path / "madeup-1.0.dist-info").mkdir()
        (tmp_path / "madeup-1.0.dist-info" / "METADATA").write_text(
            "Name: madeup\nVersion: 1.0\n", encoding="utf-8"
        )
    assert package_state("madeup") == state


def test_folder_without_code_is_incomplete(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "madeup" / "lib").mkdir(parents=True)
    assert package_state("madeup") == "incomplete"


def test_checking_imports_neither():
    program = (
        "import sys\n"
        f"sys.path.insert(0, {str(MODULE_FOLDER)!r})\n"
        "from MRFUNetSegmentationLib.gui.torch_installation import require_installed\n"
        "require_installed()\n"
        "print(sorted({'torch', 'safetensors'} & set(sys.modules)))\n"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "[]"
