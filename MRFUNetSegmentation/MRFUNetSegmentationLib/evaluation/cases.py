"""The list of scans to evaluate on: a TOML file, checked before anything is computed.

`cases/brain-tissue.toml` is an example that explains the entries.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..inference.image_files import read_image, read_volume_file
from ..inference.volume import Geometry, Volume
from ..training.card import BRAIN_TISSUE_CLASSES
from ..training.config import ConfigError, from_table
from ..training.labels import LARGEST_LABEL, tissue_table

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Words that stand in the place of a mask's file.
MASK_OF_REFERENCE, MASK_OF_NONZERO, MASK_OF_MODEL = "reference", "nonzero", "model"
FREESURFER = "freesurfer"
# Headers of one grid may differ by rounding, relative to the voxel size.
_SAME_PLACE = 0.05


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
        surroundings_mm: calibration is measured within this distance of what any rater marks.
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
    """

    case: Case
    volume: Volume
    reference: dict[str, np.ndarray]
    raters: dict[str, np.ndarray]
    labelled: np.ndarray | None
    mask: np.ndarray | None


def load_case_list(path: Path, data: Path) -> CaseList:
    """Read and check a list of cases.

    Args:
        path: TOML file.
        data: folder below which the files lie; all of them must be there.

    Raises:
        ConfigError: if the file cannot be read or an entry is missing, unknown or impossible.
        InputError: if a file is not there.
    """
    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    try:
        cases = from_table(CaseList, table, "")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
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
        cases: of which name, image, raters and values are written.
    """
    lines = [f"title = {_quoted(title)}", f"structures = {_listed(structures)}"]
    for case in cases:
        lines += [
            "",
            "[[cases]]",
            f"name = {_quoted(case.name)}",
            f"image = {_quoted(case.image)}",
            f"raters = {_listed(case.raters)}",
            *(f"values.{_quoted(s)} = {list(values)}" for s, values in case.values.items()),
        ]
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")


def _quoted(text: str) -> str:
    """Return a basic string of TOML, whose escapes are those of JSON."""
    return json.dumps(text, ensure_ascii=False)


def _listed(texts: Sequence[str]) -> str:
    return f"[{', '.join(map(_quoted, texts))}]"


def load_case(case: Case, cases: CaseList, data: Path) -> LoadedCase:
    """Read a case's files.

    Raises:
        InputError: if one cannot be read or is not on the scan's grid.
    """
    volume = read_volume_file(data / case.image)
    reference, foreground = {}, np.zeros(volume.array.shape, dtype=bool)
    if case.labels:
        labels = _read_labels(data / case.labels, volume.geometry)
        reference, foreground = _masks(labels, case), labels > 0
    for structure, file in case.probabilities.items():
        probability = _read_on_grid(data / file, volume.geometry)
        reference[structure] = probability > 0.5 * probability.max()
        foreground |= reference[structure]
    raters = [_masks(_read_labels(data / r, volume.geometry), case) for r in case.raters]
    scored = case.scored or cases.structures
    return LoadedCase(
        case=case,
        volume=volume,
        reference={s: reference[s] for s in scored if s in reference},
        raters={s: np.stack([r[s] for r in raters]) for s in scored if raters and s in raters[0]},
        labelled=foreground if reference else None,
        mask=_mask(case, data, volume, foreground),
    )


def _files(case: Case) -> list[str]:
    words = ("", MASK_OF_REFERENCE, MASK_OF_NONZERO, MASK_OF_MODEL)
    files = [case.image, *([case.labels] if case.labels else []), *case.raters]
    files += case.probabilities.values()
    return files + ([] if case.mask in words else [case.mask])


def _mask(case: Case, data: Path, volume: Volume, foreground: np.ndarray) -> np.ndarray | None:
    if case.mask in ("", MASK_OF_MODEL):
        return None
    if case.mask == MASK_OF_REFERENCE:
        return foreground
    if case.mask == MASK_OF_NONZERO:
        return volume.array != 0
    return _read_on_grid(data / case.mask, volume.geometry) > 0


def _masks(labels: np.ndarray, case: Case) -> dict[str, np.ndarray]:
    if case.convention == FREESURFER:
        tissue = tissue_table()[labels]
        return {c["name"]: tissue == c["value"] for c in BRAIN_TISSUE_CLASSES}
    return {s: np.isin(labels, values) for s, values in case.values.items()}


def _read_labels(path: Path, geometry: Geometry) -> np.ndarray:
    labels = np.rint(_read_on_grid(path, geometry)).astype(np.int64)
    if labels.min() < 0 or labels.max() >= LARGEST_LABEL:
        raise InputError(
            f"{path}: its values reach from {labels.min()} to {labels.max()}, so it is no label "
            f"map (0..{LARGEST_LABEL - 1}). Choose the label map that belongs to the scan."
        )
    return labels


def _read_on_grid(path: Path, geometry: Geometry) -> np.ndarray:
    """Read a file that must lie voxel for voxel on the scan."""
    image = read_image(path)
    if image.GetDimension() != 3 or image.GetSize() != tuple(geometry.size):
        raise InputError(
            f"{path}: its size {image.GetSize()} is not that of the scan, {tuple(geometry.size)}. "
            "Resample it to the scan's grid (labels with nearest neighbours)."
        )
    scan = geometry.apply_to(sitk.Image(geometry.size, sitk.sitkUInt8))
    corners = np.array(
        [
            np.subtract(
                image.TransformIndexToPhysicalPoint(c), scan.TransformIndexToPhysicalPoint(c)
            )
            for c in ((0, 0, 0), tuple(n - 1 for n in geometry.size))
        ]
    )
    if np.abs(corners).max() > max(_SAME_PLACE * max(geometry.spacing), 1e-3):
        raise InputError(
            f"{path}: it lies {np.abs(corners).max():.1f} mm from the scan in space. Resample it "
            "to the scan's grid (labels with nearest neighbours)."
        )
    return sitk.GetArrayFromImage(image)
