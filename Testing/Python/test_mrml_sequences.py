"""Segmentations of a sequence of volumes, browsed together with it, on real nodes."""

from contextlib import ExitStack

import numpy as np
import pytest

slicer = pytest.importorskip("slicer")

from MRFUNetSegmentationLib.errors import InputError  # noqa: E402
from MRFUNetSegmentationLib.mrml.browsers import sequence_of, shown_index  # noqa: E402
from MRFUNetSegmentationLib.mrml.export import read_labels  # noqa: E402
from MRFUNetSegmentationLib.mrml.segmentations import (  # noqa: E402
    BINARY_LABELMAP,
    label_image,
    read_provenance,
    reference_volume,
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
    SEGMENT_IDS,
    add_volume,
    phantom,
    translation,
    vtk_image,
    vtk_matrix,
)
from sequence_tools import (  # noqa: E402
    add_sequence,
    browser_of,
    read_again,
    shown_volume,
)
from test_mrml_segmentations import state  # noqa: E402

# Volumes differ in size and place.
SHAPES = ((14, 16, 18), (14, 16, 20), (15, 16, 18))
MATRICES = [translation(5 * n, 0, 0) @ OBLIQUE for n in range(3)]
PROVENANCE = {"Model": "tiny"}


def labels_of(item: int) -> np.ndarray:
    """Labels of an item, 0 .. 2: the phantom, moved by a plane an item."""
    return np.roll(phantom(SHAPES[item]), item, axis=0)


@pytest.fixture
def sequence(scene, sequences):
    return add_sequence(scene, [np.ones(shape, np.int16) for shape in SHAPES], MATRICES)


def segmentations_of(sequence) -> SegmentationSequence:
    segmentations = SegmentationSequence(VolumeSequence.of(sequence), CLASSES, PROVENANCE)
    for item in range(len(SHAPES)):
        segmentations.add(labels_of(item))
    return segmentations


def put(sequence, node=None):
    with ExitStack() as undo:
        node = segmentations_of(sequence).put(node, undo)
        return node, undo.pop_all()


def shown_labels(node, sequence, item: int) -> np.ndarray:
    browser_of(sequence).SetSelectedItemNumber(item)
    return read_labels(node, shown_volume(sequence))


def test_segmentations_are_browsed_with_their_volumes(scene, sequence):
    browser_of(sequence).SetSelectedItemNumber(1)
    node, _undo = put(sequence)
    for item in (1, 2, 0, 1, 2):
        np.testing.assert_array_equal(shown_labels(node, sequence, item), labels_of(item))
    assert scene.GetNumberOfNodesByClass("vtkMRMLSequenceBrowserNode") == 1
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 1
    assert list(node.GetSegmentation().GetSegmentIDs()) == list(SEGMENT_IDS)
    assert reference_volume(node) is shown_volume(sequence)
    assert read_provenance(node) == PROVENANCE | {
        "LargestClass": "3",
        "ClassIDs": ",".join(SEGMENT_IDS),
    }
    made = sequence_of(node)
    assert (made.GetIndexName(), made.GetIndexUnit()) == ("time", "s")
    assert [made.GetNthIndexValue(n) for n in range(3)] == ["0.0", "1.5", "3.0"]


@pytest.mark.parametrize("change", ["later scan", "removed"])
def test_volume_without_a_segmentation_does_not_get_that_of_another_one(sequence, change):
    node, _undo = put(sequence)
    if change == "later scan":
        late = slicer.vtkMRMLScalarVolumeNode()
        late.SetAndObserveImageData(vtk_image(np.ones(SHAPES[2], np.int16)))
        late.SetIJKToRASMatrix(vtk_matrix(MATRICES[2]))
        sequence.SetDataNodeAtValue(late, "4.5")
        without = 3
    else:
        sequence_of(node).RemoveDataNodeAtValue("1.5")
        without = 1
    for item in (2, without, 0, without):
        labels = shown_labels(node, sequence, item)
        assert labels.any() == (item != without)
    assert not node.GetSegmentation().GetNumberOfSegments()
    assert "Model" not in read_provenance(node)
    for item in {0, 1, 2} - {without}:
        np.testing.assert_array_equal(shown_labels(node, sequence, item), labels_of(item))


