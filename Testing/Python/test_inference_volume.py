"""Bad input: each defect of a volume or a file has its own clear error."""

import gzip

import numpy as np
import pytest
import SimpleITK as sitk
from MRFUNetSegmentationLib.errors import InputError
from MRFUNetSegmentationLib.inference.image_files import read_volume_file
from MRFUNetSegmentationLib.inference.volume import Geometry, Volume

SHAPE = (10, 11, 12)


def noise(shape=SHAPE) -> np.ndarray:
    return np.random.default_rng(0).random(shape).astype(np.float32)


def refused(call, *words):
    with pytest.raises(InputError) as caught:
        call()
    for word in words:
        assert word in str(caught.value)


@pytest.fixture
def save(tmp_path):
    def write(image: sitk.Image, name: str = "image.nii.gz"):
        path = tmp_path / name
        sitk.WriteImage(image, str(path))
        return path

    return write


@pytest.mark.parametrize("name", ["slice.mha", "slice.nii.gz"])
def test_a_single_slice_is_a_volume_of_one_axial_slice(save, name):
    array = noise((20, 30))
    volume = read_volume_file(save(sitk.GetImageFromArray(array), name))
    np.testing.assert_array_equal(volume.array, array[None])
    assert volume.geometry.direction == (1, 0, 0, 0, 1, 0, 0, 0, 1)


def test_4d(save):
    series = sitk.JoinSeries([sitk.GetImageFromArray(noise())] * 3)
    path = save(series)
    refused(lambda: read_volume_file(path), "4 dimensions (12 x 11 x 10 x 3)", "one time point")


def test_4d_of_one_time_point_is_a_volume(save):
    path = save(sitk.JoinSeries([sitk.GetImageFromArray(noise())]))
    assert read_volume_file(path).array.shape == SHAPE


def test_several_components(save):
    path = save(sitk.GetImageFromArray(noise((*SHAPE, 3)), isVector=True), "rgb.nrrd")
    refused(lambda: read_volume_file(path), "3 components", "one component")


