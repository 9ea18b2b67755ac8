"""Real images with the masks of several raters each, from a folder.

    images/case1.nii.gz
    images/case2.nii.gz
    raters/case1/rater1.nii.gz
    raters/case1/rater2.nii.gz
    raters/case2/anything.nii.gz

Every case has one image and, in a folder of the image's name, one label map for each of its raters:
any number of them, under any name, on the image's grid, with the values of the configuration's
classes; with two classes 255 may stand for 1. Files are volumes, or single slices (2D files, such
as PNG and TIFF, count as axial ones), of any format that SimpleITK reads; pictures have voxels of
1 mm, whatever their resolution in print. A 2D network takes them slice by slice, as at inference,
and intensities are normalised over each file, as there.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from ..errors import InputError
from ..inference.axes import slice_axis
from ..inference.batches import with_neighbours
from ..inference.grid import ModelGrid
from ..inference.image_files import has_place, read_image
from ..inference.normalise import normalised
from ..inference.volume import MINIMUM_SIDE, Geometry
from .card import ORIENTATION, normalisation
from .config import TrainingConfig
from .masks import OTHER_PLACE, SAME_PLACE, beside, whole_numbers

# What programs for pictures make of 1 in a mask of two classes.
WHITE = 255
# Files that systems put into folders.
_FOREIGN = ("thumbs.db", "desktop.ini")
# Suffixes of files that hold only voxels, and those of the headers that name them.
_HEADERS = {".raw": (".mhd", ".nhdr"), ".zraw": (".mhd",), ".img": (".hdr",)}
# So much less than their voxels' sizes lie files apart that are meant to be on one grid, mm.
_SAME = 0.01


@dataclass(frozen=True)
class RaterCase:
    """An image on the network's grid, as the batch that the network takes, and its raters' labels.

    Attributes:
        name: the file's, without suffix.
        images: (B, C, *spatial) float32, normalised as at inference: one volume, or its slices, C
            of them for each, where neighbours are seen too.
        masks: (raters, B, *spatial) uint8.
        spacing: voxel size along the spatial axes, mm.
        beside: how far a mask lies beside the image at most, voxels.
    """

    name: str
    images: Tensor
    masks: Tensor
    spacing: tuple[float, ...]
    beside: float = 0.0


def about_cases(cases: Sequence[RaterCase]) -> str:
    """Return in words what was read: numbers of images and raters, sizes, voxel sizes, places."""
    sizes = sorted({tuple(case.images.shape[2:]) for case in cases})
    raters = sorted({len(case.masks) for case in cases})
    images = sum(len(case.images) for case in cases)
    spacing = " x ".join(f"{s:.3g}" for s in cases[0].spacing)
    return (
        f"{images} images of {len(cases)} files, {_range(raters)} raters each, "
        f"{_range([' x '.join(map(str, size)) for size in sizes])} voxels of {spacing} mm"
        f"{_about_places(cases)}"
    )


def _about_places(cases: Sequence[RaterCase]) -> str:
    """Return in words which masks lie beside their images; empty if none does."""
    moved = {case.name: case.beside for case in cases if case.beside > SAME_PLACE}
    if not moved:
        return ""
    most, taken = f"{max(moved.values()):.2f} voxels beside", "taken voxel for voxel"
    if len(moved) == 1:
        return f"; masks of {next(iter(moved))} lie {most} it; {taken}"
    return f"; masks of {len(moved)} files lie up to {most} them; {taken}"


def _range(values: Sequence) -> str:
    return f"{values[0]}" if len(values) == 1 else f"{values[0]} to {values[-1]}"


@dataclass(frozen=True)
class RaterCases:
    """The cases of a run, those to train on apart from those to validate on."""

    training: tuple[RaterCase, ...]
    validation: tuple[RaterCase, ...]


def read_rater_cases(config: TrainingConfig, data: Path) -> RaterCases:
    """Read the cases of a configuration; those that it holds back are not opened.

    Args:
        config: a run whose `raters` are given.
        data: folder below which they lie.

    Raises:
        InputError: naming the file or folder that does not fit, or the pattern that names no case.
    """
    files, split = _files_of_cases(config, data), split_of(config, data)
    training, validation = (
        tuple(_read_case(name, *files[name], config) for name in names)
        for names in (split.training, split.validation)
    )
    return RaterCases(training, validation)


@dataclass(frozen=True)
class Split:
    """Names of the cases of a run, and what of the masks is for none.

    Attributes:
        training: cases to train on.
        validation: cases to validate on.
        held_back: cases of which nothing is opened.
        without_image: folders of masks that no image is there for.
        in_no_folder: files beside these folders.
    """

    training: tuple[str, ...]
    validation: tuple[str, ...]
    held_back: tuple[str, ...]
    without_image: tuple[str, ...]
    in_no_folder: tuple[str, ...]


def split_of(config: TrainingConfig, data: Path) -> Split:
    """Return which cases are for what; see `read_rater_cases`, also for its errors."""
    raters, folder = config.raters, data / config.raters.images
    files = _files_of_cases(config, data)
    for pattern in (*raters.validation, *raters.held_back):
        if not _matching(files, [pattern]):
            raise InputError(
                f"{folder}: no image is called {pattern}. Correct the configuration's "
                "raters.validation or raters.held_back: names are without suffix."
            )
    back = _matching(files, raters.held_back)
    for_validation = _matching(files, raters.validation)
    for pattern in raters.validation:
        if _matching(files, [pattern]) <= back:
            raise InputError(
                f"{folder}: no image is left to validate on of {pattern}, for raters.held_back "
                "names all of them. Take it out of raters.validation, or them out of "
                "raters.held_back."
            )
    training = tuple(name for name in files if name not in back | for_validation)
    if not training:
        raise InputError(
            f"{folder}: no image is left to train on. Add images, or name fewer in "
            "raters.validation and raters.held_back."
        )
    without_image = _mask_folders(config, data).keys() - files.keys()
    in_no_folder = {p.name for p in _entries(data / raters.masks) if not p.is_dir()}
    parts = for_validation - back, back, without_image, in_no_folder
    return Split(training, *(tuple(sorted(part)) for part in parts))


def held_back(config: TrainingConfig, data: Path) -> dict[str, tuple[str, list[str]]]:
    """Return image and raters' masks of the cases that a configuration holds back, by name.

    Args:
        config: a run whose `raters` are given.
        data: folder below which they lie; the paths are relative to it.
    """
    files = _files_of_cases(config, data)
    return {
        name: (
            files[name][0].relative_to(data).as_posix(),
            [mask.relative_to(data).as_posix() for mask in files[name][1]],
        )
        for name in split_of(config, data).held_back
    }


def _matching(names: Iterable[str], patterns: Sequence[str]) -> set[str]:
    return {name for name in names for p in patterns if fnmatch(name, _composed(p))}


def _composed(name: str) -> str:
    """Return a name with letters and accents in one; some systems write them apart."""
    return unicodedata.normalize("NFC", name)


def _files_of_cases(config: TrainingConfig, data: Path) -> dict[str, tuple[Path, list[Path]]]:
    """Return each case's image and masks, by its name.

    Raises:
        InputError: naming the file or folder that is missing, or would be passed over.
    """
    images, folders = _images(data / config.raters.images), _mask_folders(config, data)
    if lost := sorted(images.keys() - folders.keys()):
        raise InputError(
            f"{data / config.raters.images}: the image {lost[0]} has no masks, for there is no "
            f"folder {data / config.raters.masks / lost[0]}. Add its raters' masks, or take the "
            "image out."
        )
    masks = "Add its raters' masks, or take the image out."
    return {name: (path, _files(folders[name], masks)) for name, path in images.items()}


def _mask_folders(config: TrainingConfig, data: Path) -> dict[str, Path]:
    """Return the folder of each case's masks, by the case's name."""
    folder = data / config.raters.masks
    folders: dict[str, Path] = {}
    for path in _entries(folder):
        name = _composed(path.name)
        if path.is_dir() and name in folders:  # the accents of one are written apart
            raise InputError(
                f"{folder}: two folders are called {name}. Put their files into one of them, and "
                "remove the other."
            )
        if path.is_dir():
            folders[name] = path
    return folders


def _images(folder: Path) -> dict[str, Path]:
    images: dict[str, Path] = {}
    for path in _files(folder, "Put the images there, or correct raters.images."):
        name = _composed(Path(_uncompressed(path)).stem)
        if name in images:
            raise InputError(
                f"{folder}: {images[name].name} and {path.name} are both called {name}. "
                "Rename or remove one."
            )
        images[name] = path
    return images


def _files(folder: Path, remedy: str) -> list[Path]:
    """Return the files of a folder; the remedy is for one that holds none."""
    entries = _entries(folder)
    if folders := [p for p in entries if p.is_dir()]:
        raise InputError(
            f"{folders[0]}: is a folder, and what is in it would be passed over. Put its files "
            f"into {folder} itself, or take it out."
        )
    if not entries:
        raise InputError(f"{folder}: the folder holds no files. {remedy}")
    return _without_voxels(entries)


def _without_voxels(files: Sequence[Path]) -> list[Path]:
    """Return the files but for those of voxels whose header is one of the files."""
    names = {_uncompressed(file).lower() for file in files}

    def is_voxels(file: Path) -> bool:
        name = Path(_uncompressed(file).lower())
        return any(name.stem + header in names for header in _HEADERS.get(name.suffix, ()))

    return [file for file in files if not is_voxels(file)]


def _uncompressed(file: Path) -> str:
    return file.name.removesuffix(".gz")


def _entries(folder: Path) -> list[Path]:
    """Return what a folder holds, but for what systems put there."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder. Check --data and the configuration's raters.")
    return sorted(
        p for p in folder.iterdir() if not p.name.startswith(".") and p.name.lower() not in _FOREIGN
    )


