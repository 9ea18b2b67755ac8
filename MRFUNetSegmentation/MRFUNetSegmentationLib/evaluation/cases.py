"""The list of scans to evaluate on: a TOML file, checked before anything is computed.

`cases/brain-tissue.toml` is an example that explains the entries.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..files import as_file_name
from ..inference.image_files import has_place, read_image, read_volume_file
from ..inference.volume import Geometry, Volume
from ..training.card import BRAIN_TISSUE_CLASSES
from ..training.config import ConfigError, read_toml
from ..training.labels import tissues_of_freesurfer
from ..training.masks import OTHER_PLACE, SAME_PLACE, beside, whole_numbers

# Words that stand in the place of a mask's file.
MASK_OF_REFERENCE, MASK_OF_NONZERO, MASK_OF_MODEL = "reference", "nonzero", "model"
FREESURFER = "freesurfer"


@dataclass(frozen=True)
class Case:
    """A scan; paths are below the data folder.

    Attributes:
        name: shown in the report.
        image: the scan.
        labels: label map of the reference, on the scan's grid; empty if there is none.
        convention: "freesurfer", or empty where `values` says what the labels mean.
        values: of each structure in `labels` and in the raters' files.
        probabilities: instead of labels, a map of each structure's probability, on any scale: the
            structure is where it is above half of its maximum.
        scored: structures to score; all that the reference holds if left out.
        raters: label maps of several raters, for methods that sample.
        mask: brain mask for the peers: a file, "reference" (foreground of the reference),
            "nonzero" (of the scan, for scans without skull) or "model" (what the first model does
            not call background); empty where the peers are not to run.
        contrast: one of the list's `contrasts`, for the peers.
        subject: scans of one brain on one grid have one; each other scan is its own.
        group: of scans that are no independent evidence though their brains differ, as of one
            patient's lesions in several anatomies; the subject if left out.
    """

    name: str
    image: str
    labels: str = ""
    convention: str = ""
    values: dict[str, tuple[int, ...]] = field(default_factory=dict)
    probabilities: dict[str, str] = field(default_factory=dict)
    scored: tuple[str, ...] = ()
    raters: tuple[str, ...] = ()
    mask: str = ""
    contrast: str = ""
    subject: str = ""
    group: str = ""

    def __post_init__(self) -> None:
        if self.convention not in ("", FREESURFER):
            raise ConfigError(
                f"{self.name}: the convention is '{self.convention}'; it must be '{FREESURFER}', "
                "or be left out and `values` say what the labels mean"
            )
        if (self.labels or self.raters) and bool(self.values) == bool(self.convention):
            raise ConfigError(f"{self.name}: labels need either `convention` or `values`")
        if self.labels and self.probabilities:
            raise ConfigError(f"{self.name}: the reference is either `labels` or `probabilities`")
        if self.mask == MASK_OF_REFERENCE and not (self.labels or self.probabilities):
            raise ConfigError(f"{self.name}: the mask is the reference's, but there is none")

    @property
    def counted_as(self) -> str:
        """Scans that have this in common count as one in intervals and tests."""
        return self.group or self.subject or self.name


@dataclass(frozen=True)
class Plausibility:
    """What any adult brain should show, with or without a reference.

    Attributes:
        brain: structures that together are the brain.
        volume_l: bounds of the brain's volume, litres.
        connected: structures whose largest connected component must hold nearly all of them.
        main_component: that share.
        sides: the structure whose volumes left and right of the midsagittal plane are compared.
        asymmetry_percent: largest difference, in percent of their mean.
    """

    brain: tuple[str, ...]
    sides: str
    connected: tuple[str, ...] = ()
    volume_l: tuple[float, float] = (0.9, 1.7)
    main_component: float = 0.95
    asymmetry_percent: float = 10.0


@dataclass(frozen=True)
class CaseList:
    """A whole evaluation.

    Attributes:
        title: of the report.
        structures: to score, as models' cards name their classes.
        cases: the scans.
        surface_tolerance_mm: of the surface Dice.
        contrasts: order of the structures' intensities, from dark to bright, by the contrast's
            name: by it the peers' clusters get their names.
        fluid: the structure that the peers' cluster of fluid is scored as. They cannot tell
            ventricles from sulci: where there is a reference, their fluid counts within what the
            reference labels only, which is to their advantage.
        plausibility: limits, or None where they make no sense.
        samples: numbers of samples at which methods are compared with several raters.
        surroundings_mm: calibration is measured within this distance of what any rater or sample
            marks.
    """

    title: str
    structures: tuple[str, ...]
    cases: tuple[Case, ...]
    surface_tolerance_mm: float = 1.0
    contrasts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    fluid: str = ""
    plausibility: Plausibility | None = None
    samples: tuple[int, ...] = (1, 4, 8, 16)
    surroundings_mm: float = 5.0

    def __post_init__(self) -> None:
        if not self.structures or not self.cases:
            raise ConfigError("structures, cases: at least one of each is needed")
        for kind, names in (
            ("structures", self.structures),
            ("cases", [case.name for case in self.cases]),
        ):
            twice = {n for n in names if list(names).count(n) > 1}
            if twice:
                raise ConfigError(f"{kind}: {sorted(twice)[0]} is there twice")
        files: dict[str, str] = {}
        for case in self.cases:
            # Not all file systems tell capital letters.
            other = files.setdefault(as_file_name(case.name).casefold(), case.name)
            if other != case.name:
                raise ConfigError(
                    f"cases: {other} and {case.name} would be one file's name, where spaces and "
                    "signs become _. Name them so that letters, digits, - or . differ"
                )
        for where, names in self._mentioned():
            for name in names:
                if name not in self.structures:
                    raise ConfigError(f"{where}: {name} is none of the structures")
        for case in self.cases:
            if case.contrast and case.contrast not in self.contrasts:
                raise ConfigError(f"{case.name}: {case.contrast} is none of the contrasts")
        if not self.samples or min(self.samples) < 1:
            raise ConfigError("samples: numbers of at least 1 are needed")
        if self.surface_tolerance_mm < 0 or self.surroundings_mm < 0:
            raise ConfigError("surface_tolerance_mm, surroundings_mm: must not be below 0")

    def _mentioned(self):
        for case in self.cases:
            yield case.name, [*case.values, *case.probabilities, *case.scored]
        yield from self.contrasts.items()
        yield "fluid", [self.fluid] if self.fluid else []
        if self.plausibility:
            p = self.plausibility
            yield "plausibility", [*p.brain, *p.connected, p.sides]


@dataclass(frozen=True)
class LoadedCase:
    """A case's files.

    Attributes:
        case: what they are.
        volume: the scan.
        reference: mask [k, j, i] of each scored structure; empty without a reference.
        raters: of each scored structure, (M, k, j, i) masks; empty without raters.
        labelled: [k, j, i], what the reference gives any label; None without a reference.
        mask: brain mask for the peers, [k, j, i]; None if there is none, or the model's is asked
            for.
        notes: what the report should say about the files.
    """

    case: Case
    volume: Volume
    reference: dict[str, np.ndarray]
    raters: dict[str, np.ndarray]
    labelled: np.ndarray | None
    mask: np.ndarray | None
    notes: tuple[str, ...] = ()


def load_case_list(path: Path, data: Path) -> CaseList:
    """Read and check a list of cases.

    Args:
        path: TOML file.
        data: folder below which the files lie; all of them must be there.

    Raises:
        ConfigError: if the file cannot be read or an entry is missing, unknown or impossible.
        InputError: if a file is not there.
    """
    if not path.exists():
        raise ConfigError(
            f"{path}: no such list of cases. Check the path; mrfunet train writes held-back.toml "
            "where the configuration's raters.held_back names cases."
        )
    cases = read_toml(CaseList, path)
    for case in cases.cases:
        for name in _files(case):
            if not (data / name).exists():
                raise InputError(
                    f"{case.name}: {data / name} is not there. Check the path and --data."
                )
    return cases


def write_case_list(
    path: Path, title: str, structures: Sequence[str], cases: Sequence[Case]
) -> None:
    """Write a list of scans that several raters have marked.

    Args:
        path: TOML file.
        title: of the report.
        structures: to score.
        cases: of which name, image, raters, values and group are written.
    """
    lines = [f"title = {_quoted(title)}", f"structures = {_listed(structures)}"]
    for case in cases:
        lines += [
            "",
            "[[cases]]",
            f"name = {_quoted(case.name)}",
            f"image = {_quoted(case.image)}",
            f"raters = {_listed(case.raters)}",
            *([f"group = {_quoted(case.group)}"] if case.group else []),
            *(f"values.{_quoted(s)} = {list(values)}" for s, values in case.values.items()),
        ]
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")


def _quoted(text: str) -> str:
    """Return a basic string of TOML, whose escapes are those of JSON."""
    return json.dumps(text, ensure_ascii=False)


def _listed(texts: Sequence[str]) -> str:
    return f"[{', '.join(map(_quoted, texts))}]"


def load_case(
    case: Case, cases: CaseList, data: Path, *, replace_non_finite: bool = False
) -> LoadedCase:
    """Read a case's files.

    Args:
        case: which.
        cases: the list that it is of.
        data: folder below which the files lie.
        replace_non_finite: as of `read_volume_file`, of the scan.

    Raises:
        InputError: if one cannot be read, is not on the scan's grid, or has other labels than the
            list says.
    """
    volume = read_volume_file(data / case.image, replace_non_finite=replace_non_finite)
    files = _FilesOnGrid(data, case.image, volume.geometry)
    reference, foreground = {}, np.zeros(volume.array.shape, dtype=bool)
    if case.labels:
        labels = files.labels(case.labels)
        reference, foreground = files.masks(case.labels, labels, case, cases), labels > 0
    for structure, file in case.probabilities.items():
        # Programs put NaN where there is no brain, beside which no number is the maximum.
        probability = np.nan_to_num(files.array(file))
        reference[structure] = probability > 0.5 * probability.max()
        foreground |= reference[structure]
    raters = [files.masks(file, files.labels(file), case, cases) for file in case.raters]
    mask = _mask(case, files, volume, foreground)
    scored = case.scored or cases.structures
    return LoadedCase(
        case=case,
        volume=volume,
        reference={s: reference[s] for s in scored if s in reference},
        raters={s: np.stack([r[s] for r in raters]) for s in scored if raters and s in raters[0]},
        labelled=foreground if reference else None,
        mask=mask,
        notes=(*volume.warnings, *files.notes),
    )


def _files(case: Case) -> list[str]:
    words = ("", MASK_OF_REFERENCE, MASK_OF_NONZERO, MASK_OF_MODEL)
    files = [case.image, *([case.labels] if case.labels else []), *case.raters]
    files += case.probabilities.values()
    return files + ([] if case.mask in words else [case.mask])


def _mask(
    case: Case, files: _FilesOnGrid, volume: Volume, foreground: np.ndarray
) -> np.ndarray | None:
    if case.mask in ("", MASK_OF_MODEL):
        return None
    if case.mask == MASK_OF_REFERENCE:
        return foreground
    if case.mask == MASK_OF_NONZERO:
        return volume.array != 0
    return files.array(case.mask) > 0


class _FilesOnGrid:
    """Reads files that must lie voxel for voxel on a scan.

    Attributes:
        notes: on those that lie a little beside it, or hold none of the values that are named.

    Args:
        data: folder below which they lie.
        scan: the scan's file.
        geometry: the scan's.
    """

    def __init__(self, data: Path, scan: str, geometry: Geometry) -> None:
        self.notes: list[str] = []
        self._data, self._geometry = data, geometry
        self._scan_has_place = has_place(data / scan)

    def labels(self, file: str) -> np.ndarray:
        """Return a label map [k, j, i], int64; what is not a number counts as 0."""
        labels = whole_numbers(self.array(file))
        if labels is None:
            raise InputError(
                f"{file}: its values are no whole numbers, so it is no label map. Choose the label "
                "map that belongs to the scan; a map of probability goes under `probabilities`."
            )
        return labels

    def masks(
        self, file: str, labels: np.ndarray, case: Case, cases: CaseList
    ) -> dict[str, np.ndarray]:
        """Return the mask of each structure that a file's labels can tell."""
        if case.convention == FREESURFER:
            tissues = tissues_of_freesurfer(labels)
            values = {c["name"].casefold(): c["value"] for c in BRAIN_TISSUE_CLASSES}
            known = {s: values[s.casefold()] for s in cases.structures if s.casefold() in values}
            if not known:
                raise InputError(
                    f"{file}: of FreeSurfer's labels the structures "
                    f"{', '.join(c['name'] for c in BRAIN_TISSUE_CLASSES)} are known, and the list "
                    f"has {', '.join(cases.structures)}. Name the structures so, or give `values`."
                )
            return {s: tissues == value for s, value in known.items()}
        named = {value for values in case.values.values() for value in values}
        found = np.unique(labels[labels != 0]).tolist()
        if found and named.isdisjoint(found):
            has = (
                f"{file}: the labels are {', '.join(map(str, found[:8]))}"
                f"{' …' if found[8:] else ''}, and `values` names "
                f"{', '.join(map(str, sorted(named)))}"
            )
            if len(found) == 1:  # a mask, of one structure: what else should it be?
                raise InputError(f"{has}. Correct `values`, or the file.")
            self.notes.append(f"{has}: nothing is marked")
        return {s: np.isin(labels, values) for s, values in case.values.items()}

    def array(self, file: str) -> np.ndarray:
        """Return the values [k, j, i] of a file."""
        image = read_image(self._data / file)
        if (number := image.GetNumberOfComponentsPerPixel()) != 1:
            raise InputError(
                f"{file}: the file holds {number} values a voxel, and a mask has one. Save the one "
                "that is meant as a file of its own, or a picture in colours in grey."
            )
        if image.GetDimension() != 3 or image.GetSize() != tuple(self._geometry.size):
            raise InputError(
                f"{file}: its size {image.GetSize()} is not that of the scan, "
                f"{tuple(self._geometry.size)}. Resample it to the scan's grid (labels with "
                "nearest neighbours)."
            )
        if has_place(self._data / file) and self._scan_has_place:
            self._check_place(file, image)
        return sitk.GetArrayFromImage(image)

    def _check_place(self, file: str, image: sitk.Image) -> None:
        distance, mm = beside(Geometry.from_image(image), self._geometry)
        if distance > OTHER_PLACE:
            raise InputError(
                f"{file}: it lies {mm:.1f} mm from the scan in space. Resample it to the scan's "
                "grid (labels with nearest neighbours)."
            )
        if distance > SAME_PLACE:
            self.notes.append(
                f"{file} lies {mm:.2f} mm beside its scan, {distance:.2f} voxels; it was taken "
                "voxel for voxel"
            )
