"""Overlays, samples and previews in pixels: what a slice view shows, rendered off screen."""

import time
from itertools import pairwise

import numpy as np
import pytest

slicer = pytest.importorskip("slicer")

import vtk  # noqa: E402
from MRFUNetSegmentationLib.errors import InputError  # noqa: E402
from MRFUNetSegmentationLib.inference.overlay_colors import inferno  # noqa: E402
from MRFUNetSegmentationLib.inference.sampled import (  # noqa: E402
    AGREEMENT,
    ENTROPY,
    VARIANCE,
)
from MRFUNetSegmentationLib.mrml.export import read_labels  # noqa: E402
from MRFUNetSegmentationLib.mrml.geometry import ijk_to_ras, to_numpy  # noqa: E402
from MRFUNetSegmentationLib.mrml.overlays import (  # noqa: E402
    add_overlay,
    legend_of,
    set_threshold,
    show_overlay,
    threshold,
)
from MRFUNetSegmentationLib.mrml.preview import SegmentationPreview, visible_voxel  # noqa: E402
from MRFUNetSegmentationLib.mrml.samples import write_samples  # noqa: E402
from MRFUNetSegmentationLib.mrml.volumes import voxels  # noqa: E402
from mrml_scene import (  # noqa: E402
    CLASSES,
    LEFT_HANDED,
    OBLIQUE,
    add_volume,
    phantom,
    put_under_linear_transform,
    rotation,
)
from test_mrml_samples import sampled_result  # noqa: E402
from test_mrml_segmentations import state  # noqa: E402
from vtk.util.numpy_support import vtk_to_numpy  # noqa: E402

SIZE = 160


class SliceView:
    """An axial slice view through voxel k = 10, where the samples differ, without a window."""

    def __init__(self, scene, volume) -> None:
        self.application = slicer.vtkSlicerApplicationLogic()
        self.application.SetMRMLScene(scene)
        logics = vtk.vtkCollection()
        self.application.SetSliceLogics(logics)
        self.application.SetViewLogics(vtk.vtkCollection())
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(self.application)
        self.logic.SetMRMLScene(scene)
        self.node = self.logic.AddSliceNode("Red")
        logics.AddItem(self.logic)
        self.node.SetOrientationToAxial()
        self.node.SetDimensions(SIZE, SIZE, 1)
        self.window = vtk.vtkRenderWindow()
        self.window.SetOffScreenRendering(1)
        self.window.SetMultiSamples(0)
        self.window.SetSize(SIZE, SIZE)
        renderer = vtk.vtkRenderer()
        self.window.AddRenderer(renderer)
        self.interactor = vtk.vtkGenericRenderWindowInteractor()
        self.interactor.SetRenderWindow(self.window)
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        factory.SetMRMLApplicationLogic(self.application)
        for name in (
            "vtkMRMLSegmentationsDisplayableManager2D",
            "vtkMRMLColorLegendDisplayableManager",
        ):
            if not factory.IsDisplayableManagerRegistered(name):
                factory.RegisterDisplayableManager(name)
        self.managers = slicer.vtkMRMLDisplayableManagerGroup()
        self.managers.Initialize(factory, renderer)
        self.managers.SetMRMLDisplayableNode(self.node)
        self.composite = self.logic.GetSliceCompositeNode()
        self.composite.SetBackgroundVolumeID(volume.GetID())
        self.logic.FitSliceToAll()
        self.node.SetSliceOffset((ijk_to_ras(volume) @ [8, 8, 10, 1])[2])
        mapper = vtk.vtkImageMapper()
        mapper.SetColorWindow(255)
        mapper.SetColorLevel(127.5)
        mapper.SetInputConnection(self.logic.GetImageDataConnection())
        actor = vtk.vtkActor2D()
        actor.SetMapper(mapper)
        actor.GetProperty().SetDisplayLocationToBackground()
        renderer.AddViewProp(actor)

    def blended(self) -> np.ndarray:
        """Colours (row, column, RGB) of background and foreground, as Slicer blends them."""
        producer = self.logic.GetImageDataConnection().GetProducer()
        producer.Update()
        image = producer.GetOutput()
        pixels = vtk_to_numpy(image.GetPointData().GetScalars())
        return pixels.reshape(SIZE, SIZE, -1)[..., :3].astype(int)

    def rendered(self) -> np.ndarray:
        """Colours (row, column, RGB) with segmentations and legends."""
        self.window.Render()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(self.window)
        grab.ReadFrontBufferOff()
        grab.Update()
        pixels = vtk_to_numpy(grab.GetOutput().GetPointData().GetScalars())
        return pixels.reshape(SIZE, SIZE, 3).astype(int)

    def color_at(self, i: float, j: float, volume) -> np.ndarray:
        """Colour of the blended slice at a voxel's centre."""
        xy_to_ras = to_numpy(self.node.GetXYToRAS())
        ras = ijk_to_ras(volume) @ [i, j, 10, 1]
        x, y = (np.linalg.inv(xy_to_ras) @ ras)[:2]
        return self.blended()[round(y), round(x)]


