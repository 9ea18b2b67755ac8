"""The colours of uncertainty maps, in the scene and in pictures."""

from __future__ import annotations

import numpy as np

# "inferno" of matplotlib (CC0) at evenly spaced values: its lightness rises evenly from black to
# pale yellow, so that equal steps of a value look equal.
_INFERNO = np.array(
    [
        (0, 0, 4),
        (12, 8, 38),
        (36, 12, 79),
        (66, 10, 104),
        (93, 18, 110),
        (120, 28, 109),
        (147, 38, 103),
        (174, 48, 92),
        (199, 62, 76),
        (221, 81, 58),
        (237, 105, 37),
        (248, 133, 15),
        (252, 165, 10),
        (250, 198, 45),
        (242, 230, 97),
        (252, 255, 164),
    ]
)
_COLORS = 256
# Share of a map's maximum below which nothing is shown.
LOW = 0.05


def inferno(*, reverse: bool = False) -> np.ndarray:
    """Return the colours (256, 3), 0..1, of the smallest to the largest value.

    Args:
        reverse: bright for the smallest value instead of the largest.
    """
    x = np.linspace(0, len(_INFERNO) - 1, _COLORS)
    colors = [np.interp(x, np.arange(len(_INFERNO)), channel) / 255 for channel in _INFERNO.T]
    return np.stack(colors, axis=1)[:: -1 if reverse else 1]
