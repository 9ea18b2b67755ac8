"""How much of a segmentation stays: image and labels are changed alike, and the report says it."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from MRFUNetSegmentationLib.evaluation import robustness
from MRFUNetSegmentationLib.evaluation.robustness import Agreement, ways
from MRFUNetSegmentationLib.inference.image_files import read_image
from MRFUNetSegmentationLib.training.metrics import dice

BY_NAME = {way.name: way for way in ways()}


def head() -> sitk.Image:
    """Two structures of intensities 100 and 50 in air, off the middle, voxels of 1 x 1.5 x 2 mm."""
    k, j, i = np.mgrid[:40, :60, :70].astype(float)
    array = np.zeros((40, 60, 70), np.float32)
    array[((i - 30) / 22) ** 2 + ((j - 33) / 18) ** 2 + ((k - 22) / 13) ** 2 < 1] = 50
    array[((i - 44) / 9) ** 2 + ((j - 24) / 8) ** 2 + ((k - 26) / 6) ** 2 < 1] = 100
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.0, 1.5, 2.0))
    image.SetOrigin((-40.0, 10.0, 25.0))
    return image


def labels(image: sitk.Image) -> sitk.Image:
    values = sitk.GetArrayFromImage(image)
    result = sitk.GetImageFromArray((values > 25).astype(np.uint8) + (values > 75))
    result.CopyInformation(image)
    return result


@pytest.mark.parametrize("name", BY_NAME)
def test_labels_go_where_the_image_goes(name):
    way = BY_NAME[name]
    image, moved = way.image(head()), way.labels(way.seen(labels(head())))
    assert image.GetSize() == moved.GetSize()
    np.testing.assert_allclose(image.GetSpacing(), moved.GetSpacing())
    np.testing.assert_allclose(image.GetOrigin(), moved.GetOrigin())
    values = sitk.GetArrayFromImage(image)
    if "noise" in name or "field" in name or "coil" in name or "gamma" in name:
        np.testing.assert_array_equal(
            sitk.GetArrayFromImage(moved), sitk.GetArrayFromImage(labels(head()))
        )
        return
    found = (values > 25).astype(np.uint8) + (values > 75)
    expected = sitk.GetArrayFromImage(moved)
    assert dice(found > 0, expected > 0) > 0.96 and dice(found == 2, expected == 2) > 0.9


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_head_turns_about_the_axis_that_is_named(axis):
    name = ("left-right", "front-back", "bottom-top")[axis]
    turned = next(way for n, way in BY_NAME.items() if f"about the {name} axis" in n)
    before, after = labels(head()), turned.seen(labels(head()))
    centres = [centre(image) for image in (before, after)]
    moved = np.abs(centres[1] - centres[0])
    assert moved[axis] < 0.3 and np.delete(moved, axis).max() > 1


def centre(image: sitk.Image) -> np.ndarray:
    """Centre of the smaller structure, mm."""
    places = np.argwhere(sitk.GetArrayFromImage(image) == 2)[:, ::-1].mean(0)
    return np.array(image.TransformContinuousIndexToPhysicalPoint(places.tolist()))


def values_of(name: str) -> np.ndarray:
    return sitk.GetArrayFromImage(BY_NAME[name].image(head()))


def test_changes_of_intensities_are_as_large_as_they_are_called():
    plain = sitk.GetArrayFromImage(head())
    air = values_of("Rician noise of 10%")[plain == 0]
    assert air.mean() == pytest.approx(0.1 * 100 * np.sqrt(np.pi / 2), rel=0.02)  # Rayleigh's mean
    inside = plain == 50
    bottom, top = (np.flatnonzero(inside.any((1, 2)))[n] for n in (0, -1))
    height = (top - bottom) / 39
    for name, factor in (
        ("bias field, 2.7 times from bottom to top", np.e),
        ("coil below, 6 times from top to bottom", np.exp(-1.8)),
    ):
        changed = values_of(name)
        ratio = changed[top][inside[top]].mean() / changed[bottom][inside[bottom]].mean()
        assert ratio == pytest.approx(factor**height, rel=1e-3)
    changed = values_of("gamma 0.6")
    assert changed[inside].mean() == pytest.approx(100 * 0.5**0.6, rel=1e-4)
    assert changed[plain == 100].mean() == pytest.approx(100, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "spacing"),
    [
        ("voxels of 2 mm", (2.0, 1.5, 2.0)),
        ("axial slices of 6 mm", (1.0, 1.5, 6.0)),
        ("coronal slices of 6 mm", (1.0, 6.0, 2.0)),
        ("sagittal slices of 6 mm", (6.0, 1.5, 2.0)),
    ],
)
def test_coarse_voxels_are_as_large_as_they_are_called(name, spacing):
    assert BY_NAME[name].image(head()).GetSpacing() == pytest.approx(spacing)


def test_a_label_is_that_of_most_of_what_is_averaged():
    array = np.zeros((8, 8, 8), np.uint8)
    array[:, :, 0:5] = 2  # of the second six along i, three of six would be a tie: of four, one
    array[:, :, 5] = 1
    image = sitk.GetImageFromArray(array)
    found = sitk.GetArrayFromImage(BY_NAME["sagittal slices of 6 mm"].labels(image))
    assert found.shape == (8, 8, 1) and (found == 2).all()


class ThresholdSegmenter:
    """Gives what is brighter than 25 and 75, as a network would that always knows."""

    def __init__(self, card):
        self.checkpoint = SimpleNamespace(card=card)

    def segment(self, volume):
        values = volume.array
        return SimpleNamespace(labels=(values > 25).astype(np.uint8) + (values > 75))


def test_volumes_are_compared_with_those_on_the_scans_own_voxels(tmp_path, tiny_card):
    """A sheet of 2 mm is not most of a slice of 6 mm, and has its volume for all that."""
    array = np.zeros((36, 40, 40), np.float32)
    array[4:32, 4:36, 4:36] = 50
    array[13:15] = 100  # of each six slices along k, two
    path = tmp_path / "sheet.nii.gz"
    image = sitk.GetImageFromArray(array)
    sitk.WriteImage(image, str(path))
    found = list(robustness.agreements(path, ThresholdSegmenter(tiny_card)))
    of = {(a.way, a.structure): a for a in found}
    names = [c.name for c in tiny_card.segments[:2]]
    sheet = of["axial slices of 6 mm", names[1]]
    assert sheet.dice == 1 and sheet.volume == 0, "neither sees it"
    whole = of["lower third not scanned", names[1]]
    assert whole.dice == 1 and whole.volume == 1
    around = of["axial slices of 6 mm", names[0]]
    assert around.volume > 1.05, "where the sheet was"


def test_report_has_the_means_over_the_scans(tmp_path):
    found = [
        Agreement("noise", "a", "Grey matter", 0.9, 1.1),
        Agreement("noise", "b", "Grey matter", 0.7, 0.7),
        Agreement("noise", "a", "Ventricles", 1.0, float("nan")),
        Agreement("noise", "b", "Ventricles", 0.5, 2.0),
    ]
    robustness.write_report(found, "model", tmp_path / "new")
    text = (tmp_path / "new" / "robustness.md").read_text(encoding="utf-8")
    assert "model on a, b" in text
    assert "| the same scan with | Grey matter | Ventricles |" in text
    assert "| noise | 0.80 (90%) | 0.75 (200%) |" in text
    with (tmp_path / "new" / "robustness.csv").open(encoding="utf-8") as file:
        assert [row["dice"] for row in csv.DictReader(file)] == [
            "0.9000",
            "0.7000",
            "1.0000",
            "0.5000",
        ]


def test_scan_as_a_user_has_it(tmp_path, tiny_checkpoint, monkeypatch, capsys):
    # Axes that run to the front, the top and the left, as of a sagittal scan.
    scan = sitk.PermuteAxes(head(), (1, 2, 0))
    sitk.WriteImage(sitk.Cast(scan, sitk.sitkInt16), str(tmp_path / "scan.nii.gz"))
    kept = [way for way in ways() if "tilted by 15" in way.name or "axial slices of" in way.name]
    monkeypatch.setattr(robustness, "ways", lambda: kept)
    robustness.main(
        [
            str(tmp_path / "scan.nii.gz"),
            "-o",
            str(tmp_path / "out"),
            "--model",
            str(tiny_checkpoint),
            "--device",
            "cpu",
        ]
    )
    with (tmp_path / "out" / "robustness.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * len({row["structure"] for row in rows})
    assert {row["scan"] for row in rows} == {f"{tmp_path.name}/scan.nii.gz"}
    assert all(0 <= float(row["dice"]) <= 1 for row in rows)
    assert "tilted by 15 degrees about the left-right axis" in capsys.readouterr().out
    assert read_image(tmp_path / "scan.nii.gz").GetSize() == scan.GetSize()
