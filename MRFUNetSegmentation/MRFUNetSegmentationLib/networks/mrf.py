"""Markov random field over labels as a small convolutional network, solved by mean field.

Brudfors et al., MIDL 2021 (arXiv 2104.05495), section 2: the prior p(z_i | z_Ni) of a voxel's
label given its neighbours' is stationary and never sees the image.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from .unet import KERNEL_SIZE, LEAKY_SLOPE, convolution

MAXIMUM_FILTERS = 64
_CONVOLUTIONS = {4: functional.conv2d, 5: functional.conv3d}  # by the images' dimensions
# Voxels that go through all layers of the MRF at once without gradients. On a CPU their hidden
# layer then stays in the cache, which makes an iteration two to four times faster.
_BLOCK_VOXELS = {"cpu": 2**18}
_BLOCK_VOXELS_ELSEWHERE = 2**23


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

    @property
    def kernel(self) -> Tensor:
        """Weights (filters, K, 3, 3(, 3)) of the first layer, the centre zero."""
        return self.neighbours.weight * self.mask

    def forward(self, responsibilities: Tensor) -> Tensor:
        """Return the log-potentials (B, K, *spatial) of responsibilities (B, K, *spatial)."""
        conv = _CONVOLUTIONS[responsibilities.dim()]
        kernel = self.kernel
        # A voxel's channels side by side, and the 1x1 layers as matrix products: forwards and
        # backwards in about half the time on a CPU.
        images = responsibilities.contiguous(memory_format=_channels_last(kernel))
        x = conv(images, kernel, self.neighbours.bias, padding=1).movedim(1, -1)
        x = functional.leaky_relu(x, LEAKY_SLOPE, inplace=True)
        for layer in self.extra:
            x = functional.linear(x, layer.weight.flatten(1), layer.bias)
            x = functional.leaky_relu(x, LEAKY_SLOPE, inplace=True)
        x = functional.linear(x, self.final.weight.flatten(1), self.final.bias)
        return x.movedim(-1, 1)


def mean_field(
    log_likelihood: Tensor, mrf: MRF, iterations: int, w: float = 1.0, tolerance: float = 0.0
) -> Iterator[Tensor]:
    """Yield the responsibilities (B, K, *spatial) after each mean-field iteration.

    Solves q(Z) = prod_i q_i for p(Z | X) proportional to p(Z) F(X): all voxels are updated in
    parallel by r <- softmax(ln F + MRF(r)), from r = 1/K, with damping r <- w new + (1 - w) old.

    Args:
        log_likelihood: ln F(X), the normalised log-probabilities of the U-Net (B, K, *spatial).
        mrf: the prior.
        iterations: number of iterations, at least 1.
        w: weight of the new responsibilities, in (0, 1].
        tolerance: end early, after an iteration whose undamped step moves less than this share
            of the probability mass from class to class, averaged over the voxels of the image
            where it moves most; in [0, 1), 0 never ends early.
    """
    _check(iterations, w)
    if not 0 <= tolerance < 1:
        raise ValueError(f"the tolerance must lie in [0, 1), got {tolerance}")
    responsibilities = _uniform(log_likelihood)
    update = _update if torch.is_grad_enabled() else _update_in_blocks
    for _ in range(iterations):
        new = update(log_likelihood, mrf, responsibilities)
        if w < 1:
            new = w * new + (1 - w) * responsibilities
        yield new
        # Damping shortens every step by w, but not the way that is left.
        if tolerance > 0 and _moved(responsibilities, new) < w * tolerance:
            return
        responsibilities = new


def last(responsibilities: Iterator[Tensor]) -> Tensor:
    """Return the last of what `mean_field` yields, without keeping the others in memory."""
    return deque(responsibilities, maxlen=1).pop()


def log_posterior(log_likelihood: Tensor, mrf: MRF, iterations: int, w: float = 1.0) -> Tensor:
    """Return the logarithm of the last responsibilities of `mean_field`, for the cross-entropy.

    Unlike the logarithm of what that yields, it is exact for small probabilities.
    """
    _check(iterations, w)
    responsibilities = _uniform(log_likelihood)
    if iterations > 1:
        responsibilities = last(mean_field(log_likelihood, mrf, iterations - 1, w))
    log_new = functional.log_softmax(log_likelihood + mrf(responsibilities), dim=1)
    if w == 1:
        return log_new
    # Of what underflowed in a float the smallest one is left.
    log_old = responsibilities.clamp_min(torch.finfo(responsibilities.dtype).tiny).log()
    return torch.logaddexp(log_new + math.log(w), log_old + math.log1p(-w))


def _check(iterations: int, w: float) -> None:
    if iterations < 1:
        raise ValueError(f"mean field needs at least 1 iteration, got {iterations}")
    if not 0 < w <= 1:
        raise ValueError(f"the damping weight w must lie in (0, 1], got {w}")


def _uniform(log_likelihood: Tensor) -> Tensor:
    return torch.full_like(log_likelihood, 1 / log_likelihood.shape[1])


def _moved(old: Tensor, new: Tensor) -> float:
    """Total variation distance, averaged over voxels; of the image where it is largest."""
    # Apple's GPUs have no doubles.
    kind = torch.float32 if new.device.type == "mps" else torch.float64
    total = torch.zeros(len(new), dtype=kind, device=new.device)
    for c in range(new.shape[1]):  # the difference of all classes would be as large as they are
        total += (new[:, c] - old[:, c]).abs_().flatten(1).sum(1)
    return float(total.max()) / (2 * new[0, 0].numel())


def _update(log_likelihood: Tensor, mrf: MRF, responsibilities: Tensor) -> Tensor:
    return functional.softmax(log_likelihood + mrf(responsibilities), dim=1)


def _update_in_blocks(log_likelihood: Tensor, mrf: MRF, responsibilities: Tensor) -> Tensor:
    """`_update` without gradients, block by block through all layers."""
    result = torch.empty_like(log_likelihood, memory_format=torch.contiguous_format)
    kernel = mrf.kernel.contiguous(memory_format=_channels_last(mrf.kernel))
    voxels = _BLOCK_VOXELS.get(log_likelihood.device.type, _BLOCK_VOXELS_ELSEWHERE)
    if log_likelihood.dim() == 4:  # 2D: some of the slices at a time
        number = max(1, voxels // log_likelihood[0, 0].numel())
        for part in torch.arange(len(result)).split(number):
            slices = slice(int(part[0]), int(part[-1]) + 1)
            result[slices] = _updated(
                log_likelihood[slices], mrf, kernel, responsibilities[slices], padding=(1, 1)
            )
        return result

    for log_f, r, new in zip(log_likelihood, responsibilities, result, strict=True):
        depth = r.shape[1]
        r = functional.pad(r, (0, 0, 0, 0, 1, 1))
        thickest = max(1, voxels // 2 // r[0, 0].numel())
        start = 0
        while start < depth:
            # As a batch of two: torch takes the fast convolution for one small image only.
            number = min(2, depth - start)
            thickness = min(thickest, (depth - start) // number)
            stop = start + number * thickness
            slabs = r[:, start : stop + 2].unfold(1, thickness + 2, thickness)
            slabs = slabs.permute(1, 0, 4, 2, 3)
            log_f_slabs = log_f[:, start:stop].unflatten(1, (number, thickness)).transpose(0, 1)
            slab = _updated(log_f_slabs, mrf, kernel, slabs, padding=(0, 1, 1))
            new[:, start:stop] = slab.transpose(0, 1).flatten(1, 2)
            start = stop
    return result


def _updated(
    log_likelihood: Tensor, mrf: MRF, kernel: Tensor, responsibilities: Tensor, padding: tuple
) -> Tensor:
    """Update a block; its responsibilities are wider than the rest where there is no padding."""
    conv = _CONVOLUTIONS[kernel.dim()]
    images = responsibilities.contiguous(memory_format=_channels_last(kernel))
    x = conv(images, kernel, mrf.neighbours.bias, padding=padding)
    # Voxels side by side: the 1x1 layers are then matrix products, and the softmax is vectorised.
    x = functional.leaky_relu(x, LEAKY_SLOPE, inplace=True).movedim(1, -1).flatten(0, -2).t()
    for layer in mrf.extra:
        x = functional.leaky_relu(_product(layer, x), LEAKY_SLOPE, inplace=True)
    energy = _product(mrf.final, x)
    energy += log_likelihood.transpose(0, 1).flatten(1)
    new = functional.softmax(energy, dim=0)
    return new.unflatten(1, (len(log_likelihood), *log_likelihood.shape[2:])).transpose(0, 1)


def _product(layer: nn.Module, x: Tensor) -> Tensor:
    """A 1x1 layer on voxels side by side (channels, voxels)."""
    return torch.addmm(layer.bias[:, None], layer.weight.flatten(1), x)


def _channels_last(weights: Tensor) -> torch.memory_format:
    return torch.channels_last if weights.dim() == 4 else torch.channels_last_3d