@pytest.mark.parametrize("name", ["Head & neck", "T1 [brain]"])
def test_segmentations_are_read_from_a_saved_scene_whatever_the_scans_are_called(
    sequence, tmp_path, name
):
    shown_volume(sequence).SetName(name)
    for n in range(len(SHAPES)):
        sequence.GetNthDataNode(n).SetName(name)
    node, _undo = put(sequence)
    read = read_again(sequence_of(node), tmp_path)
    assert read.GetNumberOfDataNodes() == len(SHAPES)
    assert read.GetNthDataNode(2).GetSegmentation().GetNumberOfSegments() == len(SEGMENT_IDS)


def test_nothing_is_in_the_scene_before_all_are_done(scene, sequence):
    before = state(scene)
    segmentations_of(sequence)
    assert state(scene) == before


def test_edits_and_display_stay_when_another_volume_is_shown(sequence):
    node, _undo = put(sequence)
    shown_labels(node, sequence, 1)
    segmentation = node.GetSegmentation()
    image = segmentation.GetSegment(SEGMENT_IDS[0]).GetRepresentation("Binary labelmap")
    voxels(image)[voxels(image) == 1] = 2
    image.Modified()
    segmentation.InvokeEvent(segmentation.SourceRepresentationModified)
    node.GetDisplayNode().SetSegmentVisibility(SEGMENT_IDS[1], False)
    np.testing.assert_array_equal(shown_labels(node, sequence, 2), labels_of(2))
    assert not node.GetDisplayNode().GetSegmentVisibility(SEGMENT_IDS[1])
    edited = labels_of(1)
    edited[edited == 1] = 2
    np.testing.assert_array_equal(shown_labels(node, sequence, 1), edited)


def test_segmentations_of_an_earlier_run_are_replaced_and_come_back(scene, sequence):
    node, _undo = put(sequence)
    node.GetDisplayNode().SetOpacity(0.4)
    first = sequence_of(node)
    again = SegmentationSequence(VolumeSequence.of(sequence), CLASSES, PROVENANCE)
    for shape in SHAPES:
        again.add(np.full(shape, 3, np.uint8))
    with ExitStack() as undo:
        assert again.put(node, undo) is node
        assert (shown_labels(node, sequence, 2) == 3).all()
        assert scene.GetNumberOfNodesByClass("vtkMRMLSequenceNode") == 2
        assert not scene.IsNodePresent(first)
    assert sequence_of(node) is first
    assert scene.GetNumberOfNodesByClass("vtkMRMLSequenceNode") == 2
    assert node.GetDisplayNode().GetOpacity() == pytest.approx(0.4)
    for item in range(3):
        np.testing.assert_array_equal(shown_labels(node, sequence, item), labels_of(item))


def segment_labels(node, segment_id: str) -> np.ndarray:
    """What of a segment's own label map [k, j, i], cropped or not, is the segment."""
    segment = node.GetSegmentation().GetSegment(segment_id)
    return voxels(segment.GetRepresentation(BINARY_LABELMAP)) == segment.GetLabelValue()


