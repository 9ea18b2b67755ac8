"""Sharpens a segmentation by the intensities of the very image it is of.

A network that has seen many contrasts knows what lies where in a head, but not what grey matter
looks like in this scan. That can be read off the scan once it has been segmented: the intensities
of a segment are taken for Gaussian, with a mean and a standard deviation that vary smoothly over
the image, because of the bias field and because tissue differs from place to place. The Gaussians
join the product of experts,

    r_ik  proportional to  p_ik^a (N(x_i | mu_ik, sigma_ik^2) + c)^b,

where p is the network's posterior, blurred by as much as it is unsure of borders, and c lets every
segment have voxels of any intensity: a lesion looks like none of them, and would else go to the
segment of the widest Gaussian, which is fluid. Parameters and
responsibilities r are found in turns (expectation maximisation), as in segmentation by mixture
models with tissue priors (Ashburner and Friston, NeuroImage 26:839-851, 2005). What is background
stays background: outside the brain everything occurs, so its intensities say nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ..boxes import occupied_box
from .run import Run
from .separable import gaussian_blur, resize

# a and b. The network has seen the intensities already, so neither has a full vote.
_PRIOR_WEIGHT = 0.6
_LIKELIHOOD_WEIGHT = 0.4
# c: density of intensities 0..1. With 0.1, half of the lesions that were taken for ventricles on a
# T2 no longer are; on T1 Dice changes by 0.002 at most. Larger ones lose borders.
_OUTLIERS = 0.1
_ITERATIONS = 2
# Exponent of the result, which with a, b and c alone doubts too much: with it the probabilities of
# the labels on the VoxelMorph T1 and the MNI152 average are right within 0.02 (expected calibration
# error; 0.11 and 0.07 without). It changes no label on the model's grid.
_SHARPNESS = 1.75
_LOG_OUTLIERS, _LOG_TWO_PI = math.log(_OUTLIERS), math.log(2 * math.pi)
# Standard deviation of the blur of the posterior, mm: what the borders drawn by the network are
# off by in scans.
_BORDER = 1.0
# Standard deviation of the window in which a segment's intensities are gathered, mm. Smaller ones
# follow the bias field better, and have fewer voxels to tell segments apart by.
_WINDOW = 30.0
# Means and variances vary slowly: they are computed on a grid of about this voxel size, mm, from
# examples: voxels about so far apart. Within the window all of them would say no more.
_COARSE = 4.0
_APART = 2.0
# Standard deviation, of intensities 0..1, that no segment falls below.
_LEAST_DEVIATION = 0.03
# A segment of less than this, ml, says too little about its intensities.
_LEAST_ML = 1.0
# Weight of the segment's intensities in the whole image where there is little of it near by, as a
# share of that where there is most of it.
_GLOBAL_SHARE = 0.01
# Voxels where all segments together have more than this lie in the box that is sorted anew.
_LEAST_SHARE = 0.01
# The network never rules a segment out by more than this probability.
_LEAST_PRIOR = 1e-4


def with_intensities(
    posterior: Tensor, image: Tensor, segments: Sequence[int], spacing: Sequence[float], run: Run
) -> Tensor:
    """Return the posterior (K, *shape) with the image's intensities taken into account.

    Args:
        posterior: (K, *shape), the network's.
        image: (*shape), intensities 0..1; 0 is no measurement.
        segments: the classes that are sorted anew; the others keep their probabilities.
        spacing: voxel size, mm.
        run: is advanced, and checked.
    """
    segments = [k for k in segments if _is_enough(posterior[k], spacing)]
    if len(segments) < 2:
        return posterior
    box = occupied_box((posterior[segments].sum(0) > _LEAST_SHARE).cpu().numpy())
    result = posterior.clone()
    inside = (slice(None), *box)
    result[inside] = _sorted_anew(posterior[inside], image[box], segments, spacing, run)
    return result


def _sorted_anew(
    posterior: Tensor, image: Tensor, segments: list[int], spacing: Sequence[float], run: Run
) -> Tensor:
    prior = gaussian_blur(posterior[segments], [_BORDER / s for s in spacing])
    prior = _PRIOR_WEIGHT * prior.clamp_min_(_LEAST_PRIOR).log_()
    share = posterior[segments].sum(0)  # of all these segments together, from the network
    measured = image > 0  # elsewhere the network alone decides
    steps = [max(1, round(_APART / s)) for s in spacing]
    apart = [s * step for s, step in zip(spacing, steps, strict=True)]
    examples = (..., *(slice(step // 2, None, step) for step in steps))
    responsibilities = posterior[segments][examples]
    for iteration in range(_ITERATIONS):
        # Only the last turn is for all voxels, those before are for the next one's examples.
        last = iteration == _ITERATIONS - 1
        where = (...,) if last else examples
        energy = torch.empty_like(prior[where])
        for n, responsibility in enumerate(responsibilities):
            mean, variance = _local_moments(image[examples], responsibility, apart)
            energy[n] = _log_likelihood(image[where], mean, variance) * measured[where]
            done = iteration * len(segments) + n + 1
            run.advance(done / (_ITERATIONS * len(segments)))
        energy *= _LIKELIHOOD_WEIGHT
        energy.add_(prior[where]).mul_(_SHARPNESS if last else 1.0)
        responsibilities = energy.softmax(0).mul_(share[where])
    result = posterior.clone()
    result[segments] = responsibilities
    return result


def _local_moments(
    image: Tensor, responsibility: Tensor, spacing: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Return a segment's mean and variance about each voxel of a coarse grid of the same extent."""
    # Squared, since voxels at borders are mixtures, which are no example of a segment.
    weight = responsibility.square() * (image > 0)
    weighted = weight * image
    moments = torch.stack([weight, weighted, weighted * image])
    factors = [max(1, round(_COARSE / s)) for s in spacing]
    coarse = functional.avg_pool3d(
        moments[:, None], factors, ceil_mode=True, count_include_pad=False
    )[:, 0]
    window = [_WINDOW / (s * f) for s, f in zip(spacing, factors, strict=True)]
    coarse = gaussian_blur(coarse, window)
    whole = coarse.mean((1, 2, 3), keepdim=True)
    coarse += _GLOBAL_SHARE * coarse[0].max() * whole / whole[0]
    mean = coarse[1] / coarse[0]
    return mean, (coarse[2] / coarse[0] - mean.square()).clamp_min(_LEAST_DEVIATION**2)


def _log_likelihood(image: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Return ln(N(x | mu, sigma^2) + c) of moments on a grid of the same extent."""
    mean, variance = (resize(m, tuple(image.shape)) for m in (mean, variance))
    gaussian = (image - mean).square_().div_(variance).add_(variance.log_())
    gaussian.add_(_LOG_TWO_PI).mul_(-0.5)
    return torch.logaddexp(gaussian, gaussian.new_tensor(_LOG_OUTLIERS))


def _is_enough(probability: Tensor, spacing: Sequence[float]) -> bool:
    voxel_ml = spacing[0] * spacing[1] * spacing[2] / 1000
    return float((probability > 0.5).sum()) * voxel_ml >= _LEAST_ML