@pytest.fixture
def volume(scene, sequences):
    """A dark scan in shades of grey."""
    node = add_volume(scene, phantom().astype(np.float32), np.eye(4))
    node.CreateDefaultDisplayNodes()
    table = scene.AddNewNodeByClass("vtkMRMLColorTableNode", "Grey for tests")
    table.SetTypeToGrey()
    node.GetDisplayNode().SetAndObserveColorNodeID(table.GetID())
    node.GetDisplayNode().SetAutoWindowLevel(False)
    node.GetDisplayNode().SetWindowLevelMinMax(0, 12)
    return node


@pytest.fixture
def view(scene, volume):
    view = SliceView(scene, volume)
    yield view
    view.composite.SetForegroundVolumeID(None)
    view.composite.SetBackgroundVolumeID(None)


@pytest.fixture
def samples(volume, tiny_card):
    return write_samples(sampled_result(tiny_card), volume)


# Overlays ------------------------------------------------------------------------------------


def test_blended_slice_changes_with_the_opacity(scene, view, samples):
    pictures = [view.blended()]
    for opacity in (0.3, 0.6, 1.0):
        show_overlay(scene, samples.overlays[ENTROPY], opacity)
        pictures.append(view.blended())
    for first, second in pairwise(pictures):
        assert (first != second).any(axis=-1).sum() > 100
    show_overlay(scene, None)
    np.testing.assert_array_equal(view.blended(), pictures[0])


@pytest.mark.parametrize(("name", "maximum"), [(ENTROPY, 2.0), (VARIANCE, 0.375)])
def test_colours_stand_for_values_from_0_to_the_maximum(scene, view, volume, name, maximum):
    values = np.zeros(phantom().shape, np.float32)
    values[:, :, 9:18] = maximum * np.array([0, 0.04, 0.06, 0.25, 0.5, 0.75, 0.98, 1, 1.0001])
    overlay = add_overlay(scene, name, values, maximum, "Title", volume)
    overlay.GetDisplayNode().SetInterpolate(False)
    display = overlay.GetDisplayNode()
    assert display.GetWindowLevelMin() == 0
    assert display.GetWindowLevelMax() == pytest.approx(maximum)
    assert not display.GetAutoWindowLevel()
    background = [view.color_at(i, 8, volume) for i in range(9, 18)]
    show_overlay(scene, overlay, 1.0)
    for i in range(2):
        np.testing.assert_array_equal(view.color_at(9 + i, 8, volume), background[i])
    for i, share in enumerate([0.06, 0.25, 0.5, 0.75, 0.98, 1, 1]):
        expected = 255 * inferno()[round(share * 255)]
        np.testing.assert_allclose(view.color_at(11 + i, 8, volume), expected, atol=6)


def test_agreement_is_shown_where_it_is_low(scene, view, volume):
    values = np.ones(phantom().shape, np.float32)
    values[:, :, 12:16] = 0.94, 0.5, 0.25, 0
    overlay = add_overlay(scene, AGREEMENT, values, 1.0, "Title", volume)
    overlay.GetDisplayNode().SetInterpolate(False)
    background = view.color_at(10, 8, volume)
    show_overlay(scene, overlay, 1.0)
    np.testing.assert_array_equal(view.color_at(10, 8, volume), background)
    for i, value in ((12, 0.94), (13, 0.5), (14, 0.25), (15, 0.0)):
        expected = 255 * inferno()[round((1 - value) * 255)]
        np.testing.assert_allclose(view.color_at(i, 8, volume), expected, atol=6)


