"""The report of an evaluation: Markdown for people, CSV for programs, PNG for the eye."""

from __future__ import annotations

import csv
import platform
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from .. import __version__
from ..inference.sampled import FEWEST_FOR_INTERVAL
from ..uncertainty.calibration import ReliabilityDiagram, interval_coverage
from . import pictures
from .methods import ModelMethod
from .run import Results
from .scores import Scores
from .statistics import Mean, mean_of_scans, paired_comparison

REPORT = "report.md"
_MEAN = "mean of structures"
_INTERVAL = 0.9
_QUANTITIES: tuple[tuple[str, Callable[[Scores], float], str], ...] = (
    ("Dice", lambda s: s.dice, ".3f"),
    ("95 % Hausdorff distance, mm", lambda s: s.hd95_mm, ".2f"),
    ("Surface Dice at {tolerance:g} mm", lambda s: s.surface_dice, ".3f"),
    ("Volume difference, %, without sign", lambda s: abs(s.volume_difference_percent), ".1f"),
)


def write_report(folder: Path, results: Results, models: Sequence[ModelMethod]) -> Path:
    """Write `report.md`, the CSV files and the pictures into a folder; return the report's path."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_tables(folder, results)
    lines = [f"# {results.cases.title}", ""]
    lines += _methods_section(results, models)
    lines += _scores_section(folder, results)
    lines += _scans_section(results)
    lines += _consistency_section(results)
    lines += _plausibility_section(results)
    if results.raters:
        lines += _distances_section(folder, results)
        lines += _calibration_section(folder, results)
    lines += _pictures_section(folder, results)
    lines += _conventions_section(results, with_peers=len(results.methods) > len(models))
    if results.notes:
        lines += [
            "## Remarks, and what was left out",
            "",
            *(f"- {note}" for note in results.notes),
            "",
        ]
    path = folder / REPORT
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _methods_section(results: Results, models: Sequence[ModelMethod]) -> list[str]:
    rows = []
    for model in models:
        for segmenter in model.segmenters:
            checkpoint = segmenter.checkpoint
            steps = checkpoint.card.training.get("steps")
            rows.append(
                [
                    model.name,
                    checkpoint.card.title,
                    "-" if steps is None else f"{steps}",
                    f"`{checkpoint.sha256[:12]}`",
                    _seconds(results, model.name),
                ]
            )
    for name in results.methods[len(models) :]:
        rows.append(
            [name, "intensity clusters in a given brain mask", "-", "-", _seconds(results, name)]
        )
    return [
        *_table(["method", "what it is", "steps", "SHA-256", "median time"], rows),
        f"Made by mrfunet {__version__}, Python {platform.python_version()}, torch "
        f"{torch.__version__}.",
        "",
    ]


def _scores_section(folder: Path, results: Results) -> list[str]:
    if not results.scores:
        return []
    lines = ["## Against references", ""]
    structures = [*_scored_structures(results), _MEAN]
    for title, quantity, form in _QUANTITIES:
        title = title.format(tolerance=results.cases.surface_tolerance_mm)
        means = _means(results, quantity)
        rows = [
            [s, *(_mean_text(means[m].get(s), form) for m in results.scores)] for s in structures
        ]
        lines += [f"### {title}", "", *_table(["", *results.scores], rows)]
        if title == "Dice":
            values = {
                m: {s: [v for _, v in _by_case(results, m, s, quantity)] for s in structures}
                for m in results.scores
            }
            pictures.draw_scores(folder / "scores.png", structures, values, means, "Dice")
            lines += ["![Dice of every scan, means and intervals](scores.png)", ""]
    return lines + _paired_section(results)


def _paired_section(results: Results) -> list[str]:
    first, *others = results.scores
    rows = []
    for other in others:
        for structure in [_MEAN, *_scored_structures(results)]:
            a = dict(_by_case(results, first, structure, lambda s: s.dice, also=other))
            b = dict(_by_case(results, other, structure, lambda s: s.dice, also=first))
            shared = [c for c in a if c in b]
            if not shared:
                continue
            test = paired_comparison(
                [a[c] for c in shared], [b[c] for c in shared], _subjects(results, shared)
            )
            p = "-" if np.isnan(test.p) else f"{test.p:.3g}"
            rows.append(
                [other, structure, f"{len(shared)}", _mean_text(test.difference, "+.3f", False), p,
                 f"{test.smallest_p:.2g}"]
            )  # fmt: skip
    if not rows:
        return []
    return [
        f"### Dice of {first} minus that of others",
        "",
        *_table(
            ["other", "", "scans", "difference [95 %]", "p (Wilcoxon)", "least possible p"], rows
        ),
    ]


def _scans_section(results: Results) -> list[str]:
    if not results.scores:
        return []
    structures = _scored_structures(results)
    rows = []
    for case in _best_first(results):
        if not any(case in by_case for by_case in results.scores.values()):
            continue
        row = [case]
        for method in results.scores:
            found = results.scores[method].get(case)
            dices = (
                [f"{found[s].dice:.3f}" if s in found else "-" for s in structures] if found else []
            )
            row.append(" / ".join(dices) or "-")
        rows.append(row)
    return [
        "### Dice of every scan",
        "",
        f"{' / '.join(structures)}; best first, by {results.methods[0]}.",
        "",
        *_table(["scan", *results.scores], rows),
    ]


def _consistency_section(results: Results) -> list[str]:
    rows = []
    for method, subjects in results.consistency.items():
        for subject, dices in subjects.items():
            scans = [c.name for c in results.cases.cases if c.subject == subject]
            text = ", ".join(f"{s} {d:.3f}" for s, d in dices.items())
            mean = float(np.mean(list(dices.values())))
            rows.append([method, subject, ", ".join(scans), text, f"{mean:.3f}"])
    if not rows:
        return []
    return [
        "## Between scans of one brain",
        "",
        "Mean Dice over the pairs of scans: how far the result depends on the contrast.",
        "",
        *_table(["method", "subject", "scans", "Dice", "mean"], rows),
    ]


def _plausibility_section(results: Results) -> list[str]:
    limits = results.cases.plausibility
    if not limits or not results.plausibility:
        return []
    rows = []
    for case in results.cases.cases:
        for method, by_case in results.plausibility.items():
            if case.name in by_case:
                found = by_case[case.name]
                shares = " / ".join(_percent(found.main_component[s]) for s in limits.connected)
                rows.append(
                    [case.name, method, f"{found.brain_l:.2f}", shares,
                     f"{found.asymmetry_percent:+.1f}", "; ".join(found.faults) or "none"]
                )  # fmt: skip
    brain = " and ".join(limits.brain)
    connected = " and of ".join(limits.connected) or "nothing"
    return [
        "## Plausibility",
        "",
        f"Brain ({brain}) of {limits.volume_l[0]:g} to {limits.volume_l[1]:g} l; at least "
        f"{_percent(limits.main_component)} % of {connected} in one piece; "
        f"{limits.sides} left and right of the midsagittal plane within "
        f"{limits.asymmetry_percent:g} %.",
        "",
        *_table(
            ["scan", "method", "brain, l", "in one piece, %", "left - right, %", "faults"], rows
        ),
    ]


def _distances_section(folder: Path, results: Results) -> list[str]:
    """Return how far samples are from the raters; remark on methods with few of them."""
    numbers = results.cases.samples
    energies, matched, rows = {}, {}, []
    floors, of_floors = _floors(results)
    counts = {len(by_case) for by_case in results.raters.values()}
    for method, by_case in results.raters.items():
        energies[method], matched[method] = {}, {}
        for n in sorted({n for r in by_case.values() for n in r.distances}):
            found = {case: r.distances[n] for case, r in by_case.items() if n in r.distances}
            values = [d.energy.squared for d in found.values()]
            energies[method][n] = mean_of_scans(values, _subjects(results, list(found)))
            matched[method][n] = float(np.mean([d.matched_iou for d in found.values()]))
        largest = max(energies[method])
        pairs = [r.distances[largest].energy for r in by_case.values()]
        if largest not in numbers:
            results.notes.append(
                f"{method} has {largest} samples, fewer than any number in the table: GED² "
                f"{_number(energies[method][largest].value)}"
            )
        shown = (_mean_text(energies[method].get(n), ".3f", len(counts) > 1) for n in numbers)
        rows.append([method, *shown, _number(matched[method][largest]),
                     _mean_of(e.between for e in pairs),
                     _mean_of(e.two_samples for e in pairs)])  # fmt: skip
    of_raters = [_two_raters(results)] * 2
    rows.append(["raters' floor", *(_number(floors.get(n)) for n in numbers), "-", *of_raters])
    curves = {m: {n: mean.value for n, mean in of.items()} for m, of in energies.items()}
    pictures.draw_energy(folder / "energy.png", curves, floors)
    return [
        "## Against several raters",
        "",
        f"Means over {max(counts)} scans"
        f"{'' if of_floors == max(counts) else f' (of the floor: {of_floors})'}. GED² at numbers "
        "of samples; at the largest number Hungarian-matched IoU, and the mean distance 1 - IoU of "
        "a sample and a rater, and of two different samples (in the last row, of two different "
        "raters). Where the two are alike, samples differ as much as a rater may differ from them; "
        "where the first is larger, they differ too little.",
        "",
        *_table(
            [
                "method",
                *(f"GED², {n}" for n in numbers),
                "matched IoU",
                "sample to rater",
                "sample to sample",
            ],
            rows,
        ),
        "![GED² over the number of samples](energy.png)",
        "",
    ]


def _calibration_section(folder: Path, results: Results) -> list[str]:
    """Return how well probabilities, volumes and variances fit those of the raters."""
    rows, diagrams = [], {}
    for method, by_case in results.raters.items():
        for structure in results.cases.structures:
            found = [r.structures[structure] for r in by_case.values() if structure in r.structures]
            if not found:
                continue
            diagram = ReliabilityDiagram.of_all(f.reliability for f in found)
            diagrams[f"{method}, {structure}"] = diagram
            samples = _filled([f.sample_ml for f in found])
            covered = _coverage(samples, _filled([f.rater_ml for f in found]))
            correlations = (f.variance_ncc for f in found if np.isfinite(f.variance_ncc))
            rows.append(
                [method, structure, _mean_of(f.dice_of_mean for f in found),
                 _number(diagram.expected_calibration_error), covered, _mean_of(correlations)]
            )  # fmt: skip
    rows += _single_raters(results)
    pictures.draw_reliability(folder / "reliability.png", diagrams)
    return [
        *_table(
            ["method", "structure", "Dice of the majorities", "ECE",
             f"% of raters' volumes in the {_percent(_INTERVAL)} % interval", "NCC of variance"],
            rows,
        ),
        "![Reliability diagrams](reliability.png)",
        "",
    ]  # fmt: skip


def _floors(results: Results) -> tuple[dict[int, float], int]:
    """Return the raters' floor at numbers of samples, and of how many scans it is the mean.

    It is the same for all methods, but some may have failed on some scans.
    """
    found: dict[int, dict[str, float]] = {}
    for by_case in results.raters.values():
        for case, scores in by_case.items():
            for n, distances in scores.distances.items():
                if np.isfinite(distances.floor):
                    found.setdefault(n, {})[case] = distances.floor
    means = {n: float(np.mean(list(by_case.values()))) for n, by_case in found.items()}
    return means, max((len(by_case) for by_case in found.values()), default=0)


def _two_raters(results: Results) -> str:
    """Return the mean distance of two different raters of a scan, the same for all methods."""
    of_case = {
        case: next(iter(scores.distances.values())).energy.two_raters
        for by_case in results.raters.values()
        for case, scores in by_case.items()
    }
    return _mean_of(of_case.values())


def _coverage(samples: np.ndarray, raters: np.ndarray) -> str:
    """Return the percentage of raters' volumes within the interval, and what it is to be.

    Args:
        samples: (scans, N) volumes.
        raters: (scans, M) volumes, NaN where there are fewer raters.
    """
    number = samples.shape[1]
    if number < 2 or not np.isfinite(samples).all():
        return "-"
    covered = _percent(interval_coverage(samples, raters, _INTERVAL))
    if number >= FEWEST_FOR_INTERVAL:
        return covered
    return f"{covered} (of {_percent((number - 1) / (number + 1))})"


def _single_raters(results: Results) -> list[list[str]]:
    """Return rows of the calibration of a single rater, as yardsticks."""
    rows = []
    for structure in results.cases.structures:
        found: dict[str, ReliabilityDiagram] = {}
        for by_case in results.raters.values():
            for case, scores in by_case.items():
                if structure in scores.structures:
                    found[case] = scores.structures[structure].single_rater
        diagrams = [diagram for diagram in found.values() if diagram is not None]
        if diagrams:
            whole = ReliabilityDiagram.of_all(diagrams)
            error = _number(whole.expected_calibration_error)
            rows.append(["a single rater, taken as certain", structure, "-", error, "-", "-"])
    return rows


def _pictures_section(folder: Path, results: Results) -> list[str]:
    rows = [(case, results.panels[case]) for case in _best_first(results)]
    files = pictures.draw_grid(folder / "scans.png", rows)
    return [
        "## Every scan",
        "",
        f"Best first, by the mean Dice of {results.methods[0]} with the reference, or the majority "
        "of the raters; then those without either. The patient's right is on the left.",
        "",
        *(f"![Scans, reference and segmentations]({f.name})\n" for f in files),
    ]


def _conventions_section(results: Results, *, with_peers: bool) -> list[str]:
    cases = results.cases
    lines = [
        "## How it was measured",
        "",
        "- Means over scans; intervals are 95 % percentile bootstrap intervals, subjects drawn "
        "with all their scans, and of fewer than ten subjects Student's, by the subjects' means. "
        "The paired test is Wilcoxon's signed-rank test over subjects, "
        "without correction for several tests; with few subjects it cannot give a small p.",
        "- Surface distances by the package surface-distance. Where a structure is missing in the "
        "segmentation or the reference alone, Dice and surface Dice are 0 and the distance is the "
        "diagonal of the volume; missing in both, they are 1, 1 and 0.",
        "- A reference that is a map of probability counts above half of its maximum.",
    ]
    if with_peers:
        masks = {c.mask for c in cases.cases if c.mask}
        lines.append(
            "- The classical methods sort intensities within a brain mask that is given to them "
            f"({', '.join(sorted(masks)) or 'none'}; see the list of cases), after N4 and with the "
            "contrast known: an advantage. Clusters are named by the order of their mean "
            f"intensities. Their fluid counts as {cases.fluid or 'no structure'}, within "
            "what the reference labels only: another advantage."
        )
    if results.raters:
        lines.append(
            "- GED² and matched IoU: foreground structures averaged; IoU is 1 where a structure is "
            "in neither segmentation and 0 where it is in one alone. The floor is the GED² to "
            "expect of as many further raters; with few samples, one in the middle of the raters "
            "comes below it. ECE, reliability and NCC within "
            f"{cases.surroundings_mm:g} mm of what any rater or sample marks. Most of that is "
            "background, so a small ECE is easily had: that of a single rater, whose marks are "
            "taken as probabilities of 0 and 1 and held against the others', is a yardstick. "
            f"With fewer than {FEWEST_FOR_INTERVAL} samples an interval holds less than "
            f"{_percent(_INTERVAL)} % at best: what it is to hold is in brackets."
        )
    return [*lines, ""]


def _write_tables(folder: Path, results: Results) -> None:
    subject = {c.name: c.counted_as for c in results.cases.cases}
    _write_csv(
        folder / "scores.csv",
        ["case", "subject", "method", "structure", "dice", "hd95_mm", "surface_dice", "volume_ml",
         "reference_ml", "volume_difference_percent", "seconds"],
        (
            [case, subject[case], method, structure, s.dice, s.hd95_mm, s.surface_dice, s.volume_ml,
             s.reference_ml, s.volume_difference_percent, results.seconds[method][case]]
            for method, by_case in results.scores.items()
            for case, by_structure in by_case.items()
            for structure, s in by_structure.items()
        ),
    )  # fmt: skip
    if results.plausibility:
        structures = results.cases.structures
        _write_csv(
            folder / "plausibility.csv",
            ["case", "method", "brain_l", *(f"main_component_of_{s}" for s in structures),
             "asymmetry_percent", "faults"],
            (
                [case, method, p.brain_l, *(p.main_component.get(s, "") for s in structures),
                 p.asymmetry_percent, "; ".join(p.faults)]
                for method, by_case in results.plausibility.items()
                for case, p in by_case.items()
            ),
        )  # fmt: skip
    if results.consistency:
        _write_csv(
            folder / "consistency.csv",
            ["subject", "method", "structure", "dice"],
            (
                [s, method, structure, value]
                for method, by_subject in results.consistency.items()
                for s, by_structure in by_subject.items()
                for structure, value in by_structure.items()
            ),
        )
    if results.raters:
        _write_csv(
            folder / "raters.csv",
            ["case", "method", "samples", "ged_squared", "between", "sample_diversity",
             "rater_diversity", "matched_iou", "floor"],
            (
                [case, method, n, d.energy.squared, d.energy.between, d.energy.sample_diversity,
                 d.energy.rater_diversity, d.matched_iou, d.floor]
                for method, by_case in results.raters.items()
                for case, r in by_case.items()
                for n, d in r.distances.items()
            ),
        )  # fmt: skip


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows([f"{v:.6g}" if isinstance(v, float) else v for v in row] for row in rows)


def _scored_structures(results: Results) -> list[str]:
    found = {s for by in results.scores.values() for scores in by.values() for s in scores}
    return [s for s in results.cases.structures if s in found]


def _by_case(
    results: Results,
    method: str,
    structure: str,
    quantity: Callable[[Scores], float],
    also: str | None = None,
) -> list[tuple[str, float]]:
    """Return (case, value) of a structure, or the mean over structures.

    Args:
        results: where to look.
        method: whose.
        structure: name, or `_MEAN`.
        quantity: which.
        also: the mean is over what this method, too, was scored on.
    """
    found = []
    for case, scores in results.scores[method].items():
        there = results.scores[also].get(case, {}) if also else scores
        if structure == _MEAN:
            values = [quantity(s) for name, s in scores.items() if name in there]
            value = float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
        else:
            value = quantity(scores[structure]) if structure in scores else float("nan")
        if np.isfinite(value):
            found.append((case, value))
    return found


def _means(results: Results, quantity: Callable[[Scores], float]) -> dict[str, dict[str, Mean]]:
    means = {}
    for method in results.scores:
        means[method] = {}
        for structure in [*_scored_structures(results), _MEAN]:
            found = _by_case(results, method, structure, quantity)
            if found:
                names, values = zip(*found, strict=True)
                means[method][structure] = mean_of_scans(values, _subjects(results, names))
    return means


def _subjects(results: Results, cases: Sequence[str]) -> list[str]:
    subject = {c.name: c.counted_as for c in results.cases.cases}
    return [subject[c] for c in cases]


def _best_first(results: Results) -> list[str]:
    """Return the names of the cases by the first method's Dice, those without one last.

    Without a reference it is that with the majority of the raters.
    """
    method = results.methods[0]
    dices = {}
    for case in results.panels:
        dices[case] = results.mean_dice(method, case)
        of_raters = results.raters.get(method, {}).get(case)
        if np.isnan(dices[case]) and of_raters and of_raters.structures:
            dices[case] = np.mean([s.dice_of_mean for s in of_raters.structures.values()])
    return sorted(dices, key=lambda c: (np.isnan(dices[c]), -np.nan_to_num(dices[c])))


def _filled(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Stack rows of several lengths, NaN where one is shorter."""
    table = np.full((len(rows), max(map(len, rows))), np.nan)
    for line, row in zip(table, rows, strict=True):
        line[: len(row)] = row
    return table


def _seconds(results: Results, method: str) -> str:
    found = list(results.seconds.get(method, {}).values())
    return f"{np.median(found):.1f} s" if found else "-"


def _mean_text(mean: Mean | None, form: str, with_scans: bool = True) -> str:
    if mean is None:
        return "-"
    text = f"{mean.value:{form}}"
    if np.isfinite(mean.low):
        text += f" [{mean.low:{form}}, {mean.high:{form}}]"
    return f"{text} (n = {mean.scans})" if with_scans else text


def _number(value: float | None) -> str:
    return "-" if value is None or np.isnan(value) else f"{value:.3f}"


def _mean_of(values: Iterable[float | None]) -> str:
    known = [v for v in values if v is not None]
    return _number(np.mean(known) if known else None)


def _percent(share: float) -> str:
    return "-" if np.isnan(share) else f"{100 * share:.0f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return [*lines, ""]
