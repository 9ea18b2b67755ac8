"""Random numbers and random fields, all from one generator."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional

from ...inference.separable import resize


class Draw:
    """Draws single numbers on the CPU and fields on the generator's device.

    A number that decides what is done next would make a GPU wait, so those come from a second
    generator on the CPU, whose seed the first one draws.

    Args:
        rng: the same state gives the same draws.
    """

    def __init__(self, rng: Generator) -> None:
        self.rng = rng
        self.device = rng.device
        seed = torch.randint(2**62, (), generator=rng, device=rng.device)
        self._numbers = Generator().manual_seed(int(seed))

    def uniform(self, low: float, high: float) -> float:
        """Return a number in [low, high)."""
        return low + (high - low) * torch.rand((), generator=self._numbers).item()

    def uniforms(self, n: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Return (n,) numbers in [low, high), on the CPU."""
        return low + (high - low) * torch.rand(n, generator=self._numbers)

    def normals(self, n: int) -> Tensor:
        """Return (n,) standard normal numbers, on the CPU."""
        return torch.randn(n, generator=self._numbers)

    def normal(self) -> float:
        """Return a standard normal number."""
        return float(self.normals(1))

    def integer(self, high: int) -> int:
        """Return a whole number in 0..high - 1."""
        return int(torch.randint(high, (), generator=self._numbers))

    def choice(self, weights: Tensor) -> int:
        """Return an index of weights (n,), on the CPU, with a probability in proportion to them."""
        return int(torch.multinomial(weights, 1, generator=self._numbers))

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return self.uniform(0, 1) < probability

    def noise(self, shape: tuple[int, ...]) -> Tensor:
        """Return standard normal noise on the device."""
        return torch.randn(tuple(shape), generator=self.rng, device=self.device)

    def smooth_field(self, shape: tuple[int, ...], cell: float) -> Tensor:
        """Return a smooth random field on the device: normal at points `cell` voxels apart."""
        coarse = tuple(max(2, math.ceil(n / cell)) for n in shape)
        return resize(self.noise(coarse), tuple(shape))


def coarse_mask(mask: Tensor, factor: int) -> Tensor:
    """Return the share of `mask` (R, A, S) in blocks of `factor` voxels, (R, A, S) / factor."""
    pooled = functional.avg_pool3d(
        mask[None, None].float(), factor, ceil_mode=True, count_include_pad=False
    )
    return pooled[0, 0]
