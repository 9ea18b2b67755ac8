"""The engine: any volume in, a label map on exactly its grid out."""

import itertools
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from MRFUNetSegmentationLib.checkpoints.load import load_checkpoint
from MRFUNetSegmentationLib.errors import Cancelled, DeviceError, InputError
from MRFUNetSegmentationLib.inference import devices, engine, normalise, run
from MRFUNetSegmentationLib.inference.batches import Slices
from MRFUNetSegmentationLib.inference.devices import (
    describe_devices,
    resolve_device,
    why_no_gpu,
)
from MRFUNetSegmentationLib.inference.engine import Segmenter
from MRFUNetSegmentationLib.inference.grid import ModelGrid
from MRFUNetSegmentationLib.inference.separable import resize
from MRFUNetSegmentationLib.inference.volume import Geometry, Volume
from MRFUNetSegmentationLib.networks import MRFUNet

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without GPU")


def head(shape=(20, 24, 22), seed=0) -> np.ndarray:
    """A smooth random image, so that all classes of the random network have some room."""
    coarse = torch.rand(1, 1, 5, 5, 5, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, size=shape, mode="trilinear")
    return smooth[0, 0].numpy() * 1000


def geometry(array: np.ndarray, spacing=(8.0, 8.0, 8.0), **place) -> Geometry:
    return Geometry(array.shape[::-1], spacing, **place)


@pytest.fixture
def segmenter(tiny_checkpoint) -> Segmenter:
    return Segmenter(load_checkpoint(tiny_checkpoint), "cpu")


def test_labels_lie_on_the_volumes_grid(segmenter):
    array = head((17, 30, 25))
    place = geometry(
        array, (5.0, 7.5, 11.0), origin=(1, 2, 3), direction=(0, 0, 1, 1, 0, 0, 0, 1, 0)
    )
    result = segmenter.segment(Volume(array, place))
    assert result.labels.shape == array.shape
    assert result.labels.dtype == np.uint8
    assert result.geometry == place
    assert len(np.unique(result.labels)) >= 3
    assert result.device.startswith("cpu")
    assert sum(result.timings.values()) > 0


def test_labels_are_the_most_probable_class_of_the_network(segmenter):
    """On the model's own grid nothing is interpolated: compare with the network itself."""
    array = head()
    array[0] = 0  # background
    place = geometry(array, direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1))  # right, anterior, superior
    labels = segmenter.segment(Volume(array, place)).labels
    image = torch.from_numpy(array).permute(2, 1, 0)
    low, high = torch.quantile(image[image > 0], torch.tensor([0.005, 0.995]))
    image = ((image - low) / (high - low)).clamp(0, 1)
    with torch.no_grad():
        posterior = segmenter.checkpoint.network(image[None, None])[0]
    agreement = (posterior.argmax(0).permute(2, 1, 0).numpy() == labels).mean()
    assert agreement > 0.999


def seen_at(checkpoint, voxel_size):
    """The checkpoint with a network that sees volumes at this voxel size."""
    input_ = replace(checkpoint.card.input, network_voxel_size=(voxel_size,) * 3)
    return replace(checkpoint, card=replace(checkpoint.card, input=input_))


def test_network_sees_the_volume_at_its_own_voxel_size(tiny_checkpoint):
    """What it finds there is carried to the model's grid, and from there to the volume."""
    checkpoint = load_checkpoint(tiny_checkpoint)
    array = head((40, 48, 44))
    volume = Volume(array, geometry(array, (4.0, 4.0, 4.0)))
    coarse = Segmenter(seen_at(checkpoint, 16.0), "cpu")
    shapes = []
    coarse.checkpoint.network.unet.register_forward_hook(
        lambda _, images, logits: shapes.append(tuple(images[0].shape[2:]))
    )
    found = coarse.segment(volume).labels
    assert shapes == [(11, 12, 10)]

    # The same network on a volume of that voxel size, carried to the model's grid by hand.
    card = checkpoint.card.input
    grid = ModelGrid.of(volume.geometry, card.voxel_size, card.orientation)
    image = normalise.normalised(array, grid, card.normalisation)
    with torch.no_grad():
        posterior = coarse.checkpoint.network(resize(image, (11, 12, 10))[None, None])[0]
    on_grid = resize(posterior, grid.shape)
    expected = torch.stack([grid.to_input(share) for share in on_grid]).argmax(0).numpy()
    assert (found == expected).mean() > 0.999


