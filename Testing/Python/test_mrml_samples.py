"""Plausible segmentations in the scene, on real nodes: sequence, browser, tables, one folder."""

import gc
import time
from dataclasses import replace

import numpy as np
import pytest

slicer = pytest.importorskip("slicer")

import vtk  # noqa: E402
from MRFUNetSegmentationLib.errors import InputError  # noqa: E402
from MRFUNetSegmentationLib.inference.label_maps import compress  # noqa: E402
from MRFUNetSegmentationLib.inference.sampled import (  # noqa: E402
    ENTROPY,
    VARIANCE,
    SampledResult,
)
from MRFUNetSegmentationLib.inference.volume import Geometry  # noqa: E402
from MRFUNetSegmentationLib.mrml import samples as samples_module  # noqa: E402
from MRFUNetSegmentationLib.mrml import side_by_side  # noqa: E402
from MRFUNetSegmentationLib.mrml.export import read_labels  # noqa: E402
from MRFUNetSegmentationLib.mrml.geometry import ijk_to_ras  # noqa: E402
from MRFUNetSegmentationLib.mrml.kept_display import DisplayKeeper  # noqa: E402
from MRFUNetSegmentationLib.mrml.overlays import legend_of  # noqa: E402
from MRFUNetSegmentationLib.mrml.posterior import map_volumes, remove_maps, write_with_maps  # noqa: E402
from MRFUNetSegmentationLib.mrml.results import samples_of  # noqa: E402
from MRFUNetSegmentationLib.mrml.samples import (  # noqa: E402
    AS_DRAWN,
    BY_LIKELIHOOD,
    SampleSet,
    by_volume,
    sample_sets,
    write_samples,
)
from MRFUNetSegmentationLib.mrml.segmentations import (  # noqa: E402
    BINARY_LABELMAP,
    read_provenance,
    write_segmentation,
)
from MRFUNetSegmentationLib.mrml.tables import interval, read_column, volume_column  # noqa: E402
from MRFUNetSegmentationLib.mrml.volumes import voxels  # noqa: E402
from mrml_scene import (  # noqa: E402
    CLASSES,
    OBLIQUE,
    SEGMENT_IDS,
    add_volume,
    phantom,
    put_under_linear_transform,
    rotation,
    translation,
)
from sequence_tools import (  # noqa: E402
    add_sequence,
    browser_of,
    read_again,
    shown_volume,
)
from test_mrml_segmentations import state  # noqa: E402

NUMBER = 4
# Of the volume, whose matrix is OBLIQUE.
SPACING = (1.0, 1.25, 2.5)
# By CSF's volume the samples' order is 3, 1, 4, 2; by likelihood 2, 3, 1, 4.
CSF_VOXELS = (5, 9, 2, 7)
LOG_DENSITIES = (-3.0, -1.0, -2.0, -4.0)


def sampled_labels(sample: int) -> np.ndarray:
    """Labels [k, j, i] of a sample, 0 .. 3: the phantom with another amount of class 3."""
    labels = phantom()
    labels[labels == 3] = 0
    labels[10, 11, 2 : 2 + CSF_VOXELS[sample]] = 3
    return labels


def sampled_result(
    card, number: int = NUMBER, classes=CLASSES, labels=sampled_labels, voxel_ml: float = 1.0
):
    """What a sampling run of the phantom gives, with the statistics of the labels themselves."""
    samples = [labels(n) for n in range(number)]
    probabilities = np.stack([np.mean([s == c.value for s in samples], 0) for c in classes])
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.nansum(probabilities * np.log2(probabilities), axis=0)
    volumes = [
        {c.value: float((s == c.value).sum() * voxel_ml) for c in classes[1:]} for s in samples
    ]
    structures = []
    for c in classes[1:]:
        ml = np.array([v[c.value] for v in volumes])
        mean, sd = ml.mean(), ml.std(ddof=1) if number > 1 else 0.0
        structures.append(
            {
                "value": c.value,
                "name": c.name,
                "color": list(c.color),
                "segment_id": c.segment_id,
                "volume_ml": {
                    "mean": mean,
                    "sd": sd,
                    "p5": float(np.percentile(ml, 5)),
                    "p95": float(np.percentile(ml, 95)),
                    "cv": sd / mean if mean else None,
                },
                "consensus_ml": float(ml[0]),
                "iou": 0.5 if mean else None,
                "pairwise_dice": 0.8 if number > 1 else None,
            }
        )
    return SampledResult(
        compressed=[compress(s) for s in samples],
        seed=17,
        geometry=Geometry(samples[0].shape[::-1], SPACING),
        consensus=samples[0],
        consensus_method="mean",
        maps={
            VARIANCE: (probabilities * (1 - probabilities)).sum(0).astype(np.float32) / 2,
            ENTROPY: entropy.astype(np.float32),
            **{
                f"probability_{c.value}": probabilities[c.value].astype(np.float32) for c in classes
            },
        },
        structures=structures,
        per_sample=[
            {
                "volumes_ml": volumes[n],
                "log_density": LOG_DENSITIES[n % NUMBER],
                "distance_to_consensus": n / 10,
                "epsilon": [float(n)],
            }
            for n in range(number)
        ],
        directions=[],
        card=replace(card, classes=tuple(classes)),
        sha256="ab" * 32,
        options={"mrf": False, "intensities": False, "tolerance": 0.0},
        device="cpu",
    )


