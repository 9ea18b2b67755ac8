"""`mrfunet models`: lists the bundled models."""

from __future__ import annotations

import argparse
import json
import textwrap

from ..checkpoints.header import CheckpointInfo, bundled_models


def add_parser(commands) -> argparse.ArgumentParser:
    """Add the command's arguments."""
    parser = commands.add_parser("models", help="list the bundled models with their cards")
    parser.add_argument("--json", action="store_true", help="print the whole cards as JSON")
    return parser


def run(options: argparse.Namespace) -> int:
    """Print the models; return the exit code."""
    models = bundled_models()
    if options.json:
        print(json.dumps([m.card.to_dict() for m in models], indent=2, ensure_ascii=False))
    else:
        print("\n\n".join(_text(model) for model in models) or "no bundled models")
    return 0


def _text(model: CheckpointInfo) -> str:
    card = model.card
    rows = {
        "segments": ", ".join(f"{c.name} ({c.value})" for c in card.segments),
        "input": f"{card.input.modality}; works on a "
        f"{' x '.join(f'{v:g}' for v in card.input.voxel_size)} mm grid",
        "trained on": ", ".join(card.training["data"]),
        "metrics": "; ".join(f"{k}: {v}" for k, v in card.training["metrics"].items()),
        "use": card.intended_use,
        "licence": card.licence,
        "cite": card.citation,
        "file": str(model.path),
        "SHA-256": model.sha256(),
    }
    lines = [f"{card.name}: {card.title}", f"  {card.description}"]
    for name, value in rows.items():
        lines += textwrap.wrap(
            value, 100, initial_indent=f"  {name + ':':12}", subsequent_indent=" " * 14,
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
    return "\n".join(lines)
