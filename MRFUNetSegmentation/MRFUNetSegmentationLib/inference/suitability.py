"""Whether a volume is one for a model, and what it found a brain. Needs neither torch nor Slicer.

Nothing here ends a run: scans that few people would call suitable are segmented every day. It says
what a result cannot show by itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..checkpoints.card import InputSpec, SegmentClass
from .axes import nearest_axes, slice_axis
from .volume import Geometry

# mm; beyond it slices are thick in the field's words, and small structures fall between them.
_THICK = 3.0
# mm within the slices that a model looks at. Lesions of a FLAIR of 1 mm voxels lost 9, 22 and 39 %
# of their volume where it was averaged to 3, 4 and 6 mm.
_COARSE = 2.5
# mm; a brain of an adult is larger in each direction.
_WHOLE_BRAIN = 110.0
# Values of a volume: scans of 8 bits have more than 120, label maps of whole heads up to 54.
_FEW_VALUES = 64
# Voxels that are looked at for that.
_SUBSET = 500_000
# ml of grey and white matter, from newborns to large adult brains.
_BRAIN_TISSUE = (250.0, 2000.0)
# SNOMED CT: grey matter, white matter.
_TISSUES = {"389081007", "389080008"}


def cautions(geometry: Geometry, expected: InputSpec) -> list[str]:
    """Return what the user should know of a volume before a model segments it.

    Args:
        geometry: the volume's.
        expected: what the model expects.
    """
    lines = []
    plane = expected.slice_plane
    if plane is None and max(geometry.spacing) > _THICK:
        lines.append(
            f"The slices are thick ({max(geometry.spacing):.3g} mm): expect rough borders across "
            "them."
        )
    if plane is not None:
        across = slice_axis(plane, expected.orientation)
        axes, _ = nearest_axes(np.asarray(geometry.direction), expected.orientation)
        within = [
            (geometry.spacing[axes[a]], expected.voxel_size[a]) for a in range(3) if a != across
        ]
        coarse = [spacing for spacing, wanted in within if spacing > max(_COARSE, wanted)]
        if coarse:
            lines.append(
                f"The model looks at {plane} slices, and in these the voxels of this volume are "
                f"{max(coarse):.3g} mm long: it misses what is small, and volumes come out too "
                f"small. Choose a scan of {plane} slices, or of small voxels, if there is one."
            )
    if _covers_a_part(geometry):
        lines.append(
            f"The volume covers {min(_extent(geometry)):.0f} mm in one direction: probably only a "
            "part of the brain, in which structures are found less surely, or its voxel spacing is "
            "wrong."
        )
    return lines


def of_few_values(array: np.ndarray) -> str:
    """Return that a volume may be a mask or a label map; nothing if it has grey values.

    The networks have seen every contrast, so they find a whole brain in the mask of one as well.
    """
    number = np.unique(array.reshape(-1)[:: max(1, array.size // _SUBSET)]).size
    if number > _FEW_VALUES:
        return ""
    return (
        f"The volume has only {number} different values, as a mask or a label map has. Of these "
        "the result means nothing: check that the volume is the scan."
    )


def doubt(volumes_ml: Mapping[int, float], segments: tuple[SegmentClass, ...], of: Geometry) -> str:
    """Return why what was found can be no brain; nothing if it can, or is not to be one.

    Args:
        volumes_ml: of each class, by its value.
        segments: the model's.
        of: geometry of the volume.
    """
    tissues = {s.terminology.type.value: s.value for s in segments if s.terminology}
    if not _TISSUES <= tissues.keys():
        return ""
    found = sum(volumes_ml[tissues[code]] for code in _TISSUES)
    least, most = _BRAIN_TISSUE
    if found <= most and (found >= least or _covers_a_part(of)):
        return ""
    return (
        f"Grey and white matter together are {found:.0f} ml; of a whole brain they are {least:.0f} "
        f"to {most:.0f} ml. Look at the result, and check that the volume is an MRI of a head, its "
        "orientation and its voxel spacing."
    )


def _extent(geometry: Geometry) -> list[float]:
    return [n * s for n, s in zip(geometry.size, geometry.spacing, strict=True)]


def _covers_a_part(geometry: Geometry) -> bool:
    return min(_extent(geometry)) < _WHOLE_BRAIN
