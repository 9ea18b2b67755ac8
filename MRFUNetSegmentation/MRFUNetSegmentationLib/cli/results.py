"""The folder that a run writes: all files or none, and never over earlier ones unasked."""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk

from .. import __version__
from ..errors import OutputError
from ..inference.image_files import write_label_map
from ..inference.volume import Volume
from .seg_nrrd import write_seg_nrrd

if TYPE_CHECKING:
    from ..inference.engine import Segmentation

LABEL_MAP, SEGMENTATION, REPORT, PREVIEW = (
    "segmentation.nii.gz",
    "segmentation.seg.nrrd",
    "report.json",
    "preview.png",
)


class ResultFolder:
    """Output folder of one run.

    Args:
        path: the folder; made if it does not exist.
        overwrite: whether earlier results in it may be replaced.

    Raises:
        OutputError: if it cannot be written to, or holds results that may not be replaced.
    """

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        self.path = path
        if path.exists() and not path.is_dir():
            raise OutputError(f"{path}: there is a file of this name. Choose another folder.")
        there = [n for n in (LABEL_MAP, SEGMENTATION, REPORT, PREVIEW) if (path / n).exists()]
        if there and not overwrite:
            raise OutputError(
                f"{path}: the folder already holds {', '.join(there)}. "
                "Choose another folder, or replace them with --overwrite."
            )
        existing = path
        while not existing.exists():
            existing = existing.parent
        if not os.access(existing, os.W_OK):
            raise OutputError(f"{path}: no permission to write there. Choose another folder.")

    def write(self, source: Path, volume: Volume, segmentation: Segmentation) -> None:
        """Write the label map, the segmentation, the report and the picture.

        They are written to a temporary folder and moved when all are complete.
        """
        partial = None
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=self.path))
            self._write_all(partial, source, volume, segmentation)
            for file in partial.iterdir():
                os.replace(file, self.path / file.name)
        except (OSError, RuntimeError) as error:
            raise OutputError(
                f"{self.path}: the results cannot be written ({error}). "
                "Check the free space and the permissions; earlier results were kept."
            ) from error
        finally:
            if partial:
                shutil.rmtree(partial, ignore_errors=True)

    def _write_all(
        self, folder: Path, source: Path, volume: Volume, segmentation: Segmentation
    ) -> None:
        image = write_label_map(folder / LABEL_MAP, segmentation.labels, volume.geometry)
        write_seg_nrrd(folder / SEGMENTATION, image, segmentation.card.segments)
        report = _report(source, volume, segmentation)
        (folder / REPORT).write_text(
            json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        from .preview import preview  # with torch, which is needed by now anyway

        picture = preview(volume, segmentation.labels, segmentation.card.segments)
        sitk.WriteImage(sitk.GetImageFromArray(picture, isVector=True), str(folder / PREVIEW))


def _report(source: Path, volume: Volume, segmentation: Segmentation) -> dict[str, Any]:
    import torch

    volumes = segmentation.volumes_ml()
    card = segmentation.card
    return {
        "input": {
            "path": str(source),
            "size": list(volume.geometry.size),
            "spacing_mm": list(volume.geometry.spacing),
        },
        "model": {"name": card.name, "sha256": segmentation.sha256, "licence": card.licence},
        "classes": [
            {"value": c.value, "name": c.name, "volume_ml": round(volumes[c.value], 3)}
            for c in card.segments
        ],
        "device": segmentation.device,
        "timings_s": {stage: round(s, 3) for stage, s in segmentation.timings.items()},
        "warnings": segmentation.warnings,
        "versions": {
            "mrfunet": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "SimpleITK": sitk.Version.VersionString(),
            "numpy": np.__version__,
        },
        "intended_use": card.intended_use,
    }
