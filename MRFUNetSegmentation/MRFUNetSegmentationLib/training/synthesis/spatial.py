"""Anatomy of a pair: the label map seen through a random affine and diffeomorphic map."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ...inference.separable import gaussian_blur, resize
from ..labels import GREY_MATTER, VENTRICLES, WHITE_MATTER, LabelMap
from .config import SynthesisConfig
from .draw import Draw

# The velocity lives on a grid of this many voxels of the image: it is smooth beyond that.
_COARSE = 4
# Halvings of the velocity before it is composed with itself (Arsigny et al., MICCAI 2006).
_SQUARINGS = 5


@dataclass(frozen=True)
class Placement:
    """Where each voxel of an image lies in its label map.

    Attributes:
        matrix: (3, 3), on the CPU, from voxels of the undeformed image to mm in the label map.
        offset: (3,), on the CPU, mm: where its first voxel lies.
        voxels: deformed voxel coordinates along R, A, S; they broadcast to (R, A, S).
    """

    matrix: Tensor
    offset: Tensor
    voxels: tuple[Tensor, Tensor, Tensor]

    def look_up(self, volume: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Return a volume's values at the nearest voxels, (R, A, S); 0 beyond its edge.

        Args:
            volume: (R, A, S), contiguous.
            scale: (3,), its voxels per mm of the label map.
            shift: (3,), its voxel where the label map's first one lies.
        """
        size = volume.shape
        rows = (self.matrix * scale[:, None]).tolist()
        first = (self.offset * scale + shift).tolist()
        x, y, z = self.voxels
        index, inside, stride = 0, True, 1
        for a in (2, 1, 0):
            position = first[a] + rows[a][0] * x + rows[a][1] * y + rows[a][2] * z
            position = position.round_().to(torch.int32)
            inside = inside & (position >= 0) & (position < size[a])
            index = index + position.clamp_(0, size[a] - 1) * stride
            stride *= size[a]
        values = volume.flatten().index_select(0, index.flatten()).view(index.shape)
        return torch.where(inside, values, 0)

    def groups(self, label_map: LabelMap) -> Tensor:
        """Return the intensity group (R, A, S) int64 at each voxel.

        Labels are looked up at the nearest voxel, so none has to be interpolated.
        """
        scale = 1 / torch.tensor(label_map.spacing)
        return self.look_up(label_map.groups, scale, torch.zeros(3)).long()


def placed(
    label_map: LabelMap,
    config: SynthesisConfig,
    shape: tuple[int, int, int],
    spacing: float,
    draw: Draw,
) -> Placement:
    """Draw where the voxels of an image lie: a random affine map, a mirror and a diffeomorphism.

    The left-right mirror swaps no labels: classes and intensity groups have no sides.
    """
    matrix, offset = _affine(label_map, config, shape, spacing, draw)
    coarse_shape = tuple(math.ceil(n / _COARSE) for n in shape)
    velocity = torch.zeros(3, *coarse_shape, device=draw.device)
    for cell in (8, 20):  # mm: gyral shape, and lobar shape
        points = tuple(max(3, math.ceil(n * spacing / cell)) for n in shape)
        amplitude = draw.uniform(0, config.deformation) / spacing
        velocity += resize(amplitude * draw.noise((3, *points)), coarse_shape)
    if config.ventricles:
        velocity += _swelling(label_map, matrix, offset, coarse_shape, config, spacing, draw)
    displacement = resize(integrate(velocity / _COARSE) * _COARSE, shape)

    undeformed = _axes(shape, 1, 0, draw)
    voxels = tuple(undeformed[axis] + displacement[axis] for axis in range(3))
    return Placement(matrix, offset, voxels)


def _axes(
    shape: tuple[int, ...], step: float, first: float, draw: Draw
) -> tuple[Tensor, Tensor, Tensor]:
    """Return voxel coordinates along each axis, shaped to broadcast."""
    return tuple(
        (first + step * torch.arange(n, dtype=torch.float32, device=draw.device)).view(
            [-1 if a == axis else 1 for a in range(3)]
        )
        for axis, n in enumerate(shape)
    )


