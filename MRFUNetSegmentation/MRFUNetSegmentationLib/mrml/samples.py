"""Plausible segmentations in the scene: samples to browse, maps of where they differ, volumes.

One sampling run makes one set of nodes, which are found from each other (class `SampleSet`), also
in a scene that was saved and loaded. Nothing else than the scene is needed then: the samples' order
and the exports come from the nodes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import slicer

from .. import __version__
from ..errors import InputError
from ..inference.sampled import (
    ENTROPY,
    MUTUAL_INFORMATION,
    PROBABILITY,
    VARIANCE,
    SampledResult,
)
from .browsers import browsers
from .geometry import exact_geometry, ijk_to_ras
from .kept_display import DisplayKeeper, kept_display
from .nodes import referenced_nodes, sequence_name
from .overlays import MAP, OVERLAY_ATTRIBUTES, add_overlay, show_overlays_instead
from .removal import remove_node
from .segmentations import (
    BINARY_LABELMAP,
    GEOMETRY_PARAMETER,
    PREFIX,
    check_labels,
    ensure_display,
    follow_volume,
    is_of_shown_item,
    label_image,
    provenance_of,
    put_segmentation,
    read_provenance,
    set_provenance,
    set_segment,
)
from .subject_hierarchy import (
    folder_of,
    make_folder,
    place_beside,
    place_in,
    remove_folder_if_empty,
)
from .tables import (
    LOG_DENSITY,
    add_distribution,
    add_samples_table,
    add_structures_table,
    of_each_sample,
    volume_column,
)
from .undo import remove_new_nodes
from .volumes import check_volume_node

# How fast samples play.
SAMPLES_PER_SECOND = 2.0
# Provenance of a node that holds a sample: the sample's number.
SAMPLE = "Sample"
# Orders of the samples; that by the volume of a structure is `by_volume(segment_id)`.
AS_DRAWN, BY_LIKELIHOOD = "drawn", "likelihood"
_BY_VOLUME = "volume:"
# Bytes of label maps that samples may fill in the scene.
MAXIMUM_BYTES = 4 << 30

# Roles of the browser node's references to the other nodes of its set.
_VOLUME = PREFIX + "Volume"
_CONSENSUS = PREFIX + "Consensus"
_OVERLAY = PREFIX + "Overlay"
_SAMPLES_TABLE = PREFIX + "SamplesTable"
_STRUCTURES_TABLE = PREFIX + "StructuresTable"
_DISTRIBUTION = PREFIX + "Distribution"
# Attribute: the browser's order.
_ORDER = PREFIX + "Order"


def by_volume(segment_id: str) -> str:
    """Return the name of the order by the volume of a structure, the smallest first."""
    return _BY_VOLUME + segment_id


class SampleSet:
    """The nodes of one sampling run.

    Nodes that the user has removed are None, or left out.

    Attributes:
        browser: vtkMRMLSequenceBrowserNode; the set is as long in the scene as it is.
    """

    def __init__(self, browser) -> None:
        """Take the set of a browser node that `write_samples` has made."""
        self.browser = browser

    @property
    def sequence(self):
        """The sequence of segmentation nodes; an item's index value is its sample's number."""
        return self.browser.GetMasterSequenceNode()

    @property
    def shown(self):
        """The segmentation node that shows the sample at which the browser is."""
        return self.browser.GetProxyNode(self.sequence)

    @property
    def volume(self):
        """The volume that was segmented."""
        return self._first(_VOLUME)

    @property
    def consensus(self):
        """The segmentation node with one segmentation for all samples."""
        return self._first(_CONSENSUS)

    @property
    def overlays(self) -> dict:
        """Volumes of the maps, by the map's name."""
        return {node.GetAttribute(MAP): node for node in referenced_nodes(self.browser, _OVERLAY)}

    @property
    def samples_table(self):
        """Table with the volumes, log density and distance to the consensus of each sample."""
        return self._first(_SAMPLES_TABLE)

    @property
    def structures_table(self):
        """Table with the statistics of each structure."""
        return self._first(_STRUCTURES_TABLE)

    @property
    def charts(self) -> list:
        """Plot charts of the distribution of each structure's volume."""
        return [
            n
            for n in referenced_nodes(self.browser, _DISTRIBUTION)
            if n.IsA("vtkMRMLPlotChartNode")
        ]

    @property
    def number(self) -> int:
        """N, how many samples there are."""
        return self.sequence.GetNumberOfDataNodes()

    @property
    def is_whole(self) -> bool:
        """Whether there are samples, with numbers, which users can edit, and what shows them."""
        indices = [self.sequence.GetNthIndexValue(n) for n in range(self.number)]
        return bool(indices) and all(i.isdecimal() for i in indices) and self.shown is not None

    @property
    def sample(self) -> int:
        """Number of the sample that is shown, from 1, as drawn."""
        # The browser may still be at the place of one that the user has removed.
        return self.samples[min(self.browser.GetSelectedItemNumber(), self.number - 1)]

    @property
    def samples(self) -> list[int]:
        """Numbers of the samples in their present order."""
        return [int(self.sequence.GetNthIndexValue(n)) for n in range(self.number)]

    @property
    def order(self) -> str:
        """Name of the samples' present order."""
        return self.browser.GetAttribute(_ORDER) or AS_DRAWN

    @property
    def orders(self) -> dict[str, str]:
        """Names of the orders that there are, and what they are called."""
        names = {AS_DRAWN: "As drawn"}
        if self.samples_table is None:
            return names
        for segment_id, name in self._structures():
            names[by_volume(segment_id)] = f"By volume of {name}"
        return names | {BY_LIKELIHOOD: "By likelihood"}

    def show(self, sample: int) -> None:
        """Show a sample.

        Args:
            sample: its number, from 1, as drawn.

        Raises:
            InputError: if there is no such sample.
        """
        if sample not in self.samples:
            raise InputError(
                f"There is no sample {sample}. Choose one from {min(self.samples)} to "
                f"{max(self.samples)}."
            )
        shown, place = self.shown, self.samples.index(sample)
        if place != self.browser.GetSelectedItemNumber():
            with kept_display(shown):
                # Else the label maps are the sequence's own.
                if not self.browser.GetSaveChanges(self.sequence):
                    _let_go(shown.GetSegmentation())
                self.browser.SetSelectedItemNumber(place)
        if shown.GetDisplayNode() is not None:
            shown.GetDisplayNode().SetVisibility(True)

    def set_order(self, order: str) -> None:
        """Put the samples into another order: that in which the browser steps through them.

        The sample that is shown stays. Numbers stay too: a sample has the one that it was drawn
        with.

        Args:
            order: one of `orders`. By volume, the smallest comes first; by likelihood, the one
                whose latent is most probable under the prior.

        Raises:
            InputError: if there is no such order, or the samples' table was edited, so that it
                cannot be told.
        """
        if order not in self.orders:
            raise InputError(
                f"Samples cannot be put into the order {order!r}. There are: "
                f"{', '.join(self.orders)}."
            )
        in_order = sorted(self.samples)
        if order == BY_LIKELIHOOD:
            in_order = self.sorted_by([LOG_DENSITY], descending=True)
        elif order != AS_DRAWN:
            name = dict(self._structures())[order.removeprefix(_BY_VOLUME)]
            in_order = self.sorted_by([volume_column(name)])
        shown = self.sample
        was_modifying = self.browser.StartModify()
        _reorder(self.sequence, in_order)
        self.browser.SetSelectedItemNumber(self.samples.index(shown))
        self.browser.SetAttribute(_ORDER, order)
        self.browser.EndModify(was_modifying)

    def sorted_by(self, columns: Sequence[str], *, descending: bool = False) -> list[int]:
        """Return the numbers of the samples, sorted by the sum of columns of the samples' table.

        Samples that the user has removed from the sequence are left out.

        Raises:
            InputError: if the table was edited, so that it does not have these columns.
        """
        present = sorted(self.samples)
        sums = dict.fromkeys(present, 0.0)
        for column in columns:
            values = of_each_sample(self.samples_table, column)
            for sample in present:
                if not math.isfinite(values.get(sample, math.nan)):
                    raise InputError(
                        f"The table {self.samples_table.GetName()} was edited and has no "
                        f"{column!r} of sample {sample} any more. Draw samples again."
                    )
                sums[sample] += values[sample]
        return sorted(present, key=lambda sample: -sums[sample] if descending else sums[sample])

    def watch(self) -> None:
        """Keep the segments' display also when the user steps with Slicer's own controls.

        For a set of a scene that was loaded; `write_samples` does it.
        """
        DisplayKeeper(self.browser, self.shown)

    def keep(self):
        """Return a copy of the sample that is shown: an ordinary segmentation, for good.

        It holds what was edited on the shown node, lies beside the volume and stays when the set
        is replaced by another run's.

        Raises:
            InputError: if the shown node or the volume was removed, or the volume emptied.
            Exception: any other; in every case the scene is as it was.
        """
        shown, volume_node = self.shown, self.volume
        if shown is None or volume_node is None:
            raise InputError(
                "The samples' volume or the node that shows them was removed, so there is nothing "
                "to keep. Run the sampling again."
            )
        check_volume_node(volume_node)
        scene = self.browser.GetScene()
        with ExitStack() as undo:
            remove_new_nodes(scene, undo)
            name = scene.GenerateUniqueName(f"{volume_node.GetName()} sample {self.sample}")
            node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
            # First: the application's lists ask it for each segment that is added.
            ensure_display(node, undo)
            node.CopyContent(shown)
            if shown.GetDisplayNode() is not None:
                node.GetDisplayNode().CopyContent(shown.GetDisplayNode())
            node.GetDisplayNode().SetVisibility(True)
            # Not to where another item of the volume's sequence lies.
            is_there = is_of_shown_item(shown, volume_node)
            follow_volume(node, volume_node, undo, move_segments=is_there)
            set_provenance(node, read_provenance(shown), undo)
            place_beside(node, volume_node, undo)
            undo.pop_all()
        return node

    def release_consensus(self, undo: ExitStack) -> None:
        """Let the segmentation node go that was the consensus: it becomes another result.

        Args:
            undo: gets what takes the change back.
        """
        undo.callback(self.browser.SetNodeReferenceID, _CONSENSUS, self.consensus.GetID())
        self.browser.RemoveNodeReferenceIDs(_CONSENSUS)

    def nodes(self) -> list:
        """Return all nodes of the set but the consensus and the volume."""
        nodes = [self.browser, self.shown, self.sequence, self.samples_table, self.structures_table]
        nodes += referenced_nodes(self.browser, _OVERLAY) + referenced_nodes(
            self.browser, _DISTRIBUTION
        )
        return [node for node in nodes if node is not None]

    def remove(self) -> None:
        """Remove the set from the scene; the consensus stays, for it is the segmentation."""
        scene, folder = self.browser.GetScene(), folder_of(self.browser)
        # The browser first: without the node that it shows it would get a new one.
        for node in self.nodes():
            remove_node(node)
        remove_folder_if_empty(scene, folder)

    def _first(self, role: str):
        return next(iter(referenced_nodes(self.browser, role)), None)

    def _structures(self) -> Iterator[tuple[str, str]]:
        """Segment IDs and names of the structures, which edits of the shown node do not change."""
        segmentation = self.sequence.GetNthDataNode(0).GetSegmentation()
        for segment_id in segmentation.GetSegmentIDs():
            yield segment_id, segmentation.GetSegment(segment_id).GetName()


