"""One segmentation for many samples."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from ..boxes import occupied_box
from ..errors import InputError
from .statistics import RunningStatistics, most_probable

# STAPLE holds all samples at once.
_STAPLE_BYTES = 2 * 10**9
# SimpleITK's default is no limit.
_STAPLE_ITERATIONS = 50


def mean_consensus(statistics: RunningStatistics) -> Tensor:
    """Return the labels (*shape) of the largest mean probability."""
    return most_probable(statistics.mean)


def majority_consensus(statistics: RunningStatistics) -> Tensor:
    """Return the most frequent labels (*shape); of equally frequent ones the more probable."""
    # Below one half, so that it decides between equal counts only.
    return most_probable(
        c + 0.49 * p for c, p in zip(statistics.counts, statistics.mean, strict=True)
    )


def staple_consensus(labels: Callable[[int], np.ndarray], statistics: RunningStatistics) -> Tensor:
    """Return the labels [k, j, i] by multi-label STAPLE, of SimpleITK.

    Simultaneous truth and performance level estimation: Warfield et al., IEEE TMI 2004; for
    several labels Rohlfing et al., IPMI 2003. It sees the box in which any sample has a structure;
    where it is undecided the majority decides.

    Args:
        labels: returns the label map [k, j, i] of sample 0 .. N - 1.
        statistics: of the same samples; class 0 is the background.

    Raises:
        InputError: if the samples together need too much memory.
    """
    result = majority_consensus(statistics)
    box = _box(statistics)
    voxels = result[box].numel()
    if not voxels:
        return result
    if statistics.number * voxels > _STAPLE_BYTES:
        raise InputError(
            f"STAPLE of {statistics.number} samples needs {statistics.number * voxels / 1e9:.1f} "
            "GB for them alone. Choose the consensus mean or majority, or fewer samples."
        )
    undecided = len(statistics.counts)
    staple = sitk.MultiLabelSTAPLEImageFilter()
    staple.SetLabelForUndecidedPixels(undecided)
    staple.SetMaximumNumberOfIterations(_STAPLE_ITERATIONS)
    images = [
        sitk.GetImageFromArray(np.ascontiguousarray(labels(n)[box]))
        for n in range(statistics.number)
    ]
    found = torch.from_numpy(sitk.GetArrayFromImage(staple.Execute(images)))
    result[box] = torch.where(found == undecided, result[box], found)
    return result


def _box(statistics: RunningStatistics) -> tuple[slice, ...]:
    occupied = statistics.counts[0] < statistics.number
    return occupied_box(occupied.numpy()) or (slice(0, 0),) * occupied.dim()