@pytest.fixture
def result(tiny_card) -> SampledResult:
    return sampled_result(tiny_card)


@pytest.fixture
def volume(scene, sequences):
    return add_volume(scene, phantom().astype(np.float32), OBLIQUE)


def shown_labels(samples: SampleSet) -> np.ndarray:
    return read_labels(samples.shown, samples.volume)


def cells(table_node) -> list[str]:
    table = table_node.GetTable()
    return [
        str(table.GetColumn(n).GetVariantValue(row))
        for n in range(table.GetNumberOfColumns())
        for row in range(table.GetNumberOfRows())
    ]


def node_ids(scene) -> list[str]:
    return [scene.GetNthNode(n).GetID() for n in range(scene.GetNumberOfNodes())]


# The samples ---------------------------------------------------------------------------------


def test_every_sample_is_shown_as_it_was_drawn(volume, result):
    samples = write_samples(result, volume)
    assert samples.number == NUMBER and samples.samples == [1, 2, 3, 4]
    for number in (1, 2, 3, 4, 2, 1):
        samples.show(number)
        assert samples.sample == number
        np.testing.assert_array_equal(shown_labels(samples), sampled_labels(number - 1))
        assert tuple(samples.shown.GetSegmentation().GetSegmentIDs()) == SEGMENT_IDS
        assert read_provenance(samples.shown)["Sample"] == str(number)


def test_consensus_is_the_segmentation_node(volume, result):
    samples = write_samples(result, volume)
    np.testing.assert_array_equal(read_labels(samples.consensus, volume), result.consensus)
    assert samples.consensus.GetName() == "Scan segmentation"
    assert samples.shown is not samples.consensus


def test_slicers_browser_labels_the_sample(volume, result):
    samples = write_samples(result, volume)
    samples.show(3)
    sequence, browser = samples.sequence, samples.browser
    label = (
        sequence.GetIndexName(),
        browser.GetFormattedIndexValue(browser.GetSelectedItemNumber()),
        sequence.GetIndexUnit(),
    )
    assert " ".join(label) == "Sample 3 of 4"


def test_samples_lie_on_a_turned_volume(volume, result):
    transform = put_under_linear_transform(volume, rotation(30, 2))
    samples = write_samples(result, volume)
    for number in (2, 3):
        samples.show(number)
        assert samples.shown.GetParentTransformNode() is transform
        np.testing.assert_array_equal(shown_labels(samples), sampled_labels(number - 1))


@pytest.mark.parametrize("name", ["Head & neck", "T1 [brain]"])
def test_samples_are_read_from_a_saved_scene_whatever_the_scan_is_called(
    volume, result, tmp_path, name
):
    volume.SetName(name)
    sequence = read_again(write_samples(result, volume).sequence, tmp_path)
    assert sequence.GetNumberOfDataNodes() == NUMBER
    assert sequence.GetNthDataNode(2).GetSegmentation().GetNumberOfSegments() == len(SEGMENT_IDS)


def test_image_whose_indices_do_not_begin_at_zero(volume, result):
    image = volume.GetImageData()
    image.SetExtent(5, 22, -3, 12, 2, 15)
    samples = write_samples(result, volume)
    samples.show(4)
    np.testing.assert_array_equal(shown_labels(samples), sampled_labels(3))


def test_samples_hold_no_more_than_what_is_not_background(volume, result):
    samples = write_samples(result, volume)
    segmentation = samples.sequence.GetNthDataNode(1).GetSegmentation()
    images = {segmentation.GetSegment(s).GetRepresentation(BINARY_LABELMAP) for s in SEGMENT_IDS}
    (image,) = images
    occupied = np.argwhere(sampled_labels(1))
    expected = np.stack([occupied.min(0), occupied.max(0)], 1)[::-1].ravel()
    assert image.GetExtent() == tuple(expected)