def sample_sets(scene) -> list[SampleSet]:
    """Return the sets of samples that are in a scene."""
    found = browsers(scene)
    return [SampleSet(b) for b in found if b.GetAttribute(_ORDER) and b.GetMasterSequenceNode()]


def default_overlays(result: SampledResult) -> list[str]:
    """Return the names of the maps that become overlays if none are chosen.

    These are variance, entropy, mutual information and the probabilities of the structures, as
    far as the run has made them.
    """
    probabilities = [f"{PROBABILITY}{structure['value']}" for structure in result.structures]
    names = [VARIANCE, ENTROPY, MUTUAL_INFORMATION, *probabilities]
    return [name for name in names if name in result.maps]


def provenance_of_samples(result: SampledResult, version: str = __version__) -> dict[str, str]:
    """Return what is stored with samples of how they came about; see `provenance_of`."""
    return {
        **provenance_of(result, version),
        "Seed": str(result.seed),
        "Samples": str(len(result.per_sample)),
        "Consensus": result.consensus_method,
    }


def write_samples(
    result: SampledResult,
    volume_node,
    segmentation_node=None,
    overlays: Sequence[str] | None = None,
    take_back: ExitStack | None = None,
    version: str = __version__,
) -> SampleSet:
    """Show what sampling a volume gave.

    The consensus becomes the segmentation node. The samples become a sequence of segmentation
    nodes with the same segment IDs, so that what the user sets of a segment's display holds for
    all, and a browser node steps through them. Maps become volumes to lay over the scan. New nodes
    go into one folder beside the volume in the subject hierarchy, and each bears model, SHA-256,
    seed and number of samples as attributes.

    A set of which the given segmentation node is the consensus already is replaced; slice views
    that show one of its maps then show the new one.

    Args:
        result: of the sampling run.
        volume_node: the volume that was sampled.
        segmentation_node: node for the consensus; a new one if None. See `write_segmentation`.
        overlays: names of maps of the result; `default_overlays` if None.
        take_back: gets what puts the segmentation node back as it was, samples and maps apart.
        version: of the program that has computed it.

    Raises:
        InputError: if the nodes cannot be used or do not fit the result.
        Exception: any other; in every case the scene is as it was.
    """
    check_volume_node(volume_node)
    check_labels(result.consensus, volume_node)
    result = _in_own_ml(result, volume_node)
    names = default_overlays(result) if overlays is None else list(overlays)
    _check_overlays(names, result)
    scene = volume_node.GetScene()
    old = [s for s in sample_sets(scene) if segmentation_node and s.consensus is segmentation_node]
    provenance = provenance_of_samples(result, version)
    with ExitStack() as undo:
        remove_new_nodes(scene, undo)
        segments = ExitStack() if take_back is None else take_back
        undo.callback(segments.close)
        consensus = put_segmentation(
            result.consensus,
            result.card.classes,
            volume_node,
            segmentation_node,
            provenance,
            segments,
        )
        folder = make_folder(f"{volume_node.GetName()} samples", volume_node, undo)
        if segmentation_node is None:
            place_in(consensus, folder, undo)
        samples = _add_browser(result, volume_node, provenance, undo)
        browser = samples.browser
        browser.SetNodeReferenceID(_VOLUME, volume_node.GetID())
        browser.SetNodeReferenceID(_CONSENSUS, consensus.GetID())
        for name in names:
            node = add_overlay(
                scene,
                name,
                result.maps[name],
                result.maximum[name],
                result.title(name),
                volume_node,
            )
            browser.AddNodeReferenceID(_OVERLAY, node.GetID())
        _add_tables(result, volume_node, browser)
        for node in samples.nodes():
            set_provenance(node, _attributes(node) | provenance, undo)
            place_in(node, folder, undo)
        undo.pop_all()
    for earlier in old:
        _show_instead(earlier, samples)
        earlier.remove()
    return samples


