"""From a label map to a segmentation node: all of it, or nothing.

Every change of the scene is entered, before it is made, on a stack of what takes it back
(`undo`). The stack is dropped when all is done; an exception on the way runs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import slicer
import vtk

from .. import __version__
from ..boxes import occupied_box
from ..checkpoints.card import SegmentClass
from ..errors import InputError
from ..inference.result_files import WrittenResult
from ..inference.sampled import SampledResult
from ..inference.segmentation import Segmentation
from .browsers import shown_index
from .geometry import ijk_to_ras, to_numpy, to_vtk
from .removal import remove_node
from .subject_hierarchy import place_beside
from .volumes import check_volume_node, voxels

# Node attributes and segment tags of this extension begin with this.
PREFIX = "MRFUNetSegmentation."
# Provenance that every result has: the name of the model.
MODEL = "Model"
# Provenance of every result: SHA-256 of the checkpoint, for two may have the same name.
SHA256 = "SHA256"
# Provenance of a segmentation: the largest value of the model's classes, also if that class's
# segment is removed later, so that its value is free for nothing else.
LARGEST_CLASS = "LargestClass"
# Provenance of a segmentation: IDs of the model's segments. Others with the tags of a class were
# copied from another segmentation: they are the user's.
CLASS_IDS = "ClassIDs"
# Provenance of what was made of one item of a sequence: the item's index value.
ITEM = "Item"
# Tags of the segments that are this extension's: the class's value, and the segment's own ID. A
# copy of a segment has the tags too, but another ID: it is the user's.
CLASS_TAG = PREFIX + "Class"
_ID_TAG = PREFIX + "SegmentID"

BINARY_LABELMAP = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
GEOMETRY_PARAMETER = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
# By how much the entries of two matrices of one grid may differ, for files store rounded numbers.
_SAME_PLACE = 1e-4


def write_segmentation(
    labels: np.ndarray,
    classes: Sequence[SegmentClass],
    volume_node,
    segmentation_node=None,
    provenance: Mapping[str, str] | None = None,
):
    """Show a label map as a segmentation of a volume.

    Every class but the background becomes a segment, an empty class too. The segmentation goes
    under the volume's parent transform, gets its geometry as reference geometry and its place in
    the subject hierarchy.

    An existing segmentation node keeps its display settings, and names and colours of its
    segments. Segments of an earlier run whose class is not among `classes` are removed; segments
    that the user added stay, and if the volume has moved since, they move with it.

    Args:
        labels: [k, j, i] uint8 on the grid of the volume node.
        classes: of the model; the label of class c is `c.value`.
        volume_node: the volume that was segmented.
        segmentation_node: node to write to; a new one if None.
        provenance: how the labels came about, stored as attributes of the node.

    Returns:
        The segmentation node.

    Raises:
        InputError: if the nodes cannot be used, or do not fit the labels.
        Exception: any other; in every case the scene is as it was.
    """
    with ExitStack() as undo:
        node = put_segmentation(labels, classes, volume_node, segmentation_node, provenance, undo)
        undo.pop_all()
    return node


def put_segmentation(
    labels: np.ndarray,
    classes: Sequence[SegmentClass],
    volume_node,
    segmentation_node,
    provenance: Mapping[str, str] | None,
    undo: ExitStack,
):
    """Do what `write_segmentation` does as a part of something larger.

    Args:
        labels: see there, as for the other arguments.
        classes: see there.
        volume_node: see there.
        segmentation_node: see there.
        provenance: see there.
        undo: gets what takes the change back.

    Returns:
        The segmentation node.

    Raises:
        InputError: if the nodes cannot be used, or do not fit the labels; nothing has changed.
        Exception: any other; what has changed until then is on the stack.
    """
    check_volume_node(volume_node)
    classes = [c for c in classes if not c.background]
    check_labels(labels, volume_node)
    if segmentation_node is not None:
        _check_output(segmentation_node, classes, volume_node)
    node = _new_node(volume_node, undo) if segmentation_node is None else segmentation_node
    follows_already = reference_volume(node) is volume_node
    with _one_update(node):
        _remember_segments(node, undo)
        ensure_display(node, undo)
        derived = _derived_representations(node.GetSegmentation())
        follow_volume(node, volume_node, undo, move_segments=follows_already)
        _replace_segments(node, label_image(labels, volume_node), classes, derived)
        set_provenance(node, {**about(classes, volume_node), **(provenance or {})}, undo)
        display = node.GetDisplayNode()
        visible = {
            s: display.GetSegmentVisibility(s) for s in node.GetSegmentation().GetSegmentIDs()
        }
    # Only now does the application hear that segments came and went, and it hides some that came.
    for segment_id, is_visible in visible.items():
        display.SetSegmentVisibility(segment_id, is_visible)
    # Where the user has put the result of an earlier run, it stays.
    if not follows_already:
        place_beside(node, volume_node, undo)
    return node


def provenance_of(
    result: Segmentation | SampledResult | WrittenResult, version: str = __version__
) -> dict[str, str]:
    """Return what is stored with a result of how it came about.

    Args:
        result: what was computed.
        version: of the program that has computed it.
    """
    options, stored = result.options, {}
    for name, stored_name in (("mrf", "MRF"), ("intensities", "Intensities")):
        if name in options:
            stored[stored_name] = "yes" if options[name] else "no"
    if options.get("tolerance"):
        stored["Tolerance"] = f"{options['tolerance']:g}"
    return {
        MODEL: result.card.name,
        SHA256: result.sha256,
        "Device": result.device,
        "Version": version,
        **stored,
    }


def about(classes: Sequence[SegmentClass], volume_node=None) -> dict[str, str]:
    """Return the provenance that does not depend on how a segmentation was made.

    Args:
        classes: of the model.
        volume_node: that was segmented; None for one that is an item of a sequence itself.
    """
    found = {
        LARGEST_CLASS: str(max((c.value for c in classes), default=0)),
        CLASS_IDS: ",".join(c.segment_id for c in classes if not c.background),
    }
    item = shown_index(volume_node) if volume_node is not None else None
    return found if item is None else {**found, ITEM: item}


def read_provenance(node) -> dict[str, str]:
    """Return what was stored of how a node's content came about."""
    return {
        name.removeprefix(PREFIX): node.GetAttribute(name)
        for name in node.GetAttributeNames()
        if name.startswith(PREFIX)
    }