def test_network_of_the_models_voxel_size_changes_nothing(tiny_checkpoint):
    checkpoint = load_checkpoint(tiny_checkpoint)
    array = head()
    volume = Volume(array, geometry(array))
    expected = Segmenter(checkpoint, "cpu").segment(volume).labels
    labels = Segmenter(seen_at(checkpoint, 8.0), "cpu").segment(volume).labels
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", [(), (0,), (2,), (0, 1, 2)])
def test_storage_order_does_not_matter(segmenter, axes, flips):
    """The same head stored along other axes, left-handed ones too, gives the same labels."""
    image = sitk.GetImageFromArray(head((14, 24, 19)))
    image.SetSpacing((8, 7, 9))
    expected = segmenter.segment(Volume.from_image(image)).labels
    stored = sitk.PermuteAxes(image, axes)
    stored = sitk.Flip(stored, [a in flips for a in range(3)])
    labels = segmenter.segment(Volume.from_image(stored)).labels
    result = Geometry.from_image(stored).apply_to(sitk.GetImageFromArray(labels))
    back = sitk.PermuteAxes(
        sitk.Flip(result, [a in flips for a in range(3)]), [axes.index(a) for a in range(3)]
    )
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), expected)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int32", "int64", "float64"])
def test_every_voxel_type(segmenter, dtype):
    array = (head() / 8).astype(np.int8)
    expected = segmenter.segment(Volume(array.astype(np.float32), geometry(array))).labels
    labels = segmenter.segment(Volume(array.astype(dtype), geometry(array))).labels
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize("change", [lambda a: a * 1e300, lambda a: a * 1e-30, lambda a: a + 1e7])
def test_scale_and_offset_of_intensities_do_not_matter(segmenter, change):
    array = head().round().astype(np.float64)
    expected = segmenter.segment(Volume(array, geometry(array))).labels
    labels = segmenter.segment(Volume(change(array), geometry(array))).labels
    assert (labels == expected).mean() > 0.999


def test_background_around_the_head_changes_nothing_inside(segmenter):
    array = head() + 200
    padded = np.pad(array, 24)
    wide = np.pad(padded, 12)
    labels = segmenter.segment(Volume(padded, geometry(padded))).labels
    in_wide = segmenter.segment(Volume(wide, geometry(wide))).labels
    np.testing.assert_array_equal(in_wide[12:-12, 12:-12, 12:-12], labels)
    assert (in_wide[:12] == 0).all()


def test_volume_smaller_than_the_network_needs_is_padded(segmenter):
    array = head((8, 9, 30))
    assert segmenter.segment(Volume(array, geometry(array, (8, 8, 8)))).labels.shape == (8, 9, 30)


def test_too_small_for_the_network(segmenter):
    array = head((10, 20, 20))
    with pytest.raises(InputError, match=r"covers only .* mm") as caught:
        segmenter.segment(Volume(array, geometry(array, (8, 8, 1))))
    assert "at least 8" in str(caught.value)


def test_too_large_for_a_head(segmenter):
    """As where micrometres are taken for millimetres: no memory would hold its grid."""
    array = head((20, 24, 22))
    with pytest.raises(InputError, match=r"covers .*24000.* mm, which is no head. Check the voxel"):
        segmenter.segment(Volume(array, geometry(array, (1000, 1000, 1000))))


@pytest.mark.parametrize("padding", [-1000, -32768, -(2**31)])
def test_padding_is_no_grey_value(segmenter, padding):
    array = head().round().astype(np.int32)
    array[:3] = 0
    padded = array.copy()
    padded[:2] = padding
    expected = segmenter.segment(Volume(array, geometry(array))).labels
    found = segmenter.segment(Volume(padded, geometry(array))).labels
    assert (found == expected)[4:].mean() > 0.99


