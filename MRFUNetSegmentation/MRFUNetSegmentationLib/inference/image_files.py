"""Volumes and label maps in files: every format of SimpleITK, and DICOM series."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from .nifti import read_nifti
from .volume import Geometry, Volume

# Largest deviation of a gap between DICOM slices from their median, relative.
_GAP_TOLERANCE = 0.05
# mm between slices.
_SMALLEST_GAP = 1e-3
# DICOM's slice thickness.
_THICK = "0018|0050"


# Formats of pictures: what they call resolution is that of print, or of nothing.
_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
_NO_SIZE = (
    "The file is a picture, which does not say how large its pixels are. They were taken to be 1 "
    "mm wide and thick: all volumes in ml and distances in mm rest on that."
)


def has_place(path: Path) -> bool:
    """Whether a file of this name says where its voxels lie. Pictures do not: 1 mm, at 0."""
    return not path.name.lower().endswith(_PICTURES)


def can_be_named(path: Path) -> bool:
    """Whether ITK can take the path; with another one it ends the process."""
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        return False
    return True


def read_volume_file(
    path: str | Path, series: str | None = None, *, replace_non_finite: bool = False
) -> Volume:
    """Read a volume from a file or from a folder of DICOM files.

    Args:
        path: file, or folder with the files of a DICOM series.
        series: series instance UID, needed if the folder holds several series.
        replace_non_finite: put the smallest finite value in the place of NaN and infinity.

    Raises:
        InputError: if nothing can be read or it is no volume that can be segmented.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder. Check the path.")
    if not can_be_named(path):
        raise InputError(
            f"{path!a}: the name is not in the system's encoding of names. Rename the file or "
            "folder."
        )
    image, warnings = _read_series(path, series) if path.is_dir() else _read_file(path)
    try:
        return Volume.from_image(image, replace_non_finite=replace_non_finite, warnings=warnings)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def read_image(path: Path) -> sitk.Image:
    """Read a file: of one slice (2D files count as axial) or one time point as an image in 3D.

    Of a picture in colour whose colours are all grey it is the grey values.

    Raises:
        InputError: if it cannot be read, or is not whole.
    """
    return _read_file(path)[0]


def _read_file(path: Path) -> tuple[sitk.Image, tuple[str, ...]]:
    """Return the image of a file and what the user should know of it."""
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        reason = _reason(error)
        if "No such file" in reason:  # ITK's words for a MetaImage that ends too early, too
            reason = "it is cut short, or the file with its voxels is missing"
        if "orthonormal" in reason:
            raise InputError(
                f"{path}: the axes of the voxels are not at right angles (sheared). Resample the "
                "volume first, in Slicer with Resample Scalar/Vector/DWI Volume."
            ) from error
        if "change spacing" in reason:
            raise InputError(
                f"{path}: the header gives voxels no size: {reason.rpartition(' to ')[2]} mm. "
                "Correct the spacing in the header, or save the volume anew."
            ) from error
        if "determinant is 0" in str(error):
            raise InputError(
                f"{path}: the directions of the image's axes are not independent, as those of a "
                "slice that is not axial in a NIfTI of two dimensions. Save it as a volume of one "
                "slice."
            ) from error
        raise InputError(
            f"{path}: the file cannot be read as an image ({reason}). Check that it is whole and "
            "of a known format (NIfTI, NRRD, MHA, DICOM)."
        ) from error
    nifti = read_nifti(path)
    if nifti and nifti.floats is not None:
        image = _with_lost_values(image, nifti.floats)
    if not has_place(path):
        image = _grey(image)
        image.SetSpacing([1.0] * image.GetDimension())
    if image.GetDimension() == 2:
        image = sitk.JoinSeries(image)
    elif image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[:, :, :, 0]
    warnings = nifti.warnings if nifti else ()
    return _with_thickness(image), warnings if has_place(path) else (_NO_SIZE,)


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


def _grey(picture: sitk.Image) -> sitk.Image:
    """Return a picture's grey values; the picture itself if it is not in grey alone."""
    if picture.GetNumberOfComponentsPerPixel() not in (3, 4):
        return picture
    red, green, blue = (sitk.VectorIndexSelectionCast(picture, n) for n in range(3))
    values = [sitk.GetArrayViewFromImage(colour) for colour in (red, green, blue)]
    grey = all(np.array_equal(values[0], other) for other in values[1:])
    return red if grey else picture