@pytest.mark.parametrize("number", [1, 3])
def test_samples_without_a_voxel(volume, tiny_card, number):
    result = sampled_result(tiny_card, number, labels=lambda n: phantom() * (n == 1))
    samples = write_samples(result, volume)
    for n in range(number):
        samples.show(n + 1)
        np.testing.assert_array_equal(shown_labels(samples), result.labels(n))
        assert tuple(samples.shown.GetSegmentation().GetSegmentIDs()) == SEGMENT_IDS


def test_display_that_the_user_set_holds_for_all_samples(volume, result):
    samples = write_samples(result, volume)
    display = samples.shown.GetDisplayNode()
    display.SetSegmentOpacity2DFill("csf", 0.25)
    display.SetSegmentVisibility("grey_matter", False)
    samples.show(3)
    assert samples.shown.GetDisplayNode() is display
    assert display.GetSegmentOpacity2DFill("csf") == 0.25
    assert not display.GetSegmentVisibility("grey_matter")
    assert display.GetVisibility()


def test_display_holds_for_steps_with_slicers_own_controls(volume, result):
    samples = write_samples(result, volume)
    display = samples.shown.GetDisplayNode()
    for item, opacity in ((2, 0.25), (0, 0.5), (3, 0.75)):
        display.SetSegmentOpacity2DFill("csf", opacity)
        samples.browser.SetSelectedItemNumber(item)
        np.testing.assert_array_equal(shown_labels(samples), sampled_labels(item))
        assert display.GetSegmentOpacity2DFill("csf") == opacity


def test_browser_is_watched_once(volume, result, monkeypatch):
    keepers = set()
    monkeypatch.setattr(DisplayKeeper, "_on_browser", lambda self, *_event: keepers.add(id(self)))
    samples = write_samples(result, volume)
    samples.watch()
    SampleSet(samples.browser).watch()
    samples.browser.SetSelectedItemNumber(2)
    assert len(keepers) == 1


def test_showing_the_sample_that_is_shown_keeps_its_edits(volume, result):
    samples = write_samples(result, volume)
    image = samples.shown.GetSegmentation().GetSegment("csf").GetRepresentation(BINARY_LABELMAP)
    voxels(image)[voxels(image) == 3] = 0
    samples.show(1)
    assert 3 not in shown_labels(samples)


def test_edits_of_the_shown_node_do_not_reach_the_samples(volume, result):
    samples = write_samples(result, volume)
    samples.show(2)
    image = samples.shown.GetSegmentation().GetSegment("csf").GetRepresentation(BINARY_LABELMAP)
    voxels(image)[:] = 3
    image.Modified()
    samples.show(1)
    samples.show(2)
    np.testing.assert_array_equal(shown_labels(samples), sampled_labels(1))


def test_samples_without_their_numbers_are_none_to_step_through(volume, result):
    samples = write_samples(result, volume)
    assert samples_of(samples.consensus) is not None
    samples.sequence.UpdateIndexValue("2", "best")  # as users can in the module Sequences
    assert samples_of(samples.consensus) is None
    samples.sequence.UpdateIndexValue("best", "2")
    assert samples_of(samples.consensus) is not None


@pytest.mark.parametrize("sample", [0, 5, -1])
def test_no_such_sample(volume, result, sample):
    samples = write_samples(result, volume)
    with pytest.raises(InputError, match=f"no sample {sample}. Choose one from 1 to 4"):
        samples.show(sample)


# Order ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (by_volume("csf"), [3, 1, 4, 2]),
        (by_volume("grey_matter"), [1, 2, 3, 4]),
        (BY_LIKELIHOOD, [2, 3, 1, 4]),
        (AS_DRAWN, [1, 2, 3, 4]),
    ],
)
def test_orders(volume, result, order, expected):
    samples = write_samples(result, volume)
    assert samples.order == AS_DRAWN
    samples.set_order(BY_LIKELIHOOD)
    samples.show(4)
    samples.set_order(order)
    assert samples.order == order and samples.samples == expected
    assert samples.sample == 4, "the sample that is shown stays"
    np.testing.assert_array_equal(shown_labels(samples), sampled_labels(3))
    for place, number in enumerate(expected):
        samples.browser.SetSelectedItemNumber(place)
        assert samples.sample == number
        np.testing.assert_array_equal(shown_labels(samples), sampled_labels(number - 1))


def test_orders_are_named(volume, result):
    assert write_samples(result, volume).orders == {
        "drawn": "As drawn",
        "volume:grey_matter": "By volume of Grey matter",
        "volume:white_matter": "By volume of White matter",
        "volume:csf": "By volume of CSF",
        "likelihood": "By likelihood",
    }


