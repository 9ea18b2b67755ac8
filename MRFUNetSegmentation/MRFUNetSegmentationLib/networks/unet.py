"""U-Net of the MRF-UNet: strided convolutions down, transposed convolutions up.

Brudfors et al., MIDL 2021 (arXiv 2104.05495), section 2; the arithmetic of sizes follows the
authors' published implementation, so that checkpoints trained with it can be used unchanged.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

LEAKY_SLOPE = 0.2
KERNEL_SIZE = 3
STRIDE = 2
NORMS = ("batch", "instance", "none")
ACTIVATIONS = {
    "leaky_relu": functools.partial(nn.LeakyReLU, LEAKY_SLOPE, inplace=True),
    "relu": functools.partial(nn.ReLU, inplace=True),
    "none": nn.Identity,
}

_CONV = {2: nn.Conv2d, 3: nn.Conv3d}
_CONV_TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_BATCH_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def convolution(dim: int) -> type[nn.Module]:
    """Return torch's convolution for images of `dim` (2 or 3) spatial dimensions."""
    if dim not in _CONV:
        raise ValueError(f"networks are 2D or 3D, not {dim}D")
    return _CONV[dim]


def minimum_size(levels: int, strided_padding: int) -> int:
    """Return the smallest image side (voxels) that leaves one voxel at a U-Net's coarsest level."""
    return 1 if strided_padding else 2 ** (levels + 1) - 1


