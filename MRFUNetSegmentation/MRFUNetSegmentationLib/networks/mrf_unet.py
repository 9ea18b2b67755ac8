"""MRF-UNet: U-Net and Markov random field as a product of experts.

Brudfors, Balbastre, Ashburner, Rees, Nachev, Ourselin, Cardoso: "An MRF-UNet Product of Experts
for Image Segmentation", MIDL 2021 (arXiv 2104.05495).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from .hyper_parameters import HyperParameters
from .mrf import MRF, last
from .product_of_experts import ProductOfExperts, check_mean_field, check_sizes
from .unet import UNet, minimum_size


@dataclass(frozen=True)
class MRFUNetConfig(HyperParameters):
    """Hyper-parameters of an `MRFUNet`; the defaults are those of nitorch's `SegMRFNet`.

    Plain numbers, so that a model card can hold them.

    Attributes:
        dim: number of spatial dimensions, 2 or 3.
        classes: K, the background or "other" class included.
        in_channels: channels of the image.
        encoder: filters of the U-Net's encoder layers, finest first.
        decoder: filters of its decoder layers, coarsest first, then of the full-resolution ones.
        norm: normalisation in the U-Net, "batch" as in the paper, "instance" or "none".
        layers: convolutions per level of the U-Net; 1 in the paper (see `UNet`).
        strided_padding: padding of the strided convolutions; 0 in the paper (see `UNet`).
        decoder_activations: of each entry of `decoder`; None for the paper's (see `UNet`).
        mrf: False for a U-Net on its own (the paper's baseline).
        mrf_filters: hidden channels of the MRF; None means min(K^2, 64).
        mrf_extra_layers: number of 1x1(x1) hidden layers in the MRF.
        mrf_free_centre: keep the kernel's centre weight (see `MRF`).
        iterations: mean-field iterations at test time.
        training_iterations: bounds (inclusive) of the number drawn at each training step.
        w: damping weight of the mean field, in (0, 1].
    """

    dim: int = 3
    classes: int = 4
    in_channels: int = 1
    encoder: tuple[int, ...] = (16, 32, 32, 32)
    decoder: tuple[int, ...] = (32, 32, 32, 32, 32, 16, 16)
    norm: str = "batch"
    layers: int = 1
    strided_padding: int = 0
    decoder_activations: tuple[str, ...] | None = None
    mrf: bool = True
    mrf_filters: int | None = None
    mrf_extra_layers: int = 0
    mrf_free_centre: bool = False
    iterations: int = 10
    training_iterations: tuple[int, int] = (5, 15)
    w: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_mean_field(self.iterations, self.training_iterations, self.w)
        check_sizes(self.encoder, self.decoder, layers=(self.layers, self.mrf_extra_layers))

    @property
    def minimum_size(self) -> int:
        """See `HyperParameters`."""
        return minimum_size(len(self.encoder), self.strided_padding)

    @classmethod
    def paper(cls, j: int, classes: int = 4, **changes) -> MRFUNetConfig:
        """Return the paper's network: five layers of 2^j .. 2^(j+4) filters, mirrored."""
        filters = tuple(2 ** (j + level) for level in range(5))
        return cls(classes=classes, encoder=filters, decoder=filters[::-1], **changes)


class MRFUNet(ProductOfExperts):
    """Class posteriors of an image from a U-Net and an MRF prior, by mean field."""

    def __init__(self, config: MRFUNetConfig) -> None:
        super().__init__()
        self.config = config
        self.unet = UNet(
            config.dim,
            config.in_channels,
            config.classes,
            config.encoder,
            config.decoder,
            config.norm,
            config.layers,
            config.strided_padding,
            config.decoder_activations,
        )
        self.mrf = (
            MRF(
                config.dim,
                config.classes,
                config.mrf_filters,
                config.mrf_extra_layers,
                free_centre=config.mrf_free_centre,
            )
            if config.mrf
            else None
        )

    @property
    def stride(self) -> int:
        """Total stride of the U-Net."""
        return 2 ** len(self.config.encoder)

    def forward(self, image: Tensor) -> Tensor:
        """Return the class posteriors (B, K, *spatial) of an image (B, C, *spatial).

        The number of mean-field iterations is `config.iterations`; in training mode it is drawn
        from torch's default generator within `config.training_iterations`.
        """
        logits = self.logits(image)
        if self.mrf is None:
            return functional.softmax(logits, dim=1)
        return last(self.responsibilities(logits, self._iterations()))

    def logits(self, image: Tensor) -> Tensor:
        """Return the U-Net's logits (B, K, *spatial) of an image (B, C, *spatial)."""
        return self.unet(image)