def test_unknown_order(volume, result):
    samples = write_samples(result, volume)
    with pytest.raises(InputError, match="order 'volume:bone'"):
        samples.set_order("volume:bone")
    samples.browser.GetScene().RemoveNode(samples.samples_table)
    with pytest.raises(InputError, match="There are: drawn"):
        samples.set_order(BY_LIKELIHOOD)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (by_volume("csf"), [3, 1, 4]),
        (BY_LIKELIHOOD, [3, 1, 4]),
        (AS_DRAWN, [1, 3, 4]),
    ],
)
def test_orders_after_the_user_has_removed_a_sample(volume, result, order, expected):
    samples = write_samples(result, volume)
    samples.sequence.RemoveDataNodeAtValue("2")
    samples.set_order(by_volume("grey_matter"))
    samples.set_order(order)
    assert samples.samples == expected and samples.number == 3
    for number in expected:
        samples.show(number)
        np.testing.assert_array_equal(shown_labels(samples), sampled_labels(number - 1))
    with pytest.raises(InputError, match="no sample 2"):
        samples.show(2)


def without_a_row(table):
    table.RemoveRow(1)


def without_a_column(table):
    table.RemoveColumnByName(volume_column("CSF"))


def without_a_number(table):
    table.GetColumnByName(volume_column("CSF")).SetValue(1, np.nan)


def sample_is(number):
    """Edit that writes something in the place of the second sample's number, as a text."""

    def write(table):
        texts = vtk.vtkStringArray()
        texts.SetName("Sample")
        for text in ("1", number, "3", "4"):
            texts.InsertNextValue(text)
        table.RemoveColumnByName("Sample")
        table.AddColumn(texts)

    return write


@pytest.mark.parametrize(
    "edit",
    [
        without_a_row,
        without_a_column,
        without_a_number,
        sample_is("nan"),
        sample_is("inf"),
        sample_is("two"),
    ],
)
def test_order_by_a_table_that_was_edited(volume, result, edit):
    samples = write_samples(result, volume)
    samples.set_order(BY_LIKELIHOOD)
    edit(samples.samples_table.GetTable())
    before = samples.samples
    with pytest.raises(InputError, match=r"was edited and has no 'CSF \[ml\]' of .* Draw samples"):
        samples.set_order(by_volume("csf"))
    assert samples.samples == before and samples.order == BY_LIKELIHOOD
    samples.set_order(AS_DRAWN)
    assert samples.samples == [1, 2, 3, 4]


def test_tables_without_content(volume, result):
    samples = write_samples(result, volume)
    for table in (samples.samples_table, samples.structures_table):
        table.SetAndObserveTable(None)
    with pytest.raises(InputError, match="was edited"):
        samples.set_order(BY_LIKELIHOOD)
    assert interval(samples.structures_table, "csf") is None


def test_samples_side_by_side_are_those_that_are_left(volume, result):
    samples = write_samples(result, volume)
    assert len(side_by_side._spread(samples)) == 4
    samples.sequence.RemoveDataNodeAtValue("2")
    assert sorted(side_by_side._spread(samples)) == [1, 3, 4]


# Keep ----------------------------------------------------------------------------------------


def test_kept_sample_is_an_independent_segmentation(volume, result):
    put_under_linear_transform(volume, rotation(30, 2))
    samples = write_samples(result, volume)
    samples.show(3)
    samples.shown.GetDisplayNode().SetSegmentOpacity2DFill("csf", 0.25)
    kept = samples.keep()
    assert kept.GetName() == "Scan sample 3"
    samples.show(1)
    np.testing.assert_array_equal(read_labels(kept, volume), sampled_labels(2))
    assert kept.GetParentTransformNode() is volume.GetParentTransformNode()
    assert kept.GetDisplayNode() is not samples.shown.GetDisplayNode()
    assert kept.GetDisplayNode().GetSegmentOpacity2DFill("csf") == 0.25
    assert read_provenance(kept)["Sample"] == "3" and read_provenance(kept)["Seed"] == "17"
    image = kept.GetSegmentation().GetSegment("csf").GetRepresentation(BINARY_LABELMAP)
    voxels(image)[:] = 0
    samples.show(3)
    np.testing.assert_array_equal(shown_labels(samples), sampled_labels(2))
    samples.remove()
    assert kept.GetScene() is volume.GetScene() and not read_labels(kept, volume).any()


def test_edited_sample_is_kept_as_edited(volume, result):
    samples = write_samples(result, volume)
    image = samples.shown.GetSegmentation().GetSegment("csf").GetRepresentation(BINARY_LABELMAP)
    voxels(image)[voxels(image) == 3] = 0
    expected = np.where(sampled_labels(0) == 3, 0, sampled_labels(0))
    np.testing.assert_array_equal(read_labels(samples.keep(), volume), expected)


