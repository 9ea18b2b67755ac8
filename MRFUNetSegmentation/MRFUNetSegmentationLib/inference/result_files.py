"""The folder of results that `mrfunet segment` writes: names of its files, and reading it back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..checkpoints.card import ModelCard
from ..errors import InputError
from .label_maps import compress
from .sampled import SampledResult
from .volume import Geometry

LABEL_MAP, SEGMENTATION, REPORT, PREVIEW, VOLUMES, SAMPLES = (
    "segmentation.nii.gz",
    "segmentation.seg.nrrd",
    "report.json",
    "preview.png",
    "volumes.csv",
    "samples",
)
# Patterns of what is in the folder of samples: three digits, or four.
SAMPLE_FILES = tuple(
    f"{SAMPLES}/{kind}_{number}.nii.gz"
    for kind in ("sample", "probabilities")
    for number in ("[0-9]" * 3, "[0-9]" * 4)
)


@dataclass(frozen=True)
class WrittenResult:
    """What a folder of results holds; all arrays are [k, j, i] on the scan's own grid.

    Attributes:
        source: path of the scan, a file or a folder of DICOM files.
        series: UID of the DICOM series that was chosen; None if none had to be.
        card: the model's.
        sha256: of the checkpoint file.
        device: where it was computed, for users.
        options: as of `Segmentation`.
        version: of the program that has written it.
        geometry: of the scan when it was segmented.
        labels: uint8, class k has value k; with samples, their consensus.
        maps: float32 by name, of the probabilities of one segmentation; none with samples.
        samples: the result with those maps and samples that were written; None if no samples were
            drawn.
    """

    source: Path
    series: str | None
    card: ModelCard
    sha256: str
    device: str
    options: dict[str, bool | float]
    version: str
    geometry: Geometry
    labels: np.ndarray
    maps: dict[str, np.ndarray]
    samples: SampledResult | None


def map_file(name: str) -> str:
    """Return the name of the file of an uncertainty map."""
    return f"uncertainty_{name}.nii.gz"


def sample_file(sample: int) -> str:
    """Return the name, in the folder, of the label map of sample 0 .. N - 1."""
    return f"{SAMPLES}/sample_{sample + 1:03}.nii.gz"


def probabilities_file(sample: int) -> str:
    """Return the name, in the folder, of the class probabilities of sample 0 .. N - 1."""
    return f"{SAMPLES}/probabilities_{sample + 1:03}.nii.gz"


def read_result_folder(folder: Path) -> WrittenResult:
    """Read what `mrfunet segment` has written.

    Args:
        folder: its output.

    Raises:
        InputError: if the folder holds no such result, or a file of it is missing or damaged.
    """
    report_file = folder / REPORT
    if not report_file.is_file():
        raise InputError(
            f"{folder}: there is no {REPORT}. Choose a folder that `mrfunet segment` has written."
        )
    try:
        report = json.loads(report_file.read_text(encoding="utf-8"))
        card = ModelCard.from_dict(report["model"]["card"], str(report_file))
        segmented = sitk.ReadImage(str(folder / LABEL_MAP))
        samples = _sampled(folder, segmented, report, card) if "samples" in report else None
        return WrittenResult(
            source=Path(report["input"]["path"]),
            series=report["input"].get("series"),
            card=card,
            sha256=report["model"]["sha256"],
            device=report["device"],
            options=report["options"],
            version=report["versions"]["mrfunet"],
            geometry=Geometry.from_image(segmented),
            labels=samples.consensus if samples else sitk.GetArrayFromImage(segmented),
            maps=_read_maps(folder, report.get("maps", {})),
            samples=samples,
        )
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder}: the result cannot be read ({type(error).__name__}: {error}). Segment the "
            "scan again."
        ) from error


def read_array(file: Path) -> np.ndarray:
    """Return the values [k, j, i] of a label map or a map; RuntimeError if that fails."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def _read_maps(folder: Path, entries: dict[str, dict[str, Any]]) -> dict[str, np.ndarray]:
    """Return the maps that a report lists, by name."""
    return {name: read_array(folder / entry["file"]) for name, entry in entries.items()}


def _sampled(
    folder: Path, consensus: sitk.Image, report: dict[str, Any], card: ModelCard
) -> SampledResult:
    samples = report["samples"]
    written = [folder / sample_file(n) for n in range(samples["number"])]
    kept = [file for file in written if file.is_file()]
    if kept and kept != written:
        raise ValueError(f"{len(written) - len(kept)} of {len(written)} samples are missing")
    return SampledResult(
        compressed=[compress(read_array(file)) for file in kept],
        seed=samples["seed"],
        geometry=Geometry.from_image(consensus),
        consensus=sitk.GetArrayFromImage(consensus),
        consensus_method=samples["consensus"],
        maps=_read_maps(folder, samples["maps"]),
        structures=samples["structures"],
        per_sample=[
            entry | {"volumes_ml": {int(k): ml for k, ml in entry["volumes_ml"].items()}}
            for entry in samples["per_sample"]
        ],
        directions=samples["directions"],
        card=card,
        sha256=report["model"]["sha256"],
        device=report["device"],
        options=report["options"],
        timings=report["timings_s"],
        warnings=report["warnings"],
    )
