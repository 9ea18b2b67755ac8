"""Several segmentations exported together: all samples of a scan, or those of a sequence."""

from __future__ import annotations

import csv
import os
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import slicer

from ..errors import InputError, OutputError
from ..files import move_together, remove_if_empty, staged
from .export import (
    Entry,
    add_labelmap_node,
    cannot_write,
    entries_of_all,
    merged_labels,
    suffix_of,
    write_file,
)
from .file_grid import VOLUME, on_grid
from .geometry import exact_geometry, ijk_to_ras, to_vtk
from .samples import SampleSet
from .segmentations import check_item, own_grid, reference_volume
from .sequences import segmented_items
from .volumes import check_volume_node

# The table of volumes, beside the files.
TABLE = "volumes.csv"
# Something that takes long: the caller can do something else whenever it yields, which is how much
# is done, 0..1. Closing it early takes everything back; in the end it returns what was made.
Steps = Generator[float, None, list]


@dataclass(frozen=True)
class Item:
    """A segmentation of a series.

    Attributes:
        number: of its file.
        index: what tells it from the others, in words.
        segmentation: segmentation node, perhaps in no scene.
        volume: the volume node that it is of, likewise.
        placed_by: node whose parent transform counts: an item of a sequence has none itself.
        grid: (4, 4) from the volume's voxel indices to the segmentation's own space, mm.
    """

    number: int
    index: str
    segmentation: object
    volume: object
    placed_by: object
    grid: np.ndarray


@dataclass(frozen=True)
class Series:
    """Segmentations that are exported together.

    Attributes:
        stem: with what the names of their files begin.
        index_name: what the items' indices are.
        scene: where label map nodes go.
        items: at least one.
    """

    stem: str
    index_name: str
    scene: object
    items: list[Item]

    @classmethod
    def of_samples(cls, samples: SampleSet) -> Series:
        """Return all samples, in the order drawn.

        Raises:
            InputError: if their volume was removed or emptied, or shows another item of its
                sequence.
        """
        volume, sequence = samples.volume, samples.sequence
        if volume is None:
            raise InputError(
                "The samples' volume was removed, so there is no grid to export them on."
            )
        check_volume_node(volume)
        items = []
        for number in sorted(samples.samples):
            segmentation = sequence.GetDataNodeAtValue(str(number))
            check_item(segmentation, volume)
            grid = own_grid(segmentation, volume)
            items.append(Item(number, str(number), segmentation, volume, volume, grid))
        return cls("sample", "sample", volume.GetScene(), items)

    @classmethod
    def of_sequence(cls, segmentation_node) -> Series:
        """Return those that a segmentation node shows one by one, with the volumes of a sequence.

        Raises:
            InputError: if it shows none, or a volume was removed.
        """
        sequence, found = segmented_items(segmentation_node)
        if not found:
            raise InputError(
                f"{segmentation_node.GetName()} is not of a sequence of volumes. Export it alone."
            )
        for index, _segmentation, volume in found:
            if volume is None:
                raise InputError(
                    f"The volume at {index} of the sequence was removed, so there is no grid to "
                    "export its segmentation on. Remove that item in the module Sequences."
                )
        words = sequence.GetIndexName(), sequence.GetIndexUnit()
        name = "_".join(word for word in words if word)
        shown = reference_volume(segmentation_node)
        items = [
            Item(n + 1, *entry, placed_by=shown, grid=ijk_to_ras(entry[2]))
            for n, entry in enumerate(found)
        ]
        return cls("segmentation", name, segmentation_node.GetScene(), items)


def nodes_in_steps(series: Series) -> Steps:
    """Export to new label map nodes on the volumes' grids.

    Returns:
        The nodes.

    Raises:
        Exception: of any kind; in every case the scene is as it was.
    """
    all_entries = _entries(series)
    with ExitStack() as undo:
        nodes = []
        for item, entries in zip(series.items, all_entries, strict=True):
            labels = _labels(item, entries)
            name = item.segmentation.GetName()
            nodes.append(
                add_labelmap_node(
                    series.scene, name, labels, entries, item.volume, item.placed_by, undo
                )
            )
            yield len(nodes) / len(series.items)
        undo.pop_all()
    return nodes


