"""A small Probabilistic U-Net whose samples differ, and a scan, for the tests of sampling."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from MRFUNetSegmentationLib.checkpoints.card import ModelCard
from MRFUNetSegmentationLib.checkpoints.load import Checkpoint, save_checkpoint
from test_inference_engine import head
from test_inference_slices import small_checkpoint

ARCHITECTURE = {"filters": [8, 8], "convolutions": 1, "latent": 3, "f_comb_layers": 3}


def ambiguous_checkpoint(
    tiny_card: ModelCard, dim: int, channels: int = 1, *, mrf: bool = False, **input_
) -> Checkpoint:
    """Return a network of random weights, in which all classes occur.

    Args:
        tiny_card: the fixture.
        dim: 2 or 3.
        channels: 1 for a sigmoid.
        mrf: with an MRF of a Potts model, which favours the labels of the neighbours.
        input_: entries of the card's input.
    """
    card = tiny_card.to_dict()
    card["architecture"] = {"type": "probabilistic-unet", **ARCHITECTURE, "mrf": mrf}
    if dim == 2:
        input_["slice_plane"] = "axial"
    checkpoint = small_checkpoint(
        type(tiny_card).from_dict(card),
        max(2, channels),
        {"dim": dim, "classes": channels},
        **input_,
    )
    network = checkpoint.network
    with torch.no_grad():  # so that samples differ, and all classes occur
        network.f_comb.latent.weight.mul_(3)
        image = torch.from_numpy(head((16, 16, 16)) / 1000)
        image = (image if dim == 3 else image[8])[None, None]
        projected = network.project(network.features(image))
        logits = network.decode(projected, network.prior(image).mean)
        network.f_comb.final.bias.sub_(logits.flatten(2).mean((0, 2)))
        if mrf:
            _make_potts(network.mrf)
    return checkpoint


def _make_potts(mrf) -> None:
    """Let each class's potential be half the sum of its probability in the direct neighbours."""
    kernel, final = mrf.neighbours.weight, mrf.final.weight
    for parameter in mrf.parameters():
        parameter.zero_()
    classes = kernel.shape[1]
    for value in range(classes):
        for axis in range(2, kernel.dim()):
            for side in (0, 2):
                place = [1] * (kernel.dim() - 2)
                place[axis - 2] = side
                kernel[(value, value, *place)] = 0.5
        final[(value, value)] = 1


def write_model(folder: Path, tiny_card: ModelCard) -> Path:
    """Write the file of a 3D network of three classes with an MRF."""
    checkpoint = ambiguous_checkpoint(tiny_card, 3, 3, mrf=True)
    path = folder / "ambiguous.safetensors"
    save_checkpoint(path, checkpoint.network, checkpoint.card)
    return path


def write_scan(folder: Path) -> Path:
    """Write an oblique, left-handed volume of 25 x 30 x 17 voxels."""
    image = sitk.GetImageFromArray(head((17, 30, 25)))
    image.SetSpacing((5.0, 7.5, 11.0))
    image.SetOrigin((10, -20, 30))
    c, s = np.cos(0.3), np.sin(0.3)
    image.SetDirection((c, -s, 0, s, c, 0, 0, 0, -1))
    path = folder / "scan.nii.gz"
    sitk.WriteImage(image, str(path))
    return path


def read(file: Path) -> np.ndarray:
    """Return the voxels [k, j, i] of a file."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
