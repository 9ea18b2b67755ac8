"""Which cases a run has trained on, so that none of them counts as unseen when it goes on."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from .rater_data import Split
from .trainer import STATE_FILE

CASES_FILE = "cases.json"


@dataclass(frozen=True)
class SeenCases:
    """Names of the cases that a run was given to train on until now."""

    training: frozenset[str]

    @classmethod
    def of(cls, folder: Path) -> SeenCases | None:
        """Return those of the run that a folder holds; None if it holds none or does not say.

        Raises:
            InputError: if what it says cannot be read.
        """
        if not (folder / STATE_FILE).exists() or not (folder / CASES_FILE).exists():
            return None
        try:
            stored = json.loads((folder / CASES_FILE).read_text(encoding="utf-8"))
            return cls(frozenset(stored["training"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{folder / CASES_FILE}: the names of the cases that the run was trained on cannot "
                f"be read ({type(error).__name__}). Choose another folder, or remove {STATE_FILE} "
                "beside it to begin anew."
            ) from error

    def check(self, split: Split, folder: Path) -> None:
        """Check that none that the run was given to train on is to count as unseen.

        Raises:
            InputError: naming one that is held back or validated on now.
        """
        if seen := sorted(self.training & {*split.validation, *split.held_back}):
            raise InputError(
                f"{folder}: the run in this folder was trained on {seen[0]}, so it can neither be "
                "held back nor validated on. Choose another folder, or correct raters.held_back "
                "and raters.validation."
            )


def write_seen(folder: Path, split: Split, before: SeenCases | None) -> None:
    """Write a run's cases to its folder, with those that it was given to train on before."""
    training = {*split.training, *(before.training if before else ())}
    text = json.dumps({"training": sorted(training)}, indent=2, ensure_ascii=False)
    partial = folder / f"{CASES_FILE}.partial"
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, folder / CASES_FILE)
