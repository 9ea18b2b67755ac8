"""The loop of a training run, resumable to the step."""

from __future__ import annotations

import copy
import math
import os
import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from lightning.fabric import Fabric
from torch import Generator, Tensor, nn

from ..checkpoints.architectures import describe
from ..checkpoints.load import Checkpoint, build_network, halve, load_checkpoint, save_checkpoint
from ..errors import CheckpointError, MRFUNetError
from ..networks import ProbabilisticUNet
from .card import trained_card
from .config import ConfigError, Stage, TrainingConfig
from .objectives import objective, resolve_precision
from .run_log import RunLog
from .sources import Source
from .validation import Scores, Validation

STATE_FILE = "state.pt"
_LOG_EVERY = 20  # steps
# Hyper-parameters that no weight depends on: a run may go on with others.
_FREE = {"iterations", "training_iterations"}
# Entries of a model card that say nothing about the weights.
_TEXTS = ("title", "description", "classes", "licence", "citation", "intended_use")
# Beginnings of the names of weights that have no part in a segmentation at the latent 0.
_OF_LATENT = ("prior_encoder.", "posterior_encoder.", "f_comb.latent.")
# Odd, and spread over 32 bits: all that a generator on the CPU takes of its seed.
_DRAW_STRIDE = 2_654_435_761
# Added to the seed of what the network draws: by the same one, its draws would be those by which
# the images were made.
_OF_NETWORK = 2**31
# Likewise, of what the images of a batch have in common.
_OF_BATCH = 2**30


