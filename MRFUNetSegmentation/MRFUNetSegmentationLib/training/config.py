"""Configuration of a training run: one TOML file, checked before anything starts."""

from __future__ import annotations

import itertools
import json
import math
import re
import sys
import types
import typing
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from ..checkpoints.architectures import ARCHITECTURES
from ..checkpoints.card import is_window
from ..errors import MRFUNetError
from ..networks import MRFUNetConfig, ProbabilisticUNetConfig
from .labels import CSF
from .lesions import LesionConfig
from .synthesis import SynthesisConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Folder of the configurations that come with the package.
CONFIGS = Path(__file__).with_name("configs")
# As in model cards.
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
# The tissues of the brain, of which `labels.CSF` is the last.
_TISSUES = CSF + 1
# As in model cards; slabs of synthetic slices have room for them.
_MOST_NEIGHBOURS = 8
# The draws of a run are seeded by multiples of its seed.
_SEEDS = 2**31
PRECISIONS = ("auto", "bf16-mixed", "32-true")

_Kind = typing.TypeVar("_Kind")


class ConfigError(MRFUNetError, ValueError):
    """A training configuration that cannot be used; the message says where and why."""


@dataclass(frozen=True)
class Stage:
    """A stretch of the run with its own settings.

    Attributes:
        steps: number of optimiser steps.
        learning_rate: at the stage's first and last step; a cosine leads from one to the other.
        shape: size of a training image along the axes of the network's grid (R, A, S in 3D). With
            raters it may be left out: the images are taken whole then, a batch from those of one
            size. The prior and the posterior of a Probabilistic U-Net average over all they see,
            at inference a whole image.
        training_iterations: bounds of the mean-field iterations drawn at each step; None for the
            network's own.
        voxel_size: bounds of the isotropic voxel size drawn for each synthesised image, mm.
        batch_size: images that a process takes at once.
        raters_per_image: how many raters' labels of each image are seen at once, different ones
            while there are so many. What the network makes of the image alone is computed once for
            all of them, so a step learns more of how raters differ for little more time.
        accumulate: batches whose gradients are averaged for one step.
        synthesis: ranges of the generative model.
        latent: False to train a Probabilistic U-Net at the latent 0 alone. Once its U-Net finds
            what the image shows, what is left for the latent is what raters differ in.
        frozen: beginnings of the names of weights that stay as they are, as "unet.encoder.3."; what
            batch normalisation there has seen stays too.
    """

    steps: int
    learning_rate: tuple[float, float]
    shape: tuple[int, ...] = ()
    training_iterations: tuple[int, int] | None = None
    voxel_size: tuple[float, float] | None = None
    batch_size: int = 1
    raters_per_image: int = 1
    accumulate: int = 1
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    latent: bool = True
    frozen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "raters_per_image", "accumulate"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if min(self.shape, default=1) < 1:
            raise ConfigError(f"shape must have sides of at least 1 voxel, got {list(self.shape)}")
        low, high = self.voxel_size or (1, 1)
        if not 0 < low <= high:
            raise ConfigError(f"voxel_size must be above 0 and in order, got {[low, high]}")
        if not all(0 <= rate < math.inf for rate in self.learning_rate):
            raise ConfigError(f"learning_rate must not be negative, got {list(self.learning_rate)}")

    def learning_rate_at(self, progress: float) -> float:
        """Return the learning rate at a share 0..1 of the stage."""
        first, last = self.learning_rate
        return last + (first - last) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class ValidationCase:
    """An image with a reference, scored every `validate_every` steps; paths below the data folder.

    The entries that are given say which of three kinds it is:

    - `image` and `labels`: a real scan, labelled in FreeSurfer's convention. These labels mark
      hardly any fluid outside the ventricles, so that class is not scored.
    - `image` and `probabilities`: a real scan with maps of some classes' probability. A class is
      where its map is above half of its maximum; only these classes are scored.
    - `label_map`: an image synthesised from a label map that is not trained on, the same one each
      time; all classes are scored.

    Attributes:
        image: a scan.
        labels: its labels.
        probabilities: file of the map of each class, by the class's name.
        label_map: an anatomy.
        seed: of the synthesised image.
        shape: its size along R, A, S.
        voxel_size: its voxel size, mm.
        synthesis: its ranges, as in `Stage`.
        name: for logs and the model card; the image's or label map's path if empty.
    """

    image: str = ""
    labels: str = ""
    probabilities: dict[str, str] = field(default_factory=dict)
    label_map: str = ""
    seed: int = 0
    shape: tuple[int, int, int] = (160, 192, 160)
    voxel_size: float = 1.0
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    name: str = ""

    def __post_init__(self) -> None:
        given = (bool(self.image), bool(self.labels), bool(self.probabilities))
        real = given in {(True, True, False), (True, False, True)} and not self.label_map
        if not real and (any(given) or not self.label_map):
            raise ConfigError(
                "give image and labels, or image and probabilities, or label_map alone"
            )
        if self.voxel_size <= 0:
            raise ConfigError(f"voxel_size must be above 0, got {self.voxel_size}")

    @property
    def title(self) -> str:
        """Name by which scores are reported."""
        return self.name or self.image or self.label_map


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a real image and its masks. Angles in degrees.

    Attributes:
        flip: probability of a mirror along each axis of the image; axes that are not named are
            not mirrored.
        rotation: largest angle, about each axis in 3D.
        scaling: largest relative change of size, per axis.
        gamma: standard deviation of the logarithm of gamma.
        noise: largest standard deviation of Gaussian noise; intensities are 0..1.
    """

    flip: tuple[float, ...] = (0.5,)
    rotation: float = 15.0
    scaling: float = 0.1
    gamma: float = 0.2
    noise: float = 0.05

    def __post_init__(self) -> None:
        if not all(0 <= p <= 1 for p in self.flip):
            raise ConfigError(f"flip holds probabilities of 0..1, got {list(self.flip)}")
        for name in ("rotation", "scaling", "gamma", "noise"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)}")


@dataclass(frozen=True)
class RaterData:
    """Real images with the masks of several raters each; see `training.rater_data`.

    Attributes:
        images: folder of the images, below the data folder.
        masks: folder that has a folder of masks for each image, named as the image.
        validation: names of the cases to validate on; * and ? stand for anything and any letter.
        held_back: names of cases that this run must not see at all, likewise.
        validation_samples: samples drawn of each case in validation.
        foreground: share of the training images that are centred on what a rater marked.
        augmentation: random changes.
    """

    images: str = "images"
    masks: str = "raters"
    validation: tuple[str, ...] = ()
    held_back: tuple[str, ...] = ()
    validation_samples: int = 16
    foreground: float = 0.7
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if self.validation_samples < 1:
            raise ConfigError(
                f"validation_samples must be at least 1, got {self.validation_samples}"
            )
        if not 0 <= self.foreground <= 1:
            raise ConfigError(f"foreground must lie in 0..1, got {self.foreground}")


@dataclass(frozen=True)
class LesionData:
    """Real lesion masks, painted into images synthesised from label maps; see `training.lesions`.

    Attributes:
        masks: files in MNI space, below the data folder.
        slabs: number of different slabs that a 2D network's slices come from. Each is synthesised
            when it is first drawn and kept; the same slice is marked anew each time. None for a
            new slab at each draw, which takes twice as long.
        validation_masks: of other patients, for validation.
        validation_label_maps: anatomies that are not trained on; one image each.
        validation_raters: simulated raters of each image in validation.
        validation_samples: samples drawn of each.
        painting: how lesions look, and how raters mark them. The ranges of the rest of the image
            are those of the stage.
    """

    masks: tuple[str, ...]
    slabs: int | None = None
    validation_masks: tuple[str, ...] = ()
    validation_label_maps: tuple[str, ...] = ()
    validation_raters: int = 4
    validation_samples: int = 16
    painting: LesionConfig = field(default_factory=LesionConfig)

    def __post_init__(self) -> None:
        if not self.masks:
            raise ConfigError("masks: at least one file is needed")
        if self.slabs is not None and self.slabs < 1:
            raise ConfigError(f"slabs must be at least 1, got {self.slabs}")
        if bool(self.validation_masks) != bool(self.validation_label_maps):
            raise ConfigError("validation needs both masks and label maps, or neither")
        if both := set(self.masks) & set(self.validation_masks):
            raise ConfigError(f"validation_masks: {min(both)} is trained on")
        for name in ("validation_raters", "validation_samples"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class ElboConfig:
    """How the two terms of a Probabilistic U-Net's evidence lower bound are balanced.

    Attributes:
        beta: weight of the KL term.
        warm_up: steps over which beta rises from 0 once the latent takes part, against a latent
            space that collapses.
        target: if given, the KL term is minimised under the constraint that the reconstruction
            costs at most this much, nats for a voxel, and beta is not used (`elbo.Geco`).
        foreground: share of the foreground that the untrained network expects; None for a half.
        prior_share: weight, 0..1, of samples of the prior in the reconstruction, see
            `elbo.elbo_terms`.
        prior_scales: by which the prior's standard deviations may be multiplied when a network is
            validated and kept; of several, that which validates best. The prior learns from where
            the posteriors of training images lie, and that slowly; how far apart raters of other
            images are is read off those of the validation.
    """

    beta: float = 1.0
    warm_up: int = 0
    target: float | None = None
    foreground: float | None = None
    prior_share: float = 0.0
    prior_scales: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if not self.prior_scales or not all(0 < s < math.inf for s in self.prior_scales):
            raise ConfigError(
                f"prior_scales must be one or more numbers above 0, got {list(self.prior_scales)}"
            )
        if not 0 <= self.prior_share <= 1:
            raise ConfigError(f"prior_share must lie in 0..1, got {self.prior_share}")
        if self.foreground is not None and not 0 < self.foreground < 1:
            raise ConfigError(f"foreground must lie between 0 and 1, got {self.foreground}")
        if self.beta < 0 or self.warm_up < 0:
            raise ConfigError("beta and warm_up must not be negative")
        if self.target is not None and self.target <= 0:
            raise ConfigError(f"target must be above 0, got {self.target}")

    def beta_at(self, step: int) -> float:
        """Return the weight of the KL term at a step since the latent takes part."""
        return self.beta * min(1.0, (step + 1) / self.warm_up) if self.warm_up else self.beta


@dataclass(frozen=True)
class CardText:
    """What the model card says beside what follows from the run; see `checkpoints.card`.

    With raters' images, `window` gives the values that become 0 and 1 in place of percentiles.
    """

    title: str
    description: str
    modality: str
    voxel_size: tuple[float, float, float]
    data: tuple[str, ...]
    licence: str
    citation: str
    intended_use: str
    slice_plane: str | None = None
    neighbours: int = 0
    network_voxel_size: tuple[float, float, float] | None = None
    intensities: bool = False
    window: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.window is not None and not is_window(self.window):
            raise ConfigError(
                f"window must be two finite numbers in order, got {list(self.window)}"
            )


@dataclass(frozen=True)
class TrainingConfig:
    """A whole run.

    Attributes:
        name: name of the model.
        seed: seed of initial weights and of every training pair.
        network: hyper-parameters, and `type` as in model cards ("mrf-unet" if left out). An
            MRF-UNet with mrf = false is a U-Net on its own.
        stages: one after the other. With none, the weights that the run begins with get another
            card, offsets or prior, and are validated.
        card: texts of the model card.
        label_maps: files below the data folder, from which images are synthesised.
        raters: real images with masks of several raters; either these or label maps.
        lesions: what is painted into the images of the label maps, to be marked by simulated raters
            in place of the tissues.
        classes: as in model cards; the tissues of the brain if left out.
        validation: scored every `validate_every` steps; for label maps.
        precision: "bf16-mixed", "32-true", or "auto" for the first where the device multiplies such
            numbers itself and the second elsewhere.
        dice_weight: weight of the soft Dice loss beside the negative log-likelihood.
        logit_offsets: added to the logits of each class when a network is validated and kept.
            Classes have other shares in scans than in synthetic images; by Bayes' rule that moves
            the logits by a constant, which is chosen on the validation scans. Of an MRF-UNet.
        elbo: of a Probabilistic U-Net.
        weight_decay: of AdamW.
        ema: decay of the moving average of weights that validation and the result use.
        half: whether the checkpoint holds kernels and matrices as float16, in half of the space.
        gradient_norm: largest norm of the gradient.
        save_every: steps between saved states.
        validate_every: steps between validations.
        patience: validations without a better one after which the run ends; None for no such end.
    """

    name: str
    seed: int
    network: MRFUNetConfig | ProbabilisticUNetConfig
    stages: tuple[Stage, ...]
    card: CardText
    label_maps: tuple[str, ...] = ()
    raters: RaterData | None = None
    lesions: LesionData | None = None
    classes: tuple[dict[str, Any], ...] = ()
    validation: tuple[ValidationCase, ...] = ()
    precision: str = "auto"
    dice_weight: float = 0.0
    logit_offsets: tuple[float, ...] = ()
    elbo: ElboConfig = field(default_factory=ElboConfig)
    weight_decay: float = 0.0
    ema: float = 0.998
    half: bool = False
    gradient_norm: float = 1.0
    save_every: int = 100
    validate_every: int = 500
    patience: int | None = None

    def __post_init__(self) -> None:
        if not self.label_maps and self.raters is None:
            raise ConfigError("label_maps: at least one file is needed (or give a table raters)")
        if self.label_maps and self.raters is not None:
            raise ConfigError("raters: give either these or label_maps")
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"name: {self.name!r} must be of small letters, digits, dots, hyphens and "
                "underscores, and begin with a letter or digit"
            )
        if self.lesions is not None:
            self._check_lesions()
        if self.precision not in PRECISIONS:
            raise ConfigError(
                f"precision: must be one of {', '.join(PRECISIONS)}, got {self.precision!r}"
            )
        for name in ("save_every", "validate_every", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}: must be at least 1, got {value}")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema: must lie in 0..1, 1 excluded, got {self.ema}")
        if not 0 <= self.seed < _SEEDS:
            raise ConfigError(f"seed: must lie in 0..{_SEEDS - 1}, got {self.seed}")
        if not 0 <= self.weight_decay < math.inf:
            raise ConfigError(f"weight_decay: must not be negative, got {self.weight_decay}")
        if not self.gradient_norm > 0:  # nor what is no number
            raise ConfigError(f"gradient_norm: must be above 0, got {self.gradient_norm}")
        if self.logit_offsets and len(self.logit_offsets) != getattr(self.network, "classes", 0):
            raise ConfigError(
                f"logit_offsets: expected one for each of {self.network.classes} classes, got "
                f"{len(self.logit_offsets)}"
            )
        if self.logit_offsets and not isinstance(self.network, MRFUNetConfig):
            raise ConfigError("logit_offsets: only an MRF-UNet takes them")
        if self.card.window is not None and self.raters is None:
            raise ConfigError("card.window: only with raters; synthetic images have no such values")
        self._check_channels()
        self._check_stages()
        self._check_plane()
        self._check_classes()
        self._check_validation()

    def _check_lesions(self) -> None:
        if not self.stages:
            raise ConfigError("stages: with lesions at least one is needed")
        if not self.label_maps:
            raise ConfigError("lesions: label_maps are needed to paint them into")
        if not self.classes:
            raise ConfigError("classes: missing; with lesions they are background and lesion")
        if both := set(self.label_maps) & set(self.lesions.validation_label_maps):
            raise ConfigError(f"lesions.validation_label_maps: {min(both)} is trained on")

    def _check_classes(self) -> None:
        # One channel of a Probabilistic U-Net is a probability: of background and a structure.
        number = max(2, self.network.classes)
        if not self.classes and number != _TISSUES:
            raise ConfigError(
                f"network.classes: expected {_TISSUES}, the tissues of the brain, got "
                f"{self.network.classes}; or list other classes under classes"
            )
        if self.classes and len(self.classes) != number:
            raise ConfigError(
                f"network.classes: {self.network.classes} is for {number} classes, the background "
                f"included, and {len(self.classes)} are listed under classes"
            )

    def _check_channels(self) -> None:
        neighbours, channels = self.card.neighbours, self.network.in_channels
        if not 0 <= neighbours <= _MOST_NEIGHBOURS:
            raise ConfigError(
                f"card.neighbours: must lie in 0..{_MOST_NEIGHBOURS}, got {neighbours}"
            )
        if neighbours and not self.card.slice_plane:
            raise ConfigError("card.neighbours: only of 2D networks, which have a slice_plane")
        if channels != 1 + 2 * neighbours:
            raise ConfigError(
                f"network.in_channels: expected {1 + 2 * neighbours}, a slice and card.neighbours "
                f"= {neighbours} on either side, got {channels}"
            )

    def _check_plane(self) -> None:
        if self.network.dim == 2 and not self.card.slice_plane:
            raise ConfigError(
                "card.slice_plane: missing; a 2D network takes axial, coronal or sagittal slices"
            )
        if self.network.dim == 3 and self.card.slice_plane:
            raise ConfigError("card.slice_plane: only of 2D networks; leave it out")

    def _check_stages(self) -> None:
        if self.label_maps and self.lesions is None and self.network.dim != 3:
            raise ConfigError("network.dim: images are synthesised from label maps in 3D only")
        least = self.network.minimum_size
        for number, stage in enumerate(self.stages):
            if stage.raters_per_image > 1 and self.raters is None and self.lesions is None:
                raise ConfigError(
                    f"stages[{number}].raters_per_image: an image that is synthesised from a label "
                    "map has one truth; leave it out"
                )
            if self.raters is not None and not stage.shape:
                continue  # whole images
            if min(stage.shape, default=least) < least:
                raise ConfigError(
                    f"stages[{number}].shape: this network needs at least {least} voxels along "
                    f"every side, got {list(stage.shape)}"
                )
            if len(stage.shape) != self.network.dim:
                raise ConfigError(
                    f"stages[{number}].shape: expected {self.network.dim} sides as the network "
                    f"has dimensions, got {len(stage.shape)}"
                )
            if self.label_maps and stage.voxel_size is None:
                raise ConfigError(f"stages[{number}].voxel_size: missing")

    def _check_validation(self) -> None:
        if self.raters is not None and self.validation:
            raise ConfigError("validation: name cases in raters.validation instead")
        if self.label_maps and self.classes and self.validation:
            raise ConfigError("classes: references are of the tissues of the brain; leave it out")
        titles = [case.title for case in self.validation]
        for number, title in enumerate(titles):
            if title in titles[:number]:
                raise ConfigError(f"validation[{number}]: {title} is there twice; give it a name")
            if self.validation[number].label_map in self.label_maps:
                raise ConfigError(f"validation[{number}].label_map: {title} is trained on")

    def to_dict(self) -> dict:
        """Return the configuration as JSON types, for the model card."""
        table = json.loads(json.dumps(asdict(self)))
        kind = next(a.type for a in ARCHITECTURES if type(self.network) is a.config)
        table["network"] = {"type": kind, **table["network"]}
        return table

    @property
    def steps(self) -> int:
        """Number of optimiser steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    @property
    def latent_from(self) -> int:
        """First step at which the latent takes part; `steps` if never, 0 if there is none."""
        if not getattr(self.network, "latent", 0):
            return 0
        without = itertools.takewhile(lambda stage: not stage.latent, self.stages)
        return sum(stage.steps for stage in without)

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
    return read_toml(TrainingConfig, path)


