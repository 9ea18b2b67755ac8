"""What a run tells while it goes on: a table of numbers, and TensorBoard's files."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

LOG_FILE = "log.csv"
_COLUMNS = (
    "step", "loss", "seconds_per_step", "samples_per_second", "share_of_drawing", "learning_rate",
)  # fmt: skip


class RunLog:
    """Writes `log.csv` and TensorBoard's files into the folder of a run.

    A run that was killed goes on from its last saved state; what had been logged after it is
    taken back, so that no step is there twice.

    Args:
        folder: of the run.
        step: at which the run goes on.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / LOG_FILE
        self._take_back(step)
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def training(self, step: int, values: dict[str, float], terms: dict[str, float]) -> None:
        """Log means over the last steps.

        Args:
            step: the number of steps so far.
            values: one for each column of the table but the step.
            terms: of the loss.
        """
        with self.path.open("a", newline="", encoding="utf-8") as file:
            row = [step, *(f"{values[name]:.6g}" for name in _COLUMNS[1:])]
            csv.writer(file).writerow(row)
        for name, value in values.items():
            self._writer.add_scalar(f"training/{name}", value, step)
        for name, value in terms.items():
            self._writer.add_scalar(f"terms/{name}", value, step)
        self._writer.flush()

    def validation(
        self, step: int, selection: float, metrics: dict[str, float], picture: np.ndarray | None
    ) -> None:
        """Log a validation; see `validation.Scores`."""
        self._writer.add_scalar("validation/selection", selection, step)
        for name, value in metrics.items():
            self._writer.add_scalar(f"validation/{name}", value, step)
        if picture is not None:
            self._writer.add_image("validation", picture, step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()

    def _take_back(self, step: int) -> None:
        rows = []
        if self.path.exists():
            with self.path.open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
        with self.path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, _COLUMNS, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
