"""Runs the tests of this folder in Slicer's application, then quits it with their exit code.

From the repository's folder, with `Slicer` for the application's launcher:

    Slicer --no-splash --disable-settings --additional-module-paths "$PWD/MRFUNetSegmentation" \
        --python-script Testing/Slicer/run.py

PyTorch and safetensors must be installed in Slicer; pytest is installed if need be. The report goes
to the terminal and to slicer-tests.xml in the folder for temporary files. The environment variable
MRFUNET_SCAN can name a scan that is segmented in place of a made-up one; MRFUNET_PICTURES a folder
for pictures of the main window.
"""

import sys
import tempfile
from pathlib import Path

import slicer

try:
    import pytest
except ImportError:
    slicer.util.pip_install("pytest")
    import pytest

FOLDER = Path(__file__).resolve().parent
REPORT = Path(tempfile.gettempdir()) / "slicer-tests.xml"

slicer.util.mainWindow().resize(1400, 1000)
# Slicer has taken its own arguments away from what follows the script.
arguments = [*sys.argv[1:], str(FOLDER), "-s", "-v", "-p", "no:cacheprovider"]
exit_code = pytest.main([*arguments, f"--junit-xml={REPORT}", f"--rootdir={FOLDER}"])
print(f"Report: {REPORT}")
slicer.util.exit(int(exit_code))