# Checks --------------------------------------------------------------------------------------


def check_labels(labels: np.ndarray, volume_node) -> None:
    """Check that a label map [k, j, i] has the size of a volume node's image.

    Raises:
        InputError: if it has another one.
    """
    size = volume_node.GetImageData().GetDimensions()
    if labels.shape != size[::-1]:
        raise InputError(
            f"The result has {' x '.join(map(str, labels.shape[::-1]))} voxels, the volume "
            f"{volume_node.GetName()} has {' x '.join(map(str, size))}: the volume was changed "
            "during the run. Segment it again."
        )


def _check_output(node, classes: Sequence[SegmentClass], volume_node) -> None:
    if not node.IsA("vtkMRMLSegmentationNode"):
        raise InputError(
            f"{node.GetName()} is not a segmentation ({node.GetNodeTagName()} node). "
            "Choose a segmentation as output, or create a new one."
        )
    name = node.GetName()
    if node.GetScene() is not volume_node.GetScene():
        raise InputError(f"The segmentation {name} is no longer in the scene. Choose another one.")
    check_label_maps(node)
    # Segments drawn on this volume go where it goes; those of another one would be displaced.
    if (
        _segments_of_others(node, classes)
        and reference_volume(node) is not volume_node
        and node.GetParentTransformNode() is not volume_node.GetParentTransformNode()
    ):
        raise InputError(
            f"The segmentation {name} holds segments of another volume, which is under another "
            f"transform than {volume_node.GetName()}. Choose another output, or create a new one."
        )


def check_label_maps(node) -> None:
    """Check that the segments of a segmentation node, if it has any, are label maps.

    Raises:
        InputError: if they are something else, as surfaces.
    """
    segmentation = node.GetSegmentation()
    if (
        segmentation.GetNumberOfSegments()
        and segmentation.GetSourceRepresentationName() != BINARY_LABELMAP
    ):
        raise InputError(
            f"The segmentation {node.GetName()} holds "
            f"{segmentation.GetSourceRepresentationName().lower()} segments, not label maps. "
            "Choose another output, or create a new one."
        )


