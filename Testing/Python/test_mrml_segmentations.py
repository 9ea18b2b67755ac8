"""Writing label maps to segmentation nodes, on real nodes."""

from contextlib import ExitStack
from dataclasses import replace
from zlib import crc32

import numpy as np
import pytest
import SimpleITK as sitk

slicer = pytest.importorskip("slicer")

import vtk  # noqa: E402
from MRFUNetSegmentationLib.errors import InputError  # noqa: E402
from MRFUNetSegmentationLib.mrml import segmentations  # noqa: E402
from MRFUNetSegmentationLib.mrml.export import export_file, read_labels  # noqa: E402
from MRFUNetSegmentationLib.mrml.geometry import ijk_to_ras, to_numpy  # noqa: E402
from MRFUNetSegmentationLib.mrml.hiding import hide, show_hidden  # noqa: E402
from MRFUNetSegmentationLib.mrml.segmentations import (  # noqa: E402
    BINARY_LABELMAP,
    CLASS_TAG,
    put_segmentation,
    read_provenance,
    write_segmentation,
)
from MRFUNetSegmentationLib.mrml.volumes import read_volume, voxels  # noqa: E402
from mrml_scene import (  # noqa: E402
    CLASSES,
    LEFT_HANDED,
    OBLIQUE,
    SEGMENT_IDS,
    add_volume,
    phantom,
    put_under_linear_transform,
    put_under_warp,
    rotation,
    to_world,
    translation,
    voxel_positions,
)

SURFACE = slicer.vtkSegmentationConverter.GetClosedSurfaceRepresentationName()


def class_labels(node, volume) -> np.ndarray:
    """Labels [k, j, i] of the classes alone, without the user's segments."""
    labels = read_labels(node, volume)
    return np.where(labels < len(CLASSES), labels, 0)


@pytest.fixture
def volume(scene):
    return add_volume(scene, phantom().astype(np.float32), OBLIQUE)


def segment_mask(node, segment_id: str) -> np.ndarray:
    """Voxels [k, j, i] of a segment in its own label map."""
    segment = node.GetSegmentation().GetSegment(segment_id)
    return voxels(segment.GetRepresentation(BINARY_LABELMAP)) == segment.GetLabelValue()


def segment_positions(node, segment_id: str) -> np.ndarray:
    """World positions (n, 3) of a segment's voxels, mm RAS, from the segmentation node alone."""
    image = node.GetSegmentation().GetSegment(segment_id).GetRepresentation(BINARY_LABELMAP)
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    mask = segment_mask(node, segment_id)
    return to_world(node, voxel_positions(to_numpy(matrix), mask))


def add_user_segment(node, segment_id="mine", color=(0.1, 0.9, 0.2), shared=False):
    """Add a segment as a user does, alone or in the label map of the segments that are there."""
    segmentation = node.GetSegmentation()
    segment = slicer.vtkSegment()
    segment.SetName("Mine")
    segment.SetColor(*color)
    old = segmentation.GetNthSegment(0).GetRepresentation(BINARY_LABELMAP)
    image = old if shared else slicer.vtkOrientedImageData()
    if not shared:
        image.DeepCopy(old)
        voxels(image)[:] = 0
    segment.SetLabelValue(7)
    voxels(image)[11:13, 1:4, 2:5] = 7
    segment.AddRepresentation(BINARY_LABELMAP, image)
    assert segmentation.AddSegment(segment, segment_id)
    return segment


