"""2D networks on 3D volumes: slice by slice along the plane that the card names."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from MRFUNetSegmentationLib.checkpoints.card import ModelCard
from MRFUNetSegmentationLib.checkpoints.load import Checkpoint, build_network, save_checkpoint
from MRFUNetSegmentationLib.cli.main import main
from MRFUNetSegmentationLib.errors import Cancelled, InputError
from MRFUNetSegmentationLib.inference import run
from MRFUNetSegmentationLib.inference.axes import slice_axis
from MRFUNetSegmentationLib.inference.batches import with_neighbours
from MRFUNetSegmentationLib.inference.engine import Segmenter
from MRFUNetSegmentationLib.inference.volume import Geometry, Volume
from test_inference_engine import geometry, head

PLANES = ("axial", "coronal", "sagittal")
# The i axis runs to the patient's right, j to the anterior, k to the superior.
RAS = (-1, 0, 0, 0, -1, 0, 0, 0, 1)


def small_checkpoint(card: ModelCard, classes=None, architecture=None, **input_) -> Checkpoint:
    """The tests' small network with changes, random weights so large that all classes occur."""
    changed = card.to_dict()
    changed["architecture"].update(architecture or {})
    changed["input"].update(input_)
    changed["classes"] = changed["classes"][:classes]
    card = ModelCard.from_dict(changed)
    torch.manual_seed(0)
    network = build_network(card)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)
    return Checkpoint(network.eval(), card, Path("small"), "")


@pytest.fixture
def checkpoint(tiny_card):
    """Return a function that gives a 2D MRF-UNet for a plane."""

    def make(plane: str = "axial", **input_) -> Checkpoint:
        return small_checkpoint(tiny_card, None, {"dim": 2}, slice_plane=plane, **input_)

    return make


def inputs_of(network: torch.nn.Module) -> list[torch.Tensor]:
    """Return a list that fills with what the U-Net is given."""
    seen = []
    network.unet.register_forward_pre_hook(lambda module, given: seen.append(given[0].clone()))
    return seen


def test_neighbours_by_hand():
    """Half a slice apart lies the mean of two; beyond the ends is the outermost slice."""
    volume = torch.tensor([0.0, 1.0, 4.0, 10.0]).expand(2, 3, 4)
    whole = with_neighbours(volume, 2, 1, 1.0)
    assert whole[:, 1, 2].tolist() == [[0, 0, 1, 4], [0, 1, 4, 10], [1, 4, 10, 10]]
    halves = with_neighbours(volume.movedim(2, 0), 0, 2, 0.5)
    assert halves.shape == (5, 4, 2, 3)
    assert halves[:, :, 1, 2].tolist() == [
        [0, 0, 1, 4],
        [0, 0.5, 2.5, 7],
        [0, 1, 4, 10],
        [0.5, 2.5, 7, 10],
        [1, 4, 10, 10],
    ]


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("samples", [False, True])
def test_networks_see_neighbours_at_the_distance_of_the_card(tiny_card, plane, samples):
    """Whatever the volume's own distance between slices."""
    axis = slice_axis(plane, "RAS")
    spacing = [1.5, 1.5, 1.5]
    spacing[axis] = 3.0
    values = np.random.default_rng(0).random((32, 40, 48)).astype(np.float32)
    volume = Volume(values, Geometry((48, 40, 32), tuple(spacing), direction=RAS))
    slices = torch.from_numpy(values).permute(2, 1, 0).movedim(axis, 0)
    before, after = (torch.cat((slices[:1], slices[:-1])), torch.cat((slices[1:], slices[-1:])))
    expected = torch.stack(((slices + before) / 2, slices, (slices + after) / 2), dim=1)

    card = tiny_card.to_dict()
    if samples:
        card["architecture"] = {"type": "probabilistic-unet", "classes": 5, "filters": [8, 8]}
    card["architecture"] |= {"dim": 2, "in_channels": 3}
    card["input"] |= {
        "voxel_size": [1.5] * 3,
        "normalisation": {"method": "none"},
        "slice_plane": plane,
        "neighbours": 1,
    }
    card = ModelCard.from_dict(card)
    checkpoint = Checkpoint(build_network(card).eval(), card, Path("small"), "")
    seen = inputs_of(checkpoint.network)
    segmenter = Segmenter(checkpoint, "cpu")
    segmenter.encode(volume) if samples else segmenter.segment(volume)
    torch.testing.assert_close(torch.cat(seen), expected)