# Segments ------------------------------------------------------------------------------------


def _replace_segments(node, image, classes: Sequence[SegmentClass], derived: Sequence[str]) -> None:
    """Let the classes' segments share one label map; others are as they were.

    Args:
        node: segmentation node.
        image: the label map, vtkOrientedImageData.
        classes: that make segments.
        derived: names of what is made from the label maps again.
    """
    segmentation = node.GetSegmentation()
    if segmentation.GetSourceRepresentationName() != BINARY_LABELMAP:
        segmentation.SetSourceRepresentationName(BINARY_LABELMAP)
    _detach_other_segments(segmentation, _segments_of_others(node, classes))
    for segment_class in classes:
        set_segment(segmentation, segment_class, image)
    _remove_old_classes(node, classes)
    # Tells the segmentation that its content changed: it drops the surfaces of the old content.
    image.Modified()
    for name in derived:
        segmentation.CreateRepresentation(name)


def set_segment(segmentation, segment_class: SegmentClass, image) -> None:
    """Let a class's segment be its value in a label map; add the segment if there is none.

    Args:
        segmentation: vtkSegmentation whose source representation is the binary label map.
        segment_class: the class.
        image: vtkOrientedImageData, which several segments can share.
    """
    segment = segmentation.GetSegment(segment_class.segment_id)
    is_new = segment is None
    if is_new:
        segment = slicer.vtkSegment()
        segment.SetName(segment_class.name)
        segment.SetColor(*(c / 255 for c in segment_class.color))
        # Else the terminology selector would put its own in their place.
        segment.SetNameAutoGenerated(False)
        segment.SetColorAutoGenerated(False)
    segment.SetLabelValue(segment_class.value)
    segment.AddRepresentation(BINARY_LABELMAP, image)
    tag_class(segment, segment_class.segment_id, segment_class.value)
    if segment_class.terminology:
        # SetTerminology does the same, but only in newer versions of Slicer.
        tag = segment.GetTerminologyEntryTagName()
        segment.SetTag(tag, segment_class.terminology.slicer_entry())
    if is_new:
        segmentation.AddSegment(segment, segment_class.segment_id)


def tag_class(segment, segment_id: str, value: int) -> None:
    """Say of a segment that it is this extension's."""
    segment.SetTag(CLASS_TAG, str(value))
    segment.SetTag(_ID_TAG, segment_id)


def class_value(node, segment_id: str, segment) -> int | None:
    """Return the value of the class that a segment is; None for one that the user has added.

    Args:
        node: the segmentation node that the segment is of, which knows the IDs of its classes; one
            of an older scene, or from a file, does not, and then the segment's tags count.
        segment_id: of the segment.
        segment: the segment.
    """
    ids = node.GetAttribute(PREFIX + CLASS_IDS)
    if ids is not None and segment_id not in ids.split(","):
        return None
    value = tag(segment, CLASS_TAG)
    # Segments of older scenes have no tag with their ID.
    if value is None or tag(segment, _ID_TAG) not in (None, segment_id):
        return None
    return int(value)


def _remove_old_classes(node, classes: Sequence[SegmentClass]) -> None:
    segmentation = node.GetSegmentation()
    kept = {c.segment_id for c in classes}
    for segment_id in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(segment_id)
        if segment_id not in kept and class_value(node, segment_id, segment) is not None:
            # A removed segment is erased from the label map that it shares: not from the old
            # one, which an undo needs whole.
            segment.AddRepresentation(BINARY_LABELMAP, slicer.vtkOrientedImageData())
            segmentation.RemoveSegment(segment_id)


def _segments_of_others(node, classes: Sequence[SegmentClass]) -> set[str]:
    """IDs of the node's segments that no run of this extension has made or is to make."""
    segmentation = node.GetSegmentation()
    ours = {c.segment_id for c in classes}
    return {
        segment_id
        for segment_id in segmentation.GetSegmentIDs()
        if segment_id not in ours
        and class_value(node, segment_id, segmentation.GetSegment(segment_id)) is None
    }