def files_in_steps(
    folder: str | Path,
    series: Series,
    suffix: str = ".nii.gz",
    *,
    grid: str = VOLUME,
    overwrite: bool = False,
) -> Steps:
    """Export to numbered files of a folder, which is made if need be, with a table of volumes.

    The files appear only when all are complete.

    Args:
        folder: where to.
        series: what.
        suffix: see `export.export_file`.
        grid: see `export.export_file`.
        overwrite: replace existing files of these names.

    Returns:
        The files' paths; the last is the table's.

    Raises:
        InputError: if a node cannot be used.
        OutputError: if a file cannot be written; existing files are as they were.
    """
    all_entries = _entries(series)
    folder, number = Path(folder), len(series.items)
    paths = [folder / f"{series.stem}_{item.number:03}{suffix}" for item in series.items]
    suffix_of(paths[0])
    paths.append(folder / TABLE)
    # Path's own way to ask fails for a name that is too long.
    existing = [path for path in paths if os.path.exists(path)]
    if folders := [path for path in existing if path.is_dir()]:
        raise OutputError(f"{folders[0]} is a folder. Choose another folder to export to.")
    if existing and not overwrite:
        raise OutputError(
            f"{existing[0]} exists already. Choose another folder, for example an empty one."
        )
    is_new, old = not os.path.exists(folder), None
    try:
        folder.mkdir(exist_ok=True)
        with staged(folder) as (new, old):
            volumes = []
            for n, item in enumerate(series.items):
                entries = all_entries[n]
                labels = _labels(item, entries)
                volumes.append(_volumes_ml(labels, item.volume, entries))
                yield (n + 0.5) / number
                write_file(new / paths[n].name, *on_grid(labels, item.volume, grid), entries)
                yield (n + 1) / number
            _write_table(new / TABLE, series, _columns(all_entries), volumes)
            moves = [(path, old / path.name) for path in existing]
            move_together(moves + [(new / path.name, path) for path in paths])
    except OSError as error:
        if old is not None and old.is_dir():
            raise OutputError(
                f"{folder}: the files cannot be written ({error}), and earlier ones could not be "
                f"put back: they are in {old}."
            ) from error
        raise cannot_write(folder, error) from error
    finally:
        if is_new:  # it holds the files, but if they were not completed
            remove_if_empty(folder)
    return paths


def _entries(series: Series) -> list[list[Entry]]:
    return entries_of_all([item.segmentation for item in series.items])


def _labels(item: Item, entries: Sequence[Entry]) -> np.ndarray:
    # It may have been removed or emptied since the last step.
    check_volume_node(item.volume)
    # The volume's voxels where the segmentation has them: a transform that the volume is under, or
    # that was hardened on it, has not reached the items of a sequence.
    grid = slicer.vtkMRMLScalarVolumeNode()
    grid.SetName(item.volume.GetName())
    grid.SetAndObserveImageData(item.volume.GetImageData())
    grid.SetIJKToRASMatrix(to_vtk(item.grid))
    return merged_labels(item.segmentation, grid, entries)


def _columns(all_entries: Sequence[Sequence[Entry]]) -> dict[int, str]:
    """Return the names of the table's columns by the segments' value.

    Segments of the user are called by their names, for their IDs say nothing; unless two have the
    same.
    """
    first = {entry.value: entry for entries in reversed(all_entries) for entry in entries}
    found = sorted(first.values(), key=lambda entry: entry.value)
    columns: dict[int, str] = {}
    for entry in found:
        name = entry.segment_id if entry.is_class else entry.name
        taken = name in columns.values() or any(name == e.segment_id for e in found if e != entry)
        name = entry.segment_id if taken else name
        # IDs are of one segmentation only.
        columns[entry.value] = f"{name}_{entry.value}" if name in columns.values() else name
    return columns


def _volumes_ml(labels: np.ndarray, volume_node, entries: Sequence[Entry]) -> dict[int, float]:
    """Return the volume of each segment, by its value."""
    counts = np.bincount(labels.ravel(), minlength=256)
    ml = exact_geometry(ijk_to_ras(volume_node), volume_node.GetImageData()).voxel_ml
    return {entry.value: float(counts[entry.value]) * ml for entry in entries}


def _write_table(
    path: Path, series: Series, columns: dict[int, str], volumes: Sequence[dict[int, float]]
) -> None:
    """Write volumes in ml, a row for each item; a segment that an item lacks has an empty cell."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow([series.index_name, *(f"{name}_ml" for name in columns.values())])
        for item, ml in zip(series.items, volumes, strict=True):
            cells = [f"{ml[value]:.3f}" if value in ml else "" for value in columns]
            table.writerow([item.index, *cells])