@pytest.mark.parametrize("planes", [slice(None), slice(10, 11), slice(8, 12)])
def test_a_brain_brought_to_a_mean_of_zero_is_dark_around(planes):
    """Few slices are all head but for their edges."""
    array = head().astype(np.float64)
    inside = np.zeros(array.shape, bool)
    inside[2:-2, 2:-2, 2:-2] = (array > np.median(array))[2:-2, 2:-2, 2:-2]
    array, inside = array[planes], inside[planes]
    scores = (array - array[inside].mean()) / array[inside].std()
    dark = np.where(inside, scores, scores[inside].min())
    found = normalise.with_darkest_background(np.where(inside, scores, 0.0))
    assert np.array_equal(found, dark)
    assert normalise.with_darkest_background(dark) is dark


def test_a_background_beside_the_grey_values_stays():
    """White paper; and zeros below which resampling has put a few negative values."""
    white = np.full((1, 20, 20), 255.0)
    white[0, 5:15, 5:15] = np.arange(100).reshape(10, 10)
    assert normalise.with_darkest_background(white) is white
    ringing = 255 - white
    ringing[0, 5, 5:8] = -3
    assert normalise.with_darkest_background(ringing) is ringing


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("marks", [(-3.4e38,), (3.4e38,), (-1e9, 1e9), (-1.7e308, 1.7e308)])
def test_a_few_numbers_far_outside_count_as_the_nearest_grey_value(segmenter, marks, padded):
    array = head().astype(np.float64)
    marked = array.copy()
    for n, mark in enumerate(marks):
        marked[6, 5 + n, 6] = mark
        array[6, 5 + n, 6] = array.min() if mark < 0 else array.max()
    if padded:
        array[:2] = marked[:2] = min(marks)
    expected = segmenter.segment(Volume(array, geometry(array))).labels
    found = segmenter.segment(Volume(marked, geometry(array))).labels
    assert (found == expected).mean() > 0.999


def test_grey_values_are_no_outliers():
    """Bright vessels, a bias field, air with noise: all stay as they are."""
    array = head().astype(np.float64)
    array[0, 0, :5] = 20 * array.max()
    assert np.array_equal(normalise.without_outliers(array), array)


@pytest.mark.parametrize("window", [[1e6, 2e6], [-2e6, -1e6]])
def test_a_volume_outside_of_the_models_window_is_said(tiny_checkpoint, window):
    checkpoint = load_checkpoint(tiny_checkpoint)
    normalisation = {"method": "window", "window": window}
    input_ = replace(checkpoint.card.input, normalisation=normalisation)
    checkpoint = replace(checkpoint, card=replace(checkpoint.card, input=input_))
    array = head((20, 24, 28))
    warnings = Segmenter(checkpoint, "cpu").segment(Volume(array, geometry(array))).warnings
    assert f"between {window[0]:g} and {window[1]:g}" in " ".join(warnings)


def test_what_is_said_of_a_volume_is_said_of_the_result(segmenter):
    array = head()
    volume = Volume(array, geometry(array), ("It is upside down.",))
    assert segmenter.segment(volume).warnings[0] == "It is upside down."


@pytest.mark.parametrize("volume", [head(), "scan.nii.gz"], ids=["array", "path"])
def test_what_is_no_volume_is_refused_with_the_way_to_one(segmenter, volume):
    with pytest.raises(InputError, match=rf"{type(volume).__name__} is no volume.*read_volume_f"):
        segmenter.segment(volume)


def test_a_network_for_volumes_takes_no_single_slices(segmenter):
    array = head((3, 60, 60))
    with pytest.raises(InputError, match=r"only 60 x 60 x 3 voxels.* at least 8 along every axis"):
        segmenter.segment(Volume(array, geometry(array, (1, 1, 8))))


@pytest.mark.parametrize("name", ["entropy", "variance"])
def test_a_map_asked_for_twice_is_computed_once(segmenter, name):
    array = head((20, 24, 28))
    volume = Volume(array, geometry(array))
    once = segmenter.segment(volume, maps=[name]).maps[name]
    twice = segmenter.segment(volume, maps=[name, name]).maps[name]
    np.testing.assert_array_equal(once, twice)