@pytest.mark.parametrize("change", ["hardened", "moved"])
def test_sample_is_kept_on_the_scan_whose_own_axes_have_changed(volume, result, change):
    put_under_linear_transform(volume, translation(4, 0, 0) @ rotation(5, 2))
    samples = write_samples(result, volume)
    samples.show(2)
    if change == "hardened":
        volume.HardenTransform()
    else:  # as by "Center volume"
        volume.SetOrigin(3, 4, 5)
    np.testing.assert_array_equal(read_labels(samples.keep(), volume), sampled_labels(1))


def test_samples_stay_where_the_user_saves_changes_in_the_sequence(volume, result):
    samples = write_samples(result, volume)
    samples.browser.SetSaveChanges(samples.sequence, True)
    for sample in (2, 3, 4, 1, 2, 3, 4):
        samples.show(sample)
        np.testing.assert_array_equal(shown_labels(samples), sampled_labels(sample - 1))


def test_volumes_are_those_without_a_transform_that_scales(volume, tiny_card):
    put_under_linear_transform(volume, np.diag([1.2, 1.2, 1.2, 1]))
    own = sampled_result(tiny_card)
    scaled = sampled_result(tiny_card, voxel_ml=1.2**3)
    scaled = replace(
        scaled, geometry=replace(scaled.geometry, spacing=tuple(1.2 * s for s in SPACING))
    )
    tables = []
    for result in (own, scaled):
        samples = write_samples(result, volume)
        tables.append(cells(samples.samples_table) + cells(samples.structures_table))
    assert tables[0] == tables[1]


def test_sample_whose_display_was_removed_is_kept(volume, result):
    samples = write_samples(result, volume)
    samples.show(2)
    volume.GetScene().RemoveNode(samples.shown.GetDisplayNode())
    kept = samples.keep()
    np.testing.assert_array_equal(read_labels(kept, volume), sampled_labels(1))
    assert kept.GetDisplayNode().GetVisibility()


def test_nothing_to_keep(volume, result):
    samples = write_samples(result, volume)
    samples.browser.GetScene().RemoveNode(volume)
    with pytest.raises(InputError, match="nothing to keep"):
        samples.keep()


# Tables and plots ----------------------------------------------------------------------------


def test_table_of_samples(volume, result):
    samples = write_samples(result, volume)
    table = samples.samples_table
    np.testing.assert_array_equal(read_column(table, "Sample"), [1, 2, 3, 4])
    np.testing.assert_array_equal(read_column(table, volume_column("CSF")), CSF_VOXELS)
    np.testing.assert_array_equal(read_column(table, "Log density"), LOG_DENSITIES)
    np.testing.assert_allclose(read_column(table, "Distance to consensus"), [0, 0.1, 0.2, 0.3])


def test_table_of_structures(volume, tiny_card):
    result = sampled_result(tiny_card, labels=lambda n: np.where(phantom() == 3, 0, phantom()))
    table = write_samples(result, volume).structures_table.GetTable()
    cells = {
        table.GetColumnName(n): table.GetColumn(n).GetValue(2)
        for n in range(table.GetNumberOfColumns())
    }
    assert cells == {
        "Structure": "CSF",
        "Segment ID": "csf",
        "Mean [ml]": "0.000",
        "SD [ml]": "0.000",
        "5 % [ml]": "0.000",
        "95 % [ml]": "0.000",
        "Coefficient of variation [%]": "",
        "Consensus [ml]": "0.000",
        "IoU of all samples": "",
        "Mean Dice of pairs": "0.800",
    }


def test_plot_is_the_distribution_of_the_volumes(volume, result):
    chart = write_samples(result, volume).charts[2]
    assert chart.GetTitle() == "Volume of CSF in 4 plausible segmentations"
    series = chart.GetNthPlotSeriesNode(0)
    table = series.GetTableNode()
    np.testing.assert_array_equal(read_column(table, series.GetXColumnName()), [2, 5, 7, 9])
    np.testing.assert_array_equal(read_column(table, series.GetYColumnName()), [25, 50, 75, 100])


# The set -------------------------------------------------------------------------------------


def test_nodes_lie_in_one_folder_beside_the_volume(volume, result):
    scene = volume.GetScene()
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "Study")
    hierarchy.CreateItem(study, volume)
    samples = write_samples(result, volume)
    folder = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(samples.browser))
    assert hierarchy.GetItemName(folder) == "Scan samples"
    assert hierarchy.GetItemParent(folder) == study
    nodes = [samples.consensus, *samples.nodes()]
    assert {hierarchy.GetItemParent(hierarchy.GetItemByDataNode(n)) for n in nodes} == {folder}
    assert len(nodes) == 18 and len({n.GetName() for n in nodes}) == 18
    kept = samples.keep()
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(kept)) == study


