"""Classical methods on the same scans: HMRF (Zhang et al. 2001) by DIPY, Atropos by ANTs.

Both sort the intensities within a brain mask into three clusters under a Markov random field. They
know no anatomy, so some things are given to them that a model has to find by itself: the mask (see
`Case.mask`), the contrast, which names the clusters by the order of their mean intensities, and
what is fluid in the ventricles rather than in the sulci (see `CaseList.fluid`). The bias field is
taken off before (N4), and extreme intensities are cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import SimpleITK as sitk

from ..boxes import occupied_box
from ..errors import InputError
from ..inference.volume import Geometry, Volume
from .packages import need

_N4_VOXELS = 4  # the bias field is smooth: it is fitted on every fourth voxel along each axis
_N4_ITERATIONS = [30, 30, 30]
# Bright vessels and rims would else make a cluster of their own (antsAtroposN4.sh cuts them too).
_WINSORISED = (0.005, 0.995)
# Of the papers and packages' own examples for T1 of the brain.
_HMRF_SMOOTHNESS = 0.1
# From 10 to 20 the Dice on the labelled T1 of VoxelMorph changes by 0.01, for the worse.
_HMRF_ITERATIONS = 10
_ATROPOS_MRF = "[0.1,1x1x1]"
_ATROPOS_CONVERGENCE = "[10,0.001]"


def segment(
    clusters: Callable[[sitk.Image, sitk.Image, int], np.ndarray],
    volume: Volume,
    mask: np.ndarray,
    dark_to_bright: Sequence[str],
) -> dict[str, np.ndarray]:
    """Segment a scan by clusters of intensity.

    Args:
        clusters: `hmrf` or `atropos`.
        volume: the scan.
        mask: [k, j, i] bool, the brain.
        dark_to_bright: structures by intensity; there are as many clusters.

    Returns:
        mask of each structure, [k, j, i].

    Raises:
        InputError: if the package is not installed or the mask is empty.
    """
    box = occupied_box(mask, margin=2)
    if box is None:
        raise InputError("The brain mask for the classical methods is empty. Check the mask.")
    inside = mask[box]
    brain = _image(inside.astype(np.uint8), volume.geometry)
    image = _image(volume.array[box].astype(np.float32), volume.geometry)
    values = _without_bias(image, brain)
    low, high = np.quantile(values[inside], _WINSORISED)
    if not high > low:
        raise InputError("The scan has one intensity in the brain mask. Check the mask.")
    values = values.clip(low, high)
    labels = clusters(_image(values, volume.geometry), brain, len(dark_to_bright))
    labels = np.where(inside, labels, 0)

    found = [v for v in np.unique(labels) if v]
    found.sort(key=lambda v: float(values[labels == v].mean()))
    masks = {s: np.zeros(mask.shape, dtype=bool) for s in dark_to_bright}
    if len(found) < len(dark_to_bright):
        raise InputError(f"Only {len(found)} clusters of intensity were found. Check the mask.")
    for structure, value in zip(dark_to_bright, found, strict=True):
        masks[structure][box] = labels == value
    return masks


def hmrf(image: sitk.Image, mask: sitk.Image, number: int) -> np.ndarray:
    """Return clusters 1 … number in the mask: DIPY's hidden Markov random field with EM."""
    tissue = need("dipy.segment.tissue", "dipy", "The peer hmrf")
    values = sitk.GetArrayFromImage(image)
    inside = sitk.GetArrayFromImage(mask) > 0
    # DIPY takes what is 0 for background, which it models by noise around 0.
    low, high = values[inside].min(), values[inside].max()
    scaled = np.where(inside, 0.05 + 0.95 * (values - low) / (high - low), 0)
    classifier = tissue.TissueClassifierHMRF(verbose=False)
    state = np.random.get_state()
    np.random.seed(0)  # that noise comes from numpy's global generator
    try:
        _, labels, _ = classifier.classify(
            scaled, number, _HMRF_SMOOTHNESS, max_iter=_HMRF_ITERATIONS
        )
    finally:
        np.random.set_state(state)
    return np.asarray(labels).astype(np.uint8)


def atropos(image: sitk.Image, mask: sitk.Image, number: int) -> np.ndarray:
    """Return clusters 1 … number in the mask: ANTs Atropos, begun by k-means."""
    ants = need("ants", "antspyx", "The peer atropos")
    spacing = image.GetSpacing()
    # ANTs' arrays are [i, j, k]; only the voxel size matters here.
    array = ants.from_numpy(sitk.GetArrayFromImage(image).T.copy(), spacing=spacing)
    inside = ants.from_numpy(
        sitk.GetArrayFromImage(mask).T.astype(np.float32).copy(), spacing=spacing
    )
    found = ants.atropos(
        a=array, x=inside, i=f"kmeans[{number}]", m=_ATROPOS_MRF, c=_ATROPOS_CONVERGENCE
    )
    return found["segmentation"].numpy().T.astype(np.uint8)


PEERS = {"hmrf": hmrf, "atropos": atropos}


def _image(array: np.ndarray, geometry: Geometry) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(geometry.spacing)
    return image


def _without_bias(image: sitk.Image, mask: sitk.Image) -> np.ndarray:
    """Divide by the bias field that N4 (Tustison et al. 2010) finds in the mask."""
    positive = image - float(sitk.GetArrayViewFromImage(image).min()) + 1.0
    factors = [min(_N4_VOXELS, n) for n in image.GetSize()]
    small = sitk.Shrink(mask, factors)
    if not sitk.GetArrayViewFromImage(small).any():
        return sitk.GetArrayFromImage(image)
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations(_N4_ITERATIONS)
    n4.Execute(sitk.Shrink(positive, factors), small)
    field = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(positive))
    return sitk.GetArrayFromImage(positive) / np.exp(field)
