"""The model card that travels inside every checkpoint. Needs neither torch nor safetensors."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, InputError
from .schema import violations

FORMAT_VERSION = 1
# Between these percentiles of a volume grey values count, where a card does not say otherwise.
PERCENTILES = (0.5, 99.5)
# Names of Slicer's own lists, in which its terminology selector looks entries up.
_TYPES_LIST = "Segmentation category and type - 3D Slicer General Anatomy list"
_REGIONS_LIST = "Anatomic codes - DICOM master list"
# They separate the parts of a terminology entry, and entries in files; there is no escaping.
_SEPARATORS = str.maketrans("~^|", "   ")
_SCHEMA_FILE = Path(__file__).with_name("card.schema.json")


@dataclass(frozen=True)
class Code:
    """A coded concept, as in DICOM: scheme designator, value, meaning."""

    scheme: str
    value: str
    meaning: str

    def slicer_code(self) -> str:
        """Return the code as part of a terminology entry of Slicer's."""
        parts = (self.scheme, self.value, self.meaning)
        return "^".join(part.translate(_SEPARATORS) for part in parts)


@dataclass(frozen=True)
class Terminology:
    """What a segment is, in coded terms (category and type of a DICOM segmentation)."""

    category: Code
    type: Code

    def slicer_entry(self) -> str:
        """Return the terminology entry as Slicer stores it with a segment, in scenes and files."""
        none = "^^"
        parts = [
            _TYPES_LIST,
            self.category.slicer_code(),
            self.type.slicer_code(),
            none,  # modifier of the type
            _REGIONS_LIST,
            none,  # region
            none,  # modifier of the region
        ]
        return "~".join(parts)


@dataclass(frozen=True)
class SegmentClass:
    """One class of a model.

    Attributes:
        value: its value in label maps; the index of its channel.
        name: shown to the user.
        color: red, green, blue, 0..255.
        background: whether it stands for "everything else", and so makes no segment.
        terminology: coded meaning, if there is one.
    """

    value: int
    name: str
    color: tuple[int, int, int]
    background: bool = False
    terminology: Terminology | None = None

    @property
    def segment_id(self) -> str:
        """Identifier of the class's segment, the same in every segmentation."""
        return re.sub(r"\W+", "_", self.name.lower()).strip("_")


@dataclass(frozen=True)
class InputSpec:
    """What the model expects.

    Attributes:
        modality: in words.
        voxel_size: mm, along the axes of `orientation`, of the grid on which a volume is segmented.
        orientation: three letters, the directions in which the axes of the network's grid run.
        normalisation: {"method": "percentile", "low": …, "high": …}, {"method": "window",
            "window": [low, high]} with values of the image (CT: HU) that become 0 and 1, or
            {"method": "none"}.
        slice_plane: "axial", "coronal" or "sagittal" for a 2D network, which takes a volume
            slice by slice; None for a 3D one.
        neighbours: slices on either side that a 2D network sees beside each slice, as further
            channels; they are `voxel_size` apart.
        network_voxel_size: mm, likewise, of the grid on which the network sees the volume, where
            that is another; what it finds is carried to that of `voxel_size`. None if it is not.
    """

    modality: str
    voxel_size: tuple[float, float, float]
    orientation: str
    normalisation: dict[str, Any]
    slice_plane: str | None = None
    neighbours: int = 0
    network_voxel_size: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class ModelCard:
    """A model card, checked against `card.schema.json`.

    Attributes:
        name: short name, by which a bundled model is chosen.
        title: one line for lists.
        description: what it segments, on what.
        architecture: {"type": …} and the network's hyper-parameters.
        classes: in the order of the network's channels.
        input: what the network expects.
        training: data, seed, steps, configuration and metrics.
        licence: SPDX identifier of the weights' licence.
        citation: how to cite it.
        intended_use: what it is for and what not.
        one_piece: values of the classes that together are one connected object, as the tissues
            of a brain are; what lies apart from it, other classes too, becomes background. Empty
            where there may be several objects.
        intensities: whether the segments' intensities in the image at hand take part beside the
            network (see `inference.intensities`).
    """

    name: str
    title: str
    description: str
    architecture: dict[str, Any]
    classes: tuple[SegmentClass, ...]
    input: InputSpec
    training: dict[str, Any]
    licence: str
    citation: str
    intended_use: str
    one_piece: tuple[int, ...] = ()
    intensities: bool = False

    @classmethod
    def from_dict(cls, card: Any, source: str = "model card") -> ModelCard:
        """Check a card given as JSON types and build it.

        Args:
            card: the card.
            source: named in error messages.

        Raises:
            CheckpointError: naming the first entry that does not fit.
        """
        version = card.get("format_version") if isinstance(card, dict) else None
        if isinstance(version, int) and version != FORMAT_VERSION:
            raise CheckpointError(
                f"{source}: format version {version} is not supported (this program reads "
                f"version {FORMAT_VERSION}). Update the extension, or export the model again."
            )
        problems = violations(card, schema())
        if not problems:
            problems = _inconsistencies(card)
        if problems:
            raise CheckpointError(
                f"{source}: the model card is not valid: {problems[0]}. "
                "Correct the card, or get the checkpoint again from where it came from."
            )
        return cls(
            name=card["name"],
            title=card["title"],
            description=card["description"],
            architecture=dict(card["architecture"]),
            classes=tuple(_segment_class(c) for c in card["classes"]),
            input=InputSpec(
                modality=card["input"]["modality"],
                voxel_size=_sizes(card["input"]["voxel_size"]),
                orientation=card["input"]["orientation"],
                normalisation=deepcopy(card["input"]["normalisation"]),
                slice_plane=card["input"].get("slice_plane"),
                neighbours=int(card["input"].get("neighbours", 0)),
                network_voxel_size=_sizes(card["input"].get("network_voxel_size")),
            ),
            training=dict(card["training"]),
            licence=card["licence"],
            citation=card["citation"],
            intended_use=card["intended_use"],
            one_piece=tuple(map(int, card.get("one_piece", ()))),
            intensities=card.get("intensities", False),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the card as JSON types; `from_dict` gives it back."""
        plane, seen = self.input.slice_plane, self.input.network_voxel_size
        return {
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "title": self.title,
            "description": self.description,
            "architecture": deepcopy(self.architecture),
            "classes": [_class_dict(c) for c in self.classes],
            "input": {
                "modality": self.input.modality,
                "voxel_size": list(self.input.voxel_size),
                "orientation": self.input.orientation,
                "normalisation": deepcopy(self.input.normalisation),
                **({"slice_plane": plane} if plane else {}),
                **({"neighbours": self.input.neighbours} if self.input.neighbours else {}),
                **({"network_voxel_size": list(seen)} if seen else {}),
            },
            "training": deepcopy(self.training),
            "licence": self.licence,
            "citation": self.citation,
            "intended_use": self.intended_use,
            **({"one_piece": list(self.one_piece)} if self.one_piece else {}),
            **({"intensities": True} if self.intensities else {}),
        }

    @property
    def segments(self) -> tuple[SegmentClass, ...]:
        """The classes that make a segment: all but the background."""
        return tuple(c for c in self.classes if not c.background)

    @property
    def samples(self) -> bool:
        """Whether the model draws plausible segmentations, and not just one."""
        return self.architecture["type"] == "probabilistic-unet"


def read_card_file(path: Path) -> dict[str, Any]:
    """Return a model card from a JSON file; it is not checked yet, and may have gaps.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: the model card cannot be read as JSON ({error}). "
            "See `mrfunet models --json` for examples."
        ) from error
    if not isinstance(card, dict):
        raise InputError(f"{path}: a model card is a JSON object. See `mrfunet models --json`.")
    return card