@pytest.mark.parametrize(
    ("plane", "orientation", "axis"),
    [("axial", "RAS", 2), ("coronal", "RAS", 1), ("sagittal", "RAS", 0), ("axial", "IPL", 0)],
)
def test_axis_across_the_slices(plane, orientation, axis):
    assert slice_axis(plane, orientation) == axis


@pytest.mark.parametrize("plane", PLANES)
def test_labels_are_those_of_each_slice(checkpoint, plane):
    """On the model's own grid nothing is interpolated: run the network on each slice by hand."""
    checkpoint = checkpoint(plane, normalisation={"method": "none"})
    array = head((11, 20, 17)) / 1000
    volume = Volume(array, geometry(array, direction=RAS))
    labels = Segmenter(checkpoint, "cpu").segment(volume).labels
    image, axis = torch.from_numpy(array).permute(2, 1, 0), slice_axis(plane, "RAS")
    with torch.no_grad():
        by_hand = [checkpoint.network(s[None, None])[0].argmax(0) for s in image.unbind(axis)]
    expected = torch.stack(by_hand, axis).permute(2, 1, 0).numpy()
    assert len(np.unique(expected)) >= 3
    assert (labels == expected).mean() > 0.999


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("slices", [1, 5])
def test_few_slices_are_enough_for_a_network_that_takes_slices(checkpoint, plane, slices):
    """A slice alone is segmented as in a stack that repeats it; in another plane it is refused."""
    axis = slice_axis(plane, "RAS")
    array = np.take(head((20, 24, 28)), [10], 2 - axis)
    few = np.repeat(array, slices, 2 - axis)
    segmenter = Segmenter(checkpoint(plane), "cpu")
    labels = segmenter.segment(Volume(few, geometry(few, direction=RAS))).labels
    stack = np.repeat(array, 12, 2 - axis)
    in_stack = segmenter.segment(Volume(stack, geometry(stack, direction=RAS))).labels
    assert len(np.unique(labels)) >= 3
    # Percentiles of more voxels are a little different ones.
    assert (labels == np.take(in_stack, range(slices), 2 - axis)).mean() > 0.97
    other = Segmenter(checkpoint(PLANES[PLANES.index(plane) - 1]), "cpu")
    with pytest.raises(InputError, match=r"at least 8 .* of the slices that the model takes"):
        other.segment(Volume(few, geometry(few, direction=RAS)))


def test_number_of_slices_at_once_does_not_matter(checkpoint):
    array = head((11, 20, 17))
    volume = Volume(array, geometry(array))
    checkpoint = checkpoint()
    seen = inputs_of(checkpoint.network)
    together = Segmenter(checkpoint, "cpu").segment(volume).labels
    assert [len(batch) for batch in seen] == [11]
    by_three = Segmenter(checkpoint, "cpu", whole_voxels=3 * 20 * 17).segment(volume).labels
    assert [len(batch) for batch in seen[1:]] == [3, 3, 3, 2]
    one_by_one = Segmenter(checkpoint, "cpu", whole_voxels=1).segment(volume).labels
    assert (by_three == together).mean() > 0.999
    assert (one_by_one == together).mean() > 0.999


@pytest.mark.parametrize(
    ("plane", "expected"),
    [("axial", (9, 22, 20)), ("coronal", (10, 22, 18)), ("sagittal", (11, 20, 18))],
)
def test_resampled_in_plane_only(checkpoint, plane, expected):
    """Across the slices, and there alone, the volume keeps its own spacing, in any direction."""
    checkpoint = checkpoint(plane, voxel_size=[4, 4, 4])
    seen = inputs_of(checkpoint.network)
    array = head((9, 10, 11))
    c, s = np.cos(0.3), np.sin(0.3)
    place = geometry(array, (8.0, 8.0, 8.0), direction=(c, -s, 0, s, c, 0, 0, 0, -1))
    labels = Segmenter(checkpoint, "cpu").segment(Volume(array, place)).labels
    assert seen[0].shape == (expected[0], 1, *expected[1:])
    assert labels.shape == array.shape


