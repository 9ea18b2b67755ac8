"""Label maps for training: read once, brought to canonical axes, cropped and compressed.

Values follow FreeSurfer's colour table (FreeSurferColorLUT.txt), extended by the extra-cerebral
labels above 500 of the label maps published with SynthSeg (Billot et al., Medical Image Analysis
2023): 24 is all cerebrospinal fluid outside the ventricles there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from ..errors import InputError
from ..inference.grid import ModelGrid
from ..inference.image_files import read_image
from ..inference.volume import Geometry

OTHER, GREY_MATTER, WHITE_MATTER, VENTRICLES, CSF = range(5)

TISSUE_OF_FREESURFER = {
    GREY_MATTER: (3, 8, 10, 11, 12, 13, 17, 18, 26, 42, 47, 49, 50, 51, 52, 53, 54, 58),
    WHITE_MATTER: (2, 7, 16, 25, 28, 41, 46, 57, 60, 77, 80, 85, 251, 252, 253, 254, 255),
    VENTRICLES: (4, 5, 14, 15, 31, 43, 44, 63, 72, 136, 137, 163, 164),
    CSF: (24, 30, 62),
}

# Structures that have one intensity distribution (both sides together).
INTENSITY_GROUPS = (
    (0,),
    (2, 41),
    (7, 46),
    (16,),
    (28, 60),
    (25, 57, 77, 80),
    (85,),
    (251, 252, 253, 254, 255),
    (3, 42),
    (8, 47),
    (10, 49),
    (11, 50),
    (12, 51),
    (13, 52),
    (17, 53),
    (18, 54),
    (26, 58),
    (4, 5, 14, 15, 43, 44, 72),
    (24,),
    (30, 62),
    # The choroid plexus: part of the ventricles, but no fluid. The maps published with SynthSeg
    # call it 136, 137 on the left and 163, 164 on the right.
    (31, 63, 136, 137, 163, 164),
)
# A label of the group of the white matter, of that of its lesions, and of the choroid plexus.
WHITE_MATTER_LABEL, LESION_LABEL, PLEXUS_LABEL = 2, 25, 31
FIRST_EXTRACEREBRAL = 500
LARGEST_LABEL = 1000


def tissue_table() -> np.ndarray:
    """Return the tissue class (uint8) of every label value below 1000."""
    table = np.full(LARGEST_LABEL, OTHER, dtype=np.uint8)
    for tissue, labels in TISSUE_OF_FREESURFER.items():
        table[list(labels)] = tissue
    return table


# Ranges of the labels of FreeSurfer's parcellations (aparc+aseg, aparc.a2009s+aseg, wmparc), each
# bound included.
_PARCELLATION = (
    (1000, 2999, GREY_MATTER),
    (3000, 4999, WHITE_MATTER),
    (5001, 5002, WHITE_MATTER),
    (11100, 12999, GREY_MATTER),
    (13100, 14999, WHITE_MATTER),
)


def tissues_of_freesurfer(labels: np.ndarray) -> np.ndarray:
    """Return the tissue class (uint8) of labels (integers) of FreeSurfer's segmentations."""
    known = (labels >= 0) & (labels < LARGEST_LABEL)
    tissues = tissue_table()[np.where(known, labels, 0)]
    for first, last, tissue in _PARCELLATION if not known.all() else ():
        tissues[(labels >= first) & (labels <= last)] = tissue
    return tissues


@dataclass(frozen=True)
class LabelMap:
    """A label map on canonical axes (R, A, S), cropped to its head.

    Attributes:
        name: file name.
        groups: (R, A, S) uint8, index of the intensity group of each voxel.
        label_of_group: one label value of each intensity group, the left one where it has sides.
        tissue_of_group: (groups,) tissue class of each intensity group.
        spacing: voxel size, mm.
    """

    name: str
    groups: Tensor
    label_of_group: tuple[int, ...]
    tissue_of_group: Tensor
    spacing: tuple[float, float, float]

    def to(self, device: torch.device | str) -> LabelMap:
        """Return the label map on a device."""
        return replace(
            self,
            groups=self.groups.to(device),
            tissue_of_group=self.tissue_of_group.to(device),
        )


def cached_copy(path: Path, folder: Path) -> Path:
    """Return where a folder of copies keeps what was computed of a file, as that is now.

    Files of one name, in folders of their own, are different files, and one that was replaced is
    another one, be it older or newer.
    """
    stat = path.stat()
    file = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}"
    return folder / f"{path.name}-{hashlib.sha256(file.encode()).hexdigest()[:12]}.npz"


def read_label_maps(paths: Sequence[Path], cache: Path | None = None) -> list[LabelMap]:
    """Read label maps, all with the same table of intensity groups.

    Args:
        paths: NIfTI files (or any that SimpleITK reads).
        cache: folder for compressed copies, so that the next start takes seconds.

    Raises:
        InputError: if one cannot be read, or is no label map.
    """
    groups = list(INTENSITY_GROUPS) + [(v,) for v in range(FIRST_EXTRACEREBRAL, 531)]
    index = np.zeros(LARGEST_LABEL, dtype=np.uint8)
    for number, labels in enumerate(groups):
        index[list(labels)] = number
    first = tuple(labels[0] for labels in groups)
    return [_read_label_map(Path(path), index, first, cache) for path in paths]


def _read_label_map(
    path: Path, index: np.ndarray, label_of_group: tuple[int, ...], cache: Path | None
) -> LabelMap:
    tissue = torch.from_numpy(tissue_table()[list(label_of_group)])
    if not path.exists():
        raise InputError(f"{path}: no such file. Check the configuration, and --data.")
    copy = cached_copy(path, cache) if cache else None
    if copy and copy.exists():
        stored = np.load(copy)
        # A copy of another table of groups is of no use.
        if "index" in stored and np.array_equal(stored["index"], index):
            groups, spacing = torch.from_numpy(stored["groups"]), tuple(stored["spacing"].tolist())
            return LabelMap(path.name, groups, label_of_group, tissue, spacing)

    image = read_image(path)
    grid = ModelGrid.of(Geometry.from_image(image))
    labels = np.rint(sitk.GetArrayFromImage(image)).astype(np.int64)
    if labels.min() < 0 or labels.max() >= LARGEST_LABEL:
        raise InputError(
            f"{path}: label values must lie in 0..{LARGEST_LABEL - 1}, as in FreeSurfer's aseg; "
            f"they lie in {labels.min()}..{labels.max()}. Parcellations of the cortex have larger "
            "ones: give its label map without them."
        )
    if not labels.any():
        raise InputError(f"{path}: the label map marks nothing. Leave it out of the list.")
    groups = grid.reorient(torch.from_numpy(index[labels]))
    occupied = groups.nonzero()
    first, last = occupied.amin(0), occupied.amax(0) + 1
    groups = groups[tuple(slice(a, b) for a, b in zip(first, last, strict=True))].contiguous()
    spacing = tuple(image.GetSpacing()[a] for a in grid.axes)
    if copy:
        copy.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(copy, groups=groups.numpy(), spacing=np.array(spacing), index=index)
    return LabelMap(path.name, groups, label_of_group, tissue, spacing)
