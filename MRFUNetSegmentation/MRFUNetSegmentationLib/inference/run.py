"""Progress, cancellation, timings and warnings of one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn

from ..errors import Cancelled

Progress = Callable[[str, float], None]
RESAMPLING, UNET, MEAN_FIELD, DECODING, BACK = (
    "Resampling",
    "U-Net",
    "Mean field",
    "Decoding",
    "Back to the volume's grid",
)
# Share of the run that is over when each stage begins, measured on two CPU cores. A network has
# either a mean field or a decoder.
_BEGINS = {RESAMPLING: 0.0, UNET: 0.1, MEAN_FIELD: 0.4, DECODING: 0.4, BACK: 0.9}


class Run:
    """What one run has done so far.

    Args:
        progress: called with the stage's name and the share of the run that is over.
        cancelled: asked whenever there is progress.
    """

    def __init__(self, progress: Progress, cancelled: Callable[[], bool]) -> None:
        self.timings: dict[str, float] = {}
        self.warnings: list[str] = []
        self._progress = progress
        self._cancelled = cancelled
        self._stage = ""
        self._since = 0.0

    def begin(self, stage: str) -> None:
        """End the current stage and begin another."""
        self._close_stage()
        self._stage, self._since = stage, time.perf_counter()
        self.advance(0.0)

    def advance(self, fraction: float) -> None:
        """Report the share of the current stage that is over.

        Raises:
            Cancelled: if the run is to end.
        """
        self.check()
        first = _BEGINS[self._stage]
        last = next((b for b in _BEGINS.values() if b > first), 1.0)
        self._progress(self._stage, first + (last - first) * fraction)

    def check(self) -> None:
        """Raise `Cancelled` if the run is to end."""
        if self._cancelled():
            raise Cancelled

    def warn(self, text: str) -> None:
        """Keep what the user should know."""
        self.warnings.append(text)

    def end(self) -> None:
        """End the last stage."""
        self._close_stage()

    @contextmanager
    def watching(self, network: nn.Module, passes: int) -> Iterator[None]:
        """Advance with every layer of a network, so that a long pass can be cancelled within.

        Args:
            network: what will be called.
            passes: how often.
        """
        layers = [m for m in network.modules() if not list(m.children())]
        done = 0

        def advance(*_) -> None:
            nonlocal done
            self.advance(done / (passes * len(layers)))
            done += 1

        hooks = [layer.register_forward_pre_hook(advance) for layer in layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _close_stage(self) -> None:
        if self._stage:
            spent = time.perf_counter() - self._since
            self.timings[self._stage] = self.timings.get(self._stage, 0.0) + spent
