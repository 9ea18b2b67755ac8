"""Probabilistic U-Net: a conditional variational auto-encoder around a U-Net.

Kohl, Romera-Paredes, Meyer, De Fauw, Ledsam, Maier-Hein, Eslami, Rezende, Ronneberger: "A
Probabilistic U-Net for Segmentation of Ambiguous Images", NeurIPS 2018 (arXiv 1806.05034). The
arithmetic follows the published PyTorch port, so that checkpoints trained with it can be used.

Sampling is split so that the expensive part is done once for an image:

    projected = network.project(network.features(image))
    prior = network.prior(image)
    for epsilon in …:
        logits = network.decode(projected, prior.mean + prior.stddev * epsilon)

Beyond the paper it may carry a Markov random field as a further expert (see `ProductOfExperts`):
the logits of each sample then go through the mean field, and every hypothesis is spatially regular.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal
from torch.nn import functional

from .hyper_parameters import HyperParameters
from .mrf import MRF
from .product_of_experts import ProductOfExperts, check_mean_field, check_sizes
from .unet import KERNEL_SIZE, convolution

_POOL = {2: functional.avg_pool2d, 3: functional.avg_pool3d}
_UPSAMPLING = {2: "bilinear", 3: "trilinear"}
_BATCH_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_DROPOUT = {2: nn.Dropout2d, 3: nn.Dropout3d}
_NORMS = ("none", "batch")
_WITH_DROPOUT = 3  # scales, the coarsest ones, as Kohl et al. have it in their baseline


@dataclass(frozen=True)
class ProbabilisticUNetConfig(HyperParameters):
    """Hyper-parameters of a `ProbabilisticUNet`; the defaults are the published port's.

    Attributes:
        dim: number of spatial dimensions, 2 or 3.
        classes: channels of the output: 1 for a sigmoid (background and one structure), else the
            K classes of a softmax, the background or "other" class included.
        in_channels: channels of the image.
        filters: filters at each scale, finest first.
        convolutions: convolutions per scale.
        norm: "batch" for a batch normalisation after every 3x3(x3) convolution, "none" as in the
            paper.
        dropout: probability with which the U-Net leaves out channels at its three coarsest scales.
        latent: dimension of the latent space; 0 for a plain U-Net.
        informed: True to show the posterior what the U-Net finds at the latent 0, too. What a rater
            differs in is then plain to see. It plays no part at inference.
        f_comb_layers: 1x1(x1) convolutions of f_comb, the last one to the classes included.
        mrf: True for an MRF over the labels of each sample; it has two classes for a sigmoid.
        mrf_filters, mrf_extra_layers, iterations, training_iterations, w: of the MRF and its mean
            field, as in `MRFUNetConfig`.
    """

    dim: int = 2
    classes: int = 1
    in_channels: int = 1
    filters: tuple[int, ...] = (32, 64, 128, 192)
    convolutions: int = 3
    norm: str = "none"
    dropout: float = 0.0
    latent: int = 6
    informed: bool = False
    f_comb_layers: int = 4
    mrf: bool = False
    mrf_filters: int | None = None
    mrf_extra_layers: int = 0
    iterations: int = 10
    training_iterations: tuple[int, int] = (5, 15)
    w: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_mean_field(self.iterations, self.training_iterations, self.w)
        for name, least in (
            ("classes", 1), ("in_channels", 1), ("convolutions", 1), ("latent", 0),
            ("f_comb_layers", 2),
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        layers = (self.convolutions, self.f_comb_layers, self.mrf_extra_layers)
        check_sizes(self.filters, layers=layers)
        if self.norm not in _NORMS:
            raise ValueError(f"the normalisation must be one of {_NORMS}, got {self.norm!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in 0..1, 1 excluded, got {self.dropout}")
        if not self.filters:
            raise ValueError("filters: at least one scale is needed")


class ConvStack(nn.Sequential):
    """Padded 3x3(x3) convolutions, each followed by the normalisation, if any, and a ReLU.

    At the end, if `dropout` is above 0, channels are left out with this probability.
    """

    def __init__(
        self,
        config: ProbabilisticUNetConfig,
        in_channels: int,
        filters: int,
        dropout: float = 0.0,
    ) -> None:
        dim = config.dim
        layers: list[nn.Module] = []
        for channels in (in_channels, *[filters] * (config.convolutions - 1)):
            layers.append(convolution(dim)(channels, filters, KERNEL_SIZE, padding=1))
            if config.norm == "batch":
                layers.append(_BATCH_NORM[dim](filters))
            layers.append(nn.ReLU(True))
        if dropout:
            layers.append(_DROPOUT[dim](dropout))
        super().__init__(*layers)


class Encoder(nn.Module):
    """Contracting path: a stack of convolutions at each scale, average pooling between them."""

    def __init__(
        self, config: ProbabilisticUNetConfig, in_channels: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.pool = _POOL[config.dim]
        deepest = len(config.filters) - _WITH_DROPOUT
        self.scales = nn.ModuleList(
            ConvStack(config, i, o, dropout if scale >= deepest else 0.0)
            for scale, (i, o) in enumerate(itertools.pairwise((in_channels, *config.filters)))
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the features at each scale, finest first, of an image (B, C, *spatial).

        Any size works: windows of the pooling that stick out average what lies inside.
        """
        features = [self.scales[0](image)]
        for scale in self.scales[1:]:
            features.append(scale(self.pool(features[-1], 2, ceil_mode=True)))
        return features