@pytest.mark.parametrize("name", ["image.nii.gz", "image.nii", "image.nrrd", "image.mha"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_finite(save, value, name):
    array = noise()
    array[1, 2, 3] = array[4, 5, 6] = value
    path = save(sitk.GetImageFromArray(array), name)
    refused(
        lambda: read_volume_file(path), "2 of 1320 voxels are not finite", "--replace-non-finite"
    )
    volume = read_volume_file(path, replace_non_finite=True)
    replaced = volume.array
    assert "2 of 1320 voxels were not finite" in volume.warnings[0]
    assert np.isfinite(replaced).all()
    finite = np.isfinite(array)
    np.testing.assert_array_equal(replaced[finite], array[finite])
    assert (replaced[~finite] == array[finite].min()).all()


@pytest.mark.parametrize("damage", ["not compressed", "no checksum", "one byte more"])
def test_nifti_files_that_itk_does_not_mind(save, damage):
    array = noise()
    whole = save(sitk.GetImageFromArray(array), "whole.nii")
    path = whole.with_name("other.nii" if damage == "one byte more" else "other.nii.gz")
    data = whole.read_bytes()
    if damage == "no checksum":
        data = gzip.compress(data)[:-8]
    path.write_bytes(data + b"x" if damage == "one byte more" else data)
    np.testing.assert_array_equal(read_volume_file(path).array, array)


@pytest.mark.parametrize("pixel", [np.int16, np.float32])
@pytest.mark.parametrize("name", ["image.nii.gz", "image.nii", "IMAGE.NII.GZ", "image.hdr"])
def test_nifti_files_that_are_not_whole(save, pixel, name):
    """ITK's reader makes zeros or noise of what is missing, and says nothing."""
    path = save(sitk.GetImageFromArray((1000 * noise((20, 20, 20))).astype(pixel)), name.lower())
    path = path.rename(path.with_name(name))
    assert read_volume_file(path).array.shape == (20, 20, 20)
    voxels = path.with_suffix(".img") if path.suffix == ".hdr" else path
    whole = voxels.read_bytes()
    voxels.write_bytes(whole[: len(whole) // 2])
    refused(lambda: read_volume_file(path), str(path), "truncated", "Get it again")
    if name.lower().endswith(".gz"):
        voxels.write_bytes(whole[:9000] + bytes([whole[9000] ^ 255]) + whole[9001:])
        refused(lambda: read_volume_file(path), str(path))  # by ITK or by us


def with_header(path, offset: int, kind: str, *values) -> None:
    content = bytearray(path.read_bytes())
    entry = np.array(values, f"<{kind}").tobytes()
    content[offset : offset + len(entry)] = entry
    path.write_bytes(content)


@pytest.mark.parametrize("units", [2, 3])
def test_a_scan_in_two_places(save, units):
    """Of qform and sform ITK takes one; who looks at the other sees the results elsewhere."""
    image = sitk.GetImageFromArray(noise())
    c, s = np.cos(0.4), np.sin(0.4)
    image.SetSpacing((1.0, 2.0, 1.5))
    image.SetDirection((c, 0, s, 0, -1, 0, -s, 0, c))  # left-handed: qfac of -1
    path = save(image, "image.nii")
    assert read_volume_file(path).warnings == ()
    mm = 1 if units == 2 else 1000
    with_header(path, 123, "u1", units)
    with_header(path, 80, "f4", mm, 2 * mm, 1.5 * mm)
    rows = np.array([-c, 0, -1.5 * s, 30, 0, 2, 0, 0, -s, 0, 1.5 * c, 5])
    with_header(path, 280, "f4", *rows * mm)
    with_header(path, 254, "i2", 2)
    (warning,) = read_volume_file(path).warnings
    assert "two places" in warning and "Slicer" in warning
    with_header(path, 254, "i2", 0)
    assert read_volume_file(path).warnings == ()


@pytest.mark.parametrize("qform", [0, 1])
def test_a_voxel_of_two_sizes(save, qform):
    """Programs that write only the sform leave another size in the header."""
    path = save(sitk.GetImageFromArray(noise()), "image.nii")
    with_header(path, 252, "i2", qform, 2)
    rows = [-1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 1.005, 0]
    with_header(path, 280, "f4", *rows)
    assert read_volume_file(path).warnings == ()
    with_header(path, 280, "f4", *rows[:10], 5.5, 0)
    warning, *others = read_volume_file(path).warnings
    assert "1 x 1 x 1 mm (pixdim) and 1 x 1 x 5.5 mm (sform)" in warning
    assert len(others) == qform  # then it lies in two places, too


@pytest.mark.parametrize("forms", [(1, 0), (0, 1)])
@pytest.mark.parametrize("size", [0.0, np.nan])
def test_a_voxel_without_a_size(save, size, forms):
    """ITK takes 1 mm for it, and says nothing."""
    image = sitk.GetImageFromArray(noise())
    image.SetSpacing((2.0, 2.0, 3.0))
    path = save(image, "image.nii")
    with_header(path, 252, "i2", *forms)
    assert read_volume_file(path).warnings == ()
    with_header(path, 88, "f4", size)
    volume = read_volume_file(path)
    assert volume.geometry.spacing == (2, 2, 1)
    (warning,) = volume.warnings
    assert f"2 x 2 x {size:g} mm (pixdim). 1 mm was taken" in warning


@pytest.mark.parametrize("name", ["image.nii", "image.hdr", "image.img.gz"])
def test_a_head_that_lies_somehow(save, name):
    """Without a place in the header, as in Analyze, every reader guesses."""
    image = sitk.GetImageFromArray(noise())
    path = save(image, name.removesuffix(".gz"))
    header = path.with_suffix(".hdr") if ".nii" not in name else path
    assert read_volume_file(path).warnings == ()
    with_header(header, 252, "i2", 0, 0)
    if ".nii" not in name:
        with_header(header, 344, "u1", 0, 0, 0, 0)  # no NIfTI then
    if name.endswith(".gz"):
        packed = path.with_name(name)
        packed.write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
        path = packed
    volume = read_volume_file(path)
    np.testing.assert_array_equal(volume.array, noise())
    (warning,) = volume.warnings
    assert "does not say how the head lies" in warning
    assert volume.geometry.direction == (1, 0, 0, 0, 1, 0, 0, 0, 1)  # as the warning says
    if ".nii" not in name:
        voxels = header.with_name("image.img" + (".gz" if name.endswith(".gz") else ""))
        voxels.write_bytes(voxels.read_bytes()[:-900])
        refused(lambda: read_volume_file(path), "truncated")


@pytest.mark.parametrize(
    ("name", "said", "instead"),
    [
        ("image.mha", b"ElementSpacing = 1 1 1", b"ElementSpacing = 1 0 1"),
        ("image.nrrd", b"(0,1,0)", b"(0,0,0)"),
    ],
)
def test_a_size_that_itk_refuses(save, name, said, instead):
    path = save(sitk.GetImageFromArray(noise()), name)
    assert said in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(said, instead))
    refused(lambda: read_volume_file(path), str(path), "no size: [1, 0, 1] mm", "Correct")


def test_a_coronal_slice_of_two_dimensions(save):
    path = save(sitk.GetImageFromArray(noise((20, 24))), "slice.nii")
    with_header(path, 252, "i2", 0, 1)
    with_header(path, 280, "f4", 1, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0)
    refused(lambda: read_volume_file(path), str(path), "not axial", "volume of one slice")


def test_a_slice_need_not_say_how_thick_it_is(save):
    path = save(sitk.GetImageFromArray(noise((1, 20, 20))), "image.nii")
    with_header(path, 252, "i2", 0, 1)
    with_header(path, 280, "f4", -1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 5, 0)
    assert read_volume_file(path).warnings == ()


def test_axes_that_nifti_cannot_hold(save):
    path = save(sitk.GetImageFromArray(noise()), "image.nii")
    with_header(path, 252, "i2", 0, 1)
    with_header(path, 280, "f4", -1, 0.5, 0, 0, 0, -1, 0, 0, 0, 0, 1, 0)
    refused(lambda: read_volume_file(path), str(path), "not at right angles", "Resample")


@pytest.mark.parametrize("alpha", [False, True])
def test_pictures(save, alpha):
    """Grey ones in colours count as grey, and resolution in print is none in space."""
    grey = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
    colours = [grey] * 3 + [np.full_like(grey, 255)] * alpha
    path = save(sitk.GetImageFromArray(np.stack(colours, -1), isVector=True), "picture.png")
    volume = read_volume_file(path)
    np.testing.assert_array_equal(volume.array, grey[None])
    assert "does not say how large its pixels are" in volume.warnings[0]
    tiff = sitk.GetImageFromArray(grey)
    tiff.SetSpacing((25.4 / 300, 25.4 / 300))
    assert read_volume_file(save(tiff, "print.tiff")).geometry.spacing == (1, 1, 1)
    colours[1] = 255 - grey
    path = save(sitk.GetImageFromArray(np.stack(colours, -1), isVector=True), "colour.png")
    refused(lambda: read_volume_file(path), "components", "one component")


def test_name_that_itk_cannot_take(tmp_path):
    path = tmp_path / b"J\xfcrgen.nii".decode("utf-8", "surrogateescape")
    try:
        path.write_bytes(b"")
    except OSError:
        pytest.skip("this system has no such names")
    refused(lambda: read_volume_file(path), "encoding", "Rename")


def test_volume_of_voxels_whose_axes_are_not_at_right_angles():
    tilted = (1, 0, 0, 0, 1, np.sin(0.35), 0, 0, np.cos(0.35))
    geometry = Geometry((12, 11, 10), (1.0, 2.0, 3.0), direction=tilted)
    assert geometry.voxel_ml == pytest.approx(6e-3 * np.cos(0.35))


def test_nothing_finite(save):
    path = save(sitk.GetImageFromArray(np.full(SHAPE, np.nan, np.float32)), "nan.nrrd")
    refused(lambda: read_volume_file(path, replace_non_finite=True), "1320 of 1320")


def test_constant_image(save):
    path = save(sitk.GetImageFromArray(np.full(SHAPE, 7, np.int16)))
    refused(lambda: read_volume_file(path), "same value (7)")


def test_too_few_voxels(save):
    path = save(sitk.GetImageFromArray(noise((3, 40, 7))))
    refused(lambda: read_volume_file(path), "7 x 40 x 3 voxels", "at least 8", "two axes")


@pytest.mark.parametrize("spacing", [0.0, -1.0, float("nan"), float("inf")])
def test_spacing(spacing):
    geometry = Geometry((12, 11, 10), (1.0, spacing, 1.0))
    refused(lambda: Volume(noise(), geometry), "spacing", "above 0")


def test_axes_that_are_not_independent():
    geometry = Geometry((12, 11, 10), (1, 1, 1), (0, 0, 0), (1, 0, 0, 1, 0, 0, 0, 0, 1))
    refused(lambda: Volume(noise(), geometry), "axes")


def test_complex_numbers():
    refused(
        lambda: Volume(noise().astype(np.complex64), Geometry((12, 11, 10), (1, 1, 1))),
        "complex64",
        "magnitude",
    )


def test_missing_file(tmp_path):
    refused(lambda: read_volume_file(tmp_path / "none.nii"), "no such file")


@pytest.mark.parametrize("name", ["text.nii.gz", "text.nrrd", "text.mha", "text.dcm", "text"])
def test_no_image(tmp_path, name):
    path = tmp_path / name
    path.write_text("no image " * 100, encoding="utf-8")
    refused(lambda: read_volume_file(path), str(path), "cannot be read")


def test_truncated_file(save, tmp_path):
    whole = save(sitk.GetImageFromArray(noise((40, 40, 40))), "whole.nrrd")
    path = tmp_path / "half.nrrd"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    refused(lambda: read_volume_file(path), str(path), "cannot be read")


def test_empty_folder(tmp_path):
    refused(lambda: read_volume_file(tmp_path), "no DICOM series")


def test_folder_without_dicom_is_said_by_the_error_alone(tmp_path, capfd):
    (tmp_path / "notes.txt").write_text("none")
    refused(lambda: read_volume_file(tmp_path), "no DICOM series")
    assert capfd.readouterr() == ("", "")
    assert sitk.ProcessObject.GetGlobalWarningDisplay()


def write_dicom(folder, array: np.ndarray, positions, series: str, tilt: float = 0.0) -> None:
    """Write an axial series, a file for each slice, as scanners and archives do.

    Args:
        folder: made if need be.
        array: (k, j, i).
        positions: of the slices, mm.
        series: UID.
        tilt: how far a slice lies beside the one before, by the distance of the two.
    """
    folder.mkdir(exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for n, z in enumerate(positions):
        image = sitk.GetImageFromArray(array[n])
        image.SetSpacing((0.9, 0.8))
        tags = {
            "0008|0060": "MR",
            "0008|0016": "1.2.840.10008.5.1.4.1.1.4",
            "0008|0018": f"{series}.{n}",
            "0020|000d": "1.2.3.4",
            "0020|000e": series,
            "0020|0013": str(n),
            "0020|0032": f"-10\\{-20 + tilt * z}\\{z}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0018|0050": "2.0",
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{series}-{n}.dcm"))
        writer.Execute(image)


def test_dicom_series(tmp_path):
    array = np.random.default_rng(0).integers(0, 900, SHAPE, dtype=np.int16)
    write_dicom(tmp_path / "d", array, [2.0 * n for n in range(10)], "1.2.3.5")
    volume = read_volume_file(tmp_path / "d")
    np.testing.assert_array_equal(volume.array, array)
    assert volume.geometry.spacing == pytest.approx((0.9, 0.8, 2.0))
    assert volume.geometry.origin == pytest.approx((-10, -20, 0))


def test_a_single_dicom_slice_is_as_thick_as_it_says(tmp_path):
    folder = tmp_path / "d"
    write_dicom(folder, (1000 * noise((1, 20, 30))).astype(np.int16), [0.0], "1.2.3.5")
    (file,) = folder.iterdir()
    for path in (folder, file):  # 2 mm, see `write_dicom`
        assert read_volume_file(path).geometry.spacing == pytest.approx((0.9, 0.8, 2.0))
    file.write_bytes(file.read_bytes().replace(b"\x18\x00\x50\x00DS", b"\x18\x00\x88\x00DS"))
    assert read_volume_file(file).geometry.spacing == pytest.approx((0.9, 0.8, 2.0))


def test_dicom_files_that_cannot_be_read_are_said(tmp_path):
    folder = tmp_path / "d"
    write_dicom(
        folder, (1000 * noise((12, 20, 30))).astype(np.int16), 2.0 * np.arange(12), "1.2.3.5"
    )
    (folder / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (folder / "notes.txt").write_text("of the user", encoding="utf-8")
    assert read_volume_file(folder).warnings == ()
    for n in (10, 11):
        (folder / f"1.2.3.5-{n}.dcm").write_bytes(b"")
    volume = read_volume_file(folder)
    assert len(volume.array) == 10
    (warning,) = volume.warnings
    assert "2 files" in warning and "1.2.3.5-10.dcm" in warning
    other = (1000 * noise((2, 20, 30))).astype(np.int16)
    write_dicom(folder, other, [0.0, 2.0], "1.2.3.6")  # whole, of another series
    assert read_volume_file(folder, "1.2.3.5").warnings == (warning,)
    for n in range(2):
        (folder / f"1.2.3.6-{n}.dcm").unlink()
    damaged = (folder / "1.2.3.5-9.dcm").read_bytes()[:400]
    for n in (9, 10, 11):
        (folder / f"1.2.3.5-{n}.dcm").unlink()
    (folder / "IM9").write_bytes(damaged)
    (warning,) = read_volume_file(folder).warnings
    assert "1 file of" in warning and "IM9" in warning


def test_dicom_series_with_a_missing_slice(tmp_path):
    array = np.random.default_rng(0).integers(0, 900, SHAPE, dtype=np.int16)
    positions = [2.0 * n + (2.0 if n > 5 else 0.0) for n in range(10)]
    write_dicom(tmp_path / "d", array, positions, "1.2.3.5")
    refused(lambda: read_volume_file(tmp_path / "d"), "4.00 mm instead of 2.00 mm after slice 6")


@pytest.mark.parametrize(
    ("positions", "tilt", "words"),
    [
        ([2.0 * n for n in range(10)], 0.27, ("0.54 mm beside", "tilted")),
        ([7.0] * 10, 0.0, ("in one place", "covers the head")),
    ],
)
def test_dicom_series_that_is_no_stack(tmp_path, positions, tilt, words):
    array = np.random.default_rng(0).integers(0, 900, SHAPE, dtype=np.int16)
    write_dicom(tmp_path / "d", array, positions, "1.2.3.5", tilt)
    refused(lambda: read_volume_file(tmp_path / "d"), *words)


def test_folder_of_two_series(tmp_path):
    array = np.random.default_rng(0).integers(0, 900, SHAPE, dtype=np.int16)
    for series in ("1.2.3.5", "1.2.3.6"):
        write_dicom(tmp_path / "d", array, [2.0 * n for n in range(10)], series)
    refused(lambda: read_volume_file(tmp_path / "d"), "2 series", "1.2.3.5 (10 files)", "1.2.3.6")
    assert read_volume_file(tmp_path / "d", "1.2.3.6").array.shape == SHAPE
    refused(lambda: read_volume_file(tmp_path / "d", "9"), "no series 9", "1.2.3.5")


@pytest.mark.parametrize("units", [2, 3, 10, 11])
def test_distance_of_two_places_is_in_mm(save, units):
    """Whatever the header's units of length and time."""
    path = save(sitk.GetImageFromArray(noise()), "image.nii")
    mm = 1000 if units in (3, 11) else 1
    with_header(path, 80, "f4", mm, mm, mm)
    with_header(path, 123, "u1", units)
    with_header(path, 252, "i2", 1, 1)
    with_header(path, 268, "f4", 0, 0, 0)
    with_header(path, 280, "f4", -mm, 0, 0, 30 * mm, 0, -mm, 0, 0, 0, 0, mm, 40 * mm)
    (warning,) = read_volume_file(path).warnings
    assert "up to 50 mm apart" in warning


def test_eight_voxels_along_two_axes_are_enough():
    assert Volume(noise((3, 8, 8)), Geometry((8, 8, 3), (1, 1, 1))).array.shape == (3, 8, 8)


@pytest.mark.parametrize("compressed", [False, True])
def test_metaimage_that_ends_too_early_is_said_to(tmp_path, compressed):
    path = tmp_path / "scan.mha"
    image = sitk.GetImageFromArray(noise((10, 11, 12)))
    sitk.WriteImage(image, str(path), useCompression=compressed)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(InputError, match=r"cannot be read as an image \(it is cut short"):
        read_volume_file(path)
    sitk.WriteImage(image, str(tmp_path / "scan.mhd"))
    (tmp_path / "scan.raw").unlink()
    with pytest.raises(InputError, match="the file with its voxels is missing"):
        read_volume_file(tmp_path / "scan.mhd")