def _in_own_ml(result: SampledResult, volume_node) -> SampledResult:
    """Return a result with volumes as they are without transforms, as everywhere in the scene.

    The volume was computed where its parent transforms put it, of which one may scale.
    """
    own = exact_geometry(ijk_to_ras(volume_node), volume_node.GetImageData()).voxel_ml
    factor = own / result.geometry.voxel_ml
    if math.isclose(factor, 1.0, rel_tol=1e-6):
        return result
    structures = []
    for structure in result.structures:
        ml = {
            name: value if value is None or name == "cv" else value * factor
            for name, value in structure["volume_ml"].items()
        }
        consensus_ml = structure["consensus_ml"] * factor
        structures.append({**structure, "volume_ml": ml, "consensus_ml": consensus_ml})
    per_sample = [
        {**sample, "volumes_ml": {c: ml * factor for c, ml in sample["volumes_ml"].items()}}
        for sample in result.per_sample
    ]
    return replace(result, structures=structures, per_sample=per_sample)


def _check_overlays(names: Sequence[str], result: SampledResult) -> None:
    missing = [name for name in names if name not in result.maps]
    if missing:
        raise InputError(
            f"The run has made no map {missing[0]!r}. There are: {', '.join(result.maps)}."
        )


def _attributes(node) -> dict[str, str]:
    """What tells nodes of the set apart, and is no provenance."""
    kept = (*OVERLAY_ATTRIBUTES, _ORDER, PREFIX + SAMPLE)
    return {
        name.removeprefix(PREFIX): node.GetAttribute(name)
        for name in kept
        if node.GetAttribute(name)
    }