def _detach_other_segments(segmentation, others: set[str]) -> None:
    """Give segments that share a label map with replaced ones a copy of it without those.

    The Segment Editor adds a user's segment to the label map that is there. The old map is left
    untouched, since an undo needs it.
    """
    sharing: dict[object, list[str]] = {}
    for segment_id in segmentation.GetSegmentIDs():
        image = segmentation.GetSegment(segment_id).GetRepresentation(BINARY_LABELMAP)
        sharing.setdefault(image, []).append(segment_id)
    for image, segment_ids in sharing.items():
        staying = [s for s in segment_ids if s in others]
        if not staying or len(staying) == len(segment_ids):
            continue
        copy = slicer.vtkOrientedImageData()
        copy.DeepCopy(image)
        if copy.GetNumberOfPoints():
            values = voxels(copy)
            kept = [segmentation.GetSegment(s).GetLabelValue() for s in staying]
            values[~np.isin(values, kept)] = 0
        for segment_id in staying:
            segmentation.GetSegment(segment_id).AddRepresentation(BINARY_LABELMAP, copy)


def copy_other_segments(node, target, classes: Sequence[SegmentClass]) -> None:
    """Add copies of the segments that no run of this extension has made to another segmentation.

    Args:
        node: segmentation node with label maps; it stays as it is.
        target: vtkSegmentation of label maps.
        classes: whose segments the target has; segments with their IDs are left out.
    """
    source, others = node.GetSegmentation(), _segments_of_others(node, classes)
    copy = slicer.vtkSegmentation()
    copy.DeepCopy(source)
    _detach_other_segments(copy, others)
    for segment_id in source.GetSegmentIDs():
        if segment_id in others:
            segment = copy.GetSegment(segment_id)
            # The others of the target have none, and it must be the same for all.
            for name in _representations(segment).keys() - {BINARY_LABELMAP}:
                segment.RemoveRepresentation(name)
            target.AddSegment(segment, segment_id)


def _derived_representations(segmentation) -> list[str]:
    """Names of what is made from the label maps: surfaces, where the user shows them in 3D."""
    if not segmentation.GetNumberOfSegments():
        return []
    names = _representations(segmentation.GetNthSegment(0))
    return [name for name in names if name != BINARY_LABELMAP]


def _representations(segment) -> dict[str, vtk.vtkDataObject]:
    names: list[str] = []
    segment.GetContainedRepresentationNames(names)
    return {name: segment.GetRepresentation(name) for name in names}


def label_image(labels: np.ndarray, volume_node, *, cropped: bool = False):
    """Return a label map as a vtkOrientedImageData that lies on a volume.

    Args:
        labels: [k, j, i] uint8 on the grid of the volume node.
        volume_node: gives the grid.
        cropped: leave out the planes around all labels above 0, which saves memory and time; at
            least one voxel is left.
    """
    first = volume_node.GetImageData().GetExtent()[::2]
    box = tuple(slice(0, size) for size in labels.shape)
    if cropped:
        box = occupied_box(labels) or (slice(0, 1),) * 3
    image = slicer.vtkOrientedImageData()
    image.SetExtent(
        [
            int(start + end)
            for start, s in zip(first, box[::-1], strict=True)
            for end in (s.start, s.stop - 1)
        ]
    )
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    voxels(image)[:] = labels[box]
    image.SetGeometryFromImageToWorldMatrix(to_vtk(ijk_to_ras(volume_node)))
    return image


# The node ------------------------------------------------------------------------------------


def _new_node(volume_node, undo: ExitStack):
    scene = volume_node.GetScene()
    name = scene.GenerateUniqueName(f"{volume_node.GetName()} segmentation")
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    undo.callback(remove_node, node)
    return node


def ensure_display(node, undo: ExitStack) -> None:
    """Give a node display nodes if it has none.

    Args:
        node: any displayable node.
        undo: gets what takes the change back.
    """
    if node.GetDisplayNode() is None:
        undo.callback(_remove_display, node)
        node.CreateDefaultDisplayNodes()


def _remove_display(node) -> None:
    display = node.GetDisplayNode()
    # The application's 3D views would still look at it when the segments change, and crash.
    is_watched = hasattr(slicer, "app") and node.IsA("vtkMRMLSegmentationNode")
    if display is not None and not is_watched:
        node.GetScene().RemoveNode(display)