@cache
def schema() -> dict[str, Any]:
    """Return the JSON schema of cards."""
    return json.loads(_SCHEMA_FILE.read_text(encoding="utf-8"))


def is_window(values: Sequence[float]) -> bool:
    """Whether two values are finite and in order, so that they can become 0 and 1."""
    low, high = values
    try:
        return low < high and math.isfinite(high - low)
    except OverflowError:  # a whole number that no float holds
        return False


def _inconsistencies(card: dict[str, Any]) -> list[str]:
    """What a schema cannot say: classes are numbered as channels, and told apart by name."""
    values = [c["value"] for c in card["classes"]]
    if values != list(range(len(values))):
        return [f"classes: values must be 0, 1, 2, … in order, got {values}"]
    classes = [_segment_class(c) for c in card["classes"]]
    if len({c.segment_id for c in classes}) != len(classes):
        return ["classes: names must differ"]
    if nameless := [c.name for c in classes if not c.background and not c.segment_id]:
        return [f"classes: the name {nameless[0]!r} must have a letter or a digit"]
    if not classes[0].background:
        return [f"classes: {classes[0].name} has value 0, which must be the background"]
    segments = {c.value for c in classes if not c.background}
    if not segments:
        return ["classes: at least one must not be background, or nothing is segmented"]
    if not segments.issuperset(card.get("one_piece", ())):
        return [f"one_piece: {card['one_piece']} must be values of classes, not background"]
    samples = card["architecture"]["type"] == "probabilistic-unet"
    if card.get("intensities") and samples:
        return ["intensities: only of networks that give one segmentation"]
    if "neighbours" in card["input"] and "slice_plane" not in card["input"]:
        return ["input.neighbours: only of 2D networks, which have a slice_plane"]
    if "network_voxel_size" in card["input"] and (samples or "slice_plane" in card["input"]):
        return ["input.network_voxel_size: only of 3D networks that give one segmentation"]
    normalisation = card["input"]["normalisation"]
    window = normalisation.get("window")
    if (window is not None) != (normalisation["method"] == "window"):
        return ["input.normalisation: a window belongs to the method window, and to no other"]
    if window and not is_window(window):
        return [f"input.normalisation.window: must be two finite numbers in order, got {window}"]
    low, high = PERCENTILES
    if normalisation.get("low", low) >= normalisation.get("high", high):
        return ["input.normalisation: the low percentile must be below the high one"]
    axes = {frozenset("LR"), frozenset("PA"), frozenset("IS")}
    letters = card["input"]["orientation"]
    if {pair for pair in axes for letter in letters if letter in pair} != axes:
        return [f"input.orientation: {letters!r} must name each axis once, as RAS does"]
    return []


def _sizes(values: list[float] | None) -> tuple[float, ...] | None:
    return values and tuple(map(float, values))


def _segment_class(entry: dict[str, Any]) -> SegmentClass:
    terminology = entry.get("terminology")
    return SegmentClass(
        value=int(entry["value"]),  # in JSON 1.0 is a whole number
        name=entry["name"],
        color=tuple(map(int, entry["color"])),
        background=entry.get("background", False),
        terminology=terminology
        and Terminology(Code(**terminology["category"]), Code(**terminology["type"])),
    )


def _class_dict(c: SegmentClass) -> dict[str, Any]:
    entry: dict[str, Any] = {"value": c.value, "name": c.name, "color": list(c.color)}
    if c.background:
        entry["background"] = True
    if c.terminology:
        entry["terminology"] = {
            "category": vars(c.terminology.category).copy(),
            "type": vars(c.terminology.type).copy(),
        }
    return entry