def test_segments_of_the_user_stay_in_every_item(sequence):
    """One shares the label map of the classes, as the Segment Editor does it; one has its own."""
    node, _undo = put(sequence)
    for item in (0, 2):
        browser_of(sequence).SetSelectedItemNumber(item)
        volume, segmentation = shown_volume(sequence), node.GetSegmentation()
        shared = segmentation.GetSegment(SEGMENT_IDS[0]).GetRepresentation(BINARY_LABELMAP)
        labels = np.zeros(SHAPES[item], np.uint8)
        labels[1, 2, 3 : 5 + item] = 9
        for segment_id, image in (("Mine", shared), ("Lesion", label_image(labels, volume))):
            segment = slicer.vtkSegment()
            segment.SetName(segment_id)
            segment.SetColor(1, 0, 0)
            segment.SetLabelValue(9)
            segment.AddRepresentation(BINARY_LABELMAP, image)
            segmentation.AddSegment(segment, segment_id)
        voxels(shared)[0, 0, :2] = 9
        segmentation.InvokeEvent(segmentation.SourceRepresentationModified)
    browser_of(sequence).SetSelectedItemNumber(0)
    node.GetDisplayNode().SetSegmentVisibility("Lesion", False)
    again = SegmentationSequence(VolumeSequence.of(sequence), CLASSES, PROVENANCE)
    for shape in SHAPES:
        again.add(np.full(shape, 3, np.uint8))
    with ExitStack() as undo:
        again.put(node, undo)
        assert not node.GetDisplayNode().GetSegmentVisibility("Lesion")
        for item in (0, 1, 2):
            browser_of(sequence).SetSelectedItemNumber(item)
            assert segment_labels(node, SEGMENT_IDS[2]).sum() == np.prod(SHAPES[item])
            found = list(node.GetSegmentation().GetSegmentIDs())
            if item == 1:
                assert found == [*SEGMENT_IDS]
                continue
            assert found == [*SEGMENT_IDS, "Mine", "Lesion"]
            assert node.GetSegmentation().GetSegment("Lesion").GetColor() == (1, 0, 0)
            assert segment_labels(node, "Mine").sum() == 2
            assert np.argwhere(segment_labels(node, "Lesion")).tolist() == [
                [1, 2, i] for i in range(3, 5 + item)
            ]
    for item in (1, 0, 2):
        labels = shown_labels(node, sequence, item)
        of_classes = np.where(labels < len(CLASSES), labels, 0)
        np.testing.assert_array_equal(of_classes, labels_of(item))
        assert list(node.GetSegmentation().GetSegmentIDs())[3:] == (
            [] if item == 1 else ["Mine", "Lesion"]
        )


def test_surfaces_are_no_segmentations_to_replace(scene, sequence):
    node, _undo = put(sequence)
    sequence_of(node).GetNthDataNode(2).GetSegmentation().SetSourceRepresentationName(
        slicer.vtkSegmentationConverter.GetClosedSurfaceRepresentationName()
    )
    before = state(scene)
    with pytest.raises(InputError, match="holds closed surface segments, not label maps"):
        put(sequence, node)
    assert state(scene) == before


def test_failure_leaves_the_scene_as_it_was(scene, sequence):
    before = state(scene)
    with ExitStack() as undo:
        segmentations_of(sequence).put(None, undo)
    assert state(scene) == before


def test_labels_must_fit_their_volume(sequence):
    segmentations = SegmentationSequence(VolumeSequence.of(sequence), CLASSES, PROVENANCE)
    segmentations.add(labels_of(0))
    with pytest.raises(InputError, match="voxels"):
        segmentations.add(labels_of(0))


def test_sequence_is_found_by_the_volume_that_shows_it(scene, sequence):
    assert sequence_of(shown_volume(sequence)) is sequence
    assert sequence_of(add_volume(scene, np.ones((2, 2, 2)))) is None


def test_other_segmentation_is_no_output(scene, sequence):
    volume = shown_volume(sequence)
    other = write_segmentation(labels_of(0), CLASSES, volume)
    before = state(scene)
    with pytest.raises(InputError, match="is one segmentation"):
        put(sequence, other)
    assert state(scene) == before


@pytest.mark.parametrize("displayed", [True, False])
def test_new_segmentation_is_an_output(scene, sequence, displayed):
    """As a user creates it in the output's selector."""
    output = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Mine")
    output.SetAttribute("Reader", "me")
    if displayed:
        output.CreateDefaultDisplayNodes()
    before = state(scene)
    node, undo = put(sequence, output)
    assert node is output
    for item in (1, 2, 0):
        np.testing.assert_array_equal(shown_labels(node, sequence, item), labels_of(item))
    undo.close()
    assert state(scene) == before
    assert sequence_of(output) is None
    browser_of(sequence).SetSelectedItemNumber(1)
    assert not output.GetSegmentation().GetNumberOfSegments()


