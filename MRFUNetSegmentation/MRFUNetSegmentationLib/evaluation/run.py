"""An evaluation: every method on every scan, and all that is measured there."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np

from ..errors import InputError, MRFUNetError, OutputError
from ..files import as_file_name
from ..inference.image_files import write_label_map
from ..inference.volume import Geometry, Volume
from ..training.metrics import dice
from . import peers, pictures
from .cases import MASK_OF_MODEL, Case, CaseList, LoadedCase, load_case
from .methods import ModelMethod
from .plausibility import PlausibilityScores, plausibility
from .raters import RaterScores, score_samples
from .scores import Scores, score

Masks = dict[str, np.ndarray]


@dataclass
class Results:
    """What an evaluation found; methods and cases by name.

    Attributes:
        cases: the list.
        methods: names, models first.
        scores: by method, case and structure.
        plausibility: by method and case.
        consistency: mean pairwise Dice by method, subject and structure.
        raters: by method and case.
        seconds: by method and case.
        panels: by case: scan, reference, then every method's; None for what there is not.
        without_peers: cases of which the list gives no contrast or brain mask.
        notes: what was left out, and why.
    """

    cases: CaseList
    methods: list[str]
    scores: dict[str, dict[str, dict[str, Scores]]] = field(default_factory=dict)
    plausibility: dict[str, dict[str, PlausibilityScores]] = field(default_factory=dict)
    consistency: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    raters: dict[str, dict[str, RaterScores]] = field(default_factory=dict)
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    panels: dict[str, list[pictures.Panel | None]] = field(default_factory=dict)
    without_peers: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def mean_dice(self, method: str, case: str) -> float:
        """Return the mean Dice over the structures of a scan, NaN if it was not scored."""
        found = self.scores.get(method, {}).get(case, {})
        return float(np.mean([s.dice for s in found.values()])) if found else float("nan")


def evaluate(
    cases: CaseList,
    data: Path,
    models: Sequence[ModelMethod],
    peer_names: Sequence[str] = (),
    labels_folder: Path | None = None,
    report: Callable[[str], None] = lambda line: None,
    *,
    replace_non_finite: bool = False,
) -> Results:
    """Run all methods on all scans.

    A method that fails on a scan is noted and the others go on, and so is a scan whose files do
    not fit.

    Args:
        cases: what to evaluate on.
        data: folder below which the files lie.
        models: at least one; others are compared with the first.
        peer_names: of `peers.PEERS`.
        labels_folder: where every method's segmentation of every scan is written, if anywhere.
        report: called with a line for each segmentation.
        replace_non_finite: put the smallest finite value of a scan in the place of NaN and
            infinity.

    Raises:
        InputError: if no case's files fit.
    """
    results = Results(cases, [m.name for m in models] + list(peer_names))
    kept: dict[str, list[tuple[Geometry, dict[str, Masks]]]] = {}
    unusable: list[str] = []
    noted: dict[str, list[str]] = {}  # what may hold for many scans is said once
    for case in cases.cases:
        try:
            loaded = load_case(case, cases, data, replace_non_finite=replace_non_finite)
        except InputError as error:
            unusable.append(f"{case.name}: {error}")
            report(f"{case.name}: left out: {error}")
            continue
        for note in loaded.notes:
            noted.setdefault(note, []).append(case.name)
        masks = _segmentations(loaded, cases, models, peer_names, results, report)
        for method, found in masks.items():
            _measure(method, found, loaded, results)
            if labels_folder:
                _write_labels(labels_folder / method, case.name, found, cases, loaded.volume)
        for model in models if loaded.raters else ():
            _compare_with_raters(model, loaded, results, report)
        results.panels[case.name] = _panels(loaded, masks, models, results)
        if case.subject:
            kept.setdefault(case.subject, []).append((loaded.volume.geometry, masks))
    if len(unusable) == len(cases.cases):
        raise InputError(f"No case can be used. {unusable[0]}")
    results.notes += [f"{', '.join(names)}: {note}" for note, names in noted.items()]
    results.notes += unusable
    for subject, scans in kept.items():
        _compare_scans(subject, scans, results)
    if results.without_peers:
        results.notes.append(
            f"{' and '.join(peer_names)} on {', '.join(results.without_peers)}: the list gives no "
            "contrast or no brain mask"
        )
    return results


def _segmentations(
    loaded: LoadedCase,
    cases: CaseList,
    models: Sequence[ModelMethod],
    peer_names: Sequence[str],
    results: Results,
    report: Callable[[str], None],
) -> dict[str, Masks]:
    """Return each method's masks of the structures, without the methods that failed."""
    masks, brain = {}, loaded.mask

    def attempt(method: str, compute: Callable[[], Masks]) -> None:
        begin = time.perf_counter()
        try:
            masks[method] = compute()
        except MRFUNetError as error:
            results.notes.append(f"{method} on {loaded.case.name}: {error}")
        except Exception as error:  # the peers are others' code
            results.notes.append(
                f"{method} on {loaded.case.name} failed: {type(error).__name__}: {error}"
            )
        seconds = time.perf_counter() - begin
        results.seconds.setdefault(method, {})[loaded.case.name] = seconds
        done = "done" if method in masks else "failed"
        report(f"{loaded.case.name}: {method} {done} in {seconds:.1f} s")

    for number, model in enumerate(models):

        def segmented(model=model, first=number == 0):
            nonlocal brain
            labels = model.labels(loaded.volume)
            if first and loaded.case.mask == MASK_OF_MODEL:
                brain = model.foreground(labels)
            return model.masks(labels)

        attempt(model.name, segmented)
    if peer_names and not (loaded.case.contrast and brain is not None):
        results.without_peers.append(loaded.case.name)
        return masks
    for name in peer_names:
        attempt(name, lambda name=name: _by_peer(name, loaded, brain, cases))
    return masks


