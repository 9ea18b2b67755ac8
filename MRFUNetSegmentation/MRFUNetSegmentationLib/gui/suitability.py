"""What is said of a volume before it is segmented; knows neither Qt nor the scene."""

from __future__ import annotations

from collections.abc import Sequence

from ..checkpoints.card import InputSpec
from ..inference.suitability import cautions
from ..inference.volume import Geometry
from .i18n import _

_LARGE = 60e6  # voxels


def suitability(geometry: Geometry, expected: InputSpec) -> str:
    """Return what the user should know of a volume.

    Args:
        geometry: the volume's.
        expected: what the model expects.
    """
    size, spacing = geometry.size, geometry.spacing
    extent = [n * s for n, s in zip(size, spacing, strict=True)]
    text = _("{spacing} mm voxels, {extent} mm. The model is made for: {modality}.").format(
        spacing=_times(spacing), extent=_times(extent, ".0f"), modality=expected.modality
    )
    lines = [text, *cautions(geometry, expected)]
    if size[0] * size[1] * size[2] > _LARGE:
        lines.append(_("It is large: the run may take minutes and much memory."))
    return "\n".join(lines)


def about_sequence(number: int, samples: bool) -> str:
    """Return what the user should know before all volumes of a sequence are segmented.

    Args:
        number: of volumes.
        samples: whether the model draws samples.
    """
    text = _("Each of the {number} volumes gets one segmentation.").format(number=number)
    return f"{text} {_('No samples are drawn.')}" if samples else text


def _times(numbers: Sequence[float], form: str = ".3g") -> str:
    return " x ".join(format(number, form) for number in numbers)