def test_tiles_agree_with_the_whole(segmenter, tiny_checkpoint):
    array = head((150, 140, 130))
    volume = Volume(array, geometry(array))
    whole = segmenter.segment(volume)
    tiled = Segmenter(load_checkpoint(tiny_checkpoint), "cpu", whole_voxels=100**3).segment(volume)
    np.testing.assert_array_equal(whole.labels, tiled.labels)


@pytest.mark.parametrize("values", [(0, 1), (-1000, 5)])
def test_of_two_values_neither_is_padding(segmenter, values):
    array = np.full((20, 24, 28), values[0], np.int16)
    array[5:15, 6:18, 7:21] = values[1]
    result = segmenter.segment(Volume(array, geometry(array)), maps=["entropy"])
    assert np.isfinite(result.maps["entropy"]).all()
    assert normalise.without_padding(array) is array


def test_out_of_memory_steps_down_and_says_so(segmenter, monkeypatch):
    array = head((150, 140, 130))
    volume = Volume(array, geometry(array))
    expected = segmenter.segment(volume)
    original, sizes = segmenter.checkpoint.network.logits, []

    def scarce(image):
        sizes.append(image.numel())
        if image.numel() > 1_600_000:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(image)

    monkeypatch.setattr(segmenter.checkpoint.network, "logits", scarce)
    result = segmenter.segment(volume)
    assert sizes[0] > 1_600_000
    assert any("in smaller parts" in w for w in result.warnings)
    monkeypatch.setattr(segmenter.checkpoint.network, "logits", original)
    # The next run starts afresh.
    assert segmenter.segment(volume).warnings == expected.warnings
    assert (result.labels == expected.labels).mean() > 0.9995


def test_out_of_memory_everywhere(segmenter, monkeypatch):
    def none_left(image):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(segmenter.checkpoint.network, "logits", none_left)
    with pytest.raises(InputError, match="too little memory"):
        segmenter.segment(Volume(head(), geometry(head())))


def test_what_takes_the_whole_volume_is_not_tried_in_parts(segmenter):
    tried = []

    def none_left(predictor):
        tried.append(predictor.batches.voxels)
        raise RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")

    with pytest.raises(InputError, match="too little memory"):
        segmenter.on_device(none_left, run.Run({}, lambda *step: None, lambda: False))
    assert len(tried) == 1


def test_a_single_slice_that_needs_too_much_memory_is_tried_once():
    batches = Slices(2**18, axis=0)
    for shape, expected in (
        ((30, 128, 128), 8 * 128**2),
        ((3, 128, 128), 128**2),
        ((1, 128, 128), None),
        ((30, 512, 512), None),
        ((30, 600, 600), None),
    ):
        assert batches.smaller(shape) == expected


def test_memory_of_what_failed_is_free_before_the_next_try(segmenter, monkeypatch):
    alive, held = [], []
    step_down = segmenter._step_down

    def fails(predictor):
        if held:
            return "done"
        tensor = torch.zeros(3)
        held.append(weakref.ref(tensor))
        raise torch.OutOfMemoryError("out of memory")

    def watched(shape, run):
        alive.append(held[0]() is not None)
        step_down(shape, run)

    monkeypatch.setattr(segmenter, "_step_down", watched)
    no_run = run.Run({}, lambda *step: None, lambda: False)
    assert segmenter.on_device(fails, no_run, (200, 200, 200)) == "done"
    assert alive == [False]


def test_cancel_is_asked_while_a_volume_is_resampled(segmenter):
    array, asked, stages = head((60, 60, 60)), [], []
    segmenter.segment(
        Volume(array, geometry(array, (1.0, 1.0, 3.0))),
        lambda stage, fraction: stages.append(stage),
        lambda: asked.append(stages[-1] if stages else "") or False,
    )
    assert asked.count(run.RESAMPLING) > 20