# Sequence and browser ------------------------------------------------------------------------


def _add_browser(result: SampledResult, volume_node, provenance, undo: ExitStack) -> SampleSet:
    scene, volume = volume_node.GetScene(), volume_node.GetName()
    sequence = scene.AddNewNodeByClass(
        "vtkMRMLSequenceNode", scene.GenerateUniqueName(sequence_name(f"{volume} samples sequence"))
    )
    # Texts, for items with numbers as index values are always in the order of the numbers.
    sequence.SetIndexType(slicer.vtkMRMLSequenceNode.TextIndex)
    sequence.SetIndexName("Sample")
    sequence.SetIndexUnit(f"of {result.number}")
    shown = _add_shown_node(result, volume_node, provenance, undo)
    _fill(sequence, result, volume_node, shown)
    browser = scene.AddNewNodeByClass(
        "vtkMRMLSequenceBrowserNode", scene.GenerateUniqueName(f"{volume} samples browser")
    )
    browser.SetAttribute(_ORDER, AS_DRAWN)
    # At once, or the sequences' logic would make a node of its own to show the samples with.
    was_modifying = browser.StartModify()
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    browser.AddProxyNode(shown, sequence, False)
    browser.SetSaveChanges(sequence, False)
    browser.SetOverwriteProxyName(sequence, False)
    browser.SetPlaybackRateFps(SAMPLES_PER_SECOND)
    browser.EndModify(was_modifying)
    samples = SampleSet(browser)
    samples.watch()
    return samples


