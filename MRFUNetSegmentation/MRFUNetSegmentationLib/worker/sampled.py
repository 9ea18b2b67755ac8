"""The files of a sampling run: what the worker writes and its client reads, without torch.

A folder holds

    sample-0001.zlib …   the label map of each sample, written as soon as it is drawn
    consensus.npy        uint8
    <name of a map>.npy  float32
    result.json          the rest; it comes last, so a folder without it is not complete

All arrays are [k, j, i] on the volume's own grid.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoints.card import ModelCard
from ..inference.sampled import SampledResult
from ..inference.volume import Geometry

RESULT, CONSENSUS = "result.json", "consensus.npy"
# All that such a folder holds.
FILES = ("sample-*.zlib", "*.npy", RESULT)


def sample_file(folder: Path, sample: int) -> Path:
    """Return the file of a sample, 0 .. N - 1."""
    return folder / f"sample-{sample + 1:04}.zlib"


def write_sample(folder: Path, sample: int, compressed: bytes) -> None:
    """Write one sample, as `inference.label_maps.compress` gives it.

    Raises:
        OSError: if that fails, on a full disk for example.
    """
    sample_file(folder, sample).write_bytes(compressed)


def write(folder: Path, result: SampledResult) -> None:
    """Write all but the samples, which are there already.

    Raises:
        OSError: if that fails, on a full disk for example.
    """
    np.save(folder / CONSENSUS, result.consensus, allow_pickle=False)
    for name, values in result.maps.items():
        np.save(folder / f"{name}.npy", values, allow_pickle=False)
    rest = {
        "number": result.number,
        "seed": result.seed,
        "geometry": vars(result.geometry),
        "consensus_method": result.consensus_method,
        "maps": list(result.maps),
        "structures": result.structures,
        "per_sample": result.per_sample,
        "directions": result.directions,
        "card": result.card.to_dict(),
        "sha256": result.sha256,
        "device": result.device,
        "options": result.options,
        "timings": result.timings,
        "warnings": result.warnings,
    }
    (folder / RESULT).write_text(json.dumps(rest), encoding="ascii")


def read(folder: Path) -> SampledResult:
    """Read a complete run into memory; the files are not needed any more then.

    Raises:
        OSError, ValueError: if the folder is not complete or not whole.
    """
    rest: dict[str, Any] = json.loads((folder / RESULT).read_text(encoding="ascii"))
    geometry = Geometry(**{key: tuple(value) for key, value in rest.pop("geometry").items()})
    per_sample = [
        # JSON has no keys but texts.
        entry | {"volumes_ml": {int(k): ml for k, ml in entry["volumes_ml"].items()}}
        for entry in rest.pop("per_sample")
    ]
    return SampledResult(
        compressed=[sample_file(folder, n).read_bytes() for n in range(rest.pop("number"))],
        geometry=geometry,
        consensus=np.load(folder / CONSENSUS, allow_pickle=False),
        maps={
            name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in rest.pop("maps")
        },
        per_sample=per_sample,
        card=ModelCard.from_dict(rest.pop("card")),
        **rest,
    )
