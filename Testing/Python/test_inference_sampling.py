"""The Probabilistic U-Net on volumes: one hypothesis for the whole volume a sample."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from MRFUNetSegmentationLib.checkpoints.load import Checkpoint, load_checkpoint, save_checkpoint
from MRFUNetSegmentationLib.cli.main import main
from MRFUNetSegmentationLib.errors import Cancelled, InputError
from MRFUNetSegmentationLib.inference import run
from MRFUNetSegmentationLib.inference.engine import Segmenter
from MRFUNetSegmentationLib.inference.volume import Volume
from MRFUNetSegmentationLib.worker import protocol
from MRFUNetSegmentationLib.worker.server import Server
from sampling_tools import ambiguous_checkpoint
from test_inference_engine import geometry, head
from test_inference_slices import RAS

every_kind = pytest.mark.parametrize(("dim", "channels"), [(2, 1), (2, 3), (3, 1), (3, 3)])


@pytest.fixture
def checkpoint(tiny_card):
    """Return a function that gives a small Probabilistic U-Net."""

    return lambda *options, **more: ambiguous_checkpoint(tiny_card, *options, **more)


def volume_of(array: np.ndarray) -> Volume:
    return Volume(array, geometry(array, direction=RAS))


def by_hand(checkpoint: Checkpoint, array: np.ndarray, epsilon=None) -> np.ndarray:
    """Labels of the network called on the volume or on each of its axial slices."""
    network = checkpoint.network
    image = torch.from_numpy(array).permute(2, 1, 0)
    images = [image] if network.config.dim == 3 else image.unbind(2)
    with torch.no_grad():
        p = [network(i[None, None], epsilon)[0] for i in images]
    labels = [(q[0] > 0.5).int() if len(q) == 1 else q.argmax(0) for q in p]
    whole = labels[0] if network.config.dim == 3 else torch.stack(labels, 2)
    return whole.permute(2, 1, 0).numpy()


@every_kind
def test_segmentation_is_that_of_the_priors_mean(checkpoint, dim, channels):
    checkpoint = checkpoint(dim, channels, normalisation={"method": "none"})
    array = head((11, 18, 21)) / 1000
    labels = Segmenter(checkpoint, "cpu").segment(volume_of(array)).labels
    expected = by_hand(checkpoint, array)
    assert len(np.unique(expected)) >= 2
    assert (labels == expected).mean() > 0.999


@every_kind
def test_samples_are_those_of_their_epsilons(checkpoint, dim, channels):
    checkpoint = checkpoint(dim, channels, normalisation={"method": "none"})
    array = head((11, 18, 21)) / 1000
    rng = torch.Generator().manual_seed(7)
    samples = list(Segmenter(checkpoint, "cpu").samples(volume_of(array), 3, seed=7))
    for sample in samples:
        expected = by_hand(checkpoint, array, torch.randn(3, generator=rng))
        assert (sample.labels == expected).mean() > 0.999
        assert sample.geometry == volume_of(array).geometry
    assert (samples[0].labels != samples[1].labels).mean() > 0.01


@pytest.mark.parametrize("dim", [2, 3])
def test_a_seed_gives_the_same_samples(checkpoint, dim):
    checkpoint = checkpoint(dim)
    volume = volume_of(head((9, 18, 21)))

    def labels(number, seed, whole_voxels=10**6):
        segmenter = Segmenter(checkpoint, "cpu", whole_voxels)
        return np.stack([s.labels for s in segmenter.samples(volume, number, seed)])

    four = labels(4, seed=1)
    np.testing.assert_array_equal(labels(2, seed=1), four[:2])
    assert (labels(4, seed=1, whole_voxels=1) == four).mean() > 0.999
    assert (labels(4, seed=2) != four).mean() > 0.01


def test_identical_slices_do_not_flicker(checkpoint):
    """Latents drawn slice by slice would make the slices of a sample differ."""
    array = np.repeat(head((1, 18, 21)), 12, axis=0)
    segmenter = Segmenter(checkpoint(2), "cpu", whole_voxels=5 * 18 * 21)
    samples = np.stack([s.labels for s in segmenter.samples(volume_of(array), 6)])
    assert (samples == samples[:, :1]).mean() > 0.999
    assert (samples != samples[:1]).any()


def test_tiles_agree_with_the_whole(checkpoint):
    """But for the upsampling, whose sampling points depend a little on the size of the image."""
    checkpoint = checkpoint(3)
    volume = volume_of(head((12, 16, 200)))
    whole = Segmenter(checkpoint, "cpu")
    tiled = Segmenter(checkpoint, "cpu", whole_voxels=20_000)
    passes = []
    checkpoint.network.unet.register_forward_pre_hook(lambda *_: passes.append(1))
    for a, b in zip(whole.samples(volume, 2), tiled.samples(volume, 2), strict=True):
        assert (a.labels == b.labels).mean() > 0.99
    assert len(passes) > 3
    assert (whole.segment(volume).labels == tiled.segment(volume).labels).mean() > 0.99


@pytest.mark.parametrize("dim", [2, 3])
def test_features_and_prior_are_computed_once_and_of_the_whole_image(checkpoint, dim):
    checkpoint = checkpoint(dim)
    seen = {"unet": [], "prior_encoder": [], "posterior_encoder": []}
    for name, shapes in seen.items():
        checkpoint.network.get_submodule(name).register_forward_pre_hook(
            lambda module, given, shapes=shapes: shapes.append(given[0].shape[2:].numel())
        )
    # Nothing in the outer slices, farther than the margin of a crop: yet part of the image.
    array = np.pad(head((8, 9, 10)) + 200, [(20, 20), (0, 0), (20, 20)])
    segmenter = Segmenter(checkpoint, "cpu")
    assert len(list(segmenter.samples(volume_of(array), 5))) == 5
    size = array[0].size if dim == 2 else array.size
    assert seen["prior_encoder"] == [size]
    assert len(seen["unet"]) == 1
    assert seen["posterior_encoder"] == []


@pytest.mark.parametrize("dim", [2, 3])
def test_progress_of_samples(checkpoint, dim):
    segmenter = Segmenter(checkpoint(dim), "cpu")
    volume, seen = volume_of(head((9, 18, 21))), []
    list(segmenter.samples(volume, 3, progress=lambda *step: seen.append(step)))
    fractions = [f for _, f in seen]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0, 1)
    stages = list(dict.fromkeys(stage for stage, _ in seen))
    assert stages == [run.RESAMPLING, run.PRIOR, run.UNET, run.SAMPLING]


@pytest.mark.parametrize("stage", [run.RESAMPLING, run.PRIOR, run.UNET, run.SAMPLING])
def test_cancel_in_every_stage(checkpoint, stage):
    segmenter, current = Segmenter(checkpoint(2), "cpu"), []
    samples = segmenter.samples(
        volume_of(head((9, 18, 21))),
        3,
        progress=lambda name, fraction: current.append(name),
        cancelled=lambda: bool(current) and current[-1] == stage,
    )
    with pytest.raises(Cancelled):
        list(samples)
    assert current[-1] == stage
    assert not any(m._forward_pre_hooks for m in segmenter.checkpoint.network.modules())


def test_cancel_between_samples_leaves_the_caller_alone(checkpoint):
    """What the caller computes between two samples is none of the run's business."""
    asked = []
    samples = Segmenter(checkpoint(2), "cpu").samples(
        volume_of(head((9, 18, 21))), 2, cancelled=lambda: asked.append(1)
    )
    next(samples)
    before = len(asked)
    x = torch.ones(2, requires_grad=True)
    (x * x).sum().backward()
    assert len(asked) == before
    next(samples)
    assert len(asked) > before