def integrate(velocity: Tensor) -> Tensor:
    """Return the displacement of the flow of a stationary velocity, by scaling and squaring.

    The exponential of a smooth velocity is a diffeomorphism: its Jacobian determinant is positive
    and nothing folds.

    Args:
        velocity: (3, R, A, S), in voxels of its grid.
    """
    shape = velocity.shape[1:]
    axes = [torch.arange(n, dtype=torch.float32, device=velocity.device) for n in shape]
    identity = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    size = torch.tensor(shape, device=velocity.device).view(3, 1, 1, 1)
    displacement = velocity / 2**_SQUARINGS
    for _ in range(_SQUARINGS):
        place = 2 * (identity + displacement) / (size - 1).clamp_min(1) - 1
        sampled = functional.grid_sample(
            displacement[None],
            place.flip(0).movedim(0, -1)[None],  # grid_sample wants the last axis first
            padding_mode="border",
            align_corners=True,
        )
        displacement = displacement + sampled[0]
    return displacement


def _affine(
    label_map: LabelMap,
    config: SynthesisConfig,
    shape: tuple[int, int, int],
    spacing: float,
    draw: Draw,
) -> tuple[Tensor, Tensor]:
    """Return matrix and offset (on the CPU) from voxels of the image to mm in the label map."""
    matrix = _rotation(draw.uniforms(3, -config.rotation, config.rotation).deg2rad())
    matrix = matrix @ torch.diag(1 + draw.uniforms(3, -config.scaling, config.scaling))
    shear = torch.eye(3)
    shear[0, 1], shear[0, 2], shear[1, 2] = draw.uniforms(3, -config.shearing, config.shearing)
    matrix = matrix @ shear * spacing
    if draw.chance(0.5):
        matrix[0] = -matrix[0]
    spread = config.centre_spread * (2 if draw.chance(0.2) else 1)
    centre = _brain_centre(label_map) + spread * draw.normals(3)
    if config.axial_spread:
        centre[2] += config.axial_spread * draw.normal()
    return matrix, centre - matrix @ ((torch.tensor(shape) - 1) / 2)


def _brain_centre(label_map: LabelMap) -> Tensor:
    """Centre of the brain in mm; found on every 4th voxel."""
    tissue = label_map.tissue_of_group[label_map.groups[::4, ::4, ::4].long()]
    brain = ((tissue == GREY_MATTER) | (tissue == WHITE_MATTER)).nonzero().float()
    return brain.mean(0).cpu() * 4 * torch.tensor(label_map.spacing)


def _rotation(angles: Tensor) -> Tensor:
    matrix = torch.eye(3)
    for axis, angle in enumerate(angles):
        a, b = [n for n in range(3) if n != axis]
        turn = torch.eye(3)
        turn[a, a] = turn[b, b] = angle.cos()
        turn[a, b], turn[b, a] = -angle.sin(), angle.sin()
        matrix = matrix @ turn
    return matrix


def _swelling(
    label_map: LabelMap,
    matrix: Tensor,
    offset: Tensor,
    coarse_shape: tuple[int, ...],
    config: SynthesisConfig,
    spacing: float,
    draw: Draw,
) -> Tensor:
    """Return the velocity, in voxels of the image, that moves the walls of the ventricles.

    With age they widen at the white matter's cost; twenty label maps show few ages.
    """
    coarse = Placement(matrix, offset, _axes(coarse_shape, _COARSE, (_COARSE - 1) / 2, draw))
    groups = coarse.groups(label_map)
    ventricles = (label_map.tissue_of_group[groups] == VENTRICLES).float()
    field = gaussian_blur(ventricles, (1.5, 1.5, 1.5))
    inwards = torch.stack(torch.gradient(field))
    steepest = inwards.square().sum(0).max().sqrt().clamp_min(1e-6)
    # Seen from the image, a wider ventricle is looked up further in.
    return draw.uniform(-0.5, 1) * config.ventricles / spacing * inwards / steepest
