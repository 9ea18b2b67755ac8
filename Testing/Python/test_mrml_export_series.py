"""Several segmentations exported together: samples, and those of a sequence."""

import csv
import os
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

slicer = pytest.importorskip("slicer")

from MRFUNetSegmentationLib import files  # noqa: E402
from MRFUNetSegmentationLib.errors import InputError, OutputError  # noqa: E402
from MRFUNetSegmentationLib.mrml import export  # noqa: E402
from MRFUNetSegmentationLib.mrml.export_series import (  # noqa: E402
    Item,
    Series,
    files_in_steps,
    nodes_in_steps,
)
from MRFUNetSegmentationLib.mrml.geometry import ijk_to_ras  # noqa: E402
from MRFUNetSegmentationLib.mrml.results import volumes_ml  # noqa: E402
from MRFUNetSegmentationLib.mrml.samples import write_samples  # noqa: E402
from MRFUNetSegmentationLib.mrml.segmentations import (  # noqa: E402
    label_image,
    write_segmentation,
)
from MRFUNetSegmentationLib.mrml.sequences import (  # noqa: E402
    SegmentationSequence,
    VolumeSequence,
)
from MRFUNetSegmentationLib.mrml.volumes import voxels  # noqa: E402
from mrml_scene import (  # noqa: E402
    CLASSES,
    OBLIQUE,
    add_volume,
    phantom,
    put_under_linear_transform,
    rotation,
    translation,
)
from sequence_tools import (  # noqa: E402
    add_sequence,
    browser_of,
    shown_volume,
)
from test_mrml_export import add_user_segment, box  # noqa: E402
from test_mrml_samples import sampled_labels, sampled_result  # noqa: E402