class FeatureUNet(nn.Module):
    """The deterministic U-Net, without an output layer."""

    def __init__(self, config: ProbabilisticUNetConfig) -> None:
        super().__init__()
        filters = config.filters
        self.mode = _UPSAMPLING[config.dim]
        self.encoder = Encoder(config, config.in_channels, config.dropout)
        self.decoder = nn.ModuleList(
            ConvStack(config, below + own, own, config.dropout if step < _WITH_DROPOUT - 1 else 0.0)
            for step, (own, below) in enumerate(reversed(list(itertools.pairwise(filters))))
        )

    def forward(self, image: Tensor) -> Tensor:
        """Return features (B, F, *spatial) of an image whose sides divide by the stride."""
        *skips, x = self.encoder(image)
        for stack in self.decoder:
            x = functional.interpolate(x, scale_factor=2, mode=self.mode, align_corners=True)
            x = stack(torch.cat((x, skips.pop()), dim=1))
        return x


class GaussianEncoder(nn.Module):
    """Axis-aligned Gaussian over the latent space, from an image (and, posterior, its labels)."""

    def __init__(self, config: ProbabilisticUNetConfig, in_channels: int) -> None:
        super().__init__()
        self.encoder = Encoder(config, in_channels)
        self.moments = nn.Linear(config.filters[-1], 2 * config.latent)

    def forward(self, x: Tensor) -> Independent:
        """Return the Gaussian (B, latent) of an input (B, C, *spatial)."""
        pooled = self.encoder(x)[-1].flatten(2).mean(2)
        mean, log_scale = self.moments(pooled).chunk(2, dim=1)
        return Independent(Normal(mean, log_scale.exp(), validate_args=False), 1)

    @torch.no_grad()
    def scale_by(self, factor: float) -> None:
        """Multiply the standard deviations by a factor, for good."""
        self.moments.bias[len(self.moments.bias) // 2 :] += math.log(factor)


class _NoLatent(nn.Module):
    """Gaussian over a latent space without dimensions."""

    def __init__(self, _config: ProbabilisticUNetConfig, _in_channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Independent:
        nothing = x.new_zeros(len(x), 0)
        return Independent(Normal(nothing, nothing, validate_args=False), 1)

    def scale_by(self, factor: float) -> None:
        """Do nothing: there are no standard deviations."""


class _NoShift(nn.Module):
    """What a latent without dimensions adds to the features."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, z: Tensor) -> Tensor:
        return z.new_zeros(*z.shape[:-1], self.width)


class FComb(nn.Module):
    """Combines features and a latent vector to logits by 1x1(x1) convolutions.

    The first of them is linear in [features; z], so it is kept as two: what it does to the
    features is computed once for an image, and a sample adds one vector.
    """

    def __init__(self, config: ProbabilisticUNetConfig) -> None:
        super().__init__()
        conv, width = convolution(config.dim), config.filters[0]
        self.features = conv(width, width, 1)
        self.latent = (
            nn.Linear(config.latent, width, bias=False) if config.latent else _NoShift(width)
        )
        self.hidden = nn.ModuleList(conv(width, width, 1) for _ in range(config.f_comb_layers - 2))
        self.final = conv(width, config.classes, 1)

    def forward(self, projected: Tensor, z: Tensor) -> Tensor:
        """Return logits (B, K, *spatial) of projected features (B, F, *spatial), z (B, latent)."""
        shift = self.latent(z)
        x = functional.relu(projected + shift.view(*shift.shape, *[1] * (projected.dim() - 2)))
        for layer in self.hidden:
            x = functional.relu(layer(x), inplace=True)
        return self.final(x)


def padded_to(image: Tensor, shape: Sequence[int]) -> Tensor:
    """Pad an image (B, C, *size) on all sides to (B, C, *shape) with the values at its border."""
    missing = [n - own for n, own in zip(shape, image.shape[2:], strict=True)]
    if not any(missing):
        return image
    widths = [w for m in reversed(missing) for w in (m // 2, m - m // 2)]
    return functional.pad(image, widths, mode="replicate")


class ProbabilisticUNet(ProductOfExperts):
    """Samples plausible segmentations of an image."""

    def __init__(self, config: ProbabilisticUNetConfig) -> None:
        super().__init__()
        convolution(config.dim)  # refuses other dimensions than 2 and 3
        self.config = config
        self.unet = FeatureUNet(config)
        given = 2 if config.informed else 1
        gaussian = GaussianEncoder if config.latent else _NoLatent
        self.prior_encoder = gaussian(config, config.in_channels)
        self.posterior_encoder = gaussian(config, config.in_channels + given)
        self.f_comb = FComb(config)
        for module in self.modules():
            if isinstance(module, convolution(config.dim)):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)
        self.mrf = (
            MRF(config.dim, max(2, config.classes), config.mrf_filters, config.mrf_extra_layers)
            if config.mrf
            else None
        )

    @property
    def stride(self) -> int:
        """Total stride: sides that divide by it need no padding."""
        return 2 ** (len(self.config.filters) - 1)

    def forward(self, image: Tensor, epsilon: Tensor | None = None) -> Tensor:
        """Return the class probabilities (B, K, *spatial) of one hypothesis, by the MRF if any.

        Args:
            image: (B, C, *spatial).
            epsilon: (B, latent) or (latent,), the latent in units of the prior's standard
                deviation from its mean; None for the prior's mean.
        """
        prior = self.prior(image)
        z = prior.mean if epsilon is None else prior.mean + prior.stddev * epsilon
        logits = self.decode(self.project(self.features(image)), z)
        if self.mrf is None:
            return self.probabilities(logits)
        probabilities = self.log_posterior(logits).exp()
        return probabilities[:, 1:] if self.config.classes == 1 else probabilities

    def features(self, image: Tensor) -> Tensor:
        """Return the U-Net's features (B, F, *spatial) of an image (B, C, *spatial).

        Sides that do not divide by the stride are padded with the values at the border, which
        look most like more of the same, and cropped again.

        Raises:
            ValueError: if the image has the wrong number of dimensions or channels.
        """
        self._check(image)
        size = image.shape[2:]
        missing = [-n % self.stride for n in size]
        image = padded_to(image, [n + m for n, m in zip(size, missing, strict=True)])
        inner = tuple(slice(m // 2, m // 2 + n) for m, n in zip(missing, size, strict=True))
        return self.unet(image)[(slice(None), slice(None), *inner)]

    def prior(self, image: Tensor) -> Independent:
        """Return p(z | x), a Gaussian over (B, latent), of an image (B, C, *spatial)."""
        self._check(image)
        return self.prior_encoder(image)

    def posterior(
        self, image: Tensor, labels: Tensor, projected: Tensor | None = None
    ) -> Independent:
        """Return q(z | x, y), a Gaussian over (B, latent).

        Args:
            image: (B, C, *spatial).
            labels: (B, *spatial), values 0 .. K - 1; they enter as one channel.
            projected: of the image; computed if need be.
        """
        self._check(image)
        channels = [image, labels[:, None].to(image)]
        if self.config.informed:
            channels.append(self._foreground(image, projected))
        return self.posterior_encoder(torch.cat(channels, dim=1))

    @torch.no_grad()
    def _foreground(self, image: Tensor, projected: Tensor | None) -> Tensor:
        """Return the probability (B, 1, *spatial) of anything but class 0 at the latent 0."""
        if projected is None:
            projected = self.project(self.features(image))
        logits = self.decode(projected, image.new_zeros(len(image), self.config.latent))
        return 1 - self.log_likelihood(logits)[:, :1].exp().to(image)

    def project(self, features: Tensor) -> Tensor:
        """Return what f_comb's first layer makes of features (B, F, *spatial), without z."""
        return self.f_comb.features(features)

    def decode(self, projected: Tensor, z: Tensor) -> Tensor:
        """Return the logits (B, K, *spatial) of projected features and a latent z (B, latent)."""
        return self.f_comb(projected, z)

    @torch.no_grad()
    def expect_foreground(self, share: float) -> None:
        """Let the logits begin where a share (0..1) of the voxels is foreground, spread evenly.

        Where little is, an untrained network's first many steps, and its largest gradients, are
        about the background alone (Lin et al., "Focal loss", ICCV 2017, section 4.1).
        """
        odds = share / (1 - share)
        bias = self.f_comb.final.bias
        if self.config.classes == 1:
            bias.fill_(math.log(odds))
        else:
            bias.fill_(math.log(odds / (self.config.classes - 1)))
            bias[0] = 0.0

    def log_likelihood(self, logits: Tensor) -> Tensor:
        """Return the log-probabilities of logits; of a sigmoid's (B, 1, …), of both classes."""
        if self.config.classes == 1:  # sigmoid(x) = softmax((0, x))
            logits = torch.cat((torch.zeros_like(logits), logits), dim=1)
        return super().log_likelihood(logits)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return class probabilities (B, K, *spatial) without the MRF.

        Sigmoid of one channel, else softmax.
        """
        return logits.sigmoid() if self.config.classes == 1 else logits.softmax(dim=1)

    def _check(self, image: Tensor) -> None:
        dim, channels = self.config.dim, self.config.in_channels
        if image.dim() != dim + 2 or image.shape[1] != channels:
            raise ValueError(
                f"expected an image (batch, {channels}, {dim} spatial dimensions), "
                f"got shape {tuple(image.shape)}"
            )
