"""Writes the lists of the module's files in CMakeLists.txt: what is not listed is not packaged."""

import re
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
MODULE = REPOSITORY / "MRFUNetSegmentation"
CMAKE_LISTS = MODULE / "CMakeLists.txt"


def repository_files() -> list[Path]:
    """Return the files that are, or will be, in the repository: all but the ignored ones."""
    command = ["git", "-C", REPOSITORY, "ls-files", "--cached", "--others", "--exclude-standard"]
    output = subprocess.run([*command, "-z"], capture_output=True, text=True, check=True).stdout
    paths = {REPOSITORY / name for name in output.split("\0") if name}
    return sorted(path for path in paths if path.exists())


def module_files() -> dict[str, list[str]]:
    """Return the module's files below its folder, by the name of their list in CMakeLists.txt."""
    paths = [p for p in repository_files() if MODULE in p.parents and p != CMAKE_LISTS]
    scripts = [p.relative_to(MODULE).as_posix() for p in paths if p.suffix == ".py"]
    resources = [p.relative_to(MODULE).as_posix() for p in paths if p.suffix != ".py"]
    return {"MODULE_PYTHON_SCRIPTS": scripts, "MODULE_PYTHON_RESOURCES": resources}


def with_lists(text: str) -> str:
    """Return the text of a CMakeLists.txt with the lists as they should be."""
    for name, files in module_files().items():
        lines = "".join(f"  {file}\n" for file in files)
        text = re.sub(rf"set\({name}\n[^)]*\)", f"set({name}\n{lines}  )", text)
    return text


if __name__ == "__main__":
    CMAKE_LISTS.write_text(with_lists(CMAKE_LISTS.read_text(encoding="utf-8")), encoding="utf-8")
