"""An MRF-UNet on a volume."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from ..networks import MRFUNet, last
from .batches import Place, Slices, WholeVolume
from .run import BACK, INTENSITIES, MEAN_FIELD, RESAMPLING, UNET, Run


class MRFUNetPredictor:
    """Posteriors of a volume on the network's grid.

    Attributes:
        begins: share of a run that is over when each stage begins, measured on a CPU core.
        crops: what lies far around the subject need not be computed.

    Args:
        network: on the device, in evaluation mode.
        batches: how the network takes a volume.
        device: the network's.
        tolerance: ends the mean field early; 0 does not (see `networks.mrf.mean_field`).
        mrf: whether the network's MRF is used, if it has one.
    """

    begins = {RESAMPLING: 0.0, UNET: 0.05, MEAN_FIELD: 0.41, INTENSITIES: 0.7, BACK: 0.94}  # noqa: RUF012
    crops = True

    def __init__(
        self,
        network: MRFUNet,
        batches: WholeVolume | Slices,
        device: torch.device,
        tolerance: float = 0.0,
        mrf: bool = True,
    ) -> None:
        self.network = network
        self.batches = batches
        self.device = device
        self.tolerance = tolerance
        self.mrf = mrf and network.mrf is not None

    def posterior(self, image: Tensor, run: Run) -> Tensor:
        """Return the class posteriors (K, *shape) of an image (C, *shape), on the CPU."""
        images = self.batches.split(image)
        padded, inner = _padded(images, self.network.unet.minimum_size)
        run.begin(UNET)
        with run.watching(self.network.unet, self.batches.passes(padded)):
            logits = self.batches.assemble(
                lambda place: self.network.logits(self._placed(padded[place])),
                padded,
                self.network.config.classes,
            )
        posterior = self._mean_field(self._placed(logits), run)
        return self.batches.join(posterior[inner].cpu())

    def _mean_field(self, logits: Tensor, run: Run) -> Tensor:
        if not self.mrf:
            return functional.softmax(logits, dim=1)
        run.begin(MEAN_FIELD)
        steps = self.network.responsibilities(logits, tolerance=self.tolerance)
        return last(self._followed(steps, run))

    def _followed(self, steps: Iterator[Tensor], run: Run) -> Iterator[Tensor]:
        """Yield the steps of the mean field, and advance with each."""
        for number, responsibilities in enumerate(steps, start=1):
            run.advance(number / self.network.config.iterations)
            yield responsibilities

    def _placed(self, batch: Tensor) -> Tensor:
        return batch.to(self.device, memory_format=self.batches.layout)


def _padded(images: Tensor, smallest: int) -> tuple[Tensor, Place]:
    """Pad with background to the network's smallest size; also where the images lie then."""
    size = images.shape[2:]
    before = [max(0, smallest - n) // 2 for n in size]
    after = [max(0, smallest - n) - b for n, b in zip(size, before, strict=True)]
    widths = [w for pair in zip(reversed(before), reversed(after), strict=True) for w in pair]
    inner = tuple(slice(b, b + n) for b, n in zip(before, size, strict=True))
    return functional.pad(images, widths), (slice(None), slice(None), *inner)