def test_options_of_a_run_are_on_record(tiny_checkpoint):
    array = head((20, 24, 28))
    volume, checkpoint = Volume(array, geometry(array)), load_checkpoint(tiny_checkpoint)
    plain = Segmenter(checkpoint, "cpu").segment(volume).options
    assert plain == {"mrf": True, "intensities": False, "tolerance": 0.0}
    other = Segmenter(checkpoint, "cpu", tolerance=0.1, mrf=False).segment(volume).options
    assert other == {"mrf": False, "intensities": False, "tolerance": 0.1}


def test_gpu_that_is_full_already(tiny_checkpoint, monkeypatch):
    """Another program holds it: the network itself does not fit."""
    array = head()
    volume, checkpoint = Volume(array, geometry(array)), load_checkpoint(tiny_checkpoint)
    expected = Segmenter(checkpoint, "cpu").segment(volume)
    kind, full = type(checkpoint.network), [True]
    original = kind.to

    def to(self, device, **options):
        if device.type == "cuda":
            if full[0]:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            device = torch.device("cpu")
        return original(self, device, **options)

    monkeypatch.setattr(kind, "to", to)
    monkeypatch.setattr(engine, "resolve_device", lambda name: torch.device("cuda:0"))
    segmenter = Segmenter(checkpoint, "auto")
    for _ in range(2):
        result = segmenter.segment(volume)
        assert result.device.startswith("cpu")
        assert result.warnings == [
            "Out of memory on cuda:0: going on with the CPU, which is slower.",
            *expected.warnings,
        ]
        assert np.array_equal(result.labels, expected.labels)
    full[0] = False  # each run tries anew
    segmenter._move_to_wanted()
    assert segmenter.device.type == "cuda"


@pytest.mark.parametrize(
    ("capability", "built_for", "usable"),
    [
        ((8, 6), ["sm_80", "sm_90"], True),
        ((6, 1), ["sm_75", "sm_80", "compute_90"], False),
        ((12, 0), ["sm_80", "compute_90"], True),
        ((12, 0), ["sm_75", "sm_80"], False),
        ((9, 0), ["sm_90a"], True),
    ],
)
def test_gpu_that_pytorch_was_not_built_for(monkeypatch, capability, built_for, usable):
    """Every run would end with "no kernel image is available"."""
    found = {
        "is_available": True,
        "device_count": 1,
        "get_device_name": "NVIDIA GTX 1080",
        "get_device_capability": capability,
        "get_arch_list": built_for,
        "get_device_properties": SimpleNamespace(total_memory=8e9),
    }
    for name, answer in found.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert resolve_device("auto") == torch.device("cuda:0" if usable else "cpu")
    assert ("cuda:0" in [d["id"] for d in describe_devices()]) is usable
    if usable:
        assert why_no_gpu() is None and resolve_device("cuda") == torch.device("cuda:0")
    else:
        assert "not made for the GPU (NVIDIA GTX 1080)" in why_no_gpu()
        with pytest.raises(DeviceError, match="not made for the GPU"):
            resolve_device("cuda:0")


