"""A volume's features and prior, kept: any latent then gives a segmentation at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..checkpoints.card import SegmentClass
from ..errors import InputError
from ..uncertainty.consensus import majority_consensus, mean_consensus, staple_consensus
from ..uncertainty.statistics import RunningStatistics
from ..uncertainty.structures import Overlaps, principal_directions, volume_statistics
from . import sampled
from .label_maps import compress, decompress
from .probabilistic import Encoding
from .run import COUNTING, SAMPLING, Progress, Run
from .sampled import SampledResult, check_consensus, check_number
from .to_volume import ToVolume
from .volume import Geometry

if TYPE_CHECKING:
    from .engine import Segmenter


# Called with the number 0 .. N - 1 of a sample, its compressed labels and, [K, k, j, i], its class
# probabilities.
OnSample = Callable[[int, bytes, "np.ndarray | None"], None]


@dataclass(frozen=True)
class LatentSpace:
    """What all plausible segmentations of a volume share.

    A latent is given by its epsilon (latent,): standard deviations of the prior from its mean.

    Attributes:
        segmenter: whose model it is.
        geometry: the volume's.
        encoding: features and prior.
        to_volume: the way back to the volume's grid.
        run: its timings and warnings go on to what follows.
        warnings: of the run until here.
    """

    segmenter: Segmenter
    geometry: Geometry
    encoding: Encoding
    to_volume: ToVolume
    run: Run
    warnings: tuple[str, ...] = ()

    def again(self, number: int, progress: Progress, cancelled: Callable[[], bool]) -> LatentSpace:
        """Return the same for another run, which need not compute it again.

        Args:
            number: of samples that will follow, for the progress.
            progress: as for `Segmenter.segment`.
            cancelled: likewise.
        """
        begins = self.segmenter.predictor.sampling_begins(number)
        first = begins[SAMPLING]
        rest = {s: (begins[s] - first) / (1 - first) for s in (SAMPLING, COUNTING)}
        run = Run(rest, progress, cancelled)
        run.warnings.extend(self.warnings)
        return replace(self, run=run)

    @torch.inference_mode()
    def labels(self, epsilon: np.ndarray) -> np.ndarray:
        """Return the segmentation of a latent: uint8 [k, j, i]."""
        return self.to_volume.labels(self._posterior(_tensor(epsilon))).numpy()

    @torch.inference_mode()
    def probabilities(self, epsilon: np.ndarray) -> Iterator[Tensor]:
        """Return an iterator over the probabilities [k, j, i] of class 0, 1, … of a latent."""
        return self.to_volume.probabilities(self._posterior(_tensor(epsilon)))

    @torch.inference_mode()
    def slice_labels(self, epsilon: np.ndarray, voxel: tuple[int, int, int]) -> list[np.ndarray]:
        """Return the three slices of a latent's segmentation through a voxel, much faster.

        An approximation for a slider that moves: an MRF does not see the neighbours across a slice
        (see `ProbabilisticPredictor.decode_planes`), and what is apart from the main piece stays.

        Args:
            epsilon: (latent,).
            voxel: k, j, i.

        Returns:
            uint8 [j, i] at k, [k, i] at j and [k, j] at i.

        Raises:
            InputError: if the voxel is outside.
        """
        shape = self.geometry.size[::-1]
        if not all(0 <= index < n for index, n in zip(voxel, shape, strict=True)):
            raise InputError(f"There is no voxel [k, j, i] {voxel} in a volume of {shape}.")
        slabs = [self.to_volume.slab(axis, index) for axis, index in enumerate(voxel)]
        decoded = self.segmenter.on_device(
            lambda predictor: [
                predictor.decode_planes(self.encoding, _tensor(epsilon), slab.box, slab.across)
                for slab in slabs
            ],
            self.run,
        )
        return [
            self.to_volume.slice_labels(probabilities, slab)
            for probabilities, slab in zip(decoded, slabs, strict=True)
        ]

    def latents(self, number: int, seed: int) -> Iterator[np.ndarray]:
        """Yield the epsilon (latent,) of each sample.

        They are drawn on the CPU, so that a seed gives the same ones on every device.
        """
        rng = torch.Generator().manual_seed(seed)
        for _ in range(number):
            yield torch.randn(self.encoding.latent, generator=rng).numpy()

    @torch.inference_mode()
    def sample(
        self,
        number: int,
        seed: int = 0,
        consensus: str = "mean",
        on_sample: OnSample = lambda sample, compressed, probabilities: None,
        keep_probabilities: bool = False,
    ) -> SampledResult:
        """Draw plausible segmentations and say what they have in common.

        Memory holds the compressed label maps, and else what does not depend on their number.

        Args:
            number: 1 to 1000.
            seed: of the latents.
            consensus: "mean" (largest mean probability), "majority" or "staple".
            on_sample: called with each sample when it is drawn.
            keep_probabilities: whether `on_sample` gets the probabilities, or None for them.

        Raises:
            InputError: for an impossible number or consensus.
            Cancelled: as soon as the run is to end.
        """
        check_number(number)
        check_consensus(consensus)
        run, card = self.run, self.segmenter.checkpoint.card
        statistics = RunningStatistics(len(card.classes), self.geometry.size[::-1])
        compressed, epsilons = [], []
        run.begin(SAMPLING)
        for n, epsilon in enumerate(self.latents(number, seed)):
            classes = self.probabilities(epsilon)
            with run.checking():
                kept = [p.numpy() for p in classes] if keep_probabilities else None
                given = map(torch.from_numpy, kept) if keep_probabilities else classes
                labels = statistics.add(given)
            compressed.append(compress(labels.numpy()))
            epsilons.append(epsilon)
            on_sample(n, compressed[-1], np.stack(kept) if keep_probabilities else None)
            run.advance((n + 1) / number)
        run.begin(COUNTING)
        return self._result(statistics, compressed, epsilons, seed, consensus)

    def _result(
        self,
        statistics: RunningStatistics,
        compressed: list[bytes],
        epsilons: list[np.ndarray],
        seed: int,
        method: str,
    ) -> SampledResult:
        run, segmenter, geometry = self.run, self.segmenter, self.geometry
        classes = segmenter.checkpoint.card.classes
        structures = [c for c in classes if not c.background]
        shape = geometry.size[::-1]

        def labels(n: int) -> np.ndarray:
            run.check()
            return decompress(compressed[n], shape)

        if method == "staple":
            agreed = staple_consensus(labels, statistics)
        else:
            agreed = {"mean": mean_consensus, "majority": majority_consensus}[method](statistics)
        consensus = agreed.numpy()
        overlaps = Overlaps.of(labels, len(compressed), statistics.counts, consensus)
        values = [c.value for c in structures]
        epsilon = np.stack(epsilons).astype(np.float64)
        entries = [_structure(c, overlaps, geometry.voxel_ml) for c in structures]
        for entry in entries:
            if entry["iou"] is None:
                run.warn(f"No sample contains {entry['name']}.")
        maps = {
            name: getattr(statistics, name).numpy()
            for name in (
                sampled.VARIANCE,
                sampled.ENTROPY,
                sampled.EXPECTED_ENTROPY,
                sampled.MUTUAL_INFORMATION,
                sampled.AGREEMENT,
            )
        }
        for c in classes:
            maps[f"{sampled.PROBABILITY}{c.value}"] = statistics.mean[c.value].numpy()
        directions = [
            {"direction": direction.tolist(), "share": share}
            for direction, share in principal_directions(epsilon, overlaps, values)
        ]
        run.end()
        return SampledResult(
            compressed=compressed,
            seed=seed,
            geometry=geometry,
            consensus=consensus,
            consensus_method=method,
            maps=maps,
            structures=entries,
            per_sample=self._per_sample(epsilon, overlaps, values),
            directions=directions,
            card=segmenter.checkpoint.card,
            sha256=segmenter.checkpoint.sha256,
            device=segmenter.device_name,
            options=segmenter.options,
            timings=run.timings,
            warnings=list(run.warnings),
        )

    def _per_sample(
        self, epsilon: np.ndarray, overlaps: Overlaps, values: list[int]
    ) -> list[dict[str, Any]]:
        """Return `SampledResult.per_sample` of latents (N, latent), for the classes of values."""
        distances = overlaps.distance_to_consensus(values)
        ml = self.geometry.voxel_ml
        return [
            {
                "volumes_ml": {v: float(overlaps.voxels(v)[n]) * ml for v in values},
                "log_density": self.encoding.log_density(_tensor(latent)),
                "distance_to_consensus": float(distances[n]),
                "epsilon": latent.tolist(),
            }
            for n, latent in enumerate(epsilon)
        ]

    def _posterior(self, epsilon: Tensor) -> Tensor:
        return self.segmenter.on_device(
            lambda predictor: predictor.decode(self.encoding, epsilon), self.run
        )


def _structure(of: SegmentClass, overlaps: Overlaps, ml: float) -> dict[str, Any]:
    """Return the entry of `SampledResult.structures` for a class; `ml` is a voxel's volume."""
    return {
        "value": of.value,
        "name": of.name,
        "color": list(of.color),
        "segment_id": of.segment_id,
        "volume_ml": volume_statistics(overlaps.voxels(of.value) * ml),
        "consensus_ml": overlaps.consensus_voxels(of.value) * ml,
        "iou": overlaps.iou_of_all(of.value),
        "pairwise_dice": overlaps.mean_pairwise_dice(of.value),
    }


def _tensor(epsilon: np.ndarray) -> Tensor:
    return torch.as_tensor(np.asarray(epsilon), dtype=torch.float32)
