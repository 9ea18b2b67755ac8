"""Training pairs from label maps: images of random anatomy, contrast, resolution and quality.

The idea is SynthSeg's (Billot et al., Medical Image Analysis 2023, arXiv 2107.09559): a network
that sees every contrast in training needs none in particular. A pair passes through `spatial`,
`contrast`, `pathology`, `coverage` and `acquisition`, in this order.

MONAI and TorchIO have some of these transforms, but theirs draw from generators of their own and
work on the CPU alone or image by image in numpy. These run where the network is and draw from one
generator, so that a run resumes to the step.
"""

from .config import SynthesisConfig
from .pair import synthesise

__all__ = ["SynthesisConfig", "synthesise"]
