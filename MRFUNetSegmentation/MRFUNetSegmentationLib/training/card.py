"""Model cards of trained networks."""

from __future__ import annotations

from typing import Any

from ..checkpoints.card import FORMAT_VERSION, PERCENTILES, ModelCard
from .config import CardText, TrainingConfig
from .labels import GREY_MATTER, VENTRICLES, WHITE_MATTER

ORIENTATION = "RAS"
NORMALISATION = {"method": "percentile", "low": PERCENTILES[0], "high": PERCENTILES[1]}

_ANATOMICAL_STRUCTURE = {
    "scheme": "SCT",
    "value": "123037004",
    "meaning": "Anatomical Structure",
}


def normalisation(text: CardText) -> dict[str, Any]:
    """Return how intensities are normalised, as of `InputSpec`."""
    if text.window is None:
        return NORMALISATION
    return {"method": "window", "window": list(text.window)}


def _segment(value: int, name: str, color: list[int], code: str, meaning: str) -> dict[str, Any]:
    return {
        "value": value,
        "name": name,
        "color": color,
        "terminology": {
            "category": _ANATOMICAL_STRUCTURE,
            "type": {"scheme": "SCT", "value": code, "meaning": meaning},
        },
    }


# In the order of `labels.OTHER` … `labels.CSF`; codes of SNOMED CT.
BRAIN_TISSUE_CLASSES: tuple[dict[str, Any], ...] = (
    {"value": 0, "name": "Other", "color": [0, 0, 0], "background": True},
    _segment(1, "Grey matter", [214, 121, 95], "389081007", "Gray matter"),
    _segment(2, "White matter", [245, 235, 190], "389080008", "White matter"),
    _segment(3, "Ventricles", [70, 95, 215], "35764002", "Brain ventricle"),
    _segment(4, "CSF outside the ventricles", [85, 188, 255], "280371009", "CSF space"),
)


def trained_card(config: TrainingConfig, steps: int, metrics: dict[str, Any]) -> ModelCard:
    """Return the card of a network trained for `steps` steps.

    Args:
        config: the run; it goes into the card as a whole.
        steps: optimiser steps behind the weights.
        metrics: scores of the validation.

    Raises:
        CheckpointError: if texts, classes or plane make no valid card.
    """
    text, table = config.card, config.to_dict()
    plane = {"slice_plane": text.slice_plane} if text.slice_plane else {}
    if text.neighbours:
        plane["neighbours"] = text.neighbours
    seen = text.network_voxel_size
    seen = {"network_voxel_size": list(seen)} if seen else {}
    # The tissues of a brain are one piece; of other objects there may be several.
    one_piece = {} if config.classes else {"one_piece": [GREY_MATTER, WHITE_MATTER, VENTRICLES]}
    return ModelCard.from_dict(
        {
            "format_version": FORMAT_VERSION,
            "name": config.name,
            "title": text.title,
            "description": text.description,
            "architecture": table["network"],
            "classes": list(config.classes or BRAIN_TISSUE_CLASSES),
            "input": {
                "modality": text.modality,
                "voxel_size": list(text.voxel_size),
                "orientation": ORIENTATION,
                "normalisation": normalisation(text),
                **plane,
                **seen,
            },
            "training": {
                "data": list(text.data),
                "seed": config.seed,
                "steps": steps,
                "configuration": table,
                "metrics": metrics,
            },
            "licence": text.licence,
            "citation": text.citation,
            "intended_use": text.intended_use,
            **one_piece,
            "intensities": text.intensities,
        }
    )
