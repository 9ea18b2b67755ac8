"""Training pairs of white-matter lesions and the disagreement of those who mark them.

`maps` reads real lesion masks and finds where they lie in a label map's brain, `pair` paints them
into a synthetic image, and `raters` marks them as experts of different habits would.
"""

from .maps import LesionMap, read_lesion_maps
from .pair import LesionConfig, Lesions, synthesise_lesions
from .raters import Rater, RaterConfig, draw_rater, marked

__all__ = [
    "LesionConfig",
    "LesionMap",
    "Lesions",
    "Rater",
    "RaterConfig",
    "draw_rater",
    "marked",
    "read_lesion_maps",
    "synthesise_lesions",
]