def test_every_node_says_how_to_make_it_again(volume, result):
    samples = write_samples(result, volume)
    expected = {
        "Model": "tiny",
        "SHA256": "ab" * 32,
        "Seed": "17",
        "Samples": "4",
        "Consensus": "mean",
        "MRF": "no",
        "Device": "cpu",
    }
    items = [samples.sequence.GetNthDataNode(n) for n in range(NUMBER)]
    for node in [samples.consensus, *samples.nodes(), *items]:
        provenance = read_provenance(node)
        assert provenance.items() >= expected.items(), node.GetName()
        assert provenance["Version"]


def test_sets_are_found_in_the_scene(volume, result):
    scene = volume.GetScene()
    assert sample_sets(scene) == []
    first, second = write_samples(result, volume), write_samples(result, volume)
    scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "Of another module")
    assert [s.browser for s in sample_sets(scene)] == [first.browser, second.browser]


def test_run_on_the_same_consensus_replaces_the_set(volume, result, tiny_card):
    scene = volume.GetScene()
    other = write_samples(result, volume)
    old = write_samples(result, volume)
    count = scene.GetNumberOfNodes()
    composite = scene.AddNewNodeByClass("vtkMRMLSliceCompositeNode", "Red")
    composite.SetForegroundVolumeID(old.overlays[ENTROPY].GetID())
    kept = old.keep()
    consensus = old.consensus
    new = write_samples(sampled_result(tiny_card, 2), volume, consensus)
    assert new.consensus is consensus and new.number == 2
    assert [s.browser for s in sample_sets(scene)] == [other.browser, new.browser]
    # The composite node, and the kept segmentation with its display node.
    assert scene.GetNumberOfNodes() == count + 3
    assert scene.IsNodePresent(kept)
    assert composite.GetForegroundVolumeID() == new.overlays[ENTROPY].GetID()


def test_removed_set_leaves_the_consensus(volume, result):
    scene = volume.GetScene()
    consensus = write_segmentation(result.consensus, CLASSES, volume)
    # The overlays' colour table, which all sets share, stays.
    write_samples(result, volume).remove()
    before = state(scene)
    samples = write_samples(result, volume, consensus)
    samples.remove()
    after = state(scene)
    assert after.keys() == before.keys() and scene.IsNodePresent(consensus)
    assert after["items"] == before["items"]


def test_samples_of_an_item_of_a_sequence_say_of_which(scene, sequences, tiny_card):
    scans = add_sequence(scene, [phantom().astype(np.float32)] * 2, [OBLIQUE] * 2)
    browser_of(scans).SetSelectedItemNumber(1)
    samples = write_samples(sampled_result(tiny_card), shown_volume(scans), overlays=[])
    browser_of(scans).SetSelectedItemNumber(0)
    for node in (samples.consensus, samples.shown, samples.keep()):
        assert read_provenance(node)["Item"] == "1.5"


def test_nodes_that_the_user_removed(volume, result):
    scene = volume.GetScene()
    samples = write_samples(result, volume)
    for node in (samples.consensus, samples.samples_table, samples.overlays[ENTROPY]):
        scene.RemoveNode(node)
    assert samples.consensus is None and samples.samples_table is None
    assert ENTROPY not in samples.overlays and VARIANCE in samples.overlays
    samples.show(2)
    np.testing.assert_array_equal(shown_labels(samples), sampled_labels(1))
    samples.remove()
    assert sample_sets(scene) == []


def test_removed_nodes_are_freed(volume, result):
    samples = write_samples(result, volume)
    nodes = [samples.browser, samples.shown, samples.shown.GetDisplayNode(), samples.sequence]
    references = [vtk.vtkWeakReference() for _ in nodes]
    for reference, node in zip(references, nodes, strict=True):
        reference.Set(node)
    samples.remove()
    del samples, nodes, node
    gc.collect()
    assert [reference.Get() for reference in references] == [None] * 4


# Errors --------------------------------------------------------------------------------------

STEPS = (
    "put_segmentation",
    "make_folder",
    "_add_shown_node",
    "_fill",
    "_add_browser",
    "add_overlay",
    "add_samples_table",
    "add_structures_table",
    "add_distribution",
    "set_provenance",
    "place_in",
)


