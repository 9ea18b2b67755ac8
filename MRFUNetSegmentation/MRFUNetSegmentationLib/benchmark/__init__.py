"""Speed and agreement with the published implementations, measured side by side in one run."""

from .measure import Row
from .mrf_unet import benchmark_mrf_unet
from .probabilistic_unet import benchmark_probabilistic_unet
from .upstream import load_nitorch, load_probabilistic_unet

__all__ = [
    "Row",
    "benchmark_mrf_unet",
    "benchmark_probabilistic_unet",
    "load_nitorch",
    "load_probabilistic_unet",
]
