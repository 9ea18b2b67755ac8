"""Export of segmentations to label map nodes and files: class k is always value k."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import numpy as np
import pytest
import SimpleITK as sitk

slicer = pytest.importorskip("slicer")

from MRFUNetSegmentationLib.errors import InputError, OutputError  # noqa: E402
from MRFUNetSegmentationLib.inference import image_files  # noqa: E402
from MRFUNetSegmentationLib.inference.volume import Geometry  # noqa: E402
from MRFUNetSegmentationLib.mrml import export, file_grid  # noqa: E402
from MRFUNetSegmentationLib.mrml.dicom import export_dicom  # noqa: E402
from MRFUNetSegmentationLib.mrml.export import (  # noqa: E402
    entries_of,
    export_file,
    export_labelmap_node,
    read_labels,
)
from MRFUNetSegmentationLib.mrml.file_grid import FILE  # noqa: E402
from MRFUNetSegmentationLib.mrml.geometry import ijk_to_ras  # noqa: E402
from MRFUNetSegmentationLib.mrml.segmentations import (  # noqa: E402
    label_image,
    reference_volume,
    tag,
    write_segmentation,
)
from MRFUNetSegmentationLib.mrml.volumes import voxels  # noqa: E402
from mrml_scene import (  # noqa: E402
    CLASSES,
    LEFT_HANDED,
    OBLIQUE,
    add_volume,
    phantom,
    put_under_linear_transform,
    put_under_warp,
    rotation,
    vtk_image,
)


@pytest.fixture
def volume(scene):
    return add_volume(scene, phantom().astype(np.float32), OBLIQUE)


@pytest.fixture
def segmentation(volume):
    return write_segmentation(phantom(), CLASSES, volume)


def without(value: int) -> np.ndarray:
    labels = phantom()
    labels[labels == value] = 0
    return labels


def node_voxels(labelmap) -> np.ndarray:
    return voxels(labelmap.GetImageData())


# Values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("empty", [1, 2, 3])
def test_values_do_not_shift_when_a_class_is_empty(volume, tmp_path, empty):
    node = write_segmentation(without(empty), CLASSES, volume)
    np.testing.assert_array_equal(read_labels(node, volume), without(empty))
    labelmap = export_labelmap_node(node, volume)
    np.testing.assert_array_equal(node_voxels(labelmap), without(empty))
    image = sitk.ReadImage(str(export_file(tmp_path / "out.nrrd", node, volume)))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), without(empty))


@pytest.mark.parametrize("removed", [1, 2, 3])
def test_values_do_not_shift_when_the_user_removed_a_segment(volume, segmentation, removed):
    segmentation.GetSegmentation().RemoveSegment(CLASSES[removed].segment_id)
    np.testing.assert_array_equal(read_labels(segmentation, volume), without(removed))


def test_no_segment_is_left(volume, segmentation):
    segmentation.GetSegmentation().RemoveAllSegments()
    assert not read_labels(segmentation, volume).any()


def test_values_do_not_depend_on_order_and_names_of_segments(volume, segmentation):
    segmentation.GetSegmentation().SetSegmentIndex("csf", 0)
    segmentation.GetSegmentation().GetSegment("csf").SetName("Liquor")
    np.testing.assert_array_equal(read_labels(segmentation, volume), phantom())


TUMOUR = (
    "Segmentation category and type - 3D Slicer General Anatomy list"
    "~SCT^49755003^Morphologically Altered Structure~SCT^108369006^Tumor~^^"
    "~Anatomic codes - DICOM master list~^^~^^"
)


def add_user_segment(node, segment_id, mask, name="Mine", terminology=None) -> None:
    """Add a segment as a user does, with the voxels of a mask [k, j, i] of its volume."""
    segment = slicer.vtkSegment()
    segment.SetName(name)
    if terminology:
        segment.SetTag(segment.GetTerminologyEntryTagName(), terminology)
    image = label_image(mask.astype(np.uint8), reference_volume(node), cropped=True)
    segment.AddRepresentation("Binary labelmap", image)
    assert node.GetSegmentation().AddSegment(segment, segment_id)


def box(k: slice) -> np.ndarray:
    """Mask [k, j, i] of a box in some planes of the phantom."""
    mask = np.zeros(phantom().shape, bool)
    mask[k, 4:7, 5:9] = True
    return mask


def with_user_segments(segmentation) -> np.ndarray:
    """Add two segments that overlap each other and the classes, and an empty one.

    Returns:
        The labels that are to be expected, [k, j, i].
    """
    lesion, oedema = box(slice(3, 6)), box(slice(5, 9))
    add_user_segment(segmentation, "Segment_1", lesion, "Lesion", TUMOUR)
    add_user_segment(segmentation, "Segment_2", np.zeros_like(lesion), "Empty")
    add_user_segment(segmentation, "Segment_3", oedema, "Oedema")
    labels = phantom()
    labels[lesion], labels[oedema] = 4, 6
    return labels


def test_segments_of_the_user_get_the_values_after_the_classes(volume, segmentation):
    expected = with_user_segments(segmentation)
    np.testing.assert_array_equal(read_labels(segmentation, volume), expected)
    # Wherever they are in the list.
    segmentation.GetSegmentation().SetSegmentIndex("Segment_1", 0)
    labelmap = export_labelmap_node(segmentation, volume)
    np.testing.assert_array_equal(node_voxels(labelmap), expected)
    table = labelmap.GetDisplayNode().GetColorNode()
    names = [table.GetColorName(k) for k in range(table.GetNumberOfColors())]
    classes = ["background", "Grey matter", "White matter", "CSF"]
    assert names == [*classes, "Lesion", "Empty", "Oedema"]
    if hasattr(table, "GetTerminologyAsString"):
        assert "SCT^108369006^Tumor" in table.GetTerminologyAsString(4)


def test_value_of_a_class_that_was_removed_is_not_given_away(volume, segmentation):
    segmentation.GetSegmentation().RemoveSegment("csf")
    add_user_segment(segmentation, "Segment_1", box(slice(3, 6)))
    expected = without(3)
    expected[box(slice(3, 6))] = 4
    np.testing.assert_array_equal(read_labels(segmentation, volume), expected)


def test_nifti_of_sheared_axes_is_refused(volume, tmp_path):
    sheared = np.eye(4)
    sheared[0, 1] = 0.05
    put_under_linear_transform(volume, sheared)
    volume.HardenTransform()
    node = write_segmentation(phantom(), CLASSES, volume)
    with pytest.raises(OutputError, match=r"right angles.*\.nrrd"):
        export_file(tmp_path / "labels.nii.gz", node, volume)
    assert not list(tmp_path.iterdir())
    path = export_file(tmp_path / "labels.nrrd", node, volume)
    image = sitk.ReadImage(str(path))
    last = [float(n - 1) for n in image.GetSize()]
    corner = ijk_to_ras(volume) @ [*last, 1]
    assert image.TransformContinuousIndexToPhysicalPoint(last) == pytest.approx(
        corner[:3] * (-1, -1, 1), abs=1e-3
    )


def test_segmentation_drawn_by_hand_is_exported(scene, volume):
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "By hand")
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    add_user_segment(node, "Segment_1", box(slice(3, 6)))
    np.testing.assert_array_equal(read_labels(node, volume), box(slice(3, 6)))


def test_more_segments_than_values_of_a_byte_are_refused(volume, segmentation, tmp_path):
    empty = np.zeros_like(phantom())
    for n in range(252):
        add_user_segment(segmentation, f"Segment_{n}", empty)
    labels = phantom()
    labels[box(slice(3, 6))] = 255
    add_user_segment(segmentation, "Segment_251", box(slice(3, 6)))
    np.testing.assert_array_equal(read_labels(segmentation, volume), labels)
    add_user_segment(segmentation, "Segment_252", empty)
    with pytest.raises(InputError, match=r"too many segments: .* exceed 255"):
        read_labels(segmentation, volume)
    with pytest.raises(InputError, match="too many segments"):
        export_file(tmp_path / "out.nrrd", segmentation, volume)
    assert not list(tmp_path.iterdir())


def test_edits_are_exported(volume, segmentation):
    image = segmentation.GetBinaryLabelmapInternalRepresentation("csf")
    voxels(image)[0, 0, :3] = 3
    image.Modified()
    expected = phantom()
    expected[0, 0, :3] = 3
    np.testing.assert_array_equal(read_labels(segmentation, volume), expected)


def test_grid_of_another_volume(scene, segmentation):
    # Every second voxel of the scan along i and k.
    coarse = add_volume(
        scene, np.zeros((7, 16, 9), np.float32), OBLIQUE @ np.diag([2, 1, 2, 1]), "Coarse"
    )
    np.testing.assert_array_equal(read_labels(segmentation, coarse), phantom()[::2, :, ::2])


# Label map nodes -----------------------------------------------------------------------------


@pytest.mark.parametrize("matrix", [OBLIQUE, LEFT_HANDED])
def test_label_map_node_lies_on_the_volume(scene, matrix):
    volume = add_volume(scene, phantom().astype(np.float32), matrix)
    transform = put_under_linear_transform(volume, rotation(30, 2))
    node = write_segmentation(phantom(), CLASSES, volume)
    labelmap = export_labelmap_node(node, volume)
    np.testing.assert_array_equal(node_voxels(labelmap), phantom())
    np.testing.assert_allclose(ijk_to_ras(labelmap), ijk_to_ras(volume))
    assert labelmap.GetParentTransformNode() is transform


def test_label_map_node_has_a_colour_table_with_the_classes(volume, segmentation):
    labelmap = export_labelmap_node(segmentation, volume)
    assert labelmap.GetName() == "Scan segmentation label map"
    table = labelmap.GetDisplayNode().GetColorNode()
    names = [table.GetColorName(k) for k in range(4)]
    assert names == ["background", *(c.name for c in CLASSES[1:])]
    assert table.GetNumberOfColors() == 4
    color = [0.0] * 4
    table.GetColor(3, color)
    np.testing.assert_allclose(color, [80 / 255, 180 / 255, 1, 1])
    table.GetColor(0, color)
    assert color[3] == 0
    if hasattr(table, "GetTerminologyAsString"):
        assert "SCT^389081007^Gray matter" in table.GetTerminologyAsString(1)


def test_segmentation_from_the_exported_node_is_the_same(scene_logics, volume):
    scene, logics = scene_logics
    labels = without(1)
    node = write_segmentation(labels, CLASSES, volume)
    labelmap = export_labelmap_node(node, volume)
    back = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Back")
    assert logics["Segmentations"].ImportLabelmapToSegmentationNode(labelmap, back)
    names = [
        back.GetSegmentation().GetSegment(s).GetName()
        for s in back.GetSegmentation().GetSegmentIDs()
    ]
    assert names == ["White matter", "CSF"]


def fail_after(monkeypatch, step: str) -> None:
    original = getattr(export, step)

    def failing(*args):
        original(*args)
        raise MemoryError(step)

    monkeypatch.setattr(export, step, failing)


STEPS = ("read_labels", "ensure_display", "_colour_table")


@pytest.mark.parametrize("step", STEPS)
def test_failure_leaves_no_new_nodes(scene, volume, segmentation, monkeypatch, step):
    before = [scene.GetNthNode(i).GetID() for i in range(scene.GetNumberOfNodes())]
    fail_after(monkeypatch, step)
    with pytest.raises(MemoryError):
        export_labelmap_node(segmentation, volume)
    assert [scene.GetNthNode(i).GetID() for i in range(scene.GetNumberOfNodes())] == before


# Files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("matrix", [OBLIQUE, LEFT_HANDED])
def test_file_lies_on_the_volume(scene, tmp_path, suffix, matrix):
    volume = add_volume(scene, phantom().astype(np.float32), matrix)
    node = write_segmentation(phantom(), CLASSES, volume)
    path = export_file(tmp_path / f"out{suffix}", node, volume)
    image = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), phantom())
    assert image.GetPixelID() == sitk.sitkUInt8
    for index in [(0, 0, 0), (17, 3, 13)]:
        expected = (matrix @ [*index, 1])[:3] * [-1, -1, 1]
        np.testing.assert_allclose(image.TransformIndexToPhysicalPoint(index), expected, atol=1e-4)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("put_under", [put_under_warp, None])
def test_file_lies_on_the_volumes_file_whatever_its_transform(volume, tmp_path, put_under):
    if put_under:
        put_under(volume)
    else:
        put_under_linear_transform(volume, rotation(30, 2))
    node = write_segmentation(phantom(), CLASSES, volume)
    image = sitk.ReadImage(str(export_file(tmp_path / "out.nrrd", node, volume)))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), phantom())
    np.testing.assert_allclose(image.GetOrigin(), OBLIQUE[:3, 3] * [-1, -1, 1], atol=1e-6)


def test_classes_may_be_those_of_the_segments(volume, segmentation, tmp_path):
    """In a scene that was loaded no model card is at hand."""
    segment = segmentation.GetSegmentation().GetSegment("csf")
    segment.SetName("Liquor")
    np.testing.assert_array_equal(read_labels(segmentation, volume), phantom())
    table = export_labelmap_node(segmentation, volume).GetDisplayNode().GetColorNode()
    names = [table.GetColorName(k) for k in range(4)]
    assert names == ["background", "Grey matter", "White matter", "Liquor"]


@pytest.mark.parametrize("empty", [1, 2, 3])
def test_seg_nrrd_loads_as_the_same_segmentation(scene, volume, tmp_path, empty):
    node = write_segmentation(without(empty), CLASSES, volume)
    node.GetSegmentation().GetSegment("white_matter").SetName("Marklager")
    path = export_file(tmp_path / "out.seg.nrrd", node, volume)
    assert list(tmp_path.iterdir()) == [path]
    image = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), without(empty))
    loaded = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Loaded")
    storage = slicer.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(str(path))
    assert storage.ReadData(loaded)
    segmentation = loaded.GetSegmentation()
    assert list(segmentation.GetSegmentIDs()) == ["grey_matter", "white_matter", "csf"]
    assert segmentation.GetSegment("white_matter").GetName() == "Marklager"
    np.testing.assert_allclose(
        segmentation.GetSegment("csf").GetColor(), np.divide(CLASSES[3].color, 255), atol=1e-5
    )
    assert "389081007" in tag(
        segmentation.GetSegment("grey_matter"),
        segmentation.GetSegment("grey_matter").GetTerminologyEntryTagName(),
    )
    np.testing.assert_array_equal(read_labels(loaded, volume), without(empty))


def test_seg_nrrd_holds_segments_of_the_user_as_such(scene, volume, segmentation, tmp_path):
    expected = with_user_segments(segmentation)
    path = export_file(tmp_path / "out.seg.nrrd", segmentation, volume)
    loaded = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Loaded")
    storage = slicer.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(str(path))
    assert storage.ReadData(loaded)
    np.testing.assert_array_equal(read_labels(loaded, volume), expected)
    segment = loaded.GetSegmentation().GetSegment("Segment_1")
    assert segment.GetName() == "Lesion"
    assert tag(segment, segment.GetTerminologyEntryTagName()) == TUMOUR
    # The next run must not take it for a class that has gone.
    write_segmentation(phantom(), CLASSES, volume, loaded)
    assert loaded.GetSegmentation().GetSegment("Segment_1") is not None
    np.testing.assert_array_equal(read_labels(loaded, volume), expected)


def half_written_segmentation(storage):
    def write(self, node):
        Path(self.GetFileName()).write_bytes(b"half")
        return 0

    return type("Storage", (storage,), {"WriteData": write})


def test_seg_nrrd_without_a_segment_is_refused(volume, segmentation, tmp_path):
    segmentation.GetSegmentation().RemoveAllSegments()
    with pytest.raises(OutputError, match=r"there are no segments\. Export to another kind"):
        export_file(tmp_path / "a.seg.nrrd", segmentation, volume)
    assert not list(tmp_path.iterdir())


def test_seg_nrrd_that_cannot_be_written(volume, segmentation, tmp_path, monkeypatch):
    path = tmp_path / "out.seg.nrrd"
    path.write_bytes(b"precious")
    storage = half_written_segmentation(slicer.vtkMRMLSegmentationStorageNode)
    monkeypatch.setattr(slicer, "vtkMRMLSegmentationStorageNode", storage)
    with pytest.raises(OutputError, match=r"out\.seg\.nrrd cannot be written"):
        export_file(path, segmentation, volume, overwrite=True)
    assert path.read_bytes() == b"precious" and list(tmp_path.iterdir()) == [path]


# The grid of the file ------------------------------------------------------------------------

COS, SIN = np.cos(0.4), np.sin(0.4)
DIRECTIONS = {
    "right-handed": (1, 0, 0, 0, 1, 0, 0, 0, 1),
    "left-handed": (1, 0, 0, 0, 1, 0, 0, 0, -1),
    "left-handed, other axes": (0, 1, 0, 1, 0, 0, 0, 0, 1),
    "oblique and left-handed": (COS, 0, SIN, 0, 1, 0, SIN, 0, -COS),
}


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".seg.nrrd"])
@pytest.mark.parametrize("source_suffix", [".nii.gz", ".nrrd"])
def test_label_map_on_the_files_grid_is_the_file_voxel_by_voxel(
    load_volume, tmp_path, direction, suffix, source_suffix
):
    image = sitk.GetImageFromArray(phantom().astype(np.int16))
    image.SetSpacing((1.5, 2.0, 0.75))
    image.SetOrigin((-60, 40, 25))
    image.SetDirection(DIRECTIONS[direction])
    source = tmp_path / f"scan{source_suffix}"
    sitk.WriteImage(image, str(source))
    volume = load_volume(source)
    # The labels are the volume's own values.
    node = write_segmentation(voxels(volume.GetImageData()).astype(np.uint8), CLASSES, volume)
    path = export_file(tmp_path / f"out{suffix}", node, volume, grid=FILE)
    exported, original = sitk.ReadImage(str(path)), sitk.ReadImage(str(source))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(exported), phantom())
    for index in [(0, 0, 0), (17, 3, 13)]:
        np.testing.assert_allclose(
            exported.TransformIndexToPhysicalPoint(index),
            original.TransformIndexToPhysicalPoint(index),
            atol=1e-4,
        )


def test_permuted_axes_are_turned_back():
    """Slicer may turn axes in any way."""
    labels = phantom()
    source = Geometry((18, 16, 14), (1.0, 2.0, 3.0), (5.0, 6.0, 7.0))
    matrix = file_grid.ijk_to_lps(source)
    # Axes (a, b, c) of the target are k, -i, j.
    to_source = np.array([[0, -1, 0, 17], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
    target_matrix = matrix @ to_source
    spacing = np.linalg.norm(target_matrix[:3, :3], axis=0)
    target = Geometry(
        (14, 18, 16),
        tuple(spacing),
        tuple(target_matrix[:3, 3]),
        tuple((target_matrix[:3, :3] / spacing).ravel()),
    )
    turned = file_grid._turned(labels, source, target)
    assert turned.shape == (16, 18, 14)
    for c, b, a in [(0, 0, 0), (5, 7, 4), (11, 3, 10), (15, 17, 13)]:
        assert turned[c, b, a] == labels[a, c, 17 - b]
    assert len(np.unique(turned)) == 4


def test_volume_without_a_file(volume, segmentation, tmp_path):
    with pytest.raises(OutputError, match="file of Scan is not known"):
        export_file(tmp_path / "out.nii.gz", segmentation, volume, grid=FILE)
    with pytest.raises(InputError, match="no grid 'scanner'"):
        export_file(tmp_path / "out.nii.gz", segmentation, volume, grid="scanner")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("change", ["moved", "cropped", "sheared"])
def test_volume_that_is_not_its_file_any_more(load_volume, tmp_path, change):
    source = tmp_path / "scan.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(phantom()), str(source))
    volume = load_volume(source)
    if change == "moved":
        volume.SetOrigin(0.4, 0, 0)
    elif change == "cropped":
        volume.SetAndObserveImageData(vtk_image(phantom()[:-2]))
    else:
        volume.SetSpacing(1, 1, 1.1)
    labels = voxels(volume.GetImageData()).astype(np.uint8)
    node = write_segmentation(labels, CLASSES, volume)
    with pytest.raises(OutputError, match="not those of its file any more"):
        export_file(tmp_path / "out.nii.gz", node, volume, grid=FILE)
    source.unlink()
    with pytest.raises(OutputError, match="not there any more"):
        export_file(tmp_path / "out.nii.gz", node, volume, grid=FILE)


# DICOM ---------------------------------------------------------------------------------------


class Exporter:
    """Stands for Slicer's exporter, which needs the application and its DICOM database."""

    error: Exception | None = None
    calls: ClassVar[list] = []

    def __init__(self, segmentation_node):
        self.node = segmentation_node

    def export(self, folder, name, metadata, segment_ids, skipEmpty):  # noqa: N803
        if self.error:
            raise self.error
        segments = [self.node.GetSegmentation().GetSegment(s) for s in segment_ids]
        algorithm = [tag(s, "DICOM.SegmentAlgorithmType") for s in segments]
        self.calls.append((metadata, segment_ids, algorithm))
        (Path(folder) / name).write_bytes(b"DICM")

    def cleanup(self):
        self.calls.append("cleanup")