def test_empty_segmentation_of_another_browser_is_no_output(scene, sequence):
    other = add_sequence(scene, [np.ones(SHAPES[0])], MATRICES[:1], "Other")
    volumes = VolumeSequence.of(other)
    with ExitStack() as undo:
        made = SegmentationSequence(volumes, CLASSES, PROVENANCE)
        made.add(labels_of(0))
        shown = made.put(None, undo)
        undo.pop_all()
    shown.GetSegmentation().RemoveAllSegments()
    for node in (shown, volumes.volume):
        with pytest.raises(InputError, match="is one segmentation"):
            VolumeSequence.of(sequence).check_output(node)


def test_browser_of_the_chosen_volume_is_taken(scene, sequence):
    first = browser_of(sequence)
    second = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "Second")
    second.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    browsers = [first, second]
    shown = [browser.GetProxyNode(sequence) for browser in browsers]
    assert shown[0] is not shown[1]
    for browser, volume in zip(browsers, shown, strict=True):
        found = VolumeSequence.of(sequence, volume)
        assert (found.browser, found.volume) == (browser, volume)
    elsewhere = add_volume(scene, np.ones((2, 2, 2)))
    for browser in (first, second, first):
        browser.SetSelectedItemNumber(1 - browser.GetSelectedItemNumber())
        assert VolumeSequence.of(sequence).browser is browser
        assert VolumeSequence.of(sequence, elsewhere).browser is browser
    with ExitStack() as undo:
        made = SegmentationSequence(VolumeSequence.of(sequence, shown[1]), CLASSES, PROVENANCE)
        for item in range(3):
            made.add(labels_of(item))
        node = made.put(None, undo)
        undo.pop_all()
    assert reference_volume(node) is shown[1]
    first.SetSelectedItemNumber(2)
    assert VolumeSequence.of(sequence, node).browser is second


def test_segmentation_of_one_item_says_of_which(scene, sequence):
    volume = shown_volume(sequence)
    browser_of(sequence).SetSelectedItemNumber(1)
    assert shown_index(volume) == "1.5"
    single = write_segmentation(labels_of(1), CLASSES, volume, provenance=PROVENANCE)
    browser_of(sequence).SetSelectedItemNumber(2)
    assert read_provenance(single)["Item"] == "1.5"
    together, _undo = put(sequence)
    items = [sequence_of(together).GetNthDataNode(n) for n in range(3)]
    assert not any("Item" in read_provenance(node) for node in (together, *items))
    alone = write_segmentation(phantom(), CLASSES, add_volume(scene, phantom()))
    assert "Item" not in read_provenance(alone)


def test_sequences_that_cannot_be_segmented(scene, sequences):
    empty = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "Empty")
    with pytest.raises(InputError, match="is empty"):
        VolumeSequence.of(empty)
    tables = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "Tables")
    tables.SetDataNodeAtValue(slicer.vtkMRMLTableNode(), "0")
    with pytest.raises(InputError, match=r"Item 1 of the sequence Tables: .* is not a volume"):
        VolumeSequence.of(tables)
    sequence = add_sequence(scene, [np.ones((3, 4, 5))], [np.eye(4)])
    scene.RemoveNode(browser_of(sequence))
    with pytest.raises(InputError, match="make a browser"):
        VolumeSequence.of(sequence)
    scene.RemoveNode(sequence)
    with pytest.raises(InputError, match="no longer in the scene"):
        VolumeSequence.of(sequence)


def test_items_that_are_told_apart_by_words(scene, sequence):
    """They have an order, but are no numbers: each keeps its own segmentation."""
    sequence.SetIndexType(slicer.vtkMRMLSequenceNode.TextIndex)
    for n, word in enumerate(("baseline", "after 1 year", "after 2 years")):
        sequence.UpdateIndexValue(str(1.5 * n) if n else "0.0", word)
    node, _ = put(sequence)
    for item in range(3):
        np.testing.assert_array_equal(shown_labels(node, sequence, item), labels_of(item))
