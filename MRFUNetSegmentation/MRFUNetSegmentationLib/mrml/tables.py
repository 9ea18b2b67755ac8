"""Volumes of structures over samples, as tables and as plots of their distribution."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from ..errors import InputError
from ..inference.sampled import SampledResult

SAMPLE, LOG_DENSITY, DISTANCE = "Sample", "Log density", "Distance to consensus"
# How the names of columns with volumes end.
VOLUME_UNIT = " [ml]"
_SHARE = "Share of samples [%]"
_STRUCTURE, _SEGMENT, _LOW, _HIGH = "Structure", "Segment ID", "5 % [ml]", "95 % [ml]"


def volume_column(structure: str) -> str:
    """Return the name of the column with a structure's volumes."""
    return structure + VOLUME_UNIT


def add_samples_table(scene, name: str, result: SampledResult):
    """Add a table with a row for each sample, in the order drawn.

    Its columns are the sample's number from 1, the volume of each structure in ml, the log density
    of its latent under the prior, and its distance to the consensus (1 - IoU).
    """
    columns: dict[str, Sequence[Any]] = {SAMPLE: range(1, result.number + 1)}
    for structure in result.structures:
        columns[volume_column(structure["name"])] = _volumes(result, structure["value"])
    columns[LOG_DENSITY] = [float(sample["log_density"]) for sample in result.per_sample]
    columns[DISTANCE] = [float(sample["distance_to_consensus"]) for sample in result.per_sample]
    return _add_table(scene, name, columns)


def add_structures_table(scene, name: str, result: SampledResult):
    """Add a table with a row for each structure: its volume over the samples, and their overlap.

    The interval is from the 5th to the 95th percentile, of fewer than 19 samples from the least to
    the largest. A cell is empty where there is no such number, as the overlap of a structure that
    no sample contains.
    """
    rows = []
    for structure in result.structures:
        volume = structure["volume_ml"]
        rows.append(
            {
                _STRUCTURE: structure["name"],
                _SEGMENT: structure["segment_id"],
                "Mean [ml]": _text(volume["mean"]),
                "SD [ml]": _text(volume["sd"]),
                _LOW: _text(volume["p5"]),
                _HIGH: _text(volume["p95"]),
                "Coefficient of variation [%]": _text(volume["cv"], 100),
                "Consensus [ml]": _text(structure["consensus_ml"]),
                "IoU of all samples": _text(structure["iou"]),
                "Mean Dice of pairs": _text(structure["pairwise_dice"]),
            }
        )
    names = rows[0] if rows else (_STRUCTURE,)
    return _add_table(scene, name, {column: [row[column] for row in rows] for column in names})


def add_distribution(scene, name: str, result: SampledResult) -> list:
    """Add the empirical distribution of each structure's volume: a table, and plots of it.

    The curve of a structure gives for a volume the share of the samples that have at most that
    volume; where it is steep, many samples agree. Every sample is a point of it.

    Returns:
        The nodes: the table, then for each structure a plot series and a plot chart.
    """
    columns: dict[str, Sequence[Any]] = {}
    for structure in result.structures:
        columns[volume_column(structure["name"])] = sorted(_volumes(result, structure["value"]))
    columns[_SHARE] = [100 * n / result.number for n in range(1, result.number + 1)]
    table = _add_table(scene, name, columns)
    nodes = [table]
    for structure in result.structures:
        nodes += _add_chart(scene, name, table, structure, result.number)
    return nodes


def read_column(table_node, column: str) -> np.ndarray:
    """Return the numbers of a column of a table node.

    Raises:
        KeyError: if there is no such column.
    """
    table = table_node.GetTable()
    array = table.GetColumnByName(column) if table is not None else None
    if array is None:
        raise KeyError(column)
    if array.IsNumeric():
        return vtk_to_numpy(array)
    # Tables come as texts from files that have lost their schema.
    return np.array([float(array.GetValue(n)) for n in range(array.GetNumberOfValues())])


def of_each_sample(samples_table, column: str) -> dict[int, float]:
    """Return the numbers of a column by `add_samples_table`, by the number of their sample.

    Raises:
        InputError: if the table, which users can edit, does not have them.
    """
    try:
        numbers, values = (read_column(samples_table, name) for name in (SAMPLE, column))
    except (KeyError, ValueError) as error:
        raise InputError(
            f"The table {samples_table.GetName()} was edited and has no {column!r} of the samples "
            "any more. Draw samples again."
        ) from error
    pairs = zip(numbers, values, strict=True)
    return {int(n): float(value) for n, value in pairs if math.isfinite(n)}


def interval(structures_table, segment_id: str) -> tuple[float, float] | None:
    """Return the 5th and 95th percentile of a structure's volume in ml, by `add_structures_table`.

    By its segment's ID, for users may rename segments. None if the table, which users can edit,
    does not have them.
    """
    table = structures_table.GetTable()
    names = table.GetColumnByName(_SEGMENT) if table is not None else None
    row = names.LookupValue(segment_id) if names is not None else -1
    # VTK looks for a row of -1, too.
    if row < 0 or any(table.GetColumnByName(c) is None for c in (_LOW, _HIGH)):
        return None
    try:
        low, high = (float(table.GetValueByName(row, c).ToString()) for c in (_LOW, _HIGH))
    except ValueError:
        return None
    return low, high


def _volumes(result: SampledResult, value: int) -> list[float]:
    return [float(sample["volumes_ml"][value]) for sample in result.per_sample]


def _text(number: float | None, factor: float = 1.0) -> str:
    return "" if number is None else f"{factor * number:.3f}"


def _add_table(scene, name: str, columns: Mapping[str, Sequence[Any]]):
    node = scene.AddNewNodeByClass("vtkMRMLTableNode", scene.GenerateUniqueName(name))
    table = vtk.vtkTable()
    for column, values in columns.items():
        table.AddColumn(_array(column, values))
    node.SetAndObserveTable(table)
    return node


def _array(name: str, values: Sequence[Any]):
    kinds = {str: vtk.vtkStringArray, int: vtk.vtkIntArray, float: vtk.vtkDoubleArray}
    array = kinds[type(values[0]) if len(values) else str]()
    array.SetName(name)
    for value in values:
        array.InsertNextValue(value)
    return array


def _add_chart(scene, name: str, table, structure: Mapping[str, Any], number: int) -> list:
    title = f"Volume of {structure['name']} in {number} plausible segmentations"
    series = scene.AddNewNodeByClass(
        "vtkMRMLPlotSeriesNode", scene.GenerateUniqueName(f"{name} {structure['name']}")
    )
    series.SetAndObserveTableNodeID(table.GetID())
    series.SetXColumnName(volume_column(structure["name"]))
    series.SetYColumnName(_SHARE)
    series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
    series.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleCircle)
    series.SetColor(*(c / 255 for c in structure["color"]))
    chart = scene.AddNewNodeByClass(
        "vtkMRMLPlotChartNode", scene.GenerateUniqueName(f"{name} {structure['name']} plot")
    )
    chart.AddAndObservePlotSeriesNodeID(series.GetID())
    chart.SetTitle(title)
    chart.SetXAxisTitle("Volume [ml]")
    chart.SetYAxisTitle("Samples with at most this volume [%]")
    chart.SetLegendVisibility(False)
    return [series, chart]