@pytest.fixture
def exporter(monkeypatch):
    module = ModuleType("DICOMSegmentationPlugin")
    module.DICOMSegmentationExporter = Exporter
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(Exporter, "calls", [])
    monkeypatch.setattr(Exporter, "error", None)
    return Exporter


@pytest.fixture
def dicom_volume(volume):
    volume.SetAttribute("DICOM.instanceUIDs", "1.2.3")
    return volume


def test_dicom_is_written_by_slicers_exporter(dicom_volume, tmp_path, exporter):
    node = write_segmentation(without(2), CLASSES, dicom_volume, None, {"Model": "tiny"})
    path = export_dicom(tmp_path, node, dicom_volume)
    assert list(tmp_path.iterdir()) == [path]
    description = {"SeriesDescription": "Scan segmentation"}
    assert exporter.calls == [
        (description, ["grey_matter", "csf"], ["AUTOMATIC", "AUTOMATIC"]),
        "cleanup",
    ]
    segment = node.GetSegmentation().GetSegment("csf")
    assert tag(segment, "DICOM.SegmentAlgorithmType") is None


def test_dicom_has_segments_of_the_user_even_where_others_cover_them(
    dicom_volume, tmp_path, exporter
):
    node = write_segmentation(phantom(), CLASSES, dicom_volume, None, {"Model": "tiny"})
    add_user_segment(node, "Segment_1", box(slice(3, 5)), "Core")
    add_user_segment(node, "Segment_2", box(slice(3, 6)), "Lesion")
    add_user_segment(node, "Segment_3", np.zeros_like(phantom()), "Empty")
    export_dicom(tmp_path, node, dicom_volume)
    _description, segment_ids, algorithms = exporter.calls[0]
    assert segment_ids == ["grey_matter", "white_matter", "csf", "Segment_1", "Segment_2"]
    assert algorithms == ["AUTOMATIC"] * 3 + [None] * 2