def test_steps_of_the_colours_look_equal():
    """Lightness L* of CIE 1976 rises nearly in a line (the colours are even in CAM02-UCS)."""
    rgb = inferno()
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    lightness = np.where(
        luminance > (6 / 29) ** 3, 116 * np.cbrt(luminance) - 16, luminance * (29 / 3) ** 3
    )
    np.testing.assert_allclose(lightness, np.linspace(lightness[0], lightness[-1], 256), atol=6)
    assert (np.diff(lightness) > 0).all()
    assert lightness[0] < 2 and lightness[-1] > 95
    np.testing.assert_array_equal(inferno(reverse=True), rgb[::-1])


def test_overlays_share_a_colour_table(scene, samples):
    tables = {o.GetDisplayNode().GetColorNodeID() for o in samples.overlays.values()}
    assert len(tables) == 1


def test_legend_with_title_and_unit(scene, view, samples):
    overlay = samples.overlays[ENTROPY]
    legend = legend_of(overlay)
    title = " ".join(legend.GetTitleText().split())
    assert title == "Entropy of the mean probabilities of plausible segmentations [bit]"
    assert legend.GetPrimaryDisplayNode() is overlay.GetDisplayNode()
    assert overlay.GetDisplayNode().IsA("vtkMRMLScalarVolumeDisplayNode")
    show_overlay(scene, overlay)
    for node in (view.composite, view.node, legend):
        node.Modified()
    with_legend = view.rendered()
    legend.SetVisibility(False)
    without = view.rendered()
    changed = np.argwhere((with_legend != without).any(axis=-1))
    assert len(changed) > 100
    assert changed[:, 1].min() > SIZE / 4, "the legend is at the right"


def test_legend_of_a_slicer_that_has_none(scene, volume, monkeypatch):
    monkeypatch.delattr(slicer, "vtkMRMLColorLegendDisplayNode")
    overlay = add_overlay(scene, ENTROPY, np.zeros(phantom().shape), 2.0, "Title", volume)
    assert legend_of(overlay) is None


# Samples -------------------------------------------------------------------------------------


def test_slice_changes_with_the_sample(view, samples):
    samples.consensus.GetDisplayNode().SetVisibility(False)
    nothing = view.rendered()
    pictures = {}
    for number in (1, 2, 3, 4):
        samples.show(number)
        pictures[number] = view.rendered()
        assert (pictures[number] != nothing).any(axis=-1).sum() > 20
    for number in (2, 3, 4):
        assert (pictures[number] != pictures[1]).any(axis=-1).sum() > 5
    samples.show(1)
    np.testing.assert_array_equal(view.rendered(), pictures[1])


# The preview of another latent ---------------------------------------------------------------


def test_preview_shows_slices_then_the_volume(scene, view, volume):
    labels = phantom()
    before = state(scene)
    preview = SegmentationPreview(volume, CLASSES)
    assert state(scene) == before
    nothing = view.rendered()
    k, j, i = voxel = (10, 7, 5)
    preview.show_slices(voxel, [labels[k], labels[:, j], labels[:, :, i]])
    expected = np.zeros_like(labels)
    expected[k], expected[:, j], expected[:, :, i] = labels[k], labels[:, j], labels[:, :, i]
    np.testing.assert_array_equal(read_labels(preview.node, volume), expected)
    assert (view.rendered() != nothing).any(axis=-1).sum() > 5

    node, (k, j, i) = preview.node, (4, 6, 8)
    preview.show_slices((k, j, i), [labels[k], labels[:, j], labels[:, :, i]])
    expected[:] = 0
    expected[k], expected[:, j], expected[:, :, i] = labels[k], labels[:, j], labels[:, :, i]
    np.testing.assert_array_equal(read_labels(preview.node, volume), expected)
    preview.show_volume(labels)
    assert preview.node is node
    np.testing.assert_array_equal(read_labels(preview.node, volume), labels)
    preview.show_slices(
        voxel, [np.zeros_like(a) for a in (labels[0], labels[:, 0], labels[..., 0])]
    )
    assert not read_labels(preview.node, volume).any()
    np.testing.assert_array_equal(view.rendered(), nothing)

    preview.remove()
    assert preview.node is None and state(scene) == before
    preview.show_volume(labels)
    scene.RemoveNode(preview.node)
    assert preview.node is None
    preview.show_volume(labels)
    np.testing.assert_array_equal(read_labels(preview.node, volume), labels)


