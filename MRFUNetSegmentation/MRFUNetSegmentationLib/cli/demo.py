"""`mrfunet demo`: the main job on the MNI152 average, scored against its tissue priors.

The ICBM 2009a symmetric T1 average and its grey- and white-matter priors (Fonov et al.,
NeuroImage 2011) come inside the `nilearn` package.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import SimpleITK as sitk

from ..errors import InputError
from ..inference.result_files import LABEL_MAP, PREVIEW
from . import segment

_SCAN = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
_PRIORS = {"Grey matter": "gm", "White matter": "wm"}


def add_parser(commands) -> argparse.ArgumentParser:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "demo",
        help="segment the MNI152 T1 average",
        description="Segment the MNI152 T1 average and compare with its tissue priors.",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("demo-output"),
        metavar="DIR",
        help="folder for the results (default: %(default)s)",
    )
    parser.add_argument(
        "--model",
        default=segment.DEFAULT_MODEL,
        metavar="NAME|FILE",
        help="bundled model or checkpoint file (default: %(default)s)",
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: %(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace earlier results in DIR")
    parser.set_defaults(**segment.DEFAULTS)
    return parser


def run(options: argparse.Namespace) -> int:
    """Segment the average and print the agreement; return the exit code."""
    folder = _nilearn_data()
    options.input = folder / _SCAN.format("t1")
    code = segment.run(options)

    from ..checkpoints.load import load_checkpoint
    from ..training.metrics import dice

    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(options.output / LABEL_MAP)))
    values = {c.name: c.value for c in load_checkpoint(options.model).card.segments}
    for name, prior in _PRIORS.items():
        if name in values:
            probability = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / _SCAN.format(prior))))
            score = dice(labels == values[name], probability > 0.5 * probability.max())
            print(f"{name:30} {score:9.3f} Dice with the MNI152 prior above one half")
    print(f"picture: {options.output / PREVIEW}")
    return code


def _nilearn_data() -> Path:
    found = importlib.util.find_spec("nilearn")
    if found is None:
        raise InputError("The demo's scan is in the package nilearn: pip install nilearn.")
    return Path(found.origin).parent / "datasets" / "data"