def test_dicom_exporter_that_fails(dicom_volume, segmentation, tmp_path, exporter):
    exporter.error = ValueError("Referenced volume files were not found in the DICOM database")
    with pytest.raises(OutputError, match="were not found in the DICOM database"):
        export_dicom(tmp_path, segmentation, dicom_volume)
    assert exporter.calls == ["cleanup"]


def test_dicom_needs_what_it_needs(volume, segmentation, tmp_path, request):
    with pytest.raises(InputError, match="not loaded from DICOM"):
        export_dicom(tmp_path, segmentation, volume)
    volume.SetAttribute("DICOM.instanceUIDs", "1.2.3")
    with pytest.raises(OutputError, match=r"Use Slicer 5\.12"):
        export_dicom(tmp_path, segmentation, volume)
    request.getfixturevalue("exporter")
    empty = write_segmentation(np.zeros_like(phantom()), CLASSES, volume)
    with pytest.raises(InputError, match="no voxels"):
        export_dicom(tmp_path, empty, volume)


def test_file_loads_onto_the_volume(load_volume, volume, segmentation, tmp_path):
    loaded = load_volume(export_file(tmp_path / "out.nii.gz", segmentation, volume))
    np.testing.assert_array_equal(node_voxels(loaded), phantom())
    np.testing.assert_allclose(ijk_to_ras(loaded), OBLIQUE, atol=1e-4)


