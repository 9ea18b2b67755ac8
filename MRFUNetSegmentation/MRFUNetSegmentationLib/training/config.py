"""Configuration of a training run: one TOML file, checked before anything starts."""

from __future__ import annotations

import json
import sys
import types
import typing
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path

from ..errors import MRFUNetError
from ..networks import MRFUNetConfig
from .synthesis import SynthesisConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class ConfigError(MRFUNetError, ValueError):
    """A training configuration that cannot be used; the message says where and why."""


@dataclass(frozen=True)
class Stage:
    """A stretch of the run with its own settings.

    Attributes:
        steps: number of optimiser steps.
        learning_rate: at the stage's first and last step; a cosine leads from one to the other.
        training_iterations: bounds of the mean-field iterations drawn at each step.
        shape: voxels of a training image along R, A, S.
        voxel_size: bounds of the isotropic voxel size drawn for each image, mm.
        synthesis: ranges of the generative model.
    """

    steps: int
    learning_rate: tuple[float, float]
    training_iterations: tuple[int, int]
    shape: tuple[int, int, int]
    voxel_size: tuple[float, float]
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)


@dataclass(frozen=True)
class ValidationScan:
    """A real scan with reference labels in FreeSurfer's convention; paths below the data folder."""

    image: str
    labels: str


@dataclass(frozen=True)
class CardText:
    """What the model card says beside what follows from the run; see `checkpoints.card`."""

    title: str
    description: str
    modality: str
    voxel_size: tuple[float, float, float]
    data: tuple[str, ...]
    licence: str
    citation: str
    intended_use: str


@dataclass(frozen=True)
class TrainingConfig:
    """A whole run.

    Attributes:
        name: name of the model.
        seed: seed of initial weights and of every training pair.
        label_maps: files below the data folder.
        network: hyper-parameters of the network.
        stages: one after the other.
        card: texts of the model card.
        validation: real scans scored every `validate_every` steps.
        ema: decay of the moving average of weights that validation and the result use.
        gradient_norm: largest norm of the gradient.
        save_every: steps between saved states.
        validate_every: steps between validations.
    """

    name: str
    seed: int
    label_maps: tuple[str, ...]
    network: MRFUNetConfig
    stages: tuple[Stage, ...]
    card: CardText
    validation: tuple[ValidationScan, ...] = ()
    ema: float = 0.998
    gradient_norm: float = 1.0
    save_every: int = 100
    validate_every: int = 500

    def __post_init__(self) -> None:
        if not self.label_maps:
            raise ConfigError("label_maps: at least one file is needed")
        if not self.stages:
            raise ConfigError("stages: at least one is needed")

    def to_dict(self) -> dict:
        """Return the configuration as JSON types, for the model card."""
        return json.loads(json.dumps(asdict(self)))

    @property
    def steps(self) -> int:
        """Number of optimiser steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> tuple[Stage, float]:
        """Return the stage of a step and how far in the step is, 0..1."""
        for stage in self.stages:
            if step < stage.steps:
                return stage, step / max(1, stage.steps - 1)
            step -= stage.steps
        return self.stages[-1], 1.0


def load_config(path: Path) -> TrainingConfig:
    """Read and check a configuration.

    Raises:
        ConfigError: if the file cannot be read or any entry is missing, unknown or ill-typed.
    """
    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    try:
        return _build(TrainingConfig, table, "")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _build(kind: typing.Any, value: typing.Any, where: str) -> typing.Any:
    """Turn TOML values into what the annotation says, or name the entry that does not fit."""
    if is_dataclass(kind):
        return _build_dataclass(kind, value, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _build(arguments[0], value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{where}: expected a list, got {value!r}")
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise ConfigError(f"{where}: expected {len(arguments)} entries, got {len(value)}")
        return tuple(_build(arguments[0], v, f"{where}[{n}]") for n, v in enumerate(value))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"{where}: expected {kind.__name__}, got {value!r}")
    return value


def _build_dataclass(kind: type, table: typing.Any, where: str) -> typing.Any:
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: expected a table, got {table!r}")
    hints = typing.get_type_hints(kind)
    known = {f.name: f for f in fields(kind)}
    prefix = f"{where}." if where else ""
    for key in table:
        if key not in known:
            raise ConfigError(f"{prefix}{key}: no such entry; known are {', '.join(known)}")
    for name, entry in known.items():
        if entry.default is MISSING and entry.default_factory is MISSING and name not in table:
            raise ConfigError(f"{prefix}{name}: missing")
    values = {key: _build(hints[key], value, prefix + key) for key, value in table.items()}
    try:
        return kind(**values)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{where or kind.__name__}: {error}") from error