def fail_after(monkeypatch, step: str) -> None:
    original = getattr(samples_module, step)

    def failing(*args, **options):
        original(*args, **options)
        raise MemoryError(step)

    monkeypatch.setattr(samples_module, step, failing)


@pytest.mark.parametrize(
    ("step", "replaced"),
    [(step, False) for step in STEPS]
    + [(step, True) for step in ("put_segmentation", "_add_browser", "place_in")],
)
def test_failure_leaves_the_scene_as_it_was(volume, result, monkeypatch, step, replaced, tiny_card):
    scene = volume.GetScene()
    consensus = None
    if replaced:
        earlier = sampled_result(tiny_card, 2, labels=lambda n: sampled_labels(n + 2))
        consensus = write_samples(earlier, volume).consensus
    before = state(scene)
    fail_after(monkeypatch, step)
    with pytest.raises(MemoryError):
        write_samples(result, volume, consensus)
    assert state(scene) == before


def test_too_many_samples_for_the_memory(volume, result, monkeypatch):
    before = state(volume.GetScene())
    monkeypatch.setattr(samples_module, "MAXIMUM_BYTES", 2500)
    with pytest.raises(InputError, match="Draw at most 2"):
        write_samples(result, volume)
    assert state(volume.GetScene()) == before


def test_result_of_another_size(volume, result):
    other = add_volume(volume.GetScene(), phantom((20, 16, 18)).astype(np.float32))
    with pytest.raises(InputError, match="18 x 16 x 14 voxels"):
        write_samples(result, other)


def test_unknown_overlay(volume, result):
    before = state(volume.GetScene())
    with pytest.raises(InputError, match=r"no map 'mutual_information'.*variance, entropy"):
        write_samples(result, volume, overlays=["mutual_information"])
    assert state(volume.GetScene()) == before


# Saving --------------------------------------------------------------------------------------


def read_mrb(path, folder, capfd):
    """Load a scene from a .mrb file as the application does; returns the scene and its logics."""
    cache, manager = slicer.vtkCacheManager(), slicer.vtkDataIOManager()
    cache.SetRemoteCacheDirectory(str(folder))
    manager.SetCacheManager(cache)
    scene = slicer.vtkMRMLScene()
    scene.SetCacheManager(cache)
    scene.SetDataIOManager(manager)
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    logics = [
        slicer.vtkSlicerSegmentationsModuleLogic(),
        slicer.vtkSlicerVolumesLogic(),
        slicer.vtkSlicerSequencesLogic(),
        slicer.vtkSlicerColorLogic(),
    ]
    for logic in logics:
        logic.SetMRMLApplicationLogic(application)
        logic.SetMRMLScene(scene)
    capfd.readouterr()  # of the colours' logic, which misses files of the application
    assert scene.ReadFromMRB(str(path))
    return scene, [application, *logics]


def test_saved_scene_comes_back_without_loss(volume, result, tmp_path, capfd):
    scene = volume.GetScene()
    samples = write_samples(result, volume)
    samples.set_order(BY_LIKELIHOOD)
    samples.show(3)
    samples.shown.GetDisplayNode().SetOpacity2DOutline(0.25)
    scene.SetRootDirectory(str(tmp_path / "scene"))
    (tmp_path / "scene").mkdir()
    (tmp_path / "cache").mkdir()
    assert scene.WriteToMRB(str(tmp_path / "scene.mrb"))
    loaded_scene, _logics = read_mrb(tmp_path / "scene.mrb", tmp_path / "cache", capfd)

    (loaded,) = sample_sets(loaded_scene)
    assert loaded.order == BY_LIKELIHOOD and loaded.samples == [2, 3, 1, 4]
    assert loaded.sample == 3
    assert loaded.volume.GetName() == "Scan"
    assert loaded.shown.GetDisplayNode().GetOpacity2DOutline() == 0.25
    assert not loaded.shown.GetDisplayNode().GetVisibility2DFill()
    np.testing.assert_array_equal(read_labels(loaded.consensus, loaded.volume), result.consensus)
    loaded.watch()  # the browser is another one than that which was watched when it was saved
    display = loaded.shown.GetDisplayNode()
    display.SetSegmentVisibility("csf", False)
    loaded.browser.SetSelectedItemNumber(3)
    assert not display.GetSegmentVisibility("csf")
    loaded.set_order(by_volume("csf"))
    assert loaded.samples == [3, 1, 4, 2]
    for number in (1, 2, 3, 4):
        loaded.show(number)
        np.testing.assert_array_equal(shown_labels(loaded), sampled_labels(number - 1))
        assert read_provenance(loaded.shown) == read_provenance(
            samples.sequence.GetDataNodeAtValue(str(number))
        )
    assert loaded.overlays.keys() == samples.overlays.keys()
    for name, node in loaded.overlays.items():
        np.testing.assert_array_equal(voxels(node.GetImageData()), result.maps[name])
        np.testing.assert_allclose(ijk_to_ras(node), OBLIQUE, atol=1e-6)
        display = node.GetDisplayNode()
        assert display.GetWindow() == pytest.approx(result.maximum[name])
        color, before = [0.0] * 4, [0.0] * 4
        display.GetColorNode().GetColor(100, color)
        samples.overlays[name].GetDisplayNode().GetColorNode().GetColor(100, before)
        np.testing.assert_allclose(color, before, atol=1 / 255)
        assert color[0] > 0.4
        assert legend_of(node).GetTitleText() == legend_of(samples.overlays[name]).GetTitleText()
        assert read_provenance(node) == read_provenance(samples.overlays[name])
    np.testing.assert_array_equal(
        read_column(loaded.samples_table, volume_column("CSF")), CSF_VOXELS
    )
    assert len(loaded.charts) == 3
    loaded_scene.Clear(True)