def test_existing_file_is_replaced_only_when_allowed(volume, segmentation, tmp_path):
    path = tmp_path / "out.nii.gz"
    path.write_bytes(b"precious")
    with pytest.raises(OutputError, match="exists"):
        export_file(path, segmentation, volume)
    assert path.read_bytes() == b"precious"
    export_file(path, segmentation, volume, overwrite=True)
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(path))).max() == 3
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError("\nWriter: no space left\n"), OSError("full")])
def test_failed_write_leaves_the_existing_file(volume, segmentation, tmp_path, monkeypatch, error):
    path = tmp_path / "out.nii.gz"
    path.write_bytes(b"precious")

    def half_written(image, name, **options):
        Path(name).write_bytes(b"half")
        raise error

    monkeypatch.setattr(image_files.sitk, "WriteImage", half_written)
    with pytest.raises(OutputError, match=r"out\.nii\.gz cannot be written \(.*(space|full)"):
        export_file(path, segmentation, volume, overwrite=True)
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_file_cut_short_without_an_error_is_noticed(
    volume, segmentation, tmp_path, monkeypatch, suffix
):
    write = sitk.WriteImage

    def cut_short(image, name, **options):
        write(image, name, **options)
        os.truncate(name, os.path.getsize(name) // 2)

    monkeypatch.setattr(image_files.sitk, "WriteImage", cut_short)
    with pytest.raises(OutputError, match="cannot be written"):
        export_file(tmp_path / f"out{suffix}", segmentation, volume)
    assert not list(tmp_path.iterdir())


def test_interrupted_write_leaves_nothing(volume, segmentation, tmp_path, monkeypatch):
    def interrupted(image, name, **options):
        Path(name).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(image_files.sitk, "WriteImage", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_file(tmp_path / "out.nrrd", segmentation, volume)
    assert not list(tmp_path.iterdir())


def test_name_as_long_as_the_file_system_takes(volume, segmentation, tmp_path):
    path = tmp_path / f"{'a' * 248}.nii.gz"
    export_file(path, segmentation, volume)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OutputError, match="exists already"):
        export_file(path, segmentation, volume)


def test_name_that_is_too_long(volume, segmentation, tmp_path):
    with pytest.raises(OutputError, match=r"cannot be written .*too long"):
        export_file(tmp_path / f"{'a' * 300}.nii.gz", segmentation, volume)
    assert not list(tmp_path.iterdir())


def test_folder_that_is_not_there(volume, segmentation, tmp_path):
    with pytest.raises(OutputError, match="there is no folder"):
        export_file(tmp_path / "missing" / "out.nii.gz", segmentation, volume)


def test_folder_that_is_a_file(volume, segmentation, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OutputError, match="there is no folder"):
        export_file(tmp_path / "file" / "out.nrrd", segmentation, volume)


def test_a_full_disk_is_not_taken_for_permissions(tmp_path, monkeypatch):
    """The folder above, of mounted disks say, may be locked."""
    disk = tmp_path / "disk"
    disk.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    error = export.cannot_write(disk, OSError(28, "No space left on device"))
    assert "No space left" in str(error) and "permission" not in str(error)
    error = export.cannot_write(tmp_path / "out.nii.gz", PermissionError(13, "Permission denied"))
    assert f"no permission to write to {tmp_path}" in str(error)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write anywhere"
)
def test_folder_that_may_not_be_written_to(volume, segmentation, tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="no permission"):
            export_file(tmp_path / "out.nii.gz", segmentation, volume)
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("name", ["out.txt", "out", ".nrrd", "out.nii.bz2", "out.NRRD"])
def test_unknown_kind_of_file(volume, segmentation, tmp_path, name):
    with pytest.raises(OutputError, match=r"must end with one of \.nii\.gz"):
        export_file(tmp_path / name, segmentation, volume)
    assert not list(tmp_path.iterdir())