def _add_shown_node(result: SampledResult, volume_node, provenance, undo: ExitStack):
    """Add the node that shows samples: outlines, to be seen over the consensus' filled areas."""
    node = put_segmentation(
        np.zeros_like(result.consensus), result.card.classes, volume_node, None, provenance, undo
    )
    scene = volume_node.GetScene()
    node.SetName(scene.GenerateUniqueName(f"{volume_node.GetName()} sample"))
    display = node.GetDisplayNode()
    display.SetVisibility2DFill(False)
    display.SetVisibility(False)
    return node


def _fill(sequence, result: SampledResult, volume_node, shown) -> None:
    """Put the samples into the sequence, each cropped to what is not background."""
    template = slicer.vtkMRMLSegmentationNode()
    segmentation = template.GetSegmentation()
    segmentation.SetSourceRepresentationName(BINARY_LABELMAP)
    segmentation.SetConversionParameter(
        GEOMETRY_PARAMETER, shown.GetSegmentation().GetConversionParameter(GEOMETRY_PARAMETER)
    )
    for name, value in read_provenance(shown).items():
        template.SetAttribute(PREFIX + name, value)
    size = 0
    for sample in range(result.number):
        image = label_image(result.labels(sample), volume_node, cropped=True)
        size += image.GetNumberOfPoints()
        if size > MAXIMUM_BYTES:
            raise InputError(
                f"{result.number} samples of this volume take more than "
                f"{MAXIMUM_BYTES / (1 << 30):.3g} GB in the scene. Draw at most {sample}, or "
                "write the samples to files with the command line."
            )
        for segment_class in result.card.segments:
            set_segment(segmentation, segment_class, image)
        template.SetName(sequence_name(f"{volume_node.GetName()} sample {sample + 1}"))
        template.SetAttribute(PREFIX + SAMPLE, str(sample + 1))
        sequence.SetDataNodeAtValue(template, str(sample + 1))


def _let_go(segmentation) -> None:
    """Take the label map that segments share away from them.

    They are about to be removed, and each is erased from the label map when that happens, voxel by
    voxel: that would be most of the time that a step takes.
    """
    empty = slicer.vtkOrientedImageData()
    for segment_id in segmentation.GetSegmentIDs():
        segmentation.GetSegment(segment_id).AddRepresentation(BINARY_LABELMAP, empty)


def _reorder(sequence, samples: Sequence[int]) -> None:
    """Put the items of a sequence into an order, without a copy of what they hold.

    Index values that count as numbers are always sorted: an item that gets another one moves to
    its place. So the items are numbered by their old places, then by their new ones, and in the
    end get the values that they had. No value may occur twice on the way.
    """
    # Above all numbers that there are: of samples that the user has removed there are none.
    number = max(samples)
    places = {}
    for place in range(len(samples)):
        sample = sequence.GetNthIndexValue(place)
        places[int(sample)] = str(number + 1 + place)
        sequence.UpdateIndexValue(sample, places[int(sample)])
    sequence.SetIndexType(slicer.vtkMRMLSequenceNode.NumericIndex)
    for place, sample in enumerate(samples):
        sequence.UpdateIndexValue(places[sample], str(2 * number + 1 + place))
    sequence.SetIndexType(slicer.vtkMRMLSequenceNode.TextIndex)
    for place, sample in enumerate(samples):
        sequence.UpdateIndexValue(str(2 * number + 1 + place), str(sample))


# Tables, and the set before ------------------------------------------------------------------


def _add_tables(result: SampledResult, volume_node, browser) -> None:
    scene, volume = volume_node.GetScene(), volume_node.GetName()
    table = add_samples_table(scene, f"{volume} samples table", result)
    browser.SetNodeReferenceID(_SAMPLES_TABLE, table.GetID())
    table = add_structures_table(scene, f"{volume} structures over samples", result)
    browser.SetNodeReferenceID(_STRUCTURES_TABLE, table.GetID())
    for node in add_distribution(scene, f"{volume} volumes", result):
        browser.AddNodeReferenceID(_DISTRIBUTION, node.GetID())


def _show_instead(old: SampleSet, new: SampleSet) -> None:
    """Let slice views show the new set's maps where they show the same of the old set."""
    overlays = new.overlays
    successors = {
        node.GetID(): overlays[name].GetID()
        for name, node in old.overlays.items()
        if name in overlays
    }
    show_overlays_instead(new.browser.GetScene(), successors)
