"""Training of an MRF-UNet on synthesised pairs, resumable to the step."""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..checkpoints.load import save_checkpoint
from ..errors import MRFUNetError
from ..networks import MRFUNet
from .card import trained_card
from .config import Stage, TrainingConfig
from .labels import LabelMap
from .synthesis import synthesise

STATE_FILE = "state.pt"
LOG_FILE = "log.csv"


class Trainer:
    """Optimises a network in one folder; starting again there goes on where it stopped.

    Every step draws its pair and its number of iterations from a seed that depends only on the
    configuration's seed and the step, so an interrupted run gives what an uninterrupted one does.

    Args:
        config: the run.
        label_maps: anatomies.
        folder: receives the state, the log and the best network.
        device: where network and optimiser live.
        validate: scores a network on real scans, by scan; None for no validation.
    """

    def __init__(
        self,
        config: TrainingConfig,
        label_maps: list[LabelMap],
        folder: Path,
        device: torch.device,
        validate: Callable[[MRFUNet], dict[str, float]] | None = None,
    ) -> None:
        self.config = config
        self.label_maps = label_maps
        self.folder = folder
        self.device = device
        self.validate = validate
        torch.manual_seed(config.seed)
        self.network = _on(MRFUNet(config.network), device)
        self.average = _on(MRFUNet(config.network), device).eval()
        self.average.load_state_dict(self.network.state_dict())
        self.optimiser = torch.optim.Adam(self.network.parameters())
        self.step = 0
        self.best = -math.inf
        self._resume()

    @property
    def checkpoint_file(self) -> Path:
        """Checkpoint of the network that validated best."""
        return self.folder / f"{self.config.name}.safetensors"

    def run(self, seconds: float = math.inf, report: Callable[[str], None] = print) -> bool:
        """Train until the last step or for about `seconds`; return whether the run is complete."""
        start, first = time.monotonic(), self.step
        losses: list[float] = []
        while self.step < self.config.steps and time.monotonic() - start < seconds:
            losses.append(self._train_step())
            self.step += 1
            if self.step % 20 == 0:
                pace = (time.monotonic() - start) / (self.step - first)
                self._log(sum(losses) / len(losses), pace)
                report(f"step {self.step}  loss {sum(losses) / len(losses):.4f}  {pace:.2f} s/step")
                losses.clear()
            if self.step % self.config.save_every == 0:
                self._save()
            last = self.step == self.config.steps
            if self.validate and (last or self.step % self.config.validate_every == 0):
                self._validate(report)
        self._save()
        return self.step >= self.config.steps

    def _train_step(self) -> float:
        stage, progress = self.config.stage_at(self.step)
        image, tissue = self._pair(stage)
        for group in self.optimiser.param_groups:
            group["lr"] = _learning_rate(stage, progress)
        self.network.train()
        self.network.config = replace(
            self.config.network, training_iterations=stage.training_iterations
        )

        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            log_posterior = self.network.log_posterior(self.network.logits(image))
        loss = functional.nll_loss(log_posterior.float(), tissue)
        if not torch.isfinite(loss):
            raise MRFUNetError(
                f"The loss is not finite at step {self.step}. The state before it is kept; lower "
                "the learning rate, or look at what is synthesised."
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.config.gradient_norm)
        self.optimiser.step()
        self._update_average()
        return loss.item()

    def _pair(self, stage: Stage) -> tuple[Tensor, Tensor]:
        seed = self.config.seed * 1_000_003 + self.step
        rng = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)  # the network's draw of iterations
        chosen = int(torch.randint(len(self.label_maps), (), generator=rng))
        low, high = stage.voxel_size
        spacing = low + (high - low) * torch.rand((), generator=rng).item()
        image, tissue = synthesise(
            self.label_maps[chosen], stage.synthesis, stage.shape, spacing, rng
        )
        image = image[None, None].to(self.device, memory_format=torch.channels_last_3d)
        return image, tissue[None].to(self.device)

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

    def _validate(self, report: Callable[[str], None]) -> None:
        scores = self.validate(self.average)
        mean = sum(scores.values()) / len(scores)
        report(f"step {self.step}  validation {mean:.4f}  {scores}")
        if mean > self.best:
            self.best = mean
            save_checkpoint(
                self.checkpoint_file, self.average, trained_card(self.config, self.step, scores)
            )

    def _log(self, loss: float, pace: float) -> None:
        path = self.folder / LOG_FILE
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["step", "loss", "seconds_per_step"])
            writer.writerow([self.step, f"{loss:.6f}", f"{pace:.3f}"])

    def _save(self) -> None:
        self._write(
            STATE_FILE,
            {
                "step": self.step,
                "best": self.best,
                "network": self.network.state_dict(),
                "average": self.average.state_dict(),
                "optimiser": self.optimiser.state_dict(),
            },
        )

    def _write(self, name: str, content: dict) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f"{name}.partial"
        torch.save(content, partial)
        os.replace(partial, self.folder / name)

    def _resume(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / STATE_FILE
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.best = state["step"], state["best"]


def _on(network: MRFUNet, device: torch.device) -> MRFUNet:
    # Channels last makes a training step on the CPU two to four times faster.
    return network.to(device, memory_format=torch.channels_last_3d)


def _learning_rate(stage: Stage, progress: float) -> float:
    first, last = stage.learning_rate
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * progress))