def _by_peer(name: str, loaded: LoadedCase, brain: np.ndarray, cases: CaseList) -> Masks:
    order = cases.contrasts[loaded.case.contrast]
    return peers.segment(peers.PEERS[name], loaded.volume, brain, order)


def _measure(method: str, masks: Masks, loaded: LoadedCase, results: Results) -> None:
    case, cases, geometry = loaded.case.name, results.cases, loaded.volume.geometry
    scored = {}
    for structure, reference in loaded.reference.items():
        if structure in masks:
            mask = masks[structure]
            if method in peers.PEERS and structure == cases.fluid:
                mask = mask & loaded.labelled  # see CaseList.fluid
            scored[structure] = score(mask, reference, geometry.spacing, cases.surface_tolerance_mm)
    if scored:
        results.scores.setdefault(method, {})[case] = scored
    limits = cases.plausibility
    if limits and {*limits.brain, *limits.connected, limits.sides} <= masks.keys():
        found = plausibility(masks, geometry, limits)
        results.plausibility.setdefault(method, {})[case] = found


def _compare_with_raters(
    model: ModelMethod, loaded: LoadedCase, results: Results, report: Callable[[str], None]
) -> None:
    cases = results.cases
    if not loaded.raters.keys() & model.values.keys():
        results.notes.append(f"{model.name} has none of what the raters of {loaded.case.name} mark")
        return
    try:
        samples = model.samples(loaded.volume, max(cases.samples), _seed(loaded.case))
    except MRFUNetError as error:
        results.notes.append(f"samples of {model.name} on {loaded.case.name}: {error}")
        return
    results.raters.setdefault(model.name, {})[loaded.case.name] = score_samples(
        model.masks(samples),
        loaded.raters,
        loaded.volume.geometry.spacing,
        cases.samples,
        cases.surroundings_mm,
    )
    report(f"{loaded.case.name}: {len(samples)} samples of {model.name} compared with the raters")


def _seed(case: Case) -> int:
    """Return the seed of a case's samples: not one for all, or their chance would not average out.

    By its name, so that it is the same in other lists and for every method.
    """
    return zlib.crc32(case.name.encode())


def _compare_scans(
    subject: str, scans: Sequence[tuple[Geometry, dict[str, Masks]]], results: Results
) -> None:
    """Mean Dice of each structure over all pairs of a subject's scans."""
    first = scans[0][0]
    if not all(first.has_voxels_of(geometry) for geometry, _ in scans):
        results.notes.append(
            f"{subject}: its scans are not on one grid, so not compared. Resample them to one."
        )
        return
    for method in results.methods:
        found = [masks[method] for _, masks in scans if method in masks]
        if len(found) < 2:
            continue
        results.consistency.setdefault(method, {})[subject] = {
            s: float(np.mean([dice(a[s], b[s]) for a, b in combinations(found, 2)]))
            for s in found[0]
        }


def _panels(
    loaded: LoadedCase,
    masks: dict[str, Masks],
    models: Sequence[ModelMethod],
    results: Results,
) -> list[pictures.Panel | None]:
    volume, case = loaded.volume, loaded.case.name
    colours = _colours(results.cases.structures, models)
    shown = loaded.reference or {s: r.mean(0) >= 0.5 for s, r in loaded.raters.items()}
    centre = _centre(shown or next(iter(masks.values()), {}), volume)

    def panel(found: Masks | None, title: str) -> pictures.Panel:
        return pictures.Panel(pictures.planes(volume, found, colours, centre), title)

    title = "reference" if loaded.reference else "majority of the raters"
    panels = [panel(None, "scan"), panel(shown, title) if shown else None]
    for method in results.methods:
        mean = results.mean_dice(method, case)
        title = method if np.isnan(mean) else f"{method}, Dice {mean:.3f}"
        panels.append(panel(masks[method], title) if method in masks else None)
    return panels


def _colours(
    structures: Sequence[str], models: Sequence[ModelMethod]
) -> dict[str, tuple[int, int, int]]:
    """Return the colours of the models' cards; red for a structure that only peers know."""
    known = {c.name.casefold(): c.color for m in models for c in m.classes}
    return {s: known.get(s.casefold(), (230, 60, 60)) for s in structures}


def _centre(masks: Masks, volume: Volume) -> tuple[int, int, int]:
    """Return the voxel [k, j, i] through which planes are drawn: where there is most to see."""
    union = np.logical_or.reduce(list(masks.values())) if masks else np.zeros((1, 1, 1), dtype=bool)
    if not union.any():
        return tuple(n // 2 for n in volume.array.shape)
    sums = (union.sum((1, 2)), union.sum((0, 2)), union.sum((0, 1)))
    # The median slice of a large structure; of scattered lesions, the one that shows most.
    if union.mean() > 0.02:
        return tuple(int(np.searchsorted(np.cumsum(s), s.sum() / 2)) for s in sums)
    return tuple(int(s.argmax()) for s in sums)


def _write_labels(folder: Path, case: str, masks: Masks, cases: CaseList, volume: Volume) -> None:
    """Write masks as a label map; values count the list's structures from 1."""
    labels = np.zeros(volume.array.shape, dtype=np.uint8)
    for value, structure in enumerate(cases.structures, start=1):
        if structure in masks:
            labels[masks[structure]] = value
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_label_map(folder / f"{as_file_name(case)}.nii.gz", labels, volume.geometry)
    except OSError as error:
        raise OutputError(
            f"{folder}: the segmentation of {case} cannot be written ({error}). Check the path, "
            "the free space and the permissions; where the file's name is too long, the case's is."
        ) from error