def reference_volume(segmentation_node):
    """Return the volume of which a segmentation was made; None if there is none, or it is gone."""
    role = segmentation_node.GetReferenceImageGeometryReferenceRole()
    return segmentation_node.GetNodeReference(role)


def is_of_shown_item(node, volume_node) -> bool:
    """Return whether a volume node shows what a result was made of, and no other item."""
    item, shown = read_provenance(node).get(ITEM), shown_index(volume_node)
    return None in (item, shown) or item == shown


def check_item(node, volume_node) -> None:
    """Check that a volume node of a sequence shows what a result was made of, or voxels as there.

    Args:
        node: the result.
        volume_node: the volume node that it was made of.

    Raises:
        InputError: if it shows another item, which has other voxels or lies elsewhere.
    """
    if is_of_shown_item(node, volume_node) or _has_grid_of(node, volume_node):
        return
    item, shown = read_provenance(node)[ITEM], shown_index(volume_node)
    raise InputError(
        f"{node.GetName()} is of item {item} of the sequence of which {volume_node.GetName()} "
        f"shows item {shown} now, and that has other voxels. Show item {item}, then try again."
    )


def follow_volume(node, volume_node, undo: ExitStack, *, move_segments: bool = True) -> None:
    """Put the segmentation in the volume's space, and tie its grid to the volume's.

    Args:
        node: segmentation node.
        volume_node: the volume.
        undo: gets what takes the change back, label maps apart.
        move_segments: keep the segments on the voxels that they were on, for they are of this
            volume. They leave them where the volume's own axes have changed, as by a transform
            that was hardened on it.
    """
    role = node.GetReferenceImageGeometryReferenceRole()
    segmentation = node.GetSegmentation()
    geometry = segmentation.GetConversionParameter(GEOMETRY_PARAMETER)
    undo.callback(segmentation.SetConversionParameter, GEOMETRY_PARAMETER, geometry)
    undo.callback(node.SetNodeReferenceID, role, node.GetNodeReferenceID(role))
    undo.callback(node.SetAndObserveTransformNodeID, node.GetTransformNodeID())
    before, after = own_grid(node, volume_node), ijk_to_ras(volume_node)
    if move_segments and not np.allclose(before, after, rtol=0, atol=_SAME_PLACE):
        _move_segments(segmentation, after @ np.linalg.inv(before))
    # The transform first: the reference geometry is expressed in the segmentation's own space.
    node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)


def own_grid(node, volume_node) -> np.ndarray:
    """Return the matrix (4, 4) from a volume's voxel indices to a segmentation's own space, mm.

    As it was when the segmentation was made of the volume, of which it may be a copy in no scene;
    the volume's present one if the segmentation says nothing of that.
    """
    grid = _stored_grid(node)
    if grid and grid[1] == volume_node.GetImageData().GetExtent():
        return grid[0]
    return ijk_to_ras(volume_node)


def _has_grid_of(node, volume_node) -> bool:
    """Return whether a segmentation was made on voxels that lie where those of a volume do."""
    grid = _stored_grid(node)
    if grid is None or grid[1] != volume_node.GetImageData().GetExtent():
        return False
    return np.allclose(grid[0], ijk_to_ras(volume_node), rtol=0, atol=_SAME_PLACE)


def _stored_grid(node) -> tuple[np.ndarray, tuple[int, ...]] | None:
    """Return matrix and extent of the voxels that a segmentation was made on, if it says so."""
    text = node.GetSegmentation().GetConversionParameter(GEOMETRY_PARAMETER)
    matrix, extent = vtk.vtkMatrix4x4(), [0, -1] * 3
    if not text or not slicer.vtkSegmentationConverter.DeserializeImageGeometry(
        text, matrix, extent
    ):
        return None
    return to_numpy(matrix), tuple(extent)