def _read_case(name: str, path: Path, masks: Sequence[Path], config: TrainingConfig) -> RaterCase:
    image = _read(path)
    values = sitk.GetArrayFromImage(image)
    if not np.isfinite(values).all():
        raise InputError(f"{path}: the image has values that are not finite. Correct the file.")
    axis = config.card.slice_plane and slice_axis(config.card.slice_plane, ORIENTATION)
    voxel_size = [None if a == axis else v for a, v in enumerate(config.card.voxel_size)]
    grid = ModelGrid.of(Geometry.from_image(image), voxel_size, ORIENTATION)
    _check_size(path, image, grid, axis, config)
    volume = normalised(values, grid, normalisation(config.card))
    number = len(config.classes) or config.network.classes
    read = [_labels(p, image, has_place(path), grid, number) for p in masks]
    labels, moved = torch.stack([one for one, _ in read]), max(distance for _, distance in read)

    spacing = grid.spacing
    if axis is None:
        volume, labels = volume[None, None], labels[:, None]
    else:
        distance = config.card.voxel_size[axis] / spacing[axis]
        volume = with_neighbours(volume, axis, config.card.neighbours, distance)
        volume, labels = volume.movedim(axis + 1, 0), labels.movedim(axis + 1, 1)
        spacing = tuple(s for a, s in enumerate(spacing) if a != axis)
    return RaterCase(name, volume.contiguous(), labels.contiguous(), spacing, moved)


