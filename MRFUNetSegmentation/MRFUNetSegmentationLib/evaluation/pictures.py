"""Pictures of evaluations: every scan with its segmentations, and plots of the scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..boxes import occupied_box
from ..inference.grid import ModelGrid
from ..inference.volume import MINIMUM_SIDE, Volume
from ..uncertainty.calibration import ReliabilityDiagram
from .packages import need
from .statistics import Mean

_OPACITY = 0.55
_ROWS_PER_PAGE = 12
_INCHES = 3.0


@dataclass(frozen=True)
class Panel:
    """A picture of a scan, (height, width, 3), 0..1, with a line of text above."""

    picture: np.ndarray
    title: str


def planes(
    volume: Volume,
    masks: dict[str, np.ndarray] | None,
    colours: dict[str, tuple[int, int, int]],
    centre: tuple[int, int, int],
) -> np.ndarray:
    """Draw the axial and the coronal plane through a voxel, side by side.

    Of a few slices that is the plane they lie in alone: the others are stripes.

    Args:
        volume: the scan.
        masks: [k, j, i] bool of each structure, drawn over it; None draws the scan alone.
        colours: of the structures, 0..255.
        centre: k, j, i.

    Returns:
        (height, width, 3), 0..1, in radiological convention, voxels of the finest spacing; what
        is dark at the borders is cut off.
    """
    grid = ModelGrid.of(volume.geometry, orientation="LPS")
    at = _reoriented_index(grid, centre)
    scan = volume.array.astype(float)  # torch flips no unsigned integers of 16 bits or more
    low, high = _window(scan)
    shown = _bright_box(grid.reorient(torch.from_numpy(scan)).numpy(), low, high)
    parts = []
    both, sagittal = ((2, (0, 1)), (1, (0, 2))), (0, (1, 2))
    whole = [
        (normal, axes)
        for normal, axes in (*both, sagittal)
        if all(grid.shape[a] >= MINIMUM_SIDE for a in axes)
    ]
    for normal, (right, down) in whole[:2] or both:

        def plane(array, normal=normal, down=down):
            part = grid.reorient(torch.from_numpy(array)).numpy()
            index = [at[a] if a == normal else shown[a] for a in range(3)]
            part = part[tuple(index)].T
            return part[::-1] if down == 2 else part  # superior is up

        grey = np.clip((plane(scan) - low) / (high - low), 0, 1)
        picture = np.repeat(grey[..., None], 3, axis=2)
        for structure, mask in (masks or {}).items():
            inside = plane(mask.astype(np.uint8)) > 0
            colour = np.array(colours[structure]) / 255
            picture[inside] = picture[inside] * (1 - _OPACITY) + colour * _OPACITY
        parts.append(
            _isotropic(picture, grid.spacing[down], grid.spacing[right], min(grid.spacing))
        )
    height = max(p.shape[0] for p in parts)
    return np.concatenate([_padded(p, height) for p in parts], axis=1)


def draw_grid(path: Path, rows: Sequence[tuple[str, Sequence[Panel | None]]]) -> list[Path]:
    """Write pictures of all scans, one a row, and return the files.

    Args:
        path: PNG file; with more rows than fit, "-2" and so on are added to the next ones' names.
        rows: the scan's name and its panels; None leaves a place empty.
    """
    files = []
    for page, start in enumerate(range(0, len(rows), _ROWS_PER_PAGE), start=1):
        some = rows[start : start + _ROWS_PER_PAGE]
        columns = max(len(panels) for _, panels in some)
        figure = empty_figure(_INCHES * columns, 0.66 * _INCHES * len(some), facecolor="black")
        axes = figure.subplots(len(some), columns, squeeze=False)
        for (name, panels), line in zip(some, axes, strict=True):
            for cell in line:
                cell.axis("off")
            for n, (panel, cell) in enumerate(zip(panels, line, strict=False)):
                if panel is None:
                    continue
                cell.imshow(panel.picture, interpolation="bilinear")
                title = f"{name}\n{panel.title}" if n == 0 else panel.title
                cell.set_title(title, color="white", fontsize=8, loc="left" if n == 0 else "center")
        file = path if page == 1 else path.with_stem(f"{path.stem}-{page}")
        figure.savefig(file, dpi=130, facecolor="black")
        files.append(file)
    return files


def draw_scores(
    path: Path,
    structures: Sequence[str],
    values: dict[str, dict[str, Sequence[float]]],
    means: dict[str, dict[str, Mean]],
    quantity: str,
) -> None:
    """Plot a score of every scan by structure and method, with means and 95 % intervals.

    Args:
        path: PNG file.
        structures: along the abscissa.
        values: by method and structure, one a scan.
        means: by method and structure.
        quantity: text of the ordinate.
    """
    figure = empty_figure(1.5 + 1.6 * len(structures), 4)
    axis = figure.subplots()
    width = 0.8 / max(1, len(values))
    for m, (method, by_structure) in enumerate(values.items()):
        colour, label = f"C{m % 10}", method
        for n, structure in enumerate(structures):
            if not by_structure.get(structure):
                continue
            x = n - 0.4 + (m + 0.5) * width
            points = by_structure[structure]
            axis.plot(
                np.full(len(points), x), points, "o", color=colour, alpha=0.35, markersize=3.5
            )
            mean = means[method][structure]
            axis.plot([x - width / 3, x + width / 3], [mean.value] * 2, color=colour, label=label)
            if np.isfinite(mean.low):
                axis.plot([x, x], [mean.low, mean.high], color=colour)
            label = None
    axis.set_xticks(range(len(structures)), structures)
    axis.set_ylabel(quantity)
    axis.grid(axis="y", alpha=0.3)
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=130)


def draw_reliability(path: Path, diagrams: dict[str, ReliabilityDiagram]) -> None:
    """Plot reliability diagrams of several methods with their expected calibration errors."""
    figure = empty_figure(4.5, 4.5)
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="grey", linestyle=":")
    for method, diagram in diagrams.items():
        there = diagram.counts > 0
        axis.plot(
            diagram.confidence[there], diagram.frequency[there], "o-", markersize=4,
            label=f"{method}, ECE {diagram.expected_calibration_error:.3f}",
        )  # fmt: skip
    axis.set(xlabel="share of samples", ylabel="share of raters", xlim=(0, 1), ylim=(0, 1))
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=130)


def draw_energy(path: Path, energies: dict[str, dict[int, float]], floor: dict[int, float]) -> None:
    """Plot the mean GED^2 over the number of samples, with the raters' floor."""
    figure = empty_figure(4.5, 3.5)
    axis = figure.subplots()
    for method, by_number in energies.items():
        axis.plot(list(by_number), list(by_number.values()), "o-", markersize=4, label=method)
    axis.plot(list(floor), list(floor.values()), color="grey", linestyle=":", label="raters' floor")
    axis.set(xlabel="samples", ylabel="GED²")
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=130)


