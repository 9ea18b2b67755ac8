"""The models that can be chosen, and what is said about each; knows neither Qt nor the scene."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..checkpoints.card import InputSpec, ModelCard
from ..checkpoints.header import bundled_models, find_checkpoint, read_info
from ..errors import CheckpointError
from .i18n import _

NORMAL, FAST = "normal", "fast"
# A bundled model of another's name and this is its variant for quick results.
_FAST_SUFFIX = "-fast"


@dataclass(frozen=True)
class ModelEntry:
    """A model that can be chosen.

    Attributes:
        model: name of a bundled model, or path of a checkpoint.
        label: shown in the list.
        name: of the model's card, by which results name it; empty if there is a problem.
        description: what it segments in what, shown below the list; empty if there is a problem.
        intended_use: what it is for and what not.
        card_text: the rest of the model's card, for reading.
        input: what it expects; None if there is a problem.
        samples: whether it draws plausible segmentations.
        problem: why it cannot be used.
    """

    model: str
    label: str
    name: str = ""
    description: str = ""
    intended_use: str = ""
    card_text: str = ""
    input: InputSpec | None = None
    samples: bool = False
    problem: str | None = None

    def matches(self, search: str) -> bool:
        """Return whether title, structures or modality contain all words of a search."""
        text = f"{self.label} {self.description}".lower()
        return all(word in text for word in search.lower().split())


def model_entries(selected: str, files: Iterable[str] = ()) -> list[ModelEntry]:
    """Return the bundled models, the files, and the selected model if it is none of these."""
    try:
        models = [info.card.name for info in bundled_models()]
    except CheckpointError:
        models = []  # the one that is selected says what is wrong
    models += [model for model in dict.fromkeys([*files, selected]) if model not in models]
    return [describe_model(model) for model in models]


def describe_model(model: str) -> ModelEntry:
    """Return the entry of a bundled model's name or of a checkpoint's path."""
    try:
        info = read_info(find_checkpoint(model))
    except CheckpointError as error:
        return ModelEntry(model, Path(model).name, problem=str(error))
    card = info.card
    is_file = info.path == Path(model).expanduser()
    return ModelEntry(
        model,
        f"{card.title} ({info.path.name})" if is_file else card.title,
        card.name,
        _description(card),
        card.intended_use,
        _card_text(card),
        card.input,
        card.samples,
    )


def qualities(model: str, entries: Sequence[ModelEntry]) -> dict[str, str]:
    """Return the models of the normal and the fast quality, which share a line of the list.

    A model without a variant is of normal quality, and has no other.
    """
    models = {entry.model for entry in entries}
    normal = model.removesuffix(_FAST_SUFFIX)
    fast = normal + _FAST_SUFFIX
    return {NORMAL: normal, FAST: fast} if {normal, fast} <= models else {NORMAL: model}


def listed(entries: Sequence[ModelEntry]) -> list[ModelEntry]:
    """Return the entries that are lines of the list: all but fast variants of others."""
    return [e for e in entries if qualities(e.model, entries)[NORMAL] == e.model]


def searched(entries: Sequence[ModelEntry], search: str) -> list[ModelEntry]:
    """Return the lines of the list of which a quality matches a search."""
    matching = {entry.model for entry in entries if entry.matches(search)}
    return [e for e in listed(entries) if matching & {*qualities(e.model, entries).values()}]


def found(entries: Sequence[ModelEntry], search: str) -> str:
    """Return what is said about the result of a search; nothing without one."""
    if not search.strip():
        return ""
    number = len(searched(entries, search))
    if not number:
        return _("No model is for that.")
    return _("{number} of {all} models. Return opens the list.").format(
        number=number, all=len(listed(entries))
    )


def _description(card: ModelCard) -> str:
    return _("Structures: {structures}\nMade for: {modality}; {resolution}").format(
        structures=_enumeration([c.name for c in card.segments]),
        modality=card.input.modality,
        resolution=_resolution(card),
    )


def _card_text(card: ModelCard) -> str:
    training = card.training
    entries = [
        ("", card.description),
        (_("Use"), card.intended_use),
        (_("Trained on"), "; ".join(training["data"])),
        (_("Scores"), "; ".join(f"{name}: {value:.3g}" for name, value in _scores(training))),
        (_("Licence"), card.licence),
        (_("Cite"), card.citation),
    ]
    return "\n\n".join(f"{head}: {text}" if head else text for head, text in entries if text)


def _scores(training: dict) -> list[tuple[str, float]]:
    # A card of somebody else's may hold anything here.
    metrics = training.get("metrics") or {}
    return [(name, value) for name, value in metrics.items() if isinstance(value, int | float)]


def _enumeration(names: list[str]) -> str:
    # An abbreviation such as CSF keeps its capitals.
    words = [name if name[:2].isupper() else name[:1].lower() + name[1:] for name in names]
    return ", ".join(words)


def _resolution(card: ModelCard) -> str:
    grid, network = card.input.voxel_size, card.input.network_voxel_size
    if network is None:
        return _("works at a resolution of {grid}\u00a0mm").format(grid=_voxel_size(grid))
    return _("sees a scan at {network}\u00a0mm and draws borders at {grid}\u00a0mm").format(
        network=_voxel_size(network), grid=_voxel_size(grid)
    )


def _voxel_size(sizes: Iterable[float]) -> str:
    numbers = [f"{size:g}" for size in sizes]
    return numbers[0] if len(set(numbers)) == 1 else " x ".join(numbers)
