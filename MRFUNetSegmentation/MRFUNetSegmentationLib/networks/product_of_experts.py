"""What networks share whose logits an MRF can make spatially regular.

Brudfors et al., MIDL 2021 (arXiv 2104.05495), equation 4: the posterior is proportional to the
product of the MRF's prior p(Z) and of F(X), what a network makes of the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from .mrf import MRF, log_posterior, mean_field

_MOST_ITERATIONS, _MOST_LAYERS = 1000, 100
# Of ten levels the smallest image has a side of 2047.
_MOST_LEVELS = 10


class ProductOfExperts(nn.Module):
    """Base of networks that give logits and may have an MRF.

    Subclasses set `config` (with `iterations`, `training_iterations` and `w`) and `mrf`, which is
    None for a network on its own.
    """

    mrf: MRF | None

    def log_likelihood(self, logits: Tensor) -> Tensor:
        """Return ln F(X) (B, K, *spatial), the normalised log-probabilities of logits."""
        return functional.log_softmax(logits, dim=1)

    def responsibilities(
        self, logits: Tensor, iterations: int | None = None, tolerance: float = 0.0
    ) -> Iterator[Tensor]:
        """Yield the responsibilities (B, K, *spatial) after each mean-field iteration.

        Args:
            logits: (B, K, *spatial), the network's.
            iterations: their number; None means `config.iterations`.
            tolerance: ends them early (see `mean_field`).
        """
        if self.mrf is None:
            raise ValueError("this network is without an MRF: it has no mean field")
        if iterations is None:
            iterations = self.config.iterations
        log_likelihood = self.log_likelihood(logits)
        return mean_field(log_likelihood, self.mrf, iterations, self.config.w, tolerance)

    def log_posterior(self, logits: Tensor) -> Tensor:
        """Return the log-posteriors (B, K, *spatial) of the labels, for the cross-entropy.

        In training mode the number of mean-field iterations is drawn from torch's default
        generator within `config.training_iterations`; else it is `config.iterations`.

        Args:
            logits: (B, K, *spatial), the network's.
        """
        log_likelihood = self.log_likelihood(logits)
        if self.mrf is None:
            return log_likelihood
        return log_posterior(log_likelihood, self.mrf, self._iterations(), self.config.w)

    def _iterations(self) -> int:
        if not self.training:
            return self.config.iterations
        low, high = self.config.training_iterations
        return int(torch.randint(low, high + 1, ()))


def check_sizes(
    levels: Sequence[int], decoder: Sequence[int] = (), *, layers: Sequence[int]
) -> None:
    """Raise a ValueError where filters or numbers of levels and layers are impossible.

    A few bytes of a model card could otherwise have a program build layers for hours, or widen
    every image to sides that no memory holds.

    Args:
        levels: filters of the encoder's levels.
        decoder: filters of the decoder's layers, where they differ from the encoder's.
        layers: numbers of layers.
    """
    if len(levels) > _MOST_LEVELS:
        raise ValueError(f"there may be up to {_MOST_LEVELS} levels, got {len(levels)}")
    filters = (*levels, *decoder)
    for number in (*layers, len(decoder)):
        if not 0 <= number <= _MOST_LAYERS:
            raise ValueError(f"there may be 0 to {_MOST_LAYERS} layers of a kind, got {number}")
    if any(n < 1 for n in filters):
        raise ValueError(f"filters must be at least 1, got {filters}")


def check_mean_field(iterations: int, training_iterations: tuple[int, int], w: float) -> None:
    """Raise a ValueError where a number of mean-field iterations or their damping is impossible."""
    low, high = training_iterations
    most = _MOST_ITERATIONS
    if not 1 <= iterations <= most or not 1 <= low <= high <= most:
        raise ValueError(
            f"mean-field iterations must be in order, from 1 to {most}, "
            f"got {iterations} and {training_iterations}"
        )
    if not 0 < w <= 1:
        raise ValueError(f"the damping weight w must lie in (0, 1], got {w}")