def test_what_cannot_be_sampled(checkpoint, tiny_checkpoint):
    volume = volume_of(head((9, 18, 21)))
    with pytest.raises(InputError, match="gives one segmentation and no samples"):
        Segmenter(load_checkpoint(tiny_checkpoint), "cpu").samples(volume, 2)
    with pytest.raises(InputError, match="From 1 to 1000 samples"):
        Segmenter(checkpoint(2), "cpu").samples(volume, 0)


@pytest.fixture
def file(checkpoint, tmp_path):
    """File of a 2D sigmoid network."""
    checkpoint, path = checkpoint(2), tmp_path / "probabilistic.safetensors"
    save_checkpoint(path, checkpoint.network, checkpoint.card)
    return path


def test_command_line(file, tmp_path):
    image = sitk.GetImageFromArray(head((11, 18, 21)))
    image.SetSpacing((8, 8, 8))
    sitk.WriteImage(image, str(tmp_path / "scan.nii.gz"))
    out = tmp_path / "out"
    assert main(["segment", str(tmp_path / "scan.nii.gz"), "-o", str(out), "--model", str(file),
                 "--device", "cpu"]) == 0  # fmt: skip
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "segmentation.nii.gz")))
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    (only,) = report["classes"]
    assert (only["value"], only["name"]) == (1, "Grey matter")
    assert only["volume_ml"] == pytest.approx((labels == 1).sum() * 0.512, rel=1e-4)
    assert set(np.unique(labels)) == {0, 1}
    assert list(report["timings_s"]) == [run.RESAMPLING, run.PRIOR, run.UNET, run.BACK]


def test_worker(file, tmp_path):
    volume, events = volume_of(head((11, 18, 21))), []
    np.save(tmp_path / "volume.npy", volume.array)
    answer = Server(tmp_path, events.append)._answer(
        protocol.Segment(
            job=1,
            volume="volume.npy",
            **vars(volume.geometry),
            model=str(file),
            device="cpu",
            warnings=(),
            mrf=True,
            labels="labels.npy",
            maps={},
        )
    )
    assert isinstance(answer, protocol.Done), answer
    expected = Segmenter(load_checkpoint(file), "cpu").segment(volume).labels
    np.testing.assert_array_equal(np.load(tmp_path / "labels.npy"), expected)
    assert run.PRIOR in [e.stage for e in events]
