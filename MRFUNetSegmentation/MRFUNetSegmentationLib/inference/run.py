"""Progress, cancellation, timings and warnings of one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

from ..errors import Cancelled

Progress = Callable[[str, float], None]
RESAMPLING, PRIOR, UNET, MEAN_FIELD, INTENSITIES, SAMPLING, COUNTING, BACK = (
    "Resampling",
    "Prior",
    "U-Net",
    "Mean field",
    "Intensities",
    "Sampling",
    "Comparing the samples",
    "Back to the volume's grid",
)


class Run:
    """What one run has done so far.

    Args:
        begins: for each stage, in their order, the share of the run that is over when it begins.
        progress: called with the stage's name and the share of the run that is over.
        cancelled: asked whenever there is progress, and as `checking` says.
    """

    def __init__(
        self, begins: Mapping[str, float], progress: Progress, cancelled: Callable[[], bool]
    ) -> None:
        self.warnings: list[str] = []
        self._begins = begins
        self._progress = progress
        self._cancelled = cancelled
        self._ended: dict[str, float] = {}
        self._stage = ""
        self._since = 0.0

    @property
    def timings(self) -> dict[str, float]:
        """Seconds of each stage, of the current one until now."""
        if not self._stage:
            return dict(self._ended)
        spent = time.perf_counter() - self._since
        return {**self._ended, self._stage: self._ended.get(self._stage, 0.0) + spent}

    def begin(self, stage: str) -> None:
        """End the current stage and begin another."""
        self.end()
        self._stage, self._since = stage, time.perf_counter()
        self.advance(0.0)

    def advance(self, fraction: float) -> None:
        """Report the share of the current stage that is over.

        Raises:
            Cancelled: if the run is to end.
        """
        self.check()
        first = self._begins[self._stage]
        last = next((b for b in self._begins.values() if b > first), 1.0)
        self._progress(self._stage, first + (last - first) * fraction)

    def check(self) -> None:
        """Raise `Cancelled` if the run is to end."""
        if self._cancelled():
            raise Cancelled

    def warn(self, text: str) -> None:
        """Keep what the user should know."""
        self.warnings.append(text)

    def end(self) -> None:
        """End the current stage."""
        self._ended, self._stage = self.timings, ""

    @contextmanager
    def checking(self) -> Iterator[None]:
        """Check before every operation of torch, so that long computations end within one.

        Nothing that must not be left half done belongs in this context.
        """
        with _BeforeEveryOperation(self.check):
            yield

    @contextmanager
    def watching(self, network: nn.Module, passes: int) -> Iterator[None]:
        """Advance with every layer of a network.

        Args:
            network: what is called in this context.
            passes: how often.
        """
        layers = [m for m in network.modules() if not list(m.children())]
        calls = 0

        def advance(*_) -> None:
            nonlocal calls
            self.advance(calls / (passes * len(layers)))
            calls += 1

        hooks = [layer.register_forward_pre_hook(advance) for layer in layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


class _BeforeEveryOperation(TorchFunctionMode):
    """Calls a function before each of torch's in this thread."""

    def __init__(self, check: Callable[[], None]) -> None:
        super().__init__()
        self._check = check

    def __torch_function__(self, function, types, args=(), kwargs=None) -> Any:
        self._check()
        return function(*args, **(kwargs or {}))