def test_in_plane_axes_run_as_the_card_says(checkpoint):
    array = head((9, 10, 11))
    volume = Volume(array, geometry(array))  # i to the left, j to the posterior, k to the superior
    as_stored = checkpoint(orientation="SPL", normalisation={"method": "none"})
    seen = inputs_of(as_stored.network)
    Segmenter(as_stored, "cpu").segment(volume)
    np.testing.assert_array_equal(seen[0][:, 0].numpy(), array)

    turned = checkpoint(orientation="RIA", normalisation={"method": "none"})
    seen = inputs_of(turned.network)
    Segmenter(turned, "cpu").segment(volume)
    # Downwards, slices of (right, anterior).
    expected = array[::-1, ::-1, ::-1].transpose(0, 2, 1)
    np.testing.assert_array_equal(seen[0][:, 0].numpy(), expected)


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize(
    ("axes", "flips"), [((0, 1, 2), (0,)), ((2, 0, 1), ()), ((1, 0, 2), (0, 1, 2)), ((2, 1, 0), ())]
)
def test_storage_order_does_not_matter(checkpoint, plane, axes, flips):
    """The same head stored along other axes, left-handed ones too, gives the same labels."""
    segmenter = Segmenter(checkpoint(plane), "cpu")
    image = sitk.GetImageFromArray(head((14, 24, 19)))
    image.SetSpacing((8, 7, 9))
    c, s = np.cos(0.4), np.sin(0.4)
    image.SetDirection((1, 0, 0, 0, c, -s, 0, s, c))
    expected = segmenter.segment(Volume.from_image(image)).labels
    stored = sitk.Flip(sitk.PermuteAxes(image, axes), [a in flips for a in range(3)])
    labels = segmenter.segment(Volume.from_image(stored)).labels
    result = Geometry.from_image(stored).apply_to(sitk.GetImageFromArray(labels))
    back = sitk.PermuteAxes(
        sitk.Flip(result, [a in flips for a in range(3)]), [axes.index(a) for a in range(3)]
    )
    assert (sitk.GetArrayFromImage(back) == expected).mean() > 0.999


def test_out_of_memory_takes_fewer_slices_at_once(checkpoint, monkeypatch):
    array = head((12, 150, 150))
    volume = Volume(array, geometry(array))
    segmenter = Segmenter(checkpoint(), "cpu")
    expected = segmenter.segment(volume)
    original, sizes = segmenter.checkpoint.network.logits, []

    def scarce(images):
        sizes.append(len(images))
        if len(images) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(images)

    monkeypatch.setattr(segmenter.checkpoint.network, "logits", scarce)
    result = segmenter.segment(volume)
    assert sizes == [11, 5, 2, 2, 2, 2, 2, 2]
    assert sum("smaller parts" in warning for warning in result.warnings) == 2
    assert (result.labels == expected.labels).mean() > 0.999


def test_progress_within_the_pass_and_cancel(checkpoint):
    array = head((9, 20, 17))
    volume = Volume(array, geometry(array))
    segmenter = Segmenter(checkpoint(), "cpu", whole_voxels=3 * 20 * 17)
    seen = []
    segmenter.segment(volume, lambda *step: seen.append(step))
    fractions = [f for _, f in seen]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0, 1)
    layers = [m for m in segmenter.checkpoint.network.unet.modules() if not list(m.children())]
    assert len({f for stage, f in seen if stage == run.UNET}) >= 3 * len(layers)

    seen.clear()
    with pytest.raises(Cancelled):
        segmenter.segment(
            volume,
            lambda *step: seen.append(step),
            lambda: bool(seen) and seen[-1][1] > 0.2,
        )
    assert seen[-1][0] == run.UNET
    assert not any(m._forward_pre_hooks for m in segmenter.checkpoint.network.modules())


def test_network_of_several_images_is_refused(tiny_card):
    checkpoint = small_checkpoint(tiny_card, None, {"in_channels": 2})
    with pytest.raises(InputError, match="needs 2 images at once"):
        Segmenter(checkpoint, "cpu")


def test_command_line(checkpoint, tmp_path):
    checkpoint = checkpoint("coronal")
    path = tmp_path / "flat.safetensors"
    save_checkpoint(path, checkpoint.network, checkpoint.card)
    image = sitk.GetImageFromArray(head((11, 20, 17)))
    image.SetSpacing((8, 8, 8))
    sitk.WriteImage(image, str(tmp_path / "scan.nii.gz"))
    out = tmp_path / "out"
    assert main(["segment", str(tmp_path / "scan.nii.gz"), "-o", str(out), "--model", str(path),
                 "--device", "cpu"]) == 0  # fmt: skip
    labels = sitk.ReadImage(str(out / "segmentation.nii.gz"))
    assert labels.GetSize() == (17, 20, 11)
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert [c["name"] for c in report["classes"]] == [c.name for c in checkpoint.card.segments]
    assert list(report["timings_s"]) == [run.RESAMPLING, run.UNET, run.MEAN_FIELD, run.BACK]