def _move_segments(segmentation, movement: np.ndarray) -> None:
    """Put copies of the label maps, moved by a matrix (4, 4), in the place of all segments'."""
    moved: dict[object, object] = {}
    for segment_id in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(segment_id)
        image = segment.GetRepresentation(BINARY_LABELMAP)
        if image is None:
            continue
        if image not in moved:
            matrix = vtk.vtkMatrix4x4()
            image.GetImageToWorldMatrix(matrix)
            moved[image] = slicer.vtkOrientedImageData()
            moved[image].DeepCopy(image)
            moved[image].SetGeometryFromImageToWorldMatrix(to_vtk(movement @ to_numpy(matrix)))
        segment.AddRepresentation(BINARY_LABELMAP, moved[image])
    # Surfaces are of the label maps as they lay before.
    for name in _derived_representations(segmentation):
        segmentation.RemoveRepresentation(name)


def set_provenance(node, provenance: Mapping[str, str], undo: ExitStack) -> None:
    """Store on a node how its content came about, in the place of what was stored before.

    Args:
        node: any node.
        provenance: what to store.
        undo: gets what takes the change back.
    """
    before = {PREFIX + key: value for key, value in read_provenance(node).items()}
    after = {PREFIX + key: str(value) for key, value in provenance.items()}
    for name in before | after:
        undo.callback(_set_attribute, node, name, before.get(name))
        _set_attribute(node, name, after.get(name))


def _set_attribute(node, name: str, value: str | None) -> None:
    if value is None:
        node.RemoveAttribute(name)
    else:
        node.SetAttribute(name, value)


# Undo ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _SegmentState:
    """A segment, and what a run changes of it."""

    segment_id: str
    segment: object
    label_value: int
    tags: dict[str, str | None]
    representations: dict[str, vtk.vtkDataObject]


def _remember_segments(node, undo: ExitStack) -> None:
    """Enter on the stack what brings the node's segments and their display back.

    Nothing is copied but the display settings: runs put new label maps in the place of the old
    ones and leave those as they are.
    """
    segmentation = node.GetSegmentation()
    states = [
        _segment_state(segment_id, segmentation.GetSegment(segment_id))
        for segment_id in segmentation.GetSegmentIDs()
    ]
    undo.callback(
        segmentation.SetSourceRepresentationName, segmentation.GetSourceRepresentationName()
    )
    display = node.GetDisplayNode()
    if display is not None:
        copy = display.NewInstance()
        copy.CopyContent(display)
        undo.callback(display.CopyContent, copy)
    undo.callback(_restore_segments, segmentation, states)


def _segment_state(segment_id: str, segment) -> _SegmentState:
    return _SegmentState(
        segment_id,
        segment,
        segment.GetLabelValue(),
        {
            name: tag(segment, name)
            for name in (CLASS_TAG, _ID_TAG, segment.GetTerminologyEntryTagName())
        },
        _representations(segment),
    )


def tag(segment, name: str) -> str | None:
    """Return the value of a segment's tag; None if it has no such tag."""
    value = vtk.reference("")
    return str(value) if segment.GetTag(name, value) else None


def _restore_segments(segmentation, states: Sequence[_SegmentState]) -> None:
    for state in states:
        _restore_segment(state)
    known = {state.segment_id for state in states}
    for segment_id in segmentation.GetSegmentIDs():
        if segment_id not in known:
            segmentation.RemoveSegment(segment_id)
    for state in states:
        if segmentation.GetSegment(state.segment_id) is None:
            segmentation.AddSegment(state.segment, state.segment_id)
    if states:
        segmentation.ReorderSegments([state.segment_id for state in states])
    # Label maps that were put into the place of others are as they always were.
    segmentation.InvokeEvent(segmentation.SourceRepresentationModified)


def _restore_segment(state: _SegmentState) -> None:
    segment = state.segment
    segment.SetLabelValue(state.label_value)
    # Never without a label map: a view in 3D would want to make its surface then.
    for name, representation in state.representations.items():
        segment.AddRepresentation(name, representation)
    for name in _representations(segment).keys() - state.representations.keys():
        segment.RemoveRepresentation(name)
    for name, value in state.tags.items():
        if value is None:
            segment.RemoveTag(name)
        else:
            segment.SetTag(name, value)


@contextmanager
def _one_update(node) -> Iterator[None]:
    """Let those who watch the node hear of all changes at once."""
    was_modifying = node.StartModify()
    try:
        yield
    finally:
        node.EndModify(was_modifying)
