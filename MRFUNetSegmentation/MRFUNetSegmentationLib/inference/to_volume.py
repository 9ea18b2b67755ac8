"""From class probabilities on the network's grid to labels on the volume's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..checkpoints.card import ModelCard
from ..uncertainty.statistics import MostProbable
from .grid import ModelGrid, interpolation_weights, resize
from .main_piece import main_piece


@dataclass(frozen=True)
class ToVolume:
    """Carries what a network gives to the volume's own grid.

    Attributes:
        card: the model's.
        grid: the network's grid of the volume.
        box: the part of the grid that was computed; background is around it.
    """

    card: ModelCard
    grid: ModelGrid
    box: tuple[slice, slice, slice]

    def probabilities(self, posterior: Tensor) -> Iterator[Tensor]:
        """Yield the probability [k, j, i] of class 0, 1, … on the volume's grid.

        Interpolated, and without what is apart from the object that the card says is one piece.

        Args:
            posterior: (K, *box).
        """
        posterior = self._in_one_piece(posterior)
        for c in self.card.classes:
            full = torch.full(self.grid.shape, float(c.background))
            full[self.box] = posterior[c.value]
            yield self.grid.to_input(full).contiguous()

    def slab(self, axis: int, index: int) -> Slab:
        """Return what of the network's grid a slice of the volume needs.

        Args:
            axis: of the volume, across the slice: 0 is k, 1 is j, 2 is i.
            index: of the slice.
        """
        across = self.grid.axes.index(2 - axis)
        n_in, n_out = self.grid.shape[across], self.grid.input_shape[across]
        if self.grid.flips[across]:
            index = n_out - 1 - index
        weights = interpolation_weights(n_in, n_out)[index]
        needed = weights.nonzero().flatten()
        first, last = int(needed[0]), int(needed[-1]) + 1
        box = [slice(0, n) for n in self.grid.shape]
        box[across] = slice(first, last)
        return Slab(axis, across, tuple(box), weights[first:last])

    def slice_labels(self, probabilities: Tensor, slab: Slab) -> np.ndarray:
        """Return the labels of a slice of the volume: uint8, its axes in the order [k, j, i].

        Args:
            probabilities: (K, *slab.box).
            slab: of the slice.
        """
        plane = torch.tensordot(probabilities, slab.weights, dims=([slab.across + 1], [0]))
        shape = [n for a, n in enumerate(self.grid.input_shape) if a != slab.across]
        winner = MostProbable()  # several times faster than argmax across classes
        for value, probability in enumerate(resize(plane, tuple(shape))):
            winner.take(value, probability)
        labels = winner.labels.unsqueeze(slab.across)
        return self.grid.restore(labels).select(slab.axis, 0).numpy()

    def _in_one_piece(self, posterior: Tensor) -> Tensor:
        """Make background of what is apart from the object that the card says is one piece."""
        card = self.card
        if not card.one_piece:
            return posterior
        labels = posterior.argmax(0)
        solid = torch.isin(labels, torch.tensor(card.one_piece))
        around = torch.isin(labels, torch.tensor([c.value for c in card.segments])) & ~solid
        apart = (solid | around) & ~main_piece(solid, around)
        background = torch.tensor([float(c.background) for c in card.classes])
        background /= background.sum()
        return torch.where(apart, background.view(-1, 1, 1, 1), posterior)


@dataclass(frozen=True)
class Slab:
    """The planes of the network's grid that a slice of the volume lies between.

    Attributes:
        axis: of the volume [k, j, i], across the slice.
        across: the same axis of the network's grid.
        box: the planes on the network's grid.
        weights: of each plane in the slice.
    """

    axis: int
    across: int
    box: tuple[slice, slice, slice]
    weights: Tensor
