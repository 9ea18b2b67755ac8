"""What can be said of a segmentation without a reference: size, wholeness, symmetry."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch

from ..inference.grid import ModelGrid
from ..inference.volume import Geometry
from .cases import Plausibility
from .packages import need

# The midsagittal plane is sought on a grid of this voxel size, mm.
_COARSE = 4.0


@dataclass(frozen=True)
class PlausibilityScores:
    """Figures of one segmentation.

    Attributes:
        brain_l: volume of the brain, litres.
        main_component: of each structure, the share of its largest connected component (26
            neighbours); NaN if there is none of it.
        asymmetry_percent: (left - right) / mean of both, percent, of the structure with sides.
        faults: in words; none if the segmentation is plausible.
    """

    brain_l: float
    main_component: dict[str, float]
    asymmetry_percent: float
    faults: tuple[str, ...]


def plausibility(
    masks: dict[str, np.ndarray], geometry: Geometry, limits: Plausibility
) -> PlausibilityScores:
    """Measure a segmentation and hold it against the limits.

    Args:
        masks: [k, j, i] bool, of every structure; the limits' brain must be among them.
        geometry: of the masks.
        limits: what is plausible.
    """
    brain = np.logical_or.reduce([masks[s] for s in limits.brain])
    brain_l = float(brain.sum()) * geometry.voxel_ml / 1000
    shares = {s: main_component_share(m) for s, m in masks.items()}
    asymmetry = asymmetry_percent(masks[limits.sides], brain, geometry)
    faults = []
    if not limits.volume_l[0] <= brain_l <= limits.volume_l[1]:
        faults.append(f"brain of {brain_l:.2f} l")
    for s in limits.connected:
        if not shares[s] >= limits.main_component:
            faults.append(f"{s}: {100 * shares[s]:.0f} % in one piece")
    if not abs(asymmetry) <= limits.asymmetry_percent:
        faults.append(f"{limits.sides} left and right differ by {asymmetry:+.0f} %")
    return PlausibilityScores(brain_l, shares, asymmetry, tuple(faults))


def main_component_share(mask: np.ndarray) -> float:
    """Return the share of a mask's voxels that its largest 26-connected component holds."""
    if not mask.any():
        return float("nan")
    components = sitk.ConnectedComponent(sitk.GetImageFromArray(mask.astype(np.uint8)), True)
    sizes = np.bincount(sitk.GetArrayViewFromImage(components).ravel())[1:]
    return float(sizes.max() / sizes.sum())


def asymmetry_percent(mask: np.ndarray, brain: np.ndarray, geometry: Geometry) -> float:
    """Return by how much the left of a mask exceeds the right, in percent of their mean.

    Left and right of the brain's own plane of symmetry, for heads are turned in the scanner; an
    average head's axes would find a difference where there is none. NaN if the mask is empty.

    Args:
        mask: [k, j, i] bool.
        brain: [k, j, i] bool, the object with the symmetry.
        geometry: of both.
    """
    if not mask.any():
        return float("nan")
    grid = ModelGrid.of(geometry)
    step = np.array(grid.spacing)
    normal, offset = midsagittal_plane(grid.reorient(torch.from_numpy(brain)).numpy(), step)
    points = np.argwhere(grid.reorient(torch.from_numpy(mask)).numpy()) * step
    # In voxels: those that the plane cuts belong to both sides in part.
    side = (points @ normal - offset) / (np.abs(normal) @ step)
    right = float(np.clip(side + 0.5, 0, 1).sum())
    left = len(points) - right
    return 200 * (left - right) / (left + right)


def midsagittal_plane(
    brain: np.ndarray, spacing: tuple[float, float, float]
) -> tuple[np.ndarray, float]:
    """Return the plane in which a brain's mirror image covers it best.

    Args:
        brain: (R, A, S) bool, not empty.
        spacing: voxel size, mm.

    Returns:
        unit normal (R, A, S), which points to the right, and offset in mm: points x (mm, from the
        centre of the first voxel) right of the plane have normal . x > offset.
    """
    ndimage = need("scipy.ndimage", "scipy", "The midsagittal plane")
    optimize = need("scipy.optimize", "scipy", "The midsagittal plane")
    spacing = np.asarray(spacing, dtype=float)
    # Smooth, so that overlap changes smoothly with the plane; with room for that around it.
    room = np.ceil(4 * _COARSE / spacing).astype(int)
    soft = np.pad(brain.astype(np.float32), [(n, n) for n in room])
    soft = ndimage.gaussian_filter(soft, _COARSE / spacing)
    stride = np.maximum(1, np.round(_COARSE / spacing)).astype(int)
    soft = soft[tuple(slice(None, None, s) for s in stride)]
    first, step = -room * spacing, spacing * stride
    points = np.argwhere(soft > 0.01)
    weights = soft[tuple(points.T)]
    points = first + points * step
    # Linear interpolation would draw the plane to where voxels mirror each other.
    splines = ndimage.spline_filter(soft, output=np.float32)
    centre = np.average(points, axis=0, weights=weights)

    def plane(parameters):
        yaw, roll, shift = parameters
        normal = np.array([1.0, np.tan(yaw), np.tan(roll)])
        normal /= np.linalg.norm(normal)
        return normal, normal @ centre + shift

    def mismatch(parameters):
        normal, offset = plane(parameters)
        mirrored = points - 2 * (points @ normal - offset)[:, None] * normal
        there = ndimage.map_coordinates(splines, ((mirrored - first) / step).T, prefilter=False)
        return -float((there * weights).sum())

    start = np.zeros(3)
    simplex = np.vstack([start, np.diag([0.1, 0.1, 5.0])])
    found = optimize.minimize(
        mismatch, start, method="Nelder-Mead", options={"initial_simplex": simplex, "xatol": 1e-3}
    )
    return plane(found.x)