# What cannot be exported ---------------------------------------------------------------------


def test_no_segmentation(volume):
    with pytest.raises(InputError, match="No segmentation was chosen"):
        read_labels(None, volume)


def test_something_else_than_a_segmentation(volume):
    with pytest.raises(InputError, match="Scan is not a segmentation"):
        read_labels(volume, volume)


def test_no_volume(segmentation):
    with pytest.raises(InputError, match="No volume was chosen"):
        read_labels(segmentation, None)


def test_label_map_of_an_image_whose_indices_do_not_begin_at_zero(volume):
    volume.GetImageData().SetExtent(5, 22, -3, 12, 2, 15)
    node = export_labelmap_node(write_segmentation(phantom(), CLASSES, volume), volume)
    assert node.GetImageData().GetExtent() == volume.GetImageData().GetExtent()


def test_seg_nrrd_that_was_cut_short_without_a_word(volume, segmentation, tmp_path, monkeypatch):
    def write(self, node):
        sitk.WriteImage(sitk.Image(18, 16, 14, sitk.sitkUInt8), self.GetFileName())
        return 1

    storage = type("Storage", (slicer.vtkMRMLSegmentationStorageNode,), {"WriteData": write})
    monkeypatch.setattr(slicer, "vtkMRMLSegmentationStorageNode", storage)
    with pytest.raises(OutputError, match="came out incomplete"):
        export_file(tmp_path / "out.seg.nrrd", segmentation, volume)
    assert not list(tmp_path.iterdir())