class InstanceNorm(nn.Module):
    """Normalises each channel of each image by its own mean and variance, then scales and shifts.

    What batch normalisation does in training with one image a batch, at inference too: no running
    statistics, which an image of an unusual contrast would not match.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised features, of the shape of x (B, C, *spatial)."""
        if x.shape[2:].numel() == 1:  # equal to its own mean; torch refuses to say so
            return torch.zeros_like(x) + self.bias.view(-1, *[1] * (x.dim() - 2))
        # torch's own instance_norm leaves the channels-last layout, which costs more than it does.
        images = [self._normalised(image) for image in x.split(1)]
        return images[0] if len(images) == 1 else torch.cat(images)

    def _normalised(self, image: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return functional.batch_norm(
                image, None, None, self.weight, self.bias, training=True, eps=self.eps
            )
        # On the CPU batch_norm adds up channels-last features one by one in float32: a deviation
        # of a whole head is up to 1 % off, and how far depends on the number of threads. So where
        # no gradient has to pass through the moments, they are computed exactly before it.
        axes = (0, *range(2, image.dim()))
        exact = image.to(torch.promote_types(image.dtype, torch.float32))
        variance, mean = (
            moment.to(self.weight.dtype) for moment in torch.var_mean(exact, axes, correction=0)
        )
        return functional.batch_norm(
            image, mean, variance, self.weight, self.bias, training=False, eps=self.eps
        )


class ConvBlock(nn.Module):
    """Normalisation, (transposed) convolution, activation (leaky ReLU 0.2): in this order."""

    def __init__(
        self, conv: nn.Module, dim: int, norm: str, activation: str = "leaky_relu"
    ) -> None:
        super().__init__()
        kind = {"batch": _BATCH_NORM[dim], "instance": InstanceNorm, "none": nn.Identity}[norm]
        self.norm = kind(conv.in_channels)
        self.conv = conv
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Map (B, C_in, *in) to (B, C_out, *out); `output_size` is for transposed ones."""
        x = self.norm(x)
        x = self.conv(x) if output_size is None else self.conv(x, output_size)
        return self.activation(x)


def _same_size_blocks(widths: Sequence[int], dim: int, norm: str) -> nn.Sequential:
    """Return blocks that keep the size and lead from each width to the next; none for one width."""
    return nn.Sequential(
        *(
            ConvBlock(convolution(dim)(i, o, KERNEL_SIZE, padding="same"), dim, norm)
            for i, o in itertools.pairwise(widths)
        )
    )


class UNet(nn.Module):
    """Encoder-decoder with skips by concatenation; the raw image is the last skip.

    Every encoder layer is an unpadded convolution of stride 2 (n -> (n - 1) // 2), every decoder
    layer a transposed one that meets the size of its skip exactly; so any size of image from
    `minimum_size` on works without padding or cropping. Entries of `decoder` beyond the number
    of encoder layers become full-resolution convolutions before the output convolution.

    With `layers` above 1, which the paper does not have, every level but the full resolution has
    further convolutions that keep the size. They cost little there, and a network that must read
    any contrast needs them: one convolution a level traces not even a clear edge of an unusual
    contrast.

    Args:
        dim: number of spatial dimensions, 2 or 3.
        in_channels: channels of the image.
        classes: channels of the output (K, the background or "other" class included).
        encoder: filters of each encoder layer, finest first.
        decoder: filters of each decoder layer, coarsest first, then the full-resolution ones.
        norm: "batch" as in the paper, "instance" (see `InstanceNorm`) or "none".
        layers: convolutions per level of the encoder and of the decoder, the one that changes
            the size included; 1 in the paper.
        strided_padding: zeros around the input of the strided convolutions; 0 in the paper. With
            1 an encoder layer leads from n to (n + 1) // 2.
        decoder_activations: of each entry of `decoder`: "leaky_relu", "relu" or "none"; None for
            leaky ReLU everywhere, as in the paper.

    Raises:
        ValueError: if `dim` is not 2 or 3, the decoder is shorter than the encoder, the
            normalisation or an activation is unknown, `layers` is below 1, or the padding is
            neither 0 nor 1.
    """

    def __init__(
        self,
        dim: int,
        in_channels: int,
        classes: int,
        encoder: Sequence[int],
        decoder: Sequence[int],
        norm: str = "batch",
        layers: int = 1,
        strided_padding: int = 0,
        decoder_activations: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        conv = convolution(dim)
        levels = len(encoder)
        if levels == 0 or len(decoder) < levels:
            raise ValueError(
                f"the decoder needs at least as many layers as the encoder, "
                f"got {len(decoder)} and {levels}"
            )
        if norm not in NORMS:
            raise ValueError(f"the normalisation must be one of {NORMS}, got {norm!r}")
        if layers < 1:
            raise ValueError(f"a level needs at least 1 layer, got {layers}")
        if strided_padding not in (0, 1):
            raise ValueError(f"the padding must be 0 or 1, got {strided_padding}")
        activations = list(decoder_activations or ["leaky_relu"] * len(decoder))
        if len(activations) != len(decoder) or not ACTIVATIONS.keys() >= set(activations):
            raise ValueError(
                f"each of the {len(decoder)} decoder layers needs one of {tuple(ACTIVATIONS)}, "
                f"got {activations}"
            )
        self.dim = dim
        self.in_channels = in_channels
        self.strided_padding = strided_padding

        skips = [in_channels, *encoder]
        self.encoder = nn.ModuleList(
            ConvBlock(conv(i, o, KERNEL_SIZE, STRIDE, strided_padding), dim, norm)
            for i, o in itertools.pairwise(skips)
        )
        self.encoder_extra = nn.ModuleList(
            _same_size_blocks([o] * layers, dim, norm) for o in encoder
        )

        channels = skips.pop()
        self.decoder = nn.ModuleList()
        self.decoder_extra = nn.ModuleList()
        for filters, activation in zip(decoder[:levels], activations[:levels], strict=True):
            up = _CONV_TRANSPOSED[dim](channels, filters, KERNEL_SIZE, STRIDE, strided_padding)
            self.decoder.append(ConvBlock(up, dim, norm, activation))
            channels = filters + skips.pop()
            # At full resolution the stack takes over.
            extra = layers - 1 if skips else 0
            self.decoder_extra.append(_same_size_blocks([channels] + [filters] * extra, dim, norm))
            channels = filters if extra else channels

        widths = [channels, *decoder[levels:], classes]
        self.stack = nn.ModuleList(
            ConvBlock(conv(i, o, KERNEL_SIZE, padding="same"), dim, norm, activation)
            for (i, o), activation in zip(
                itertools.pairwise(widths), [*activations[levels:], "none"], strict=True
            )
        )

    @property
    def minimum_size(self) -> int:
        """Smallest image side (voxels) that leaves one voxel at the coarsest level."""
        return minimum_size(len(self.encoder), self.strided_padding)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits (B, K, *spatial) of an image (B, C, *spatial).

        Raises:
            ValueError: if the image has the wrong number of dimensions or channels or a side
                shorter than `minimum_size`.
        """
        self._check(image)
        skips = [image]
        for block, extra in zip(self.encoder, self.encoder_extra, strict=True):
            skips.append(extra(block(skips[-1])))
        x = skips.pop()
        for block, extra in zip(self.decoder, self.decoder_extra, strict=True):
            skip = skips.pop()
            x = extra(torch.cat((block(x, skip.shape[2:]), skip), dim=1))
        for block in self.stack:
            x = block(x)
        return x

    @torch.no_grad()
    def add_to_logits(self, offsets: Sequence[float]) -> None:
        """Add a constant to the logits of each class, for good."""
        bias = self.stack[-1].conv.bias
        bias += bias.new_tensor(offsets)

    def _check(self, image: Tensor) -> None:
        if image.dim() != self.dim + 2 or image.shape[1] != self.in_channels:
            raise ValueError(
                f"expected an image (batch, {self.in_channels}, {self.dim} spatial dimensions), "
                f"got shape {tuple(image.shape)}"
            )
        if min(image.shape[2:]) < self.minimum_size:
            raise ValueError(
                f"every side of the image must have at least {self.minimum_size} voxels, "
                f"got {tuple(image.shape[2:])}"
            )