def _check_size(
    path: Path, image: sitk.Image, grid: ModelGrid, axis: int | None, config: TrainingConfig
) -> None:
    """Refuse what is no image of the plane, or too small for the network at its voxel size."""
    sides = [n for a, n in enumerate(grid.shape) if a != axis]
    least = max(MINIMUM_SIDE, config.network.minimum_size)
    if min(sides) >= least:
        return
    fewer = " Or give network.encoder fewer levels." if least > MINIMUM_SIDE else ""
    plane = config.card.slice_plane
    seen = f"the {plane} slices of the image" if plane else "the image"
    raise InputError(
        f"{path}: {seen} would have {' x '.join(map(str, sides))} voxels; at least {least} "
        f"are needed along every side. The file has {' x '.join(map(str, image.GetSize()))} voxels "
        f"of {' x '.join(f'{s:.3g}' for s in image.GetSpacing())} mm. Correct its voxel size, or "
        f"the configuration's card.voxel_size or card.slice_plane (2D files count as axial).{fewer}"
    )


def _labels(
    path: Path, image: sitk.Image, placed: bool, grid: ModelGrid, number: int
) -> tuple[Tensor, float]:
    """Read a rater's labels and carry them to the network's grid, (R, A, S) uint8.

    Also return how far they lie beside the image, voxels.

    Args:
        path: of the labels.
        image: that they are of.
        placed: whether its file says where it lies.
        grid: the network's.
        number: of classes.
    """
    mask = _read(path)
    distance = 0.0
    if placed and has_place(path) and mask.GetSize() == image.GetSize():
        distance, _ = beside(Geometry.from_image(mask), Geometry.from_image(image))
    if difference := _difference(mask, image, distance):
        raise InputError(
            f"{path}: the mask is not on its image's grid ({difference}). Resample it to the "
            "image, or correct the headers if they are of one grid."
        )
    values = sitk.GetArrayFromImage(mask)
    labels = whole_numbers(values)
    if labels is None:
        labels = values  # which are refused below
    found = np.unique(labels)
    if number == 2 and found[-1] == WHITE and np.isin(found, (0, WHITE)).all():
        labels = (labels == WHITE).astype(np.uint8)
        found = np.unique(labels)
    if not np.isin(found, range(number)).all():
        raise InputError(
            f"{path}: the mask has values {found[:5].tolist()}{' …' if len(found) > 5 else ''}, "
            f"but the classes are 0 to {number - 1}. Correct the mask, or the classes."
        )
    if grid.shape == grid.input_shape:
        return grid.reorient(torch.from_numpy(labels.astype(np.uint8))), distance
    shares = torch.stack([grid.to_model((labels == value).astype(np.float32)) for value in found])
    return torch.from_numpy(found.astype(np.uint8))[shares.argmax(0)], distance


