"""Volumes and label maps in files: every format of SimpleITK, and DICOM series."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from .volume import Geometry, Volume

# Largest deviation of a gap between DICOM slices from their median, relative.
_GAP_TOLERANCE = 0.05
# NIfTI-1 data types of floating-point voxels.
_NIFTI_FLOATS = {16: np.dtype("f4"), 64: np.dtype("f8")}
_NIFTI_HEADER = 348
_ENDIAN = {"<": "little", ">": "big"}
_GZIP = b"\x1f\x8b"


def read_volume_file(
    path: Path, series: str | None = None, *, replace_non_finite: bool = False
) -> Volume:
    """Read a volume from a file or from a folder of DICOM files.

    Args:
        path: file, or folder with the files of a DICOM series.
        series: series instance UID, needed if the folder holds several series.
        replace_non_finite: put the smallest finite value in the place of NaN and infinity.

    Raises:
        InputError: if nothing can be read or it is no volume that can be segmented.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder. Check the path.")
    image = _read_series(path, series) if path.is_dir() else read_image(path)
    try:
        return Volume.from_image(image, replace_non_finite=replace_non_finite)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def read_image(path: Path) -> sitk.Image:
    """Read a file: of one slice (2D files count as axial) or one time point as an image in 3D.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(
            f"{path}: the file cannot be read as an image ({_reason(error)}). Check that it is "
            "whole and of a known format (NIfTI, NRRD, MHA, DICOM)."
        ) from error
    image = _with_lost_values(image, path)
    if image.GetDimension() == 2:
        return sitk.JoinSeries(image)
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        return image[:, :, :, 0]
    return image


def write_label_map(path: Path, labels: np.ndarray, geometry: Geometry) -> sitk.Image:
    """Write labels [k, j, i] to a file and return the image.

    Raises:
        OSError: if that fails or the file does not hold the labels.
    """
    image = geometry.apply_to(sitk.GetImageFromArray(labels))
    write_image(path, image)
    _check_written(path, labels)
    return image


def write_map(path: Path, values: np.ndarray, geometry: Geometry) -> None:
    """Write float32 values [k, j, i], or [K, k, j, i] as an image of four dimensions.

    Raises:
        OSError: if that fails or the file does not hold the values.
    """
    volumes = [
        geometry.apply_to(sitk.GetImageFromArray(volume))
        for volume in values.reshape(-1, *values.shape[-3:])
    ]
    write_image(path, sitk.JoinSeries(volumes) if values.ndim == 4 else volumes[0])
    _check_written(path, values)


def write_image(path: Path, image: sitk.Image) -> None:
    """Write an image, compressed where the format allows it.

    Raises:
        OSError: if that fails.
    """
    try:
        sitk.WriteImage(image, str(path), useCompression=True)
    except RuntimeError as error:
        raise OSError(f"{path.name}: {_reason(error)}") from error


def _check_written(path: Path, array: np.ndarray) -> None:
    # On a full disk the NIfTI writer cuts the file short and says nothing.
    try:
        complete = np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), array)
    except RuntimeError:
        complete = False
    if not complete:
        raise OSError(f"{path.name} came out incomplete")


def _with_lost_values(image: sitk.Image, path: Path) -> sitk.Image:
    """Return an image with the NaN of its NIfTI file, of which ITK's reader makes zeros."""
    if image.GetPixelID() not in (sitk.sitkFloat32, sitk.sitkFloat64):
        return image
    values = _nifti_floats(path, image.GetNumberOfPixels())
    if values is None or len(values) < image.GetNumberOfPixels() or np.isfinite(values).all():
        return image
    array = sitk.GetArrayFromImage(image)
    array.ravel()[~np.isfinite(values)] = np.nan
    restored = sitk.GetImageFromArray(array)
    restored.CopyInformation(image)
    return restored


def _nifti_floats(path: Path, number: int) -> np.ndarray | None:
    """Return the voxels of a NIfTI-1 file as they are stored; None of another kind of file.

    None, too, of a file that is damaged in a way that ITK's reader does not mind.
    """
    if not path.name.endswith((".nii", ".nii.gz")):
        return None
    try:
        with path.open("rb") as file:
            compressed = file.read(2) == _GZIP
        with gzip.open(path) if compressed else path.open("rb") as file:
            header = file.read(_NIFTI_HEADER)
            order = "<" if header[:2] == b"\x5c\x01" else ">"  # the header's own size, 348
            kind = _NIFTI_FLOATS.get(int.from_bytes(header[70:72], _ENDIAN[order]))
            if kind is None:
                return None
            (offset,) = np.frombuffer(header, order + "f4", 1, 108)
            file.seek(int(offset))
            return np.frombuffer(file.read(number * kind.itemsize), kind.newbyteorder(order))
    except (OSError, EOFError, ValueError):
        return None


def _read_series(folder: Path, series: str | None) -> sitk.Image:
    found = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if not found:
        raise InputError(
            f"{folder}: the folder holds no DICOM series. Give a file, or the folder that "
            "directly holds the series' files."
        )
    if series is None and len(found) > 1:
        listed = "; ".join(f"{uid} ({len(_files(folder, uid))} files)" for uid in found)
        raise InputError(f"{folder}: the folder holds {len(found)} series, choose one: {listed}.")
    if series is not None and series not in found:
        raise InputError(f"{folder}: there is no series {series}. There are: {'; '.join(found)}.")
    files = _files(folder, series or found[0])
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(files)
    reader.MetaDataDictionaryArrayUpdateOn()
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise InputError(
            f"{folder}: the DICOM series cannot be read ({_reason(error)}). Export it again."
        ) from error
    _check_gaps(folder, reader, len(files))
    return image


def _files(folder: Path, series: str) -> tuple[str, ...]:
    return sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series)


def _check_gaps(folder: Path, reader: sitk.ImageSeriesReader, slices: int) -> None:
    """Refuse a series with missing slices: it would be shortened without a word."""
    key = "0020|0032"
    positions = [
        [float(x) for x in reader.GetMetaData(n, key).split("\\")]
        for n in range(slices)
        if reader.HasMetaDataKey(n, key)
    ]
    if slices < 3 or len(positions) < slices:
        return
    gaps = np.linalg.norm(np.diff(np.array(positions), axis=0), axis=1)
    usual = float(np.median(gaps))
    wrong = np.flatnonzero(abs(gaps - usual) > _GAP_TOLERANCE * max(usual, 1e-6))
    if wrong.size:
        raise InputError(
            f"{folder}: the DICOM slices are not evenly spaced ({gaps[wrong[0]]:.2f} mm instead of "
            f"{usual:.2f} mm after slice {wrong[0] + 1}): slices are missing or of two series. "
            "Export the complete series again."
        )


def _reason(error: RuntimeError) -> str:
    """Last line of ITK's message, which says what went wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
