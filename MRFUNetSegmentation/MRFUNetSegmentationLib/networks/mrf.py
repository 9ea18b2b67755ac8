"""Markov random field over labels as a small convolutional network, solved by mean field.

Brudfors et al., MIDL 2021 (arXiv 2104.05495), section 2: the prior p(z_i | z_Ni) of a voxel's
label given its neighbours' is stationary and never sees the image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from .unet import KERNEL_SIZE, LEAKY_SLOPE, convolution

MAXIMUM_FILTERS = 64
# Largest hidden layer (voxels x filters) that is computed at once without gradients; 1 GB.
SLAB_VALUES = 2**28
# The same on the CPU for inference: 4 MB, which stay in the cache.
CPU_SLAB_VALUES = 2**20


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
    Differentiable, for training; `infer_responsibilities` is several times faster.

    Args:
        log_likelihood: ln F(X), the normalised log-probabilities of the U-Net (B, K, *spatial).
        mrf: the prior.
        iterations: number of iterations, at least 1.
        w: weight of the new responsibilities, in (0, 1].
    """
    _check(iterations, w)
    responsibilities = torch.full_like(log_likelihood, 1 / log_likelihood.shape[1])
    for _ in range(iterations):
        log_new = functional.log_softmax(log_likelihood + mrf(responsibilities), dim=1)
        if w < 1:
            log_new = torch.log(w * log_new.exp() + (1 - w) * responsibilities)
        yield log_new
        responsibilities = log_new.exp()


@torch.no_grad()
def infer_responsibilities(
    logits: Tensor, mrf: MRF, iterations: int, w: float = 1.0, tolerance: float = 0.0
) -> Iterator[Tensor]:
    """Yield the responsibilities (B, K, *spatial) after each mean-field iteration of `mean_field`.

    Without gradients, and slab by slab: all layers of a slab of slices are computed before the
    next slab's, so that what lies between them stays in the cache and never exists for the whole
    volume.

    Args:
        logits: the U-Net's (B, K, *spatial); their normalisation makes no difference.
        mrf: the prior.
        iterations: number of iterations, at least 1.
        w: weight of the new responsibilities, in (0, 1].
        tolerance: stop early as soon as an undamped update changes the responsibilities of no
            image by more than this, in total variation averaged over the voxels: the share of
            the probability that changes class, in [0, 1]. 0 runs all iterations.

    Yields:
        A view of a buffer that later iterations overwrite; clone it to keep it.
    """
    _check(iterations, w)
    if not 0 <= tolerance < 1:
        raise ValueError(f"the tolerance must lie in [0, 1), got {tolerance}")
    batch, classes, size, *plane = logits.shape
    slabs = _Slabs(mrf, size, plane, logits)
    evidence = torch.empty_like(logits, memory_format=torch.contiguous_format)
    torch.add(logits, mrf.final.bias.view(-1, *[1] * (1 + len(plane))), out=evidence)
    evidence = evidence.flatten(2)

    inside = slice(1, 1 + size)
    old, new = (logits.new_zeros(batch, slabs.padded_size, *plane, classes) for _ in range(2))
    old[:, inside] = 1 / classes
    for _ in range(iterations):
        # Per image: sum over voxels and classes of the absolute change.
        change = logits.new_zeros(batch, dtype=torch.float64)
        for image in range(batch):
            for start in slabs.starts:
                before, after = (slabs.voxels(r[image], start) for r in (old, new))
                potentials = slabs.potentials(old[image], start, evidence[image])
                after.copy_(potentials.softmax(0).t())
                if w < 1:
                    after.lerp_(before, 1 - w)
                if tolerance:
                    change[image] += (after - before).abs_().sum()
        yield new[:, inside].movedim(-1, 1)
        if tolerance and change.max() <= tolerance * w * 2 * evidence.shape[2]:
            return
        old, new = new, old


class _Slabs:
    """Division of a volume into slabs of slices, and the MRF's layers on one of them.

    Responsibilities are kept channels last with one slice of zeros before the first slice and at
    least one after the last, (padded_size, *plane, K), so that a slab and its two neighbouring
    slices are always there.

    Args:
        mrf: the prior.
        size: number of slices (the first spatial dimension).
        plane: size of a slice.
        like: a tensor of the device and the precision.
    """

    def __init__(self, mrf: MRF, size: int, plane: Sequence[int], like: Tensor) -> None:
        self.mrf = mrf
        self.size = size
        self.plane_voxels = math.prod(plane)
        slice_values = self.plane_voxels * mrf.final.in_channels
        values = CPU_SLAB_VALUES if like.device.type == "cpu" else SLAB_VALUES
        # A slab is computed as a batch of two windows, since torch hands a batch of one that has
        # few slices to a convolution that is ten times slower.
        number = math.ceil(size / max(2, values // slice_values))
        self.window = math.ceil(size / (2 * number))
        self.thickness = 2 * self.window
        self.starts = range(0, size, self.thickness)
        self.padded_size = len(self.starts) * self.thickness + 2
        dim = 1 + len(plane)
        self._padding = (0,) + (KERNEL_SIZE // 2,) * len(plane)
        self._convolve = {2: functional.conv2d, 3: functional.conv3d}[dim]
        self._weight = (mrf.neighbours.weight * mrf.mask).contiguous(
            memory_format={2: torch.channels_last, 3: torch.channels_last_3d}[dim]
        )

    def voxels(self, padded: Tensor, start: int) -> Tensor:
        """Return the slab from `start` of padded responsibilities as a view (voxels, K)."""
        stop = min(start + self.thickness, self.size)
        return padded[1 + start : 1 + stop].flatten(0, -2)

    def potentials(self, padded: Tensor, start: int, evidence: Tensor) -> Tensor:
        """Return evidence + MRF(responsibilities) of the slab from `start`, (K, voxels).

        Args:
            padded: responsibilities (padded_size, *plane, K).
            start: first slice.
            evidence: what is added to the log-potentials (K, all voxels); their bias included.
        """
        windows = padded[start : start + self.thickness + 2].unfold(0, self.window + 2, self.window)
        windows = windows.movedim((-1, -2), (2, 1))  # (2, K, window + 2, *plane)
        x = self._convolve(windows, self._weight, self.mrf.neighbours.bias, padding=self._padding)
        x = functional.leaky_relu_(x.movedim(1, -1).flatten(0, -2), LEAKY_SLOPE)
        for layer in self.mrf.extra:
            x = torch.addmm(layer.bias, x, layer.weight.flatten(1).t())
            x = functional.leaky_relu_(x, LEAKY_SLOPE)
        place = slice(start * self.plane_voxels, (start + self.thickness) * self.plane_voxels)
        evidence = evidence[:, place]
        x = x[: evidence.shape[1]]
        return torch.addmm(evidence, self.mrf.final.weight.flatten(1), x.t())


def _check(iterations: int, w: float) -> None:
    if iterations < 1:
        raise ValueError(f"mean field needs at least 1 iteration, got {iterations}")
    if not 0 < w <= 1:
        raise ValueError(f"the damping weight w must lie in (0, 1], got {w}")
