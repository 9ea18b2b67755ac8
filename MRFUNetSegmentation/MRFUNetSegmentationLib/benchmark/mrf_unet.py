"""MRF-UNet of the paper (j = 3, K = 4) against nitorch's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..checkpoints.convert import nitorch
from ..networks import MRFUNet, MRFUNetConfig, last
from .measure import Row, compare

_PAPER = MRFUNetConfig.paper(3)
# Changes the labels of at most 0.1 % of the voxels.
EARLY_STOP_TOLERANCE = 5e-4


@torch.inference_mode()
def benchmark_mrf_unet(
    upstream_class: type[nn.Module] | None, size: Sequence[int], repeats: int
) -> Iterator[Row]:
    """Measure, one after another, the U-Net, the mean field, both, and both with the early stop.

    Args:
        upstream_class: nitorch's `SegMRFNet`; None to measure ours alone.
        size: of the volume, voxels.
        repeats: timed calls of each.
    """
    torch.manual_seed(0)
    upstream, network = _networks(upstream_class)
    network = network.eval().to(memory_format=torch.channels_last_3d)
    image = _image(size)
    ours_image = image.contiguous(memory_format=torch.channels_last_3d)
    logits = network.logits(ours_image)
    plain_logits = logits.contiguous()

    def mean_field(logits: Tensor, tolerance: float = 0.0) -> Tensor:
        return last(network.responsibilities(logits, tolerance=tolerance))

    def upstream_mean_field(logits: Tensor) -> Tensor:
        log_likelihood = logits - logits.logsumexp(dim=1, keepdim=True)
        return upstream.mrf.apply(log_likelihood, is_train=False)

    def row(name: str, upstream_call: Callable[[], Tensor], call: Callable[[], Tensor]) -> Row:
        return compare(name, upstream_call if upstream else None, call, repeats, _difference)

    def upstream_whole() -> Tensor:
        return upstream_mean_field(upstream.unet(image))

    steps = network.responsibilities(logits, tolerance=EARLY_STOP_TOLERANCE)
    stopped_after = sum(1 for _ in steps)
    iterations = f"{network.config.iterations} iterations"
    yield row("U-Net", lambda: upstream.unet(image), lambda: network.logits(ours_image))
    yield row(
        f"mean field, {iterations}",
        lambda: upstream_mean_field(plain_logits),
        lambda: mean_field(logits),
    )
    yield row(f"both, {iterations}", upstream_whole, lambda: mean_field(network.logits(ours_image)))
    yield row(
        f"both, stopped after {stopped_after} (tolerance {EARLY_STOP_TOLERANCE:g})",
        upstream_whole,
        lambda: mean_field(network.logits(ours_image), EARLY_STOP_TOLERANCE),
    )


def _networks(upstream_class: type[nn.Module] | None) -> tuple[nn.Module | None, MRFUNet]:
    """Return upstream's network and ours with the same random weights."""
    if upstream_class is None:
        network = MRFUNet(_PAPER)
        _strengthen(network.unet.stack[-1].conv, network.mrf.neighbours, network.mrf.final)
        return None, network
    upstream = upstream_class(
        _PAPER.dim,
        output_classes=_PAPER.classes,
        encoder=list(_PAPER.encoder),
        decoder=list(_PAPER.decoder),
        num_iter=_PAPER.iterations,
    ).eval()
    mrf = upstream.mrf.mrf
    _strengthen(upstream.unet.unet.stack[-1].conv, mrf.mrf.conv, mrf.final.conv)
    return upstream, nitorch.convert(upstream.state_dict(), {"iterations": _PAPER.iterations})


def _strengthen(output: nn.Module, neighbours: nn.Module, final: nn.Module) -> None:
    """Scale the weights so that the U-Net is decided and the MRF matters.

    As they are initialised the mean field converges at once, which would flatter the early stop.
    So it changes about a tenth of the labels and takes five iterations to settle.
    """
    output.weight *= 10
    output.bias *= 10
    neighbours.weight *= 2
    final.weight *= 2


def _image(size: Sequence[int]) -> Tensor:
    """Return blobs of about five voxels, and noise."""
    coarse = torch.randn(1, 1, *[max(2, n // 5) for n in size])
    blobs = functional.interpolate(coarse, tuple(size), mode="trilinear")
    return blobs + 0.1 * torch.randn_like(blobs)


def _difference(theirs: Tensor, ours: Tensor) -> str:
    equal = (theirs.argmax(1) == ours.argmax(1)).double().mean().item()
    return f"largest {(theirs - ours).abs().max().item():.1e}; labels equal {equal:.4%}"
