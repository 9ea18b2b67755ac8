"""What is said of a volume before it is segmented; knows neither Qt nor the scene."""

from __future__ import annotations

from collections.abc import Sequence

from .i18n import _

# mm; beyond it slices are thick in the field's words, and small structures fall between them.
_THICK = 3.0
# mm; a brain of an adult is larger in each direction.
_WHOLE_BRAIN = 110.0
_LARGE = 60e6


def suitability(size: Sequence[int], spacing: Sequence[float], modality: str) -> str:
    """Return what the user should know of a volume.

    Args:
        size: voxels along each axis.
        spacing: mm along each axis.
        modality: what the model is made for, in words.
    """
    extent = [n * s for n, s in zip(size, spacing, strict=True)]
    lines = [
        _("{spacing} mm voxels, {extent} mm. The model is made for: {modality}.").format(
            spacing=_times(spacing), extent=_times(extent, ".0f"), modality=modality
        )
    ]
    if max(spacing) > _THICK:
        lines.append(
            _("The slices are thick ({thickness} mm): expect rough borders across them.").format(
                thickness=f"{max(spacing):.3g}"
            )
        )
    if min(extent) < _WHOLE_BRAIN:
        lines.append(
            _("It covers {extent} mm in one direction: probably only a part of the brain.").format(
                extent=f"{min(extent):.0f}"
            )
        )
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
