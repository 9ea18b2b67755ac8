"""Markov random field over labels as a small convolutional network, solved by mean field.

Brudfors et al., MIDL 2021 (arXiv 2104.05495), section 2: the prior p(z_i | z_Ni) of a voxel's
label given its neighbours' is stationary and never sees the image.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from .unet import KERNEL_SIZE, LEAKY_SLOPE, convolution

MAXIMUM_FILTERS = 64
# Largest hidden layer (voxels x filters) that is computed at once without gradients; 1 GB.
SLAB_VALUES = 2**28


class MRF(nn.Module):
    """Log-potentials of each class at a voxel, given the responsibilities of its neighbours.

    A 3x3(x3) convolution whose centre is zero (a voxel is no neighbour of its own), leaky ReLU
    0.2, optional 1x1(x1) layers, and a 1x1(x1) convolution to the classes. Outside the field of
    view the responsibilities count as zero.

    Args:
        dim: number of spatial dimensions, 2 or 3.
        classes: K, the background or "other" class included.
        filters: channels of the hidden layers; None means min(K^2, 64), as in the paper.
        extra_layers: number of 1x1(x1) hidden layers after the first.
        free_centre: keep the centre weight of the kernel. Only for checkpoints from elsewhere
            that were saved with one; by default it is zero by construction.
    """

    def __init__(
        self,
        dim: int,
        classes: int,
        filters: int | None = None,
        extra_layers: int = 0,
        *,
        free_centre: bool = False,
    ) -> None:
        super().__init__()
        conv = convolution(dim)
        filters = min(classes**2, MAXIMUM_FILTERS) if filters is None else filters
        self.neighbours = conv(classes, filters, KERNEL_SIZE, padding="same")
        self.extra = nn.ModuleList(conv(filters, filters, 1) for _ in range(extra_layers))
        self.final = conv(filters, classes, 1)

        mask = torch.ones((1, 1) + (KERNEL_SIZE,) * dim)
        if not free_centre:
            mask[(0, 0) + (KERNEL_SIZE // 2,) * dim] = 0
        # Follows from the hyper-parameter, so it is no part of the state.
        self.register_buffer("mask", mask, persistent=False)
        with torch.no_grad():
            self.neighbours.weight *= self.mask

    def forward(self, responsibilities: Tensor) -> Tensor:
        """Return the log-potentials (B, K, *spatial) of responsibilities (B, K, *spatial)."""
        size = responsibilities.shape[2]
        slice_values = responsibilities[:, 0, 0].numel() * self.final.in_channels
        thickness = max(1, SLAB_VALUES // slice_values)
        if torch.is_grad_enabled() or thickness >= size:
            return self._potentials(responsibilities)
        # Slab by slab, so that the hidden layers of a large volume never exist at once. A slab
        # sees one slice more on either side, so the result is exactly that of the whole.
        result = torch.empty_like(responsibilities)
        for start in range(0, size, thickness):
            stop = min(start + thickness, size)
            first, last = max(start - 1, 0), min(stop + 1, size)
            slab = self._potentials(responsibilities[:, :, first:last])
            result[:, :, start:stop] = slab[:, :, start - first : stop - first]
        return result

    def _potentials(self, responsibilities: Tensor) -> Tensor:
        x = self.neighbours._conv_forward(
            responsibilities, self.neighbours.weight * self.mask, self.neighbours.bias
        )
        x = functional.leaky_relu(x, LEAKY_SLOPE, inplace=True)
        for layer in self.extra:
            x = functional.leaky_relu(layer(x), LEAKY_SLOPE, inplace=True)
        return self.final(x)


def mean_field(
    log_likelihood: Tensor, mrf: MRF, iterations: int, w: float = 1.0
) -> Iterator[Tensor]:
    """Yield the log-responsibilities (B, K, *spatial) after each mean-field iteration.

    Solves q(Z) = prod_i q_i for p(Z | X) proportional to p(Z) F(X): all voxels are updated in
    parallel by r <- softmax(ln F + MRF(r)), from r = 1/K, with damping r <- w new + (1 - w) old.

    Args:
        log_likelihood: ln F(X), the normalised log-probabilities of the U-Net (B, K, *spatial).
        mrf: the prior.
        iterations: number of iterations, at least 1.
        w: weight of the new responsibilities, in (0, 1].
    """
    if iterations < 1:
        raise ValueError(f"mean field needs at least 1 iteration, got {iterations}")
    if not 0 < w <= 1:
        raise ValueError(f"the damping weight w must lie in (0, 1], got {w}")
    responsibilities = torch.full_like(log_likelihood, 1 / log_likelihood.shape[1])
    for _ in range(iterations):
        log_new = functional.log_softmax(log_likelihood + mrf(responsibilities), dim=1)
        if w < 1:
            log_new = torch.log(w * log_new.exp() + (1 - w) * responsibilities)
        yield log_new
        responsibilities = log_new.exp()