def _with_lost_values(image: sitk.Image, floats: np.ndarray) -> sitk.Image:
    """Return an image with the NaN of its NIfTI file, of which ITK's reader makes zeros."""
    finite = np.isfinite(floats)
    if len(floats) != image.GetNumberOfPixels() or finite.all():
        return image
    array = sitk.GetArrayFromImage(image)
    array.ravel()[~finite] = np.nan
    restored = sitk.GetImageFromArray(array)
    restored.CopyInformation(image)
    return restored


def _read_series(folder: Path, series: str | None) -> tuple[sitk.Image, tuple[str, ...]]:
    """Return the image of a folder of DICOM files and what the user should know of it."""
    found = _series_in(folder)
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
    left_out = _left_out(folder, files)
    if len(files) == 1:
        image, warnings = _read_file(Path(files[0]))
        return image, (*warnings, *left_out)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(files)
    reader.MetaDataDictionaryArrayUpdateOn()
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise InputError(
            f"{folder}: the DICOM series cannot be read ({_reason(error)}). Export it again."
        ) from error
    _check_gaps(folder, image, reader, len(files))
    return image, left_out


def _with_thickness(image: sitk.Image) -> sitk.Image:
    """Return a file's image; a single DICOM slice without spacing as thick as it says.

    ITK takes 1 mm for the spacing then, and says so in the place of that entry.
    """
    if image.GetSize()[2:] == (1,) and image.GetSpacing()[2] == 1 and image.HasMetaDataKey(_THICK):
        try:
            thickness = float(image.GetMetaData(_THICK))
        except ValueError:  # the entry is empty
            return image
        if thickness > 0:
            image.SetSpacing((*image.GetSpacing()[:2], thickness))
    return image


def _left_out(folder: Path, series: Sequence[str]) -> tuple[str, ...]:
    """Say which files of a folder, beside those of a series, are damaged DICOM images."""
    read = {Path(file) for file in series}
    others = sorted(f for f in folder.iterdir() if f.is_file() and f not in read)
    damaged = [f for f in others if _is_damaged_dicom(f)]
    if not damaged:
        return ()
    files = "1 file" if len(damaged) == 1 else f"{len(damaged)} files"
    return (
        f"{files} of the folder could not be read as DICOM images and count as not there (the "
        f"first is {damaged[0].name}). If the copy is not complete, parts of the head may be "
        "missing.",
    )


def _is_damaged_dicom(file: Path) -> bool:
    """Whether a file should be a DICOM image, by its name or first bytes, and cannot be read."""
    with file.open("rb") as content:
        starts = content.read(132)[128:] == b"DICM"
    if file.name.upper() == "DICOMDIR" or not (starts or file.suffix.lower() == ".dcm"):
        return False
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return True
    return False


def _series_in(folder: Path) -> tuple[str, ...]:
    # ITK warns, on several lines, of a folder without any; the caller says it in one.
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        return sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


def _files(folder: Path, series: str) -> tuple[str, ...]:
    return sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series)


def _check_gaps(
    folder: Path, image: sitk.Image, reader: sitk.ImageSeriesReader, slices: int
) -> None:
    """Refuse a series whose slices are no regular stack: it would be made one without a word."""
    key = "0020|0032"
    positions = [
        [float(x) for x in reader.GetMetaData(n, key).split("\\")]
        for n in range(slices)
        if reader.HasMetaDataKey(n, key)
    ]
    if len(positions) < slices:
        return
    steps = np.diff(np.array(positions), axis=0)
    across = np.reshape(image.GetDirection(), (3, 3))[:, :2]
    sideways = np.linalg.norm(steps @ across, axis=1)
    gaps = np.linalg.norm(steps, axis=1)
    usual = float(np.median(gaps))
    if usual < _SMALLEST_GAP:
        raise InputError(
            f"{folder}: the DICOM slices lie in one place, so they are no volume but times or "
            "kinds of one slice. Choose a series that covers the head."
        )
    wrong = np.flatnonzero(abs(gaps - usual) > _GAP_TOLERANCE * usual)
    if wrong.size:
        raise InputError(
            f"{folder}: the DICOM slices are not evenly spaced ({gaps[wrong[0]]:.2f} mm instead of "
            f"{usual:.2f} mm after slice {wrong[0] + 1}): slices are missing or of two series. "
            "Export the complete series again."
        )
    if (sideways > _GAP_TOLERANCE * usual).any():
        raise InputError(
            f"{folder}: DICOM slices lie {sideways.max():.2f} mm beside the ones before (tilted "
            "gantry). Load the series in Slicer, which corrects that, and segment it there, or "
            "save it as NRRD or NIfTI."
        )


def _reason(error: RuntimeError) -> str:
    """Last line of ITK's message, which says what went wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