class Trainer:
    """Optimises a network in one folder; starting again there goes on where it stopped.

    The draws of a step follow from the configuration's seed, the step and the number of the draw
    in it alone, so an interrupted run gives what an uninterrupted one does: bit for bit where
    torch's operations are deterministic, as on the CPU. With several processes every one has
    draws of its own, and two processes with batches of 1 see what one with batches of 2 sees.

    Args:
        config: the run.
        source: draws training pairs.
        folder: receives the state, the logs and the best network.
        fabric: devices and processes, launched.
        validation: scores the average of the weights; None to keep the last average.
        start_from: initial weights for a folder that holds no state yet.

    Raises:
        ConfigError: if the configuration makes no valid card or network.
        MRFUNetError: if the folder's state or `start_from` is of another network.
    """

    def __init__(
        self,
        config: TrainingConfig,
        source: Source,
        folder: Path,
        fabric: Fabric,
        validation: Validation | None = None,
        start_from: Checkpoint | None = None,
    ) -> None:
        precision = resolve_precision(config.precision, fabric.device)
        self.config = config = replace(config, precision=precision)
        self.source = source
        self.folder = folder
        self.fabric = fabric
        self.device = fabric.device
        self.validation = validation
        torch.manual_seed(config.seed)
        self.network = built(config)
        self.average = built(config).eval().to(self.device)
        self.average.load_state_dict(self.network.state_dict())
        self.objective = objective(self.network, config)
        self._parallel, self.optimiser = fabric.setup(
            self.objective,
            # Decoupled: Adam's own would bring weights without gradients to 0 within a stage.
            torch.optim.AdamW(self.network.parameters(), weight_decay=config.weight_decay),
        )
        self._check_frozen()
        self.step = 0
        self.best = -math.inf
        self.stale = 0  # validations since the best
        # What the best network is chosen by, and goes by the name of.
        self._basis = [config.name, str(config.elbo.prior_scales), str(config.card.intensities)]
        self._basis += validation.basis if validation else []
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / STATE_FILE).exists():
            self._resume(folder / STATE_FILE)
        elif start_from is not None:
            self._take_weights(start_from)

    @property
    def checkpoint_file(self) -> Path:
        """Checkpoint of the network that validated best."""
        return self.folder / f"{self.config.name}.safetensors"

    @property
    def complete(self) -> bool:
        """Whether the run is over, by its number of steps or for want of a better validation."""
        patience = self.config.patience
        out_of_patience = patience is not None and self.stale >= patience
        return self.step >= self.config.steps or out_of_patience

    def forget_best(self) -> None:
        """Let the next validation find the best network anew: those until now do not compare."""
        self.best, self.stale = -math.inf, 0

    def run(self, seconds: float = math.inf, report: Callable[[str], None] = print) -> bool:
        """Train to the end, or for about `seconds` and at least a step; return whether it is over.

        Raises:
            MRFUNetError: if loss or gradient are not finite; the last saved state is kept.
        """
        first = self.fabric.is_global_zero
        if first and self.step:
            self._correct_card()
        log = RunLog(self.folder, self.step) if first else None
        report = report if first else lambda line: None
        meter = _Meter()
        start, over = time.monotonic(), False
        # Where no step is left, the last average is the best since the best was forgotten.
        if not self.config.stages or (self.complete and self.best == -math.inf):
            self._validate(log, report)
        while not self.complete and not over:
            if self.step == self.config.latent_from:
                # Until now samples differed by a latent that had learned nothing, at times by about
                # as much as raters do: no network to keep, or to be better than.
                self.forget_best()
            meter.add(*self._train_step())
            self.step += 1
            if log and self.step % _LOG_EVERY == 0:
                report(self._logged(log, meter))
                meter = _Meter()
            last = self.step == self.config.steps
            if last or self.step % self.config.validate_every == 0:
                self._validate(log, report)
                meter.begin()
            # After the validation: a state of this step must know what it found.
            if self.step % self.config.save_every == 0:
                self.save()
            if seconds < math.inf:  # the first process's clock counts for all
                over = self.fabric.broadcast(time.monotonic() - start >= seconds)
        self.save()
        if log:
            log.close()
        return self.complete

    def _train_step(self) -> tuple[dict[str, float], float, int]:
        """Take a step; return the terms of its loss, the seconds of drawing, and the images."""
        stage, progress = self.config.stage_at(self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = stage.learning_rate_at(progress)
        self.network.train()
        for name, module in self.network.named_modules():
            if f"{name}.".startswith(_frozen_by(stage)):
                module.eval()  # batch normalisation goes by what it has seen before
        self.objective.begin_stage(stage)
        if stage.training_iterations is not None:
            self.network.config = replace(
                self.config.network, training_iterations=stage.training_iterations
            )

        self.optimiser.zero_grad(set_to_none=True)
        total: dict[str, Tensor] = {}
        drawing = 0.0
        for batch in range(stage.accumulate):
            images, labels, seconds = self._batch(stage, batch)
            drawing += seconds
            waits = batch < stage.accumulate - 1
            with self.fabric.no_backward_sync(self._parallel, enabled=waits):
                terms = self._parallel(images, labels)
                observed = self._observed(terms)
                loss = self.objective.loss(terms, observed, self.step, labels[0].numel())
                self.fabric.backward(loss / stage.accumulate)
            for name, value in {"loss": loss.detach(), **observed}.items():
                total[name] = total.get(name, 0) + value / stage.accumulate
        # Without a gradient the optimiser leaves a weight alone, its decay included.
        for weight in self._frozen(stage).values():
            weight.grad = None
        norm = self.fabric.clip_gradients(
            self._parallel,
            self.optimiser,
            max_norm=self.config.gradient_norm,
            error_if_nonfinite=False,
        )
        if not torch.isfinite(total["loss"] + norm):
            raise MRFUNetError(
                f"Loss or gradient are not finite at step {self.step}. The last saved state is "
                "kept; lower the learning rate, or look at what is drawn."
            )
        self.optimiser.step()
        self._update_average()
        images = stage.accumulate * stage.batch_size * self.fabric.world_size
        return {name: float(value) for name, value in total.items()}, drawing, images

    def _frozen(self, stage: Stage) -> dict[str, nn.Parameter]:
        """Return the weights that a stage leaves as they are, by name."""
        named = self.network.named_parameters()
        return {name: weight for name, weight in named if name.startswith(_frozen_by(stage))}

    def _check_frozen(self) -> None:
        names = [name for name, _ in self.network.named_parameters()]
        for number, stage in enumerate(self.config.stages):
            for start in stage.frozen:
                if not any(name.startswith(start) for name in names):
                    raise ConfigError(
                        f"stages[{number}].frozen: no weight of the network begins with {start!r}; "
                        f"their names are {names[0]} to {names[-1]}"
                    )
            if len(self._frozen(stage)) == len(names):
                raise ConfigError(f"stages[{number}].frozen: leaves nothing to train")

    def _batch(self, stage: Stage, number: int) -> tuple[Tensor, Tensor, float]:
        """Draw this process's batch of a step; return images, labels and the seconds it took."""
        start = time.perf_counter()
        first = (number * self.fabric.world_size + self.fabric.global_rank) * stage.batch_size
        # The same for all processes: their images are of one size, as those of one larger batch.
        rng = Generator(self.device).manual_seed(self._seed(number) + _OF_BATCH)
        drawing = self.source.for_batch(stage, rng)
        pairs = []
        for draw in range(first, first + stage.batch_size):
            rng = Generator(self.device).manual_seed(self._seed(draw))
            pairs.append(drawing(stage, rng))
        images = torch.stack([image for image, _ in pairs])
        labels = torch.cat([of_raters for _, of_raters in pairs])
        # What the network itself draws: iterations of the mean field, latents.
        torch.manual_seed(self._seed(first) + _OF_NETWORK)
        images = images.to(self.device, memory_format=_layout(self.config))
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # or the time would count as the network's
        return images, labels, time.perf_counter() - start

    def _seed(self, draw: int) -> int:
        return self.config.seed * 1_000_003 + self.step + draw * _DRAW_STRIDE

    def _observed(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return terms averaged over all processes, without gradients."""
        terms = {name: value.detach() for name, value in terms.items()}
        return self.fabric.all_reduce(terms, reduce_op="mean")

    @torch.no_grad()
    def _update_average(self) -> None:
        # A short average at first, or the initial weights would linger.
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        for mean, value in zip(
            self.average.state_dict().values(), self.network.state_dict().values(), strict=True
        ):
            if value.is_floating_point():
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)

    def _logged(self, log: RunLog, meter: _Meter) -> str:
        """Log what was measured since the last time; return a line about it."""
        stage, progress = self.config.stage_at(self.step - 1)
        terms = meter.terms()
        values = {
            "loss": terms.pop("loss"),
            "seconds_per_step": meter.seconds / meter.steps,
            "samples_per_second": meter.images / meter.seconds,
            "share_of_drawing": meter.drawing / meter.seconds,
            "learning_rate": stage.learning_rate_at(progress),
        }
        log.training(self.step, values, terms)
        return (
            f"step {self.step}  loss {values['loss']:.4f}  "
            f"{values['seconds_per_step']:.2f} s/step  "
            f"{values['samples_per_second']:.2f} samples/s  "
            f"{values['share_of_drawing']:.0%} of the time drawing pairs"
        )

    def _validate(self, log: RunLog | None, report: Callable[[str], None]) -> None:
        """Score the average and keep it if it is the best; the first process does it for all."""
        if self.fabric.is_global_zero:
            has_latent = getattr(self.config.network, "latent", 0) > 0
            scales = self.config.elbo.prior_scales if has_latent else (1.0,)
            network = finished(self.average, self.config, scales[0])
            if self.validation is None:
                metrics, better = {}, True  # the last one is kept
            else:
                network, scores = self._best_scaled(scales)
                metrics, better = scores.metrics, scores.selection > self.best
                report(f"step {self.step}  validation {scores.selection:.4f}  {metrics}")
                log.validation(self.step, scores.selection, metrics, scores.picture)
                self.best = max(self.best, scores.selection)
            early = self.step <= self.config.latent_from
            self.stale = 0 if better or early else self.stale + 1
            if better:
                card = trained_card(self.config, self.step, metrics)
                save_checkpoint(self.checkpoint_file, network, card, self.config.half)
        self.best, self.stale = self.fabric.broadcast((self.best, self.stale))

    def _best_scaled(self, scales: Sequence[float]) -> tuple[nn.Module, Scores]:
        """Return the network whose prior, of several widths, validates best, and its scores."""
        best = None
        for scale in scales:
            network = finished(self.average, self.config, scale)
            scores = self.validation(network)
            if best is None or scores.selection > best[1].selection:
                if len(scales) > 1:
                    scores.metrics["scale of the prior"] = scale
                best = network, scores
        return best

    def _correct_card(self) -> None:
        """Give the best network the texts of the configuration: they may be other ones by now."""
        try:
            best = load_checkpoint(self.checkpoint_file)
        except CheckpointError:
            return  # there is none, or the next one takes its place
        was, old = best.card, best.card.training
        now = trained_card(self.config, old["steps"], old["metrics"])
        table = now.training["configuration"]
        texts = {key: table[key] for key in ("card", "classes") if key in table}
        card = replace(
            was,
            input=replace(was.input, modality=now.input.modality),
            training={
                **old,
                "data": now.training["data"],
                "configuration": {**old["configuration"], **texts},
            },
            **{name: getattr(now, name) for name in _TEXTS},
        )
        if card != was:
            half = old["configuration"].get("half", False)
            save_checkpoint(self.checkpoint_file, best.network, card, half)

    def _described(self) -> dict:
        """Return what the weights are for: hyper-parameters, and what the network is shown."""
        shown = asdict(trained_card(self.config, 0, {}).input)
        del shown["modality"]
        return {**describe(self.network), **shown}

    def save(self) -> None:
        """Write the state that a run goes on from; the first process does it for all."""
        if not self.fabric.is_global_zero:
            return
        state = {
            "step": self.step,
            "best": self.best,
            "stale": self.stale,
            "basis": self._basis,
            "architecture": self._described(),
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "objective": self.objective.balance_state(),
        }
        partial = self.folder / f"{STATE_FILE}.partial"
        torch.save(state, partial)
        os.replace(partial, self.folder / STATE_FILE)

    def _resume(self, path: Path) -> None:
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            stored = state.get("architecture", {})
            network, average, optimiser = (
                state[key] for key in ("network", "average", "optimiser")
            )
            self.step, self.best = state["step"], state["best"]
        except (OSError, EOFError, KeyError, RuntimeError, pickle.UnpicklingError) as error:
            raise MRFUNetError(
                f"{path}: the state of the run cannot be read ({type(error).__name__}). Remove the "
                "file to begin anew, or choose another folder."
            ) from error
        difference = _difference(stored, self._described())
        if not difference:
            difference = _difference_of_weights(network, self.network.state_dict())
        if difference:
            raise MRFUNetError(
                f"{path}: the run in this folder is of another network ({difference}). Choose "
                "another folder, or restore the configuration; nothing was changed."
            )
        self.network.load_state_dict(network)
        self.average.load_state_dict(average)
        self.optimiser.load_state_dict(optimiser)
        self.objective.load_balance_state(state.get("objective", {}))
        self.stale = state.get("stale", 0)
        # The first process alone knows how it validates.
        basis = state.get("basis", self._basis)
        if self.fabric.broadcast(basis != self._basis):
            self.forget_best()

    def _take_weights(self, checkpoint: Checkpoint) -> None:
        theirs, ours = describe(checkpoint.network), describe(self.network)
        weights = checkpoint.network.state_dict()
        if theirs["in_channels"] == 1 < ours["in_channels"]:
            weights = _with_neighbours(weights, self.network.state_dict(), ours["in_channels"])
            del theirs["in_channels"]
        if theirs.get("mrf") and not ours.get("mrf"):
            # The twin of an MRF-UNet without its MRF.
            weights = {k: v for k, v in weights.items() if not k.startswith("mrf.")}
            theirs = {k: v for k, v in theirs.items() if not k.startswith("mrf")}
        difference = _difference(theirs, ours)
        if difference:
            raise MRFUNetError(
                f"{checkpoint.path}: the checkpoint is of another network than the configuration's "
                f"({difference}). Choose another checkpoint, or correct the configuration."
            )
        for network in (self.network, self.average):
            network.load_state_dict(weights)


class _Meter:
    """Sums over steps."""

    def __init__(self) -> None:
        self.steps, self.images, self.drawing, self.seconds = 0, 0, 0.0, 0.0
        self._sums: dict[str, float] = {}
        self.begin()

    def begin(self) -> None:
        """Let the next step's time begin now."""
        self._time = time.perf_counter()

    def add(self, terms: dict[str, float], drawing: float, images: int) -> None:
        """Count a step that has just ended."""
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self.steps += 1
        self.images += images
        self.drawing += drawing
        self.seconds += time.perf_counter() - self._time
        self.begin()

    def terms(self) -> dict[str, float]:
        """Return the mean of each term."""
        return {name: total / self.steps for name, total in self._sums.items()}


def _frozen_by(stage: Stage) -> tuple[str, ...]:
    """Return how the names of weights begin that a stage leaves as they are."""
    # Gradients of 0 would count in the moments by which the optimiser takes its later steps.
    return stage.frozen if stage.latent else (*stage.frozen, *_OF_LATENT)


def built(config: TrainingConfig) -> nn.Module:
    """Return the network, built by the model card that it will have, so that a bad one shows.

    Raises:
        ConfigError: if the configuration makes no valid card or network.
    """
    try:
        network = build_network(trained_card(config, 0, {}))
    except MRFUNetError as error:
        raise ConfigError(f"the configuration makes no valid model: {error}") from error
    if isinstance(network, ProbabilisticUNet) and config.elbo.foreground is not None:
        network.expect_foreground(config.elbo.foreground)
    return network.to(memory_format=_layout(config))


def _layout(config: TrainingConfig) -> torch.memory_format:
    # Channels last makes a training step on the CPU two to four times faster.
    return torch.channels_last if config.network.dim == 2 else torch.channels_last_3d


def finished(network: nn.Module, config: TrainingConfig, scale: float = 1.0) -> nn.Module:
    """Return a trained network as it is validated and kept: offset, with a wider prior, rounded."""
    if not config.logit_offsets and scale == 1 and not config.half:
        return network
    network = copy.deepcopy(network)
    if config.logit_offsets:
        network.unet.add_to_logits(config.logit_offsets)
    if scale != 1:
        network.prior_encoder.scale_by(scale)
    if config.half:
        halve(network)
    return network


def _with_neighbours(
    theirs: dict[str, Tensor], ours: dict[str, Tensor], channels: int
) -> dict[str, Tensor]:
    """Return weights of a network of single slices as of one that also sees their neighbours.

    To begin with it does not look at them: the first layers' weights are those of the slice in the
    middle, and of what else these layers are given.
    """
    weights = dict(theirs)
    for name, weight in theirs.items():
        wider = ours.get(name)
        if wider is None or wider.dim() < 2 or wider.shape[1] != weight.shape[1] + channels - 1:
            continue
        weights[name] = weight.new_zeros(wider.shape)
        weights[name][:, channels // 2] = weight[:, 0]
        weights[name][:, channels:] = weight[:, 1:]
    return weights


def _difference(theirs: dict, ours: dict) -> str:
    """Return in which hyper-parameters two networks differ; empty if in none that matters."""
    return "; ".join(
        f"{name} is {theirs[name]} there and {ours[name]} here"
        for name in ours
        if name in theirs and name not in _FREE and theirs[name] != ours[name]
    )


def _difference_of_weights(theirs: dict[str, Tensor], ours: dict[str, Tensor]) -> str:
    """Return the first weight that differs in name or shape, for states that name no network."""
    for name in sorted(theirs.keys() | ours.keys()):
        shapes = [tuple(w[name].shape) if name in w else None for w in (theirs, ours)]
        if shapes[0] != shapes[1]:
            return f"{name} has shape {shapes[0]} there and {shapes[1]} here"
    return ""