def test_apple_gpu_is_taken_only_if_it_has_what_networks_need(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    devices._mps_works.cache_clear()
    try:  # this build of PyTorch cannot compute there
        assert resolve_device("auto") == torch.device("cpu")
        with pytest.raises(DeviceError, match="newer"):
            resolve_device("mps")
    finally:
        devices._mps_works.cache_clear()


def test_other_errors_are_not_taken_for_memory(segmenter, monkeypatch):
    def broken(image):
        raise RuntimeError("a defect")

    monkeypatch.setattr(segmenter.checkpoint.network, "logits", broken)
    with pytest.raises(RuntimeError, match="a defect"):
        segmenter.segment(Volume(head(), geometry(head())))


def test_progress_rises_to_one_through_all_stages(segmenter):
    seen = []
    segmenter.segment(Volume(head(), geometry(head())), lambda *step: seen.append(step))
    fractions = [f for _, f in seen]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0
    assert fractions[-1] == 1
    stages = list(dict.fromkeys(stage for stage, _ in seen))
    assert stages == [run.RESAMPLING, run.UNET, run.MEAN_FIELD, run.BACK]


@pytest.mark.parametrize("stage", [run.RESAMPLING, run.UNET, run.MEAN_FIELD, run.BACK])
def test_cancel_in_every_stage(segmenter, stage):
    current = []
    with pytest.raises(Cancelled):
        segmenter.segment(
            Volume(head(), geometry(head())),
            lambda name, fraction: current.append(name),
            lambda: bool(current) and current[-1] == stage,
        )
    assert current[-1] == stage


def test_cancel_is_honoured_within_a_second(segmenter):
    array = head((200, 200, 200))
    asked = []

    def cancelled() -> bool:
        asked.append(time.process_time())  # the machine may be busy with something else
        return False

    segmenter.segment(Volume(array, geometry(array)), cancelled=cancelled)
    assert max(np.diff(asked)) < 1
    assert not any(m._forward_pre_hooks for m in segmenter.checkpoint.network.modules())


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "", "cpu:0", "CUDA"])
def test_unknown_device(name):
    with pytest.raises(DeviceError, match="Choose auto, cpu, cuda"):
        resolve_device(name)


@needs_no_gpu
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:7"])
def test_device_that_is_not_there(name):
    with pytest.raises(DeviceError, match="not available"):
        resolve_device(name)


@needs_no_gpu
def test_machine_without_gpu_says_why():
    assert [d["id"] for d in describe_devices()] == ["cpu"]
    assert why_no_gpu()
    assert resolve_device("auto") == torch.device("cpu")


def test_memory_of_a_whole_head():
    """256^3 voxels at 1 mm with a network of the shipped size: below 6 GB resident."""
    program = """
import resource, numpy as np, torch
from pathlib import Path
from MRFUNetSegmentationLib.checkpoints.load import Checkpoint, build_network
from MRFUNetSegmentationLib.inference.engine import Segmenter
from MRFUNetSegmentationLib.inference.volume import Geometry, Volume
from MRFUNetSegmentationLib.training.card import trained_card
from MRFUNetSegmentationLib.training import config
path = Path(config.__file__).with_name("configs") / "brain-tissue.toml"
card = trained_card(config.load_config(path), 0, {})
card.architecture["iterations"] = 2
checkpoint = Checkpoint(build_network(card).eval(), card, Path("x"), "")
array = np.random.default_rng(0).random((256, 256, 256), dtype=np.float32)
Segmenter(checkpoint, "cpu").segment(Volume(array, Geometry((256, 256, 256), (1, 1, 1))))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""
    if sys.platform != "linux":
        pytest.skip("resident memory is read the Linux way")
    setup = f"import sys; sys.path[:0] = {[p for p in sys.path if p]}\n"
    run = subprocess.run(
        [sys.executable, "-c", setup + program], check=True, capture_output=True, text=True
    )
    assert float(run.stdout) < 6.0


def test_tolerance_ends_the_mean_field_early(tiny_checkpoint, monkeypatch):
    array = head()
    volume = Volume(array, geometry(array))
    checkpoint = load_checkpoint(tiny_checkpoint)
    everything = Segmenter(checkpoint, "cpu").segment(volume).labels
    counts = []
    original = MRFUNet.responsibilities

    def counted(self, *args, **options):
        counts.append(0)
        for step in original(self, *args, **options):
            counts[-1] += 1
            yield step

    monkeypatch.setattr(MRFUNet, "responsibilities", counted)
    early = Segmenter(checkpoint, "cpu", tolerance=0.9).segment(volume).labels
    Segmenter(checkpoint, "cpu").segment(volume)
    assert counts == [1, checkpoint.network.config.iterations]
    assert (early == everything).mean() > 0.5


@pytest.mark.parametrize("tolerance", [-0.1, 1.0, float("nan")])
def test_impossible_tolerance(tiny_checkpoint, tolerance):
    with pytest.raises(InputError, match="tolerance must be"):
        Segmenter(load_checkpoint(tiny_checkpoint), "cpu", tolerance=tolerance)