def test_segment_copied_from_another_models_result_is_the_users(scene, volume, segmentation):
    lesion = (CLASSES[0], replace(CLASSES[1], name="Lesion"))
    labels = np.zeros(phantom().shape, np.uint8)
    labels[11:13, 1:3, 1:3] = 1
    other = write_segmentation(labels, lesion, volume)
    target = segmentation.GetSegmentation()
    # As the Segmentations module's "Copy/move segments"; the ID is free, so it stays.
    assert target.CopySegmentFromSegmentation(other.GetSegmentation(), "lesion")
    expected = phantom()
    expected[labels == 1] = 4
    np.testing.assert_array_equal(read_labels(segmentation, volume), expected)
    write_segmentation(phantom(), CLASSES, volume, segmentation)
    np.testing.assert_array_equal(read_labels(segmentation, volume), expected)


def test_classes_of_two_models_in_a_segmentation_of_the_users(scene, volume, segmentation):
    lesion = (CLASSES[0], replace(CLASSES[1], name="Lesion"))
    other = write_segmentation(np.zeros(phantom().shape, np.uint8), lesion, volume)
    mine = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Mine")
    for source, segment_id in ((segmentation, "grey_matter"), (other, "lesion")):
        mine.GetSegmentation().CopySegmentFromSegmentation(source.GetSegmentation(), segment_id)
    assert [entry.value for entry in entries_of(mine)] == [1, 2]
