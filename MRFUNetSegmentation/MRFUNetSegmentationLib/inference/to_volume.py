"""From class probabilities on the network's grid to labels on the volume's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..boxes import occupied_box
from ..checkpoints.card import ModelCard, SegmentClass
from ..uncertainty.statistics import most_probable
from .grid import ModelGrid
from .main_piece import main_piece
from .separable import interpolation_weights, resize


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
        apart = self._apart(most_probable(posterior)) if self.card.one_piece else None
        for c in self.card.classes:
            yield self.grid.to_input(self._on_grid(posterior, apart, c)).contiguous()

    def labels(self, posterior: Tensor) -> Tensor:
        """Return the most probable class [k, j, i], uint8, of what `probabilities` yields.

        Args:
            posterior: (K, *box).
        """
        on_grid = most_probable(posterior)
        apart = self._apart(on_grid) if self.card.one_piece else None
        shape, classes = self.grid.input_shape, self.card.classes
        labels = torch.zeros(shape, dtype=torch.uint8)
        window = self._window(on_grid, apart)
        if window is not None:
            labels[window] = most_probable(
                resize(self._on_grid(posterior, apart, c), shape, window) for c in classes
            )
        return self.grid.restore(labels).contiguous()

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
        labels = most_probable(resize(plane, tuple(shape))).unsqueeze(slab.across)
        return self.grid.restore(labels).select(slab.axis, 0).numpy()

    def _on_grid(self, posterior: Tensor, apart: Tensor | None, of: SegmentClass) -> Tensor:
        """Return the probability of a class on the whole of the network's grid."""
        first = float(of.value == 0)  # which is the background
        full = torch.full(self.grid.shape, first)
        full[self.box] = posterior[of.value]
        if apart is not None:
            full[self.box].masked_fill_(apart, first)
        return full

    def _apart(self, labels: Tensor) -> Tensor:
        """Return what becomes background, (*box) bool: it is apart from what is in one piece."""
        card = self.card
        solid = torch.isin(labels, torch.tensor(card.one_piece))
        around = torch.isin(labels, torch.tensor([c.value for c in card.segments])) & ~solid
        return (solid | around) & ~main_piece(solid, around, self._ends())

    def _ends(self) -> Iterator[tuple[int, int]]:
        """Yield the sides of the box where the volume ends, as `main_piece` takes them."""
        for axis, (part, n) in enumerate(zip(self.box, self.grid.shape, strict=True)):
            if part.start == 0:
                yield axis, 0
            if part.stop == n:
                yield axis, -1

    def _window(self, labels: Tensor, apart: Tensor | None) -> tuple[slice, slice, slice] | None:
        """Return the box of the volume, on the grid's axes, around all that is not of class 0.

        None if all is. What is interpolated among voxels where the background is the most probable
        class has the background as the most probable class, so nothing is lost.
        """
        occupied = labels != 0
        if apart is not None:
            occupied &= ~apart
        marked = occupied_box(occupied.cpu().numpy())
        if marked is None:
            return None
        window = []
        sizes = zip(self.grid.shape, self.grid.input_shape, strict=True)
        for (n_in, n_out), box, part in zip(sizes, self.box, marked, strict=True):
            inside = slice(box.start + part.start, box.start + part.stop)
            lines = interpolation_weights(n_in, n_out)[:, inside].any(dim=1).nonzero().flatten()
            window.append(slice(int(lines[0]), int(lines[-1]) + 1))
        return tuple(window)


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