def state(scene) -> dict:
    """Everything of a scene that an undo must bring back."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    nodes = {}
    for index in range(scene.GetNumberOfNodes()):
        node = scene.GetNthNode(index)
        item = hierarchy.GetItemByDataNode(node)
        nodes[node.GetID()] = {
            "name": node.GetName(),
            "attributes": {n: node.GetAttribute(n) for n in node.GetAttributeNames()},
            "item": item and (item, hierarchy.GetItemParent(item)),
        }
        if node.IsA("vtkMRMLSegmentationNode"):
            nodes[node.GetID()] |= segmentation_state(node)
    return nodes | {"items": hierarchy.GetNumberOfItems()}


def segmentation_state(node) -> dict:
    segmentation, display = node.GetSegmentation(), node.GetDisplayNode()
    return {
        "transform": node.GetTransformNodeID(),
        "reference": node.GetNodeReferenceID(node.GetReferenceImageGeometryReferenceRole()),
        "geometry": segmentation.GetConversionParameter("Reference image geometry"),
        "source": segmentation.GetSourceRepresentationName(),
        "order": segmentation.GetSegmentIDs(),
        "display": display and (display.GetID(), display.GetVisibility2DOutline()),
        "segments": {s: segment_state(node, s) for s in segmentation.GetSegmentIDs()},
    }


def segment_state(node, segment_id: str) -> dict:
    segment, display = node.GetSegmentation().GetSegment(segment_id), node.GetDisplayNode()
    representations: list[str] = []
    segment.GetContainedRepresentationNames(representations)
    surface = segment.GetRepresentation(SURFACE)
    return {
        "name": segment.GetName(),
        "color": segment.GetColor(),
        "value": segment.GetLabelValue(),
        "terminology": tag(segment, segment.GetTerminologyEntryTagName()),
        "class": tag(segment, CLASS_TAG),
        "voxels": crc32(voxels(segment.GetRepresentation(BINARY_LABELMAP)).tobytes()),
        "representations": representations,
        "surface": surface and (surface.GetNumberOfPoints(), surface.GetBounds()),
        "display": display
        and (
            display.GetSegmentVisibility(segment_id),
            display.GetSegmentOpacity3D(segment_id),
            display.GetSegmentOpacity2DFill(segment_id),
            display.GetSegmentVisibility2DOutline(segment_id),
        ),
    }


def tag(segment, name: str) -> str:
    value = vtk.reference("")
    segment.GetTag(name, value)
    return str(value)


# What is written -----------------------------------------------------------------------------


@pytest.mark.parametrize("matrix", [np.eye(4), OBLIQUE, LEFT_HANDED])
def test_labels_to_segmentation_to_labels_is_exact(scene, matrix):
    labels = phantom()
    volume = add_volume(scene, labels.astype(np.float32), matrix)
    node = write_segmentation(labels, CLASSES, volume)
    np.testing.assert_array_equal(read_labels(node, volume), labels)
    for c in CLASSES[1:]:
        np.testing.assert_array_equal(segment_mask(node, c.segment_id), labels == c.value)


def test_labels_may_be_a_transposed_array(scene, volume):
    labels = np.asfortranarray(phantom())
    node = write_segmentation(labels, CLASSES, volume)
    np.testing.assert_array_equal(read_labels(node, volume), labels)


def test_segments_have_the_classes_ids_names_colours_and_meanings(scene, volume):
    node = write_segmentation(phantom(), CLASSES, volume)
    segmentation = node.GetSegmentation()
    assert segmentation.GetSegmentIDs() == SEGMENT_IDS
    grey = segmentation.GetSegment("grey_matter")
    assert grey.GetName() == "Grey matter"
    np.testing.assert_allclose(grey.GetColor(), np.array([200, 180, 110]) / 255)
    assert tag(grey, grey.GetTerminologyEntryTagName()) == (
        "Segmentation category and type - 3D Slicer General Anatomy list"
        "~SCT^123037004^Anatomical Structure~SCT^389081007^Gray matter~^^"
        "~Anatomic codes - DICOM master list~^^~^^"
    )
    csf = segmentation.GetSegment("csf")
    # A class without a coded meaning has Slicer's default for segments.
    default = slicer.vtkSegment()
    name = csf.GetTerminologyEntryTagName()
    assert tag(csf, name) == tag(default, name) != tag(grey, name)
    # Else Slicer's terminology selector replaces them by its own.
    assert not grey.GetNameAutoGenerated()
    assert not grey.GetColorAutoGenerated()


def test_slicer_reads_the_terminology_and_writes_the_same(scene):
    logic = slicer.vtkSlicerTerminologiesModuleLogic()
    text = CLASSES[2].terminology.slicer_entry()
    entry = slicer.vtkSlicerTerminologyEntry()
    assert logic.DeserializeTerminologyEntry(text, entry)
    assert entry.GetCategoryObject().GetCodeValue() == "123037004"
    assert entry.GetTypeObject().GetCodingSchemeDesignator() == "SCT"
    assert entry.GetTypeObject().GetCodeMeaning() == "White matter"
    assert logic.SerializeTerminologyEntry(entry) == text


def test_separators_in_a_meaning_do_not_break_the_terminology(scene):
    terminology = CLASSES[1].terminology
    odd = replace(terminology, type=replace(terminology.type, meaning="a~b^c|d"))
    entry = slicer.vtkSlicerTerminologyEntry()
    logic = slicer.vtkSlicerTerminologiesModuleLogic()
    assert logic.DeserializeTerminologyEntry(odd.slicer_entry(), entry)
    assert entry.GetTypeObject().GetCodeMeaning() == "a b c d"


def test_empty_classes_get_segments_too(scene, volume):
    labels = phantom()
    labels[labels == 2] = 0
    node = write_segmentation(labels, CLASSES, volume)
    assert node.GetSegmentation().GetSegmentIDs() == SEGMENT_IDS
    assert not segment_mask(node, "white_matter").any()
    np.testing.assert_array_equal(read_labels(node, volume), labels)


def test_nothing_but_background(scene, volume):
    node = write_segmentation(np.zeros_like(phantom()), CLASSES, volume)
    assert node.GetSegmentation().GetSegmentIDs() == SEGMENT_IDS
    assert not read_labels(node, volume).any()


def test_reference_geometry_is_the_volumes(scene, volume):
    node = write_segmentation(phantom(), CLASSES, volume)
    role = node.GetReferenceImageGeometryReferenceRole()
    assert node.GetNodeReference(role) is volume
    text = node.GetSegmentation().GetConversionParameter("Reference image geometry")
    geometry = slicer.vtkOrientedImageData()
    assert slicer.vtkSegmentationConverter.DeserializeImageGeometry(text, geometry, False)
    matrix = vtk.vtkMatrix4x4()
    geometry.GetImageToWorldMatrix(matrix)
    np.testing.assert_allclose(to_numpy(matrix), ijk_to_ras(volume), atol=1e-9)
    assert geometry.GetExtent() == volume.GetImageData().GetExtent()


def test_new_node_has_a_name_and_a_display(scene, volume):
    first = write_segmentation(phantom(), CLASSES, volume)
    second = write_segmentation(phantom(), CLASSES, volume)
    assert first.GetName() == "Scan segmentation"
    assert second is not first
    assert second.GetName() != first.GetName()
    assert first.GetDisplayNode().GetSegmentVisibility("csf")


def test_provenance_is_that_of_the_last_run(scene, volume):
    node = write_segmentation(
        phantom(), CLASSES, volume, provenance={"Model": "brain-tissue", "Seed": "3"}
    )
    assert node.GetAttribute("MRFUNetSegmentation.Model") == "brain-tissue"
    node.SetAttribute("Reader", "me")
    write_segmentation(phantom(), CLASSES, volume, node, provenance={"Model": "other"})
    assert read_provenance(node) == {
        "Model": "other",
        "LargestClass": "3",
        "ClassIDs": "grey_matter,white_matter,csf",
    }
    assert node.GetAttribute("Reader") == "me"


# Where it lies -------------------------------------------------------------------------------


def test_image_whose_indices_do_not_begin_at_zero(scene, volume):
    image = volume.GetImageData()
    size = image.GetDimensions()
    image.SetExtent(2, size[0] + 1, -3, size[1] - 4, 5, size[2] + 4)
    labels = read_volume(volume).array.astype(np.uint8)
    node = write_segmentation(labels, CLASSES, volume)
    np.testing.assert_array_equal(read_labels(node, volume), labels)
    ijk = np.argwhere(labels == 2)[:, ::-1] + (2, -3, 5)
    expected = ijk @ OBLIQUE[:3, :3].T + OBLIQUE[:3, 3]
    geometry = read_volume(volume).geometry
    corner = (OBLIQUE @ [2, -3, 5, 1])[:3] * [-1, -1, 1]
    np.testing.assert_allclose(geometry.origin, corner, atol=1e-9)
    box = segmentation_box(node, "white_matter")
    np.testing.assert_allclose(box, [expected.min(axis=0), expected.max(axis=0)], atol=1e-9)


def segmentation_box(node, segment_id: str) -> list[np.ndarray]:
    """Smallest and largest coordinates of a segment's voxels, through its image's extent."""
    segment = node.GetSegmentation().GetSegment(segment_id)
    image = segment.GetRepresentation(BINARY_LABELMAP)
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    ijk = np.argwhere(segment_mask(node, segment_id))[:, ::-1] + image.GetExtent()[::2]
    points = ijk @ to_numpy(matrix)[:3, :3].T + to_numpy(matrix)[:3, 3]
    return [points.min(axis=0), points.max(axis=0)]


@pytest.mark.parametrize("handedness", [1, -1])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_result_agrees_with_labels_computed_for_the_file(load_volume, tmp_path, handedness, suffix):
    image = sitk.GetImageFromArray(phantom().astype(np.float32))
    image.SetSpacing((1.0, 1.5, 2.0))
    image.SetOrigin((10.0, -20.0, 30.0))
    image.SetDirection((rotation(20, 1)[:3, :3] @ np.diag([1, 1, handedness])).ravel())
    path = tmp_path / f"scan{suffix}"
    sitk.WriteImage(image, str(path))
    labels_of_file = sitk.Cast(sitk.ReadImage(str(path)), sitk.sitkUInt8)

    volume = load_volume(path)
    labels = read_volume(volume).array.astype(np.uint8)
    node = write_segmentation(labels, CLASSES, volume)

    for c in CLASSES[1:]:
        lps = segment_positions(node, c.segment_id) * [-1, -1, 1]
        found = [labels_of_file.TransformPhysicalPointToIndex(p) for p in lps]
        assert {labels_of_file[index] for index in found} == {c.value}
        assert len(set(found)) == (phantom() == c.value).sum()
    exported = sitk.ReadImage(str(export_file(tmp_path / "out.nii.gz", node, volume)))
    resampled = sitk.Resample(exported, labels_of_file, sitk.Transform(), sitk.sitkNearestNeighbor)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(resampled), phantom())


@pytest.mark.parametrize("matrix", [OBLIQUE, LEFT_HANDED])
def test_segments_lie_where_a_turned_and_shifted_volume_is_seen(scene, matrix):
    labels = phantom()
    volume = add_volume(scene, labels.astype(np.float32), matrix)
    put_under_linear_transform(volume, translation(40, -15, 25) @ rotation(30, 2))
    node = write_segmentation(labels, CLASSES, volume)
    seen = to_world(volume, voxel_positions(ijk_to_ras(volume), labels == 2))
    np.testing.assert_allclose(segment_positions(node, "white_matter"), seen, atol=1e-9)
    np.testing.assert_array_equal(read_labels(node, volume), labels)
    # Slicer's own account of it, through other code.
    np.testing.assert_allclose(
        node.GetSegmentCenterRAS("white_matter"),
        to_world(volume, seen_box_centre(volume, labels == 2))[0],
        atol=1e-6,
    )


def seen_box_centre(volume, mask: np.ndarray) -> np.ndarray:
    ijk = np.argwhere(mask)[:, ::-1]
    # Slicer takes the voxel at the middle of the extent, rounded down.
    centre = (ijk.min(axis=0) + ijk.max(axis=0)) / 2
    matrix = ijk_to_ras(volume)
    return (matrix[:3, :3] @ centre + matrix[:3, 3])[None]


def test_segments_lie_where_a_warped_volume_is_seen(scene, volume):
    labels = phantom()
    put_under_warp(volume)
    node = write_segmentation(labels, CLASSES, volume)
    own = voxel_positions(ijk_to_ras(volume), labels == 2)
    seen = to_world(volume, own)
    assert np.abs(seen - own).max() > 1
    np.testing.assert_allclose(segment_positions(node, "white_matter"), seen, atol=1e-9)
    np.testing.assert_array_equal(read_labels(node, volume), labels)


def test_labels_are_read_where_they_are_seen_on_a_volume_under_another_transform(scene, volume):
    labels = phantom()
    node = write_segmentation(labels, CLASSES, volume)
    # The other volume has the same grid in space, two voxels on in i, through its transform.
    shifted = ijk_to_ras(volume) @ translation(2, 0, 0)
    turn = translation(3, 1, 4) @ rotation(30, 2)
    other = add_volume(scene, labels.astype(np.float32), np.linalg.inv(turn) @ shifted, "Other")
    put_under_linear_transform(other, turn)
    read = read_labels(node, other)
    np.testing.assert_array_equal(read[:, :, :-2], labels[:, :, 2:])


def test_item_lies_beside_the_volumes_item(scene, volume):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "Patient")
    study = hierarchy.CreateStudyItem(patient, "Study")
    hierarchy.CreateItem(study, volume)
    node = write_segmentation(phantom(), CLASSES, volume)
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == study


def test_item_that_exists_is_moved_on_the_first_run_only(scene, volume):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "Folder")
    hierarchy.CreateItem(folder, volume)
    output = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Output")
    item = hierarchy.CreateItem(hierarchy.GetSceneItemID(), output)
    write_segmentation(phantom(), CLASSES, volume, output)
    assert hierarchy.GetItemByDataNode(output) == item
    assert hierarchy.GetItemParent(item) == folder
    # The user takes it elsewhere; a further run leaves it there.
    elsewhere = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "Elsewhere")
    hierarchy.SetItemParent(item, elsewhere)
    write_segmentation(phantom(), CLASSES, volume, output)
    assert hierarchy.GetItemParent(item) == elsewhere


# Writing to a node again ---------------------------------------------------------------------


def other_labels() -> np.ndarray:
    return phantom()[::-1, ::-1, ::-1].copy()


def test_run_on_the_same_node_replaces_the_content(scene, volume):
    node = write_segmentation(phantom(), CLASSES, volume)
    count = scene.GetNumberOfNodes()
    assert write_segmentation(other_labels(), CLASSES, volume, node) is node
    assert scene.GetNumberOfNodes() == count
    assert node.GetSegmentation().GetSegmentIDs() == SEGMENT_IDS
    np.testing.assert_array_equal(read_labels(node, volume), other_labels())


def test_run_on_the_same_node_keeps_what_the_user_set(scene, volume):
    node = write_segmentation(phantom(), CLASSES, volume)
    display = node.GetDisplayNode()
    display.SetVisibility2DOutline(False)
    display.SetOpacity2DFill(0.35)
    display.SetSegmentOpacity3D("grey_matter", 0.25)
    display.SetSegmentVisibility("csf", False)
    display.SetSegmentVisibility2DOutline("white_matter", False)
    node.GetSegmentation().GetSegment("csf").SetColor(1, 0, 0)
    node.GetSegmentation().GetSegment("csf").SetName("Liquor")
    write_segmentation(other_labels(), CLASSES, volume, node)
    assert node.GetDisplayNode() is display
    assert not display.GetVisibility2DOutline()
    assert display.GetOpacity2DFill() == pytest.approx(0.35)
    assert display.GetSegmentOpacity3D("grey_matter") == pytest.approx(0.25)
    assert not display.GetSegmentVisibility("csf")
    assert display.GetSegmentVisibility("white_matter")
    assert not display.GetSegmentVisibility2DOutline("white_matter")
    assert node.GetSegmentation().GetSegment("csf").GetColor() == (1, 0, 0)
    assert node.GetSegmentation().GetSegment("csf").GetName() == "Liquor"


@pytest.mark.parametrize("shared", [False, True])
def test_run_on_the_same_node_keeps_the_users_segments(scene, volume, shared):
    node = write_segmentation(phantom(), CLASSES, volume)
    add_user_segment(node, shared=shared)
    node.GetDisplayNode().SetSegmentOpacity3D("mine", 0.5)
    mine = segment_mask(node, "mine").copy()
    write_segmentation(other_labels(), CLASSES, volume, node)
    assert node.GetSegmentation().GetSegmentIDs() == (*SEGMENT_IDS, "mine")
    np.testing.assert_array_equal(segment_mask(node, "mine"), mine)
    assert node.GetDisplayNode().GetSegmentOpacity3D("mine") == pytest.approx(0.5)
    np.testing.assert_array_equal(class_labels(node, volume), other_labels())
    # No leftovers of the old result, which a new segment of the same label would show.
    layer = node.GetSegmentation().GetSegment("mine").GetRepresentation(BINARY_LABELMAP)
    assert set(np.unique(voxels(layer))) == {0, 7}


def test_surfaces_shown_in_3d_follow_the_new_content(scene, volume):
    node = write_segmentation(phantom(), CLASSES, volume)
    node.CreateClosedSurfaceRepresentation()
    segment = node.GetSegmentation().GetSegment("white_matter")
    old = segment.GetRepresentation(SURFACE).GetBounds()
    write_segmentation(other_labels(), CLASSES, volume, node)
    fresh = write_segmentation(other_labels(), CLASSES, volume)
    fresh.CreateClosedSurfaceRepresentation()
    expected = fresh.GetSegmentation().GetSegment("white_matter").GetRepresentation(SURFACE)
    assert segment.GetRepresentation(SURFACE).GetBounds() == expected.GetBounds() != old


def test_watchers_of_the_node_hear_that_the_content_changed(scene, volume):
    node = write_segmentation(phantom(), CLASSES, volume)
    heard = []
    event = slicer.vtkSegmentation.SourceRepresentationModified
    node.AddObserver(event, lambda *_: heard.append(segment_mask(node, "csf").copy()))
    write_segmentation(other_labels(), CLASSES, volume, node)
    assert len(heard) == 1
    np.testing.assert_array_equal(heard[0], other_labels() == 3)


def test_watchers_of_the_node_hear_of_its_segments_once(scene, volume):
    node = write_segmentation(phantom(), CLASSES, volume)
    heard = []
    node.AddObserver(slicer.vtkSegmentation.SegmentModified, lambda *_: heard.append(1))
    write_segmentation(other_labels(), CLASSES, volume, node)
    assert len(heard) == 1


def test_segments_of_another_models_classes_go(scene, volume):
    node = write_segmentation(phantom(), CLASSES, volume)
    add_user_segment(node)
    write_segmentation(phantom(), CLASSES[:2], volume, node)
    assert node.GetSegmentation().GetSegmentIDs() == ("grey_matter", "mine")


def test_empty_segmentation_for_surfaces_can_be_written_to(scene, volume):
    output = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Output")
    output.GetSegmentation().SetSourceRepresentationName(SURFACE)
    write_segmentation(phantom(), CLASSES, volume, output)
    assert output.GetSegmentation().GetSourceRepresentationName() == BINARY_LABELMAP
    np.testing.assert_array_equal(read_labels(output, volume), phantom())


def test_node_of_another_volume_is_taken_over(scene, volume):
    node = write_segmentation(phantom(), CLASSES, volume)
    add_user_segment(node)
    mine = segment_positions(node, "mine")
    labels = other_labels()[:-1, :-2]
    other = add_volume(scene, labels.astype(np.float32), LEFT_HANDED, "Other")
    write_segmentation(labels, CLASSES, other, node)
    np.testing.assert_array_equal(read_labels(node, other), labels)
    assert node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()) is other
    np.testing.assert_array_equal(segment_positions(node, "mine"), mine)


def test_node_of_another_volume_follows_to_its_transform(scene, volume):
    node = write_segmentation(phantom(), CLASSES, volume)
    other = add_volume(scene, phantom().astype(np.float32), LEFT_HANDED, "Other")
    transform = put_under_linear_transform(other, rotation(30, 2))
    write_segmentation(phantom(), CLASSES, other, node)
    assert node.GetParentTransformNode() is transform
    np.testing.assert_array_equal(read_labels(node, other), phantom())


def test_users_segments_on_another_volume_are_not_displaced(scene, volume):
    node = write_segmentation(phantom(), CLASSES, volume)
    add_user_segment(node)
    other = add_volume(scene, phantom().astype(np.float32), LEFT_HANDED, "Other")
    put_under_linear_transform(other, rotation(30, 2))
    before = state(scene)
    with pytest.raises(InputError, match="segments of another volume"):
        write_segmentation(phantom(), CLASSES, other, node)
    assert state(scene) == before


def test_users_segments_go_with_their_volume(scene, volume):
    node = write_segmentation(phantom(), CLASSES, volume)
    add_user_segment(node)
    before = segment_positions(node, "mine")
    put_under_linear_transform(volume, translation(5, 6, 7))
    write_segmentation(phantom(), CLASSES, volume, node)
    moved = segment_positions(node, "mine") - before
    np.testing.assert_allclose(moved, np.broadcast_to((5, 6, 7), moved.shape), atol=1e-9)


# All or nothing ------------------------------------------------------------------------------

STEPS = (
    "_new_node",
    "_remember_segments",
    "ensure_display",
    "label_image",
    "_detach_other_segments",
    "_remove_old_classes",
    "_replace_segments",
    "follow_volume",
    "set_provenance",
    "place_beside",
)


def user_voxels(node, volume) -> np.ndarray:
    """Indices [k, j, i] of the voxels of the user's segment on a volume's grid."""
    return np.argwhere(read_labels(node, volume) == len(CLASSES))


@pytest.mark.parametrize("surfaces", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    "change", ["nothing", "another transform", "hardened", "hardened on both", "moved"]
)
def test_segments_of_the_user_stay_on_the_scans_voxels(volume, change, shared, surfaces):
    put_under_linear_transform(volume, translation(4, 0, 0) @ rotation(5, 2))
    node = write_segmentation(phantom(), CLASSES, volume)
    add_user_segment(node, shared=shared)
    if surfaces:
        node.CreateClosedSurfaceRepresentation()
    drawn = user_voxels(node, volume)
    assert len(drawn)
    if change == "another transform":
        put_under_linear_transform(volume, translation(9, 0, 0))
    elif change == "moved":  # as by "Center volume"
        volume.SetOrigin(3, 4, 5)
    elif change.startswith("hardened"):
        volume.HardenTransform()
        if change == "hardened on both":
            node.HardenTransform()
    write_segmentation(phantom(), CLASSES, volume, node)
    np.testing.assert_array_equal(user_voxels(node, volume), drawn)
    np.testing.assert_array_equal(class_labels(node, volume), phantom())


def test_failed_run_leaves_segments_where_they_were(volume, monkeypatch):
    put_under_linear_transform(volume, translation(4, 0, 0))
    node = write_segmentation(phantom(), CLASSES, volume)
    add_user_segment(node, shared=True)
    volume.HardenTransform()
    drawn, before = user_voxels(node, volume), state(volume.GetScene())
    fail_after(monkeypatch, "set_segment", 2)
    with pytest.raises(MemoryError):
        write_segmentation(phantom(), CLASSES, volume, node)
    assert state(volume.GetScene()) == before
    np.testing.assert_array_equal(user_voxels(node, volume), drawn)


def test_copy_of_a_classes_segment_is_the_users(volume):
    node = write_segmentation(phantom(), CLASSES, volume)
    segmentation = node.GetSegmentation()
    # As by "Clone" in the list of segments, or a copy from another segmentation.
    clone = slicer.vtkSegment()
    clone.DeepCopy(segmentation.GetSegment("white_matter"))
    assert segmentation.AddSegment(clone, "white_matter_1")
    labels = phantom()
    labels[phantom() == 2] = len(CLASSES)
    np.testing.assert_array_equal(read_labels(node, volume), labels)
    write_segmentation(phantom(), CLASSES, volume, node)
    assert segmentation.GetSegmentIDs() == (*SEGMENT_IDS, "white_matter_1")
    np.testing.assert_array_equal(read_labels(node, volume), labels)


def fail_after(monkeypatch, step: str, calls: int = 1) -> None:
    """Let a step of the writing do its work and then fail."""
    original, count = getattr(segmentations, step), []

    def failing(*args, **options):
        result = original(*args, **options)
        count.append(step)
        if len(count) == calls:
            raise MemoryError(step)
        return result

    monkeypatch.setattr(segmentations, step, failing)


@pytest.fixture
def volume_in_study(scene, volume):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    hierarchy.CreateItem(hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "Study"), volume)
    return volume


# What fails inside `_new_node` has not yet entered its undo.
@pytest.mark.parametrize("step", [s for s in STEPS if s != "_new_node"])
def test_failure_leaves_no_new_node(scene, volume_in_study, monkeypatch, step):
    before = state(scene)
    fail_after(monkeypatch, step)
    with pytest.raises(MemoryError, match=step):
        write_segmentation(phantom(), CLASSES, volume_in_study, provenance={"Model": "m"})
    assert state(scene) == before


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_failure_at_any_segment_leaves_no_new_node(scene, volume_in_study, monkeypatch, calls):
    before = state(scene)
    fail_after(monkeypatch, "set_segment", calls)
    with pytest.raises(MemoryError):
        write_segmentation(phantom(), CLASSES, volume_in_study)
    assert state(scene) == before


@pytest.fixture
def edited_output(scene, volume):
    """An output of an earlier run, on another volume, that the user has worked on."""
    node = write_segmentation(phantom(), CLASSES, volume, provenance={"Model": "old", "Seed": "1"})
    segmentation = node.GetSegmentation()
    add_user_segment(node, shared=True)
    segmentation.SetSegmentIndex("mine", 0)
    segmentation.GetSegment("csf").SetColor(1, 0, 0)
    # As if it had come from elsewhere.
    segmentation.GetSegment("csf").RemoveTag(CLASS_TAG)
    terminology = segmentation.GetSegment("grey_matter").GetTerminologyEntryTagName()
    segmentation.GetSegment("grey_matter").SetTag(terminology, "of the user")
    node.CreateClosedSurfaceRepresentation()
    display = node.GetDisplayNode()
    display.SetVisibility2DOutline(False)
    display.SetSegmentOpacity3D("csf", 0.25)
    display.SetSegmentVisibility("mine", False)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)
    return node


NEW_CLASSES = (
    CLASSES[0],
    replace(CLASSES[3], value=1),
    replace(CLASSES[1], value=2, name="Cortex"),
    replace(CLASSES[2], value=3, name="Lesion"),
)


@pytest.mark.parametrize(
    ("step", "calls"),
    [(s, 1) for s in STEPS if s != "_new_node"] + [("set_segment", n) for n in (1, 2, 3)],
)
def test_failure_brings_the_old_content_back(
    scene, volume_in_study, edited_output, monkeypatch, step, calls
):
    # The hardest case: other grid, classes that go, stay and come, surfaces.
    labels = other_labels()[:-1]
    other = add_volume(scene, labels.astype(np.float32), LEFT_HANDED, "Other")
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    hierarchy.CreateItem(hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "F"), other)
    before = state(scene)
    fail_after(monkeypatch, step, calls)
    with pytest.raises(MemoryError, match=step):
        write_segmentation(labels, NEW_CLASSES, other, edited_output, provenance={"Model": "new"})
    assert state(scene) == before
    # And it still works.
    monkeypatch.undo()
    write_segmentation(labels, NEW_CLASSES, other, edited_output)
    np.testing.assert_array_equal(read_labels(edited_output, other), labels)


def test_failure_leaves_an_empty_output_as_it_was(scene, volume, monkeypatch):
    output = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Output")
    output.GetSegmentation().SetSourceRepresentationName(SURFACE)
    before = state(scene)
    fail_after(monkeypatch, "set_provenance")
    with pytest.raises(MemoryError):
        write_segmentation(phantom(), CLASSES, volume, output)
    assert state(scene) == before


def test_failure_brings_the_old_transform_back(scene, volume, monkeypatch):
    node = write_segmentation(phantom(), CLASSES, volume)
    put_under_linear_transform(volume, rotation(30, 2))
    before = state(scene)
    fail_after(monkeypatch, "follow_volume")
    with pytest.raises(MemoryError):
        write_segmentation(phantom(), CLASSES, volume, node)
    assert state(scene) == before


# What cannot be written to -------------------------------------------------------------------


def test_no_volume():
    with pytest.raises(InputError, match="No volume was chosen"):
        write_segmentation(phantom(), CLASSES, None)


def test_volume_that_left_the_scene(scene, volume):
    scene.RemoveNode(volume)
    with pytest.raises(InputError, match="Scan is no longer in the scene"):
        write_segmentation(phantom(), CLASSES, volume)


def test_labels_of_another_size(scene, volume):
    before = state(scene)
    with pytest.raises(InputError, match="result has 17 x 16 x 14 voxels, the volume Scan has 18"):
        write_segmentation(phantom()[:, :, :-1], CLASSES, volume)
    assert state(scene) == before


def test_output_of_another_kind(scene, volume):
    model = scene.AddNewNodeByClass("vtkMRMLModelNode", "Skull")
    with pytest.raises(InputError, match="Skull is not a segmentation"):
        write_segmentation(phantom(), CLASSES, volume, model)


def test_output_that_left_the_scene(scene, volume):
    node = write_segmentation(phantom(), CLASSES, volume)
    scene.RemoveNode(node)
    with pytest.raises(InputError, match="Scan segmentation is no longer in the scene"):
        write_segmentation(phantom(), CLASSES, volume, node)


def test_output_of_surfaces(scene, volume):
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Surfaces")
    sphere = vtk.vtkSphereSource()
    sphere.Update()
    node.AddSegmentFromClosedSurfaceRepresentation(sphere.GetOutput(), "Ball", (1, 0, 0))
    node.GetSegmentation().SetSourceRepresentationName(SURFACE)
    with pytest.raises(InputError, match="Surfaces holds closed surface segments"):
        write_segmentation(phantom(), CLASSES, volume, node)


def test_surfaces_made_since_a_run_go_when_it_is_taken_back(scene, volume):
    """They are of content that is no longer there."""
    node = write_segmentation(phantom(), CLASSES, volume)
    with ExitStack() as undo:
        put_segmentation(other_labels(), CLASSES, volume, node, None, undo)
        node.CreateClosedSurfaceRepresentation()
    segment = node.GetSegmentation().GetSegment("white_matter")
    assert segment.GetRepresentation(SURFACE) is None


def test_what_was_hidden_before_stays_hidden(scene, volume):
    nodes = [write_segmentation(phantom(), CLASSES, volume) for _ in range(2)]
    displays = [node.GetDisplayNode() for node in nodes]
    displays[1].SetVisibility(False)
    hide([*displays, None])
    assert not displays[0].GetVisibility()
    show_hidden(scene)
    assert [d.GetVisibility() for d in displays] == [1, 0]