def finish(steps) -> list:
    """Take all steps of an export and return what they made."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


@pytest.fixture
def volume(scene):
    return add_volume(scene, phantom().astype(np.float32), OBLIQUE)


@pytest.fixture
def samples(request, volume, tiny_card):
    request.getfixturevalue("sequences")
    samples = write_samples(sampled_result(tiny_card), volume, overlays=[])
    samples.set_order("likelihood")
    return samples


def test_all_samples_as_label_map_nodes(scene, samples):
    nodes = finish(nodes_in_steps(Series.of_samples(samples)))
    assert [node.GetName() for node in nodes] == [
        f"Scan sample {n} label map" for n in (1, 2, 3, 4)
    ]
    for n, node in enumerate(nodes):
        np.testing.assert_array_equal(voxels(node.GetImageData()), sampled_labels(n))
        assert node.GetDisplayNode().GetColorNode().GetColorName(3) == "CSF"


@pytest.mark.parametrize("hardened", [False, True])
@pytest.mark.parametrize(
    "transform", [translation(7, 3, 2), rotation(20, 1), np.diag([1.2, 1.2, 1.2, 1])]
)
def test_samples_of_a_volume_under_a_transform(
    volume, tiny_card, tmp_path, sequences, transform, hardened
):
    put_under_linear_transform(volume, transform)
    samples = write_samples(sampled_result(tiny_card), volume, overlays=[])
    if hardened:
        volume.HardenTransform()
    nodes = finish(nodes_in_steps(Series.of_samples(samples)))
    *paths, _ = finish(files_in_steps(tmp_path, Series.of_samples(samples)))
    for n, (node, path) in enumerate(zip(nodes, paths, strict=True)):
        np.testing.assert_array_equal(voxels(node.GetImageData()), sampled_labels(n))
        np.testing.assert_array_equal(
            sitk.GetArrayFromImage(sitk.ReadImage(str(path))), sampled_labels(n)
        )
        assert node.GetParentTransformNode() is volume.GetParentTransformNode()


def test_failure_at_the_third_sample_leaves_no_nodes(scene, samples, monkeypatch):
    before = [scene.GetNthNode(i).GetID() for i in range(scene.GetNumberOfNodes())]
    calls = []
    original = export._colour_table

    def failing(*args):
        calls.append(args)
        if len(calls) == 3:
            raise MemoryError
        return original(*args)

    monkeypatch.setattr(export, "_colour_table", failing)
    with pytest.raises(MemoryError):
        finish(nodes_in_steps(Series.of_samples(samples)))
    assert [scene.GetNthNode(i).GetID() for i in range(scene.GetNumberOfNodes())] == before


@pytest.mark.parametrize("suffix", [".nii.gz", ".seg.nrrd"])
def test_all_samples_as_files(samples, tmp_path, suffix):
    steps = files_in_steps(tmp_path / "new", Series.of_samples(samples), suffix)
    *paths, table = finish(steps)
    assert [p.name for p in paths] == [f"sample_00{n}{suffix}" for n in (1, 2, 3, 4)]
    assert sorted((tmp_path / "new").iterdir()) == [*paths, table]
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["sample"] for row in rows] == ["1", "2", "3", "4"]
    voxel_ml = np.prod(samples.volume.GetSpacing()) / 1000
    for n, row in enumerate(rows):
        expected = (sampled_labels(n) == CLASSES[1].value).sum() * voxel_ml
        assert float(row[f"{CLASSES[1].segment_id}_ml"]) == pytest.approx(expected, abs=1e-3)
    for n, path in enumerate(paths):
        image = sitk.ReadImage(str(path))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), sampled_labels(n))


def test_files_have_the_numbers_of_the_samples_that_are_left(samples, tmp_path):
    samples.sequence.RemoveDataNodeAtValue("2")
    *paths, table = finish(files_in_steps(tmp_path, Series.of_samples(samples)))
    assert [p.name for p in paths] == [f"sample_00{n}.nii.gz" for n in (1, 3, 4)]
    for number, path in zip((1, 3, 4), paths, strict=True):
        np.testing.assert_array_equal(
            sitk.GetArrayFromImage(sitk.ReadImage(str(path))), sampled_labels(number - 1)
        )
    with table.open(encoding="utf-8", newline="") as file:
        assert [row["sample"] for row in csv.DictReader(file)] == ["1", "3", "4"]


def test_samples_are_exported_in_steps(samples, tmp_path):
    fractions = list(files_in_steps(tmp_path, Series.of_samples(samples)))
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert len(fractions) >= samples.number
    assert len(list(tmp_path.iterdir())) == samples.number + 1


@pytest.mark.parametrize("steps_taken", [0, 1, 4])
@pytest.mark.parametrize("views", [False, True])
def test_export_that_ends_early_leaves_nothing(
    scene, samples, tmp_path, steps_taken, views, monkeypatch
):
    if views:  # those of the application must not lose a segmentation's display
        monkeypatch.setattr(slicer, "app", object(), raising=False)
    before = [scene.GetNthNode(i).GetID() for i in range(scene.GetNumberOfNodes())]
    (tmp_path / "old").mkdir()
    for steps in (
        files_in_steps(tmp_path / "new", Series.of_samples(samples)),
        files_in_steps(tmp_path / "old", Series.of_samples(samples)),
        nodes_in_steps(Series.of_samples(samples)),
    ):
        for _ in range(steps_taken):
            next(steps)
        steps.close()
    assert list(tmp_path.rglob("*")) == [tmp_path / "old"]
    assert [scene.GetNthNode(i).GetID() for i in range(scene.GetNumberOfNodes())] == before


def test_samples_that_are_replaced_during_their_export_are_exported(samples, tmp_path):
    steps = files_in_steps(tmp_path, Series.of_samples(samples))
    next(steps)
    samples.remove()
    list(steps)
    for n in range(4):
        image = sitk.ReadImage(str(tmp_path / f"sample_00{n + 1}.nii.gz"))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), sampled_labels(n))


def test_existing_samples_are_replaced_only_when_allowed(samples, tmp_path):
    (tmp_path / "sample_003.nii.gz").write_bytes(b"precious")
    (tmp_path / "sample_007.nii.gz").write_bytes(b"not of these")
    with pytest.raises(OutputError, match=r"sample_003\.nii\.gz exists"):
        finish(files_in_steps(tmp_path, Series.of_samples(samples)))
    assert len(list(tmp_path.iterdir())) == 2
    finish(files_in_steps(tmp_path, Series.of_samples(samples), overwrite=True))
    image = sitk.ReadImage(str(tmp_path / "sample_003.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), sampled_labels(2))
    assert (tmp_path / "sample_007.nii.gz").read_bytes() == b"not of these"


def test_full_disk_at_the_third_sample_leaves_nothing(samples, tmp_path, monkeypatch):
    (tmp_path / "sample_001.nii.gz").write_bytes(b"precious")
    original, written = export.write_label_map, []

    def full(path, *args):
        written.append(path)
        if len(written) == 3:
            raise OSError("no space left")
        return original(path, *args)

    monkeypatch.setattr(export, "write_label_map", full)
    with pytest.raises(OutputError, match="no space left"):
        finish(files_in_steps(tmp_path, Series.of_samples(samples), overwrite=True))
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"precious"]
    with pytest.raises(OutputError, match="there is no folder"):
        finish(files_in_steps(tmp_path / "missing" / "folder", Series.of_samples(samples)))


def test_file_that_cannot_be_replaced_leaves_all_as_they_were(samples, tmp_path, monkeypatch):
    (tmp_path / "sample_001.nii.gz").write_bytes(b"precious")
    original = os.replace

    def open_elsewhere(source, target):
        if target == tmp_path / "sample_003.nii.gz":
            raise PermissionError(13, "used by another process")
        original(source, target)

    monkeypatch.setattr(files.os, "replace", open_elsewhere)
    with pytest.raises(OutputError, match="used by another process"):
        finish(files_in_steps(tmp_path, Series.of_samples(samples), overwrite=True))
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"precious"]


def test_file_that_cannot_even_be_put_back_is_kept_and_named(samples, tmp_path, monkeypatch):
    (tmp_path / "sample_001.nii.gz").write_bytes(b"precious")
    original = os.replace

    def out_of_the_way_only(source, target):
        if Path(target).parent == tmp_path:
            raise PermissionError(13, "not there")
        original(source, target)

    monkeypatch.setattr(files.os, "replace", out_of_the_way_only)
    with pytest.raises(OutputError, match="could not be put back: they are in") as caught:
        finish(files_in_steps(tmp_path, Series.of_samples(samples), overwrite=True))
    (kept,) = (p for p in tmp_path.rglob("*") if p.is_file())
    assert kept.read_bytes() == b"precious" and str(kept.parent) in str(caught.value)


def test_folder_whose_name_is_too_long(samples, tmp_path):
    with pytest.raises(OutputError, match=r"cannot be written .*too long"):
        finish(files_in_steps(tmp_path / ("a" * 300), Series.of_samples(samples)))


def test_folder_of_a_files_name_stays(samples, tmp_path):
    (tmp_path / "sample_002.nii.gz").mkdir()
    with pytest.raises(OutputError, match=r"sample_002\.nii\.gz is a folder"):
        finish(files_in_steps(tmp_path, Series.of_samples(samples), overwrite=True))
    assert [p.is_dir() for p in tmp_path.iterdir()] == [True]


def test_samples_whose_volume_was_removed(scene, samples, volume, tmp_path):
    scene.RemoveNode(volume)
    with pytest.raises(InputError, match="volume was removed"):
        finish(files_in_steps(tmp_path, Series.of_samples(samples)))
    with pytest.raises(InputError, match="volume was removed"):
        finish(nodes_in_steps(Series.of_samples(samples)))


@pytest.fixture
def segmented(scene, sequences):
    """A segmentation node that shows those of three scans."""
    matrices = [translation(5 * n, 0, 0) @ OBLIQUE for n in range(3)]
    labels = [np.roll(phantom(), n, axis=0) for n in range(3)]
    sequence = add_sequence(scene, [np.ones(phantom().shape, np.int16)] * 3, matrices)
    made = SegmentationSequence(VolumeSequence.of(sequence), CLASSES, {})
    for array in labels:
        made.add(array)
    with ExitStack() as undo:
        node = made.put(None, undo)
        undo.pop_all()
    return node, sequence, labels


def test_segmentations_of_a_sequence_as_files_with_their_volumes_over_time(segmented, tmp_path):
    node, sequence, labels = segmented
    browser_of(sequence).SetSelectedItemNumber(1)
    *paths, table = finish(files_in_steps(tmp_path, Series.of_sequence(node)))
    assert [p.name for p in paths] == [f"segmentation_00{n}.nii.gz" for n in (1, 2, 3)]
    for n, path in enumerate(paths):
        image = sitk.ReadImage(str(path))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), labels[n])
        origin = np.diag([-1, -1, 1]) @ ijk_to_ras(sequence.GetNthDataNode(n))[:3, 3]
        assert image.GetOrigin() == pytest.approx(origin, abs=1e-4)
    header, *rows = [line.split(",") for line in table.read_text().splitlines()]
    assert header[0] == "time_s"
    assert [row[0] for row in rows] == ["0.0", "1.5", "3.0"]
    assert all(float(cell) > 0 for row in rows for cell in row[1:])


def test_segmentations_of_a_sequence_as_label_map_nodes(segmented):
    node, sequence, labels = segmented
    nodes = finish(nodes_in_steps(Series.of_sequence(node)))
    for n, labelmap in enumerate(nodes):
        np.testing.assert_array_equal(voxels(labelmap.GetImageData()), labels[n])
        grids = ijk_to_ras(labelmap), ijk_to_ras(sequence.GetNthDataNode(n))
        np.testing.assert_allclose(*grids)


def test_label_map_nodes_of_a_sequence_lie_where_its_volumes_are_shown(segmented):
    node, sequence, labels = segmented
    transform = put_under_linear_transform(shown_volume(sequence), rotation(30, 2))
    node.SetAndObserveTransformNodeID(transform.GetID())
    browser_of(sequence).SetSelectedItemNumber(2)
    nodes = finish(nodes_in_steps(Series.of_sequence(node)))
    for n, labelmap in enumerate(nodes):
        assert labelmap.GetParentTransformNode() is transform
        np.testing.assert_array_equal(voxels(labelmap.GetImageData()), labels[n])


def test_segments_of_the_user_have_one_value_in_a_series(segmented, tmp_path):
    """Also where they were added to some of its segmentations only."""
    node, sequence, labels = segmented
    mask = box(slice(3, 6))
    for item, ids in enumerate([["A"], [], ["B", "A"]]):
        browser_of(sequence).SetSelectedItemNumber(item)
        for segment_id in ids:
            add_user_segment(node, segment_id, mask, f"Lesion {segment_id}")
            mask = np.roll(mask, 1, axis=0)
    masks = {(0, "A"): box(slice(3, 6)), (2, "B"): box(slice(4, 7)), (2, "A"): box(slice(5, 8))}
    labels[0][masks[0, "A"]] = 4
    labels[2][masks[2, "A"]] = 4
    labels[2][masks[2, "B"]] = 5
    *paths, table = finish(files_in_steps(tmp_path, Series.of_sequence(node)))
    for n, path in enumerate(paths):
        image = sitk.ReadImage(str(path))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), labels[n])
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    voxel_ml = np.prod(sequence.GetNthDataNode(0).GetSpacing()) / 1000
    for segment_id, value in (("A", 4), ("B", 5)):
        cells = [row[f"Lesion {segment_id}_ml"] for row in rows]
        for n, cell in enumerate(cells):
            expected = (labels[n] == value).sum() * voxel_ml if (n, segment_id) in masks else None
            assert (float(cell) if cell else None) == pytest.approx(expected, abs=1e-3)
    nodes = finish(nodes_in_steps(Series.of_sequence(node)))
    for n, labelmap in enumerate(nodes):
        np.testing.assert_array_equal(voxels(labelmap.GetImageData()), labels[n])
    assert nodes[2].GetDisplayNode().GetColorNode().GetColorName(5) == "Lesion B"


def test_columns_of_segments_with_one_name_are_told_apart(segmented, tmp_path):
    node, _sequence, _labels = segmented
    for segment_id, name in (("A", "Lesion"), ("B", "Lesion"), ("C", "csf")):
        add_user_segment(node, segment_id, box(slice(3, 6)), name)
    *_paths, table = finish(files_in_steps(tmp_path, Series.of_sequence(node)))
    header = table.read_text().splitlines()[0].split(",")
    assert header[3:] == ["csf_ml", "Lesion_ml", "B_ml", "C_ml"]


def test_segment_called_like_the_id_of_another_one_is_told_apart(segmented, tmp_path):
    """Slicer calls new segments like their IDs; those of the first item were both renamed."""
    node, sequence, labels = segmented
    for item, added in enumerate([{"A": "Lesion", "B": "Lesion"}, {"A": "A", "B": "B"}]):
        browser_of(sequence).SetSelectedItemNumber(item)
        for n, (segment_id, name) in enumerate(added.items()):
            mask = np.roll(box(slice(3, 6)), n, axis=0)
            add_user_segment(node, segment_id, mask, name)
            labels[item][mask] = 4 + 2 * item + n
    *paths, table = finish(files_in_steps(tmp_path, Series.of_sequence(node)))
    for n, path in enumerate(paths):
        np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), labels[n])
    header = table.read_text().splitlines()[0].split(",")
    assert header[-4:] == ["Lesion_ml", "B_ml", "A_ml", "B_7_ml"]


def test_what_is_of_no_sequence(volume, segmented):
    alone = write_segmentation(phantom(), CLASSES, volume)
    with pytest.raises(InputError, match="not of a sequence"):
        Series.of_sequence(alone)
    node, sequence, _labels = segmented
    sequence.RemoveDataNodeAtValue("1.5")
    with pytest.raises(InputError, match=r"at 1\.5 of the sequence was removed"):
        Series.of_sequence(node)


def test_volumes_of_voxels_whose_axes_are_not_at_right_angles(scene, tmp_path, sequences):
    tilted = np.diag([1.0, 2.0, 3.0, 1.0])
    tilted[:3, 2] = 0, 3 * np.sin(0.35), 3 * np.cos(0.35)
    volume = add_volume(scene, phantom().astype(np.float32), tilted)
    node = write_segmentation(phantom(), CLASSES, volume)
    entries = export.entries_of(node)
    expected = {e.segment_id: (phantom() == e.value).sum() * 6e-3 * np.cos(0.35) for e in entries}
    assert volumes_ml(node) == pytest.approx(expected)
    item = Item(1, "1", node, volume, placed_by=volume, grid=ijk_to_ras(volume))
    series = Series("scan", "scan", scene, [item])
    *_, table = finish(files_in_steps(tmp_path, series, ".nrrd"))
    with table.open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    for segment_id, ml in expected.items():
        assert float(row[f"{segment_id}_ml"]) == pytest.approx(ml, abs=1e-3)


def test_samples_whose_volume_was_emptied(samples, volume):
    volume.SetAndObserveImageData(None)
    with pytest.raises(InputError, match="has no voxels"):
        Series.of_samples(samples)
    with pytest.raises(InputError, match="has no voxels"):
        samples.keep()


@pytest.mark.parametrize("when", [1, 2])
def test_volume_that_was_emptied_during_an_export_is_said(samples, volume, tmp_path, when):
    steps = files_in_steps(tmp_path, Series.of_samples(samples))
    for _ in range(when):
        next(steps)
    volume.SetAndObserveImageData(None)
    with pytest.raises(InputError, match="has no voxels"):
        finish(steps)
    assert not list(tmp_path.iterdir())


def test_segments_of_one_name_are_one_structure(sequences, scene, tmp_path):
    sequence = add_sequence(scene, [phantom().astype(np.float32)] * 3, [OBLIQUE] * 3)
    volumes = VolumeSequence.of(sequence)
    new = SegmentationSequence(volumes, CLASSES, {"Model": "tiny"})
    for _ in range(3):
        new.add(phantom())
    node = new.put(None, ExitStack())
    for n in range(3):
        volumes.browser.SetSelectedItemNumber(n)
        sequences.UpdateProxyNodesFromSequences(volumes.browser)
        # As the Segment Editor's "Add", which gives each an ID of its own.
        segment_id = node.GetSegmentation().AddEmptySegment("", "Tumour")
        segment = node.GetSegmentation().GetSegment(segment_id)
        labels = np.zeros(phantom().shape, np.uint8)
        labels[0, : n + 1, :3] = 1
        segment.AddRepresentation("Binary labelmap", label_image(labels, volumes.volume))
        segment.SetLabelValue(1)
    *paths, table = finish(files_in_steps(tmp_path / "new", Series.of_sequence(node)))
    for n, path in enumerate(paths):
        assert (sitk.GetArrayFromImage(sitk.ReadImage(str(path))) == 4).sum() == 3 * (n + 1)
    header = table.read_text(encoding="utf-8").splitlines()[0]
    assert header == "time_s,grey_matter_ml,white_matter_ml,csf_ml,Tumour_ml"


def test_samples_of_an_item_are_not_brought_onto_another_one(sequences, scene, tiny_card):
    there = translation(40, -25, 10) @ OBLIQUE @ np.diag([2.0, 2, 2, 1])
    sequence = add_sequence(scene, [phantom().astype(np.float32)] * 2, [OBLIQUE, there])
    volume, browser = shown_volume(sequence), browser_of(sequence)
    samples = write_samples(sampled_result(tiny_card), volume, overlays=[])
    before, after = [0.0] * 6, [0.0] * 6
    samples.keep().GetRASBounds(before)
    browser.SetSelectedItemNumber(1)
    sequences.UpdateProxyNodesFromSequences(browser)
    samples.keep().GetRASBounds(after)
    np.testing.assert_allclose(after, before)
    for act in (
        lambda: Series.of_samples(samples),
        lambda: export.read_labels(samples.consensus, volume),
    ):
        with pytest.raises(InputError, match=r"of item 0\.0 .* item 1\.5 now"):
            act()
    browser.SetSelectedItemNumber(0)
    sequences.UpdateProxyNodesFromSequences(browser)
    assert len(Series.of_samples(samples).items) == samples.number


def test_samples_of_an_item_are_exported_beside_another_one_of_the_same_voxels(
    sequences, scene, tiny_card, tmp_path
):
    sequence = add_sequence(scene, [phantom().astype(np.float32)] * 2, [OBLIQUE] * 2)
    volume, browser = shown_volume(sequence), browser_of(sequence)
    samples = write_samples(sampled_result(tiny_card), volume, overlays=[])
    before = export.read_labels(samples.consensus, volume)
    browser.SetSelectedItemNumber(1)
    sequences.UpdateProxyNodesFromSequences(browser)
    np.testing.assert_array_equal(export.read_labels(samples.consensus, volume), before)
    assert before.any()
    paths = finish(files_in_steps(tmp_path / "new", Series.of_samples(samples)))
    assert len(paths) == samples.number + 1