# Speed ---------------------------------------------------------------------------------------


def test_step_to_a_sample_takes_less_than_50_ms(scene, volume, tiny_card):
    """32 samples of 160 x 192 x 160."""
    shape = (160, 192, 160)
    axes = [np.linspace(-1, 1, n) for n in shape]
    radius = np.sqrt(sum(x**2 for x in np.meshgrid(*axes, indexing="ij", sparse=True)))
    brain = np.select([radius < 0.4, radius < 0.7, radius < 0.9], [3, 2, 1], 0).astype(np.uint8)

    def labels(sample: int) -> np.ndarray:
        sampled = brain.copy()
        sampled[80 : 81 + sample, 96, 80] = 1
        return sampled

    result = replace(
        sampled_result(tiny_card, 32, labels=lambda n: phantom()),
        compressed=[compress(labels(n)) for n in range(32)],
        geometry=Geometry(shape[::-1], (1.0, 1.0, 1.0)),
        consensus=brain,
    )
    big = add_volume(scene, brain, np.eye(4), "Big")
    samples = write_samples(result, big, overlays=[])
    seconds = []
    for number in range(2, 33):
        begin = time.perf_counter()
        samples.show(number)
        seconds.append(time.perf_counter() - begin)
    print(f"median {np.median(seconds) * 1000:.1f} ms, longest {max(seconds) * 1000:.1f} ms")
    np.testing.assert_array_equal(shown_labels(samples), labels(31))
    assert np.median(seconds) < 0.05


def test_coefficient_of_variation_is_in_percent(volume, result):
    table = write_samples(result, volume).structures_table.GetTable()
    cv = float(table.GetColumnByName("Coefficient of variation [%]").GetValue(2))
    volumes = np.array(CSF_VOXELS)
    assert cv == pytest.approx(100 * volumes.std(ddof=1) / volumes.mean(), abs=1e-3)


def test_consensus_comes_back_where_another_run_fails(volume, result, monkeypatch):
    samples = write_samples(result, volume)
    consensus, maps = samples.consensus, {ENTROPY: np.zeros(phantom().shape, np.float32)}
    monkeypatch.setattr("MRFUNetSegmentationLib.mrml.posterior.place_beside", None)
    with pytest.raises(TypeError):
        write_with_maps(phantom(), maps, CLASSES, volume, consensus)
    assert samples.consensus is consensus


def test_view_that_shows_a_map_alone_shows_the_new_one(volume, result):
    old = write_samples(result, volume)
    composite = volume.GetScene().AddNewNodeByClass("vtkMRMLSliceCompositeNode", "Red")
    composite.SetBackgroundVolumeID(old.overlays[ENTROPY].GetID())
    new = write_samples(result, volume, old.consensus)
    assert composite.GetBackgroundVolumeID() == new.overlays[ENTROPY].GetID()


def test_maps_of_a_copied_segmentation_stay_with_the_first_one(scene, volume):
    def write(segmentation_node, value: float):
        maps = {ENTROPY: np.full(phantom().shape, value, np.float32)}
        return write_with_maps(phantom(), maps, CLASSES, volume, segmentation_node)

    first = write(None, 0.5)
    maps = map_volumes(first)
    copy = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    copy.Copy(first)  # as scripts do; it refers to the same volumes then
    write(copy, 0.7)
    assert map_volumes(first) == maps and map_volumes(copy) != maps
    copy.Copy(first)
    remove_maps(copy)
    assert map_volumes(first) == maps and not map_volumes(copy)
    write(first, 0.2)
    assert not scene.IsNodePresent(maps[0])
