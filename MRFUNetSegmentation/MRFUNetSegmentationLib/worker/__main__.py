"""Run the worker: `python -m MRFUNetSegmentationLib.worker FOLDER`; the client does so."""

import sys
from pathlib import Path

from .server import main

if __name__ == "__main__":
    main(Path(sys.argv[1]))
