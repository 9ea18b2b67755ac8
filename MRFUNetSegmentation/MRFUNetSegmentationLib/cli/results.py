"""The folder that a run writes: all files or none, and never over earlier ones unasked."""

from __future__ import annotations

import csv
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk

from .. import __version__
from ..errors import OutputError
from ..inference import sampled
from ..inference.image_files import write_image, write_label_map, write_map
from ..inference.result_files import (
    LABEL_MAP,
    PREVIEW,
    REPORT,
    SAMPLES,
    SEGMENTATION,
    VOLUMES,
    map_file,
    sample_file,
)
from ..inference.sampled import SampledResult
from ..inference.volume import Volume
from .seg_nrrd import write_seg_nrrd

if TYPE_CHECKING:
    from ..inference.engine import Segmentation

# What a run may write, as patterns.
_OURS = (LABEL_MAP, SEGMENTATION, REPORT, PREVIEW, VOLUMES, SAMPLES, map_file("*"))
# Samples in the picture.
_PICTURED = 6
_MEANING = (
    "Plausible segmentations as the model has learnt them from ambiguous images. Their spread is "
    "the disagreement among them, not how far the model may be wrong."
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
        there = [file.name for file in self._earlier()]
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

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """Give a temporary folder, whose content replaces earlier results when all is well.

        Raises:
            OutputError: in the place of an OSError.
        """
        partial = None
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=self.path))
            new, old = partial / "new", partial / "old"
            new.mkdir()
            old.mkdir()
            yield new
            for file in self._earlier():
                os.replace(file, old / file.name)
            for file in new.iterdir():
                os.replace(file, self.path / file.name)
        except OSError as error:
            raise OutputError(
                f"{self.path}: the results cannot be written ({error}). "
                "Check the free space and the permissions; earlier results were kept."
            ) from error
        finally:
            if partial:
                shutil.rmtree(partial, ignore_errors=True)

    def write(self, source: Path, volume: Volume, segmentation: Segmentation) -> None:
        """Write the label map, the segmentation, the report, the picture and the maps.

        Raises:
            OutputError: if that fails.
        """
        with self.writing() as folder:
            _write_labels(folder, segmentation.labels, volume, segmentation.card.segments)
            report = _report(source, volume, segmentation, segmentation.volumes_ml())
            if segmentation.maps:
                report["maps"] = _write_maps(
                    folder, segmentation.maps, volume, len(segmentation.card.classes)
                )
            _write_report(folder, report)
            _write_picture(folder, volume, segmentation.labels, segmentation.card.segments)

    def _earlier(self) -> list[Path]:
        return sorted(file for pattern in _OURS for file in self.path.glob(pattern))


def write_samples(
    folder: Path,
    source: Path,
    volume: Volume,
    result: SampledResult,
    maps: Sequence[str],
    *,
    keep_samples: bool,
) -> None:
    """Write the results of a run that has drawn samples; the label map is that of the consensus.

    Args:
        folder: to write to, one that `ResultFolder.writing` gives.
        source: the segmented file.
        volume: its content.
        result: the samples.
        maps: names of the maps that are wanted.
        keep_samples: whether to write each sample's label map.

    Raises:
        OSError: if that fails.
    """
    card = result.card
    _write_labels(folder, result.consensus, volume, card.segments)
    wanted = {name: result.maps[name] for name in maps}
    entries = _write_maps(folder, wanted, volume, len(card.classes), sampled.CAPTIONS)
    if keep_samples:
        (folder / SAMPLES).mkdir(exist_ok=True)
        for n in range(result.number):
            write_label_map(folder / sample_file(n), result.labels(n), volume.geometry)
    _write_volumes(folder / VOLUMES, result)
    volumes = {s["value"]: s["consensus_ml"] for s in result.structures}
    report = _report(source, volume, result, volumes)
    report["samples"] = {
        "number": result.number,
        "seed": result.seed,
        "consensus": result.consensus_method,
        "mrf": result.mrf,
        "meaning": _MEANING,
        "structures": result.structures,
        "per_sample": result.per_sample,
        "directions": result.directions,
        "maps": entries,
    }
    _write_report(folder, report)
    pictured = [result.labels(n) for n in range(min(result.number, _PICTURED))]
    disagreement = result.maps[sampled.MUTUAL_INFORMATION]
    maximum = result.maximum[sampled.MUTUAL_INFORMATION]
    _write_picture(
        folder, volume, result.consensus, card.segments, disagreement / maximum, pictured
    )


def _write_labels(folder: Path, labels: np.ndarray, volume: Volume, segments) -> None:
    image = write_label_map(folder / LABEL_MAP, labels, volume.geometry)
    write_seg_nrrd(folder / SEGMENTATION, image, segments)


def _write_maps(
    folder: Path,
    maps: dict[str, np.ndarray],
    volume: Volume,
    classes: int,
    captions: dict[str, str] | None = None,
) -> dict[str, dict[str, Any]]:
    """Write maps; return what the report says about them."""
    entries = {}
    for name, values in maps.items():
        write_map(folder / map_file(name), values, volume.geometry)
        entries[name] = {
            "file": map_file(name),
            "maximum": sampled.maximum(name, classes),
            "unit": sampled.UNITS.get(name, ""),
        }
        if captions and name in captions:
            entries[name]["caption"] = captions[name]
    return entries


def _write_volumes(path: Path, result: SampledResult) -> None:
    """Write a table with a row for each sample; volumes in ml."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        names = [f"{c['segment_id']}_ml" for c in result.structures]
        table.writerow(["sample", *names, "log_density", "distance_to_consensus"])
        for number, entry in enumerate(result.per_sample, start=1):
            volumes = [f"{entry['volumes_ml'][c['value']]:.3f}" for c in result.structures]
            rest = [f"{entry[key]:.4f}" for key in ("log_density", "distance_to_consensus")]
            table.writerow([number, *volumes, *rest])


def _write_report(folder: Path, report: dict[str, Any]) -> None:
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    (folder / REPORT).write_text(text, encoding="utf-8")


def _write_picture(folder: Path, volume: Volume, labels: np.ndarray, segments, *samples) -> None:
    from .preview import preview  # with torch, which is needed by now anyway

    picture = preview(volume, labels, segments, *samples)
    write_image(folder / PREVIEW, sitk.GetImageFromArray(picture, isVector=True))


def _report(
    source: Path,
    volume: Volume,
    result: Segmentation | SampledResult,
    volumes: dict[int, float],
) -> dict[str, Any]:
    import torch

    card = result.card
    return {
        "input": {
            "path": str(source.resolve()),
            "size": list(volume.geometry.size),
            "spacing_mm": list(volume.geometry.spacing),
        },
        "model": {
            "name": card.name,
            "sha256": result.sha256,
            "licence": card.licence,
            "card": card.to_dict(),
        },
        "classes": [
            {"value": c.value, "name": c.name, "volume_ml": round(volumes[c.value], 3)}
            for c in card.segments
        ],
        "device": result.device,
        "timings_s": {stage: round(s, 3) for stage, s in result.timings.items()},
        "warnings": result.warnings,
        "versions": {
            "mrfunet": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "SimpleITK": sitk.Version.VersionString(),
            "numpy": np.__version__,
        },
        "intended_use": card.intended_use,
    }
