"""What the scanner makes of a head: bias, resolution, artefacts and noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...inference.separable import gaussian_blur, resize
from .config import SynthesisConfig
from .draw import Draw


@dataclass(frozen=True)
class Resolution:
    """How sharp a scan is.

    Attributes:
        width: standard deviation of the point spread, voxels.
        grid: the coarser grid of voxels that it is acquired on, None for the image's own.
    """

    width: float
    grid: tuple[int, int, int] | None

    def of(self, image: Tensor) -> Tensor:
        """Return what a scan shows of an image (R, A, S): partial volume and point spread.

        Going to the coarser grid averages over the new voxel (see `separable.resize`).
        """
        image = gaussian_blur(image, (self.width,) * 3)
        if self.grid is None:
            return image
        return resize(resize(image, self.grid), tuple(image.shape))


def drawn_resolution(
    shape: torch.Size, config: SynthesisConfig, spacing: float, draw: Draw
) -> Resolution:
    """Draw a resolution: thick slices along one axis now and then, or coarse along all."""
    width = draw.uniform(0.2, 0.9)
    if not draw.chance(config.low_resolution):
        return Resolution(width, None)
    grid = list(shape)
    if draw.chance(0.7):
        axis = draw.integer(3)
        thickness = draw.uniform(spacing, max(spacing, config.slice_thickness))
        grid[axis] = max(2, round(grid[axis] * spacing / thickness))
    else:
        factor = draw.uniform(1, 2)
        grid = [max(2, round(n / factor)) for n in grid]
    return Resolution(width, tuple(grid))


def acquired(image: Tensor, resolution: Resolution, config: SynthesisConfig, draw: Draw) -> Tensor:
    """Return an image (R, A, S), not negative, as a scanner would record it."""
    image = resolution.of(image * _bias_field(image.shape, config, draw))
    background = image <= 1e-4
    if draw.chance(config.artefact):
        image = _ghosting(image, draw)
    if draw.chance(config.artefact):
        image = _motion(image, draw)
    if draw.chance(config.artefact):
        image = _spike(image, draw)
    # Squared: most scans have little noise.
    deviation = config.noise * draw.uniform(0, 1) ** 2
    image = _rician(image, deviation, draw)
    if draw.chance(0.5):  # masked background stays exactly zero in most stripped scans
        image = torch.where(background, 0.0, image)
    return image


def _bias_field(shape: torch.Size, config: SynthesisConfig, draw: Draw) -> Tensor:
    coarse = draw.noise((4, 4, 4)) * draw.uniform(0, config.bias)
    return resize(coarse, tuple(shape)).exp_()


def _ghosting(image: Tensor, draw: Draw) -> Tensor:
    """Add weak copies along one axis, as periodic changes between phase-encoding lines do."""
    axis, copies = draw.integer(3), 2 + draw.integer(3)
    strength = draw.uniform(0.02, 0.12)
    ghost = torch.zeros_like(image)
    for n in range(1, copies):
        ghost += torch.roll(image, round(n * image.shape[axis] / copies), axis)
    return (1 - strength) * image + strength * ghost / (copies - 1)


def _motion(image: Tensor, draw: Draw) -> Tensor:
    """Shift the head during part of the acquisition: some lines of k-space get another phase."""
    axis = draw.integer(3)
    n = image.shape[axis]
    view = [-1 if a == axis else 1 for a in range(3)]
    frequency = torch.fft.fftfreq(n, device=image.device)
    first = draw.uniform(0.03, 0.3)  # the centre of k-space, most of the image, stays in place
    moved = (frequency > first) & (frequency < first + draw.uniform(0.05, 0.2))
    shift = draw.uniform(1, 4) * (1 if draw.chance(0.5) else -1)
    phase = torch.exp(-2j * math.pi * frequency * shift * moved)
    lines = torch.fft.fft(image, dim=axis) * phase.view(view)
    return torch.fft.ifft(lines, dim=axis).abs()


def _spike(image: Tensor, draw: Draw) -> Tensor:
    """Add the stripes of one wrong point in k-space."""
    wave = draw.uniform(0, 2 * math.pi)
    for axis, n in enumerate(image.shape):
        offsets = torch.arange(n, device=image.device, dtype=torch.float32)
        view = [-1 if a == axis else 1 for a in range(3)]
        wave = wave + (draw.uniform(-0.8, 0.8) * math.pi * offsets).view(view)
    return (image + draw.uniform(0.02, 0.1) * torch.cos(wave)).clamp_min_(0)


def _rician(image: Tensor, deviation: float, draw: Draw) -> Tensor:
    """Return the magnitude of a complex image with normal noise in both channels."""
    real = image + deviation * draw.noise(image.shape)
    imaginary = deviation * draw.noise(image.shape)
    return torch.hypot(real, imaginary)
