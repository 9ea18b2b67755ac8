"""The networks: they map tensors to tensors and know nothing of files, devices or users."""

from .mrf import MRF, last, mean_field
from .mrf_unet import MRFUNet, MRFUNetConfig
from .probabilistic_unet import ProbabilisticUNet, ProbabilisticUNetConfig
from .unet import UNet

__all__ = [
    "MRF",
    "MRFUNet",
    "MRFUNetConfig",
    "ProbabilisticUNet",
    "ProbabilisticUNetConfig",
    "UNet",
    "last",
    "mean_field",
]