def read_toml(kind: type[_Kind], path: Path) -> _Kind:
    """Read a dataclass from a TOML file.

    Raises:
        ConfigError: as `load_config`.
    """
    try:
        with path.open("rb") as file:
            return _from_table(kind, tomllib.load(file), "")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: the file is no text in UTF-8 ({error}). Save it as UTF-8 in your editor, or "
            "check the path."
        ) from error
    except (OSError, tomllib.TOMLDecodeError, ConfigError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _from_table(kind: typing.Any, value: typing.Any, where: str) -> typing.Any:
    """Turn TOML values into what the annotation says, or name the entry that does not fit."""
    if is_dataclass(kind):
        return _build_dataclass(kind, value, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if all(map(is_dataclass, arguments)):
            return _build_network(value, where)
        return None if value is None else _from_table(arguments[0], value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: expected a table, got {value!r}")
        return {k: _from_table(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if kind is typing.Any:
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{where}: expected a list, got {value!r}")
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise ConfigError(f"{where}: expected {len(arguments)} entries, got {len(value)}")
        return tuple(_from_table(arguments[0], v, f"{where}[{n}]") for n, v in enumerate(value))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"{where}: expected {kind.__name__}, got {value!r}")
    return value


def _build_network(table: typing.Any, where: str) -> typing.Any:
    """Build the hyper-parameters of the kind of network that the table's `type` names."""
    kinds = {a.type: a.config for a in ARCHITECTURES}
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: expected a table, got {table!r}")
    name = table.get("type", ARCHITECTURES[0].type)
    if name not in kinds:
        raise ConfigError(f"{where}.type: expected one of {', '.join(kinds)}, got {name!r}")
    entries = {key: value for key, value in table.items() if key != "type"}
    return _build_dataclass(kinds[name], entries, where)


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
    values = {key: _from_table(hints[key], value, prefix + key) for key, value in table.items()}
    try:
        return kind(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}" if where else str(error)) from error
    except ValueError as error:
        raise ConfigError(f"{where or kind.__name__}: {error}") from error