def _difference(mask: sitk.Image, image: sitk.Image, distance: float) -> str:
    """Return in what two grids differ; empty if in nothing that matters.

    Args:
        mask: on one.
        image: on the other.
        distance: at most between voxels of the same index, voxels.
    """
    sizes = mask.GetSize(), image.GetSize()
    if sizes[0] != sizes[1]:
        one, other = (" x ".join(map(str, size)) for size in sizes)
        difference = f"it has {one} voxels, the image {other}"
        if sizes[0][:2] == sizes[1][:2] and sizes[0][2] == 1:
            difference += ": several images in one file? Save the one to train on as its own"
        return difference
    if distance <= OTHER_PLACE:
        return ""
    several = np.greater(image.GetSize(), 1)  # a single slice may be as thick as it likes
    kinds = (
        ("a voxel size of", mask.GetSpacing(), image.GetSpacing(), several),
        ("its first voxel at", mask.GetOrigin(), image.GetOrigin(), True),
        ("directions of", mask.GetDirection(), image.GetDirection(), True),
    )
    for kind, its, images, counts in kinds:
        if (~np.isclose(its, images, rtol=0, atol=_SAME) & counts).any():
            one, other = (" x ".join(f"{n:.4g}" for n in numbers) for numbers in (its, images))
            return f"it has {kind} {one}, the image {other}"
    return "its voxels lie beside the image's"


def _read(path: Path) -> sitk.Image:
    """Read a file as a volume of scalars."""
    image = read_image(path)
    if image.GetNumberOfComponentsPerPixel() != 1:
        number = image.GetNumberOfComponentsPerPixel()
        raise InputError(
            f"{path}: the file holds {number} values a voxel, and a model takes one. Make a "
            "picture in colours greyscale; of several sequences save the one to train on as a file "
            "of its own."
        )
    if image.GetDimension() != 3:
        raise InputError(
            f"{path}: the file has {image.GetDimension()} dimensions, not 2 or 3. Save the volume "
            "to train on as a file of its own."
        )
    return image