def empty_figure(width: float, height: float, **options):
    """Return an empty figure of matplotlib's, inches, that belongs to no window."""
    figure = need("matplotlib.figure", "matplotlib", "The report's pictures")
    return figure.Figure(figsize=(width, height), layout="constrained", **options)


def _window(array: np.ndarray) -> tuple[float, float]:
    values = array.ravel()[:: max(1, array.size // 500_000)]
    above = values[values > values.min()]
    low, high = np.quantile(above if above.size else values, [0.01, 0.995])
    return float(low), float(max(high, low + 1e-12))


def _bright_box(array: np.ndarray, low: float, high: float) -> tuple[slice, ...]:
    """Return the box of what is brighter than a twentieth of the window."""
    bright = array > low + (high - low) / 20
    return occupied_box(bright) or (slice(None),) * 3


def _reoriented_index(grid: ModelGrid, centre: tuple[int, int, int]) -> list[int]:
    at = []
    for model_axis, (axis, flip) in enumerate(zip(grid.axes, grid.flips, strict=True)):
        index = centre[2 - axis]
        at.append(grid.input_shape[model_axis] - 1 - index if flip else index)
    return at


def _isotropic(picture: np.ndarray, row_mm: float, column_mm: float, pixel: float) -> np.ndarray:
    """Repeat rows and columns so that pixels are square."""
    rows, columns = (
        np.minimum((np.arange(max(1, round(n * mm / pixel))) + 0.5) * pixel / mm, n - 1).astype(int)
        for n, mm in zip(picture.shape[:2], (row_mm, column_mm), strict=True)
    )
    return picture[rows][:, columns]


def _padded(picture: np.ndarray, height: int) -> np.ndarray:
    above = (height - picture.shape[0]) // 2
    below = height - picture.shape[0] - above
    return np.pad(picture, ((above, below), (0, 0), (0, 0)))
