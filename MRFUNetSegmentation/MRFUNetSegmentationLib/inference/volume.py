"""A scalar volume in physical space, and the checks that it can be segmented."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from ..errors import InputError

# Voxels along an axis that a network sees: fewer show no anatomy.
MINIMUM_SIDE = 8
# Direction, in LPS, of axes that run to the right, the front and the top.
RAS = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Geometry:
    """Where voxels lie: ITK's convention, LPS world, index order (i, j, k).

    Attributes:
        size: voxels along i, j, k.
        spacing: mm along i, j, k.
        origin: position of the centre of voxel (0, 0, 0), mm.
        direction: 9 numbers, row-major; columns are the unit vectors of i, j, k.
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    @classmethod
    def from_image(cls, image: sitk.Image) -> Geometry:
        """Read the geometry of a 3D image."""
        return cls(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())

    @property
    def right_angled(self) -> bool:
        """Whether the axes are at right angles to each other, as in files of NIfTI."""
        direction = np.reshape(self.direction, (3, 3))
        return bool(np.allclose(direction.T @ direction, np.eye(3), atol=1e-3))

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel, ml; with axes that are not at right angles less than of a box."""
        # Rounded, so that right angles change nothing at all.
        shear = round(abs(float(np.linalg.det(np.reshape(self.direction, (3, 3))))), 9)
        return float(np.prod(self.spacing)) * shear / 1000

    def has_voxels_of(self, other: Geometry) -> bool:
        """Whether each voxel is that of another geometry: nearer to it than to the next one."""
        if self.size != other.size:
            return False
        return bool(np.abs(self.voxels_beside(other)).max() < 0.5)

    def voxels_beside(self, other: Geometry) -> np.ndarray:
        """Return where the corners (8, 3) of a geometry of this size lie beside these, voxels."""
        corners = np.array(list(np.ndindex(2, 2, 2))) * np.subtract(self.size, 1)
        places = corners @ other._to_place.T + np.subtract(other.origin, self.origin)
        return places @ np.linalg.inv(self._to_place).T - corners

    def to_mm(self, voxels: np.ndarray) -> np.ndarray:
        """Return distances (..., 3) along i, j, k in voxels as distances in space, mm."""
        return voxels @ self._to_place.T

    @property
    def _to_place(self) -> np.ndarray:
        """Matrix (3, 3) from voxel indices i, j, k to mm from the origin."""
        return np.reshape(self.direction, (3, 3)) * self.spacing

    def apply_to(self, image: sitk.Image) -> sitk.Image:
        """Give an image of the same size this place in space."""
        image.SetSpacing(self.spacing)
        image.SetOrigin(self.origin)
        image.SetDirection(self.direction)
        return image


@dataclass(frozen=True)
class Volume:
    """Voxel values [k, j, i] and their geometry; a single slice is a volume of one slice.

    Attributes:
        array: [k, j, i].
        geometry: where they lie.
        warnings: what the user should know of where they come from.

    Raises:
        InputError: if it is not a 3D scalar volume of finite, varying values on a regular grid.
    """

    array: np.ndarray
    geometry: Geometry
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_array(self.array)
        _check_geometry(self.geometry, self.array.shape)

    @classmethod
    def from_image(
        cls,
        image: sitk.Image,
        *,
        replace_non_finite: bool = False,
        warnings: tuple[str, ...] = (),
    ) -> Volume:
        """Take over a SimpleITK image.

        Args:
            image: 3D, one component.
            replace_non_finite: put the smallest finite value in the place of NaN and infinity.
            warnings: what the user should know of it.
        """
        if image.GetNumberOfComponentsPerPixel() != 1:
            raise InputError(
                f"The image has {image.GetNumberOfComponentsPerPixel()} components per voxel "
                "(colour or vector data). Choose a scalar volume, or extract one component."
            )
        _check_dimension(image.GetDimension(), image.GetSize())
        array = sitk.GetArrayFromImage(image)
        if replace_non_finite:
            array, replaced = with_finite_values(array)
            warnings = (*warnings, *replaced)
        return cls(array, Geometry.from_image(image), warnings)


def with_finite_values(array: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the array with the smallest finite value in the place of NaN and infinity.

    Also what the user should know of that: nothing if there were none.
    """
    finite = np.isfinite(array)
    if finite.all() or not finite.any():
        return array, ()
    smallest = array[finite].min()
    number = finite.size - np.count_nonzero(finite)
    text = f"{number} of {finite.size} voxels were not finite (NaN or infinite): the smallest "
    text += f"finite value, {smallest:g}, was put in their place."
    return np.where(finite, array, smallest), (text,)


def _check_finite(values: np.ndarray) -> None:
    """Raise an InputError that counts the values that are NaN or infinite, if there are any."""
    bad = values.size - np.count_nonzero(np.isfinite(values))
    if bad:
        raise InputError(
            f"{bad} of {values.size} voxels are not finite (NaN or infinite). "
            'Have them replaced (panel: "Replace voxels that are not finite"; command line: '
            "--replace-non-finite), or repair the volume."
        )


def _check_dimension(dimension: int, size: tuple[int, ...]) -> None:
    if dimension != 3:
        raise InputError(
            f"The image has {dimension} dimensions ({' x '.join(map(str, size))}). "
            "Extract one 3D volume (one time point) of it first."
        )


def _check_array(array: np.ndarray) -> None:
    if np.iscomplexobj(array) or array.dtype.kind not in "buif":
        raise InputError(
            f"The voxels are of type {array.dtype}. Choose a volume of real numbers, "
            "for example the magnitude image."
        )
    _check_dimension(array.ndim, array.shape[::-1])
    if sorted(array.shape)[1] < MINIMUM_SIDE:
        raise InputError(
            f"The volume has only {' x '.join(map(str, array.shape[::-1]))} voxels; at least "
            f"{MINIMUM_SIDE} are needed along two axes or more. Choose a complete image."
        )
    _check_finite(array)
    if array.min() == array.max():
        raise InputError(
            f"All voxels have the same value ({array.flat[0]}): there is nothing to segment. "
            "Check that the right volume was chosen."
        )


def _check_geometry(geometry: Geometry, shape: tuple[int, ...]) -> None:
    if tuple(geometry.size) != tuple(shape[::-1]):
        raise InputError(f"Geometry of size {geometry.size} does not fit array [k, j, i] {shape}.")
    if not all(np.isfinite(s) and s > 0 for s in geometry.spacing):
        raise InputError(
            f"The voxel spacing is {tuple(geometry.spacing)} mm; every entry must be above 0. "
            "Correct the spacing in the volume's header (in Slicer: Volumes module)."
        )
    direction = np.asarray(geometry.direction, dtype=float).reshape(3, 3)
    if not np.isfinite(direction).all() or abs(np.linalg.det(direction)) < 1e-3:
        raise InputError(
            "The volume's axes are not independent directions in space. "
            "Correct the orientation in the volume's header."
        )