def test_preview_of_a_volume_that_changed(scene, volume):
    preview = SegmentationPreview(volume, CLASSES)
    with pytest.raises(InputError, match="volume was changed"):
        preview.show_volume(np.zeros((3, 4, 5), np.uint8))
    with pytest.raises(InputError, match="volume was changed"):
        preview.show_slices((0, 0, 0), [np.zeros((4, 5)), np.zeros((3, 5)), np.zeros((3, 4))])
    assert preview.node is None
    scene.RemoveNode(volume)
    with pytest.raises(InputError, match="no longer in the scene"):
        preview.show_volume(phantom())


def test_preview_of_a_large_volume_takes_few_milliseconds(scene):
    """What is added to the time that the slices take to be computed."""
    shape = (160, 192, 160)
    volume = add_volume(scene, np.ones(shape, np.uint8))
    preview = SegmentationPreview(volume, CLASSES)
    rng = np.random.default_rng(0)
    slices = [rng.integers(0, 4, s, np.uint8) for s in ((192, 160), (160, 160), (160, 192))]
    seconds = []
    for n in range(10):
        begin = time.perf_counter()
        preview.show_slices((70 + n, 80, 90), slices)
        seconds.append(time.perf_counter() - begin)
    print(f"median {np.median(seconds) * 1000:.1f} ms")
    assert min(seconds) < 0.02


@pytest.mark.parametrize("matrix", [np.eye(4), OBLIQUE, LEFT_HANDED])
@pytest.mark.parametrize("turned", [False, True])
def test_visible_voxel(scene, matrix, turned):
    """Views along the volume's own axes, through a known voxel."""
    volume = add_volume(scene, phantom().astype(np.float32), matrix)
    if turned:
        put_under_linear_transform(volume, rotation(70, 0))
    assert visible_voxel(volume) == (7, 8, 9), "the middle, where there are no views"
    to_world = rotation(70, 0) @ matrix if turned else matrix
    voxel = {"i": 3, "j": 12, "k": 5}
    for axis, name in enumerate(voxel):
        ras = to_world @ [*voxel.values(), 1]
        columns = to_world[:3, :3] / np.linalg.norm(to_world[:3, :3], axis=0)
        plane = np.eye(4)
        plane[:3, :3] = columns[:, [(axis + 1) % 3, (axis + 2) % 3, axis]]
        plane[:3, 3] = ras[:3]
        node = scene.AddNewNodeByClass("vtkMRMLSliceNode", name)
        node.GetSliceToRAS().DeepCopy(plane.ravel())
    assert visible_voxel(volume) == (5, 12, 3)


def test_visible_voxel_of_planes_outside(scene):
    volume = add_volume(scene, phantom().astype(np.float32))
    image = volume.GetImageData()
    image.SetExtent(5, 22, -3, 12, 2, 15)
    for name, offset in (("Axial", 500.0), ("Coronal", -500.0), ("Sagittal", 9.0)):
        node = scene.AddNewNodeByClass("vtkMRMLSliceNode", name)
        getattr(node, f"SetOrientationTo{name}")()
        node.JumpSliceByOffsetting(offset, offset, offset)
    assert visible_voxel(volume) == (13, 0, 4)
    assert voxels(image).shape == (14, 16, 18)


def test_overlay_lies_where_its_volume_lies(volume):
    """Also where that is under a transform, and its indices do not begin at zero."""
    volume.GetImageData().SetExtent(5, 22, -3, 12, 2, 15)
    put_under_linear_transform(volume, rotation(70, 0))
    values = np.zeros(phantom().shape, np.float32)
    overlay = add_overlay(volume.GetScene(), ENTROPY, values, 2.0, "Title", volume)
    assert overlay.GetImageData().GetExtent() == volume.GetImageData().GetExtent()
    assert overlay.GetParentTransformNode() is volume.GetParentTransformNode()


@pytest.mark.parametrize("name", [ENTROPY, AGREEMENT])
def test_threshold_is_the_one_that_was_set(scene, volume, name):
    values = np.zeros(phantom().shape, np.float32)
    overlay = add_overlay(scene, name, values, 2.0, "Title", volume)
    set_threshold(overlay, 0.3)
    assert threshold(overlay) == pytest.approx(0.3)
