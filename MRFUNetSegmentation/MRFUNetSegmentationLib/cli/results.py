"""The folder that a run writes: all files or none, and never over earlier ones unasked."""

from __future__ import annotations

import csv
import json
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk

from .. import __version__
from ..errors import OutputError
from ..files import move_together, remove_if_empty, staged
from ..inference import sampled
from ..inference.image_files import can_be_named, write_image, write_label_map, write_map
from ..inference.result_files import (
    LABEL_MAP,
    PREVIEW,
    REPORT,
    SAMPLE_FILES,
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
    from ..inference.segmentation import Segmentation

# What a run may write, as patterns.
_MAPS = (*{*sampled.CAPTIONS, *sampled.CAPTIONS_OF_ONE}, f"{sampled.PROBABILITY}[0-9]*")
_OURS = (LABEL_MAP, SEGMENTATION, REPORT, PREVIEW, VOLUMES, *map(map_file, _MAPS), *SAMPLE_FILES)
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
        source: the file or folder that is to be segmented, which is never replaced.
        overwrite: whether earlier results in it may be replaced.

    Raises:
        OutputError: if it cannot be written to, or holds results that may not be replaced.
    """

    def __init__(self, path: Path, source: Path, *, overwrite: bool) -> None:
        self.path = path
        self._source = source
        self._overwrite = overwrite
        if not can_be_named(path):
            raise OutputError(
                f"{path!a}: the name is not in the system's encoding of names. Choose another "
                "folder."
            )
        if path.exists() and not path.is_dir():
            raise OutputError(f"{path}: there is a file of this name. Choose another folder.")
        self._check_earlier()
        existing = path
        while not existing.exists():
            existing = existing.parent
        if not existing.is_dir():
            raise OutputError(f"{existing}: is a file, no folder. Choose another folder.")
        if not os.access(existing, os.W_OK):
            raise OutputError(f"{path}: no permission to write there. Choose another folder.")

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """Give a temporary folder, whose content replaces earlier results when all is well.

        Raises:
            OutputError: in the place of an OSError.
        """
        old = None
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with staged(self.path) as (new, old):
                yield new
                self._replace_earlier(new, old)
        except OSError as error:
            lost = old is not None and old.is_dir()
            fate = f"could not be put back and are in {old}" if lost else "were kept"
            raise OutputError(
                f"{self.path}: the results cannot be written ({error}). Check the free space and "
                "the permissions, and close programs that show results of this folder; earlier "
                f"results {fate}."
            ) from error

    def write(
        self, source: Path, series: str | None, volume: Volume, segmentation: Segmentation
    ) -> None:
        """Write the label map, the segmentation, the report, the picture and the maps.

        Args:
            source: the segmented file or folder of DICOM files.
            series: UID of the DICOM series that was chosen, if one was.
            volume: its content.
            segmentation: of it.

        Raises:
            OutputError: if that fails.
        """
        with self.writing() as folder:
            _write_labels(folder, segmentation.labels, volume, segmentation.card.segments)
            report = _report(source, series, volume, segmentation, segmentation.volumes_ml())
            if segmentation.maps:
                number, captions = len(segmentation.card.classes), sampled.CAPTIONS_OF_ONE
                report["maps"] = _write_maps(folder, segmentation.maps, volume, number, captions)
            _write_report(folder, report)
            _write_picture(folder, volume, segmentation.labels, segmentation.card.segments)

    def _check_earlier(self) -> None:
        """Refuse to replace an earlier run's files unasked, and the scan at all."""
        source = self._source
        if source.exists() and any(file.samefile(source) for file in self._earlier()):
            raise OutputError(
                f"{self.path}: the scan itself, {source.name}, has the name of a result in "
                "this folder and would be replaced. Choose another folder."
            )
        there = sorted({file.relative_to(self.path).parts[0] for file in self._earlier()})
        if there and not self._overwrite:
            raise OutputError(
                f"{self.path}: the folder already holds {', '.join(there)}. "
                "Choose another folder, or replace them with --overwrite."
            )

    def _earlier(self) -> list[Path]:
        """Return the files of an earlier run; whatever else there is belongs to the user."""
        found = (file for pattern in _OURS for file in self.path.glob(pattern))
        return sorted(file for file in found if file.is_file())

    def _replace_earlier(self, new: Path, old: Path) -> None:
        """Move earlier results away and new ones into their place; if that fails, take it back."""
        self._check_earlier()  # again: another run may have ended in the meantime
        earlier = self._earlier()
        moves = [(file, old / file.name) for file in earlier]
        moves += [(f, self.path / f.relative_to(new)) for f in new.rglob("*") if f.is_file()]
        try:
            move_together(moves)
        finally:
            remove_if_empty(self.path / SAMPLES)


def write_samples(
    folder: Path,
    source: Path,
    series: str | None,
    volume: Volume,
    result: SampledResult,
    maps: Sequence[str],
    *,
    keep_samples: bool,
) -> None:
    """Write the results of a run that has drawn samples; the label map is that of the consensus.

    Args:
        folder: to write to, one that `ResultFolder.writing` gives.
        source: the segmented file or folder of DICOM files.
        series: UID of the DICOM series that was chosen, if one was.
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
    report = _report(source, series, volume, result, volumes)
    report["samples"] = {
        "number": result.number,
        "seed": result.seed,
        "consensus": result.consensus_method,
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
    captions: dict[str, str],
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
        if name in captions:
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
    series: str | None,
    volume: Volume,
    result: Segmentation | SampledResult,
    volumes: dict[int, float],
) -> dict[str, Any]:
    import torch

    card = result.card
    return {
        "input": {
            # Links stay: what they point to may have a name that tells no format.
            "path": str(source.absolute()),
            **({"series": series} if series else {}),
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
        "options": result.options,
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
