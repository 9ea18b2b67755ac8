"""What sampling a volume gives, with and without an MRF, and any latent of the same volume."""

from unittest.mock import Mock

import numpy as np
import pytest
import torch
from MRFUNetSegmentationLib.checkpoints.load import load_checkpoint, save_checkpoint
from MRFUNetSegmentationLib.errors import Cancelled, InputError
from MRFUNetSegmentationLib.inference import run, sampled
from MRFUNetSegmentationLib.inference.engine import Segmenter
from MRFUNetSegmentationLib.inference.image_files import write_label_map, write_map
from MRFUNetSegmentationLib.inference.result_files import read_array
from MRFUNetSegmentationLib.inference.volume import Geometry, Volume
from MRFUNetSegmentationLib.networks import mean_field
from MRFUNetSegmentationLib.uncertainty import structures
from MRFUNetSegmentationLib.worker import sampled as files
from sampling_tools import ambiguous_checkpoint
from test_inference_engine import geometry, head

LEFT_HANDED = (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
every_kind = pytest.mark.parametrize(
    ("dim", "channels", "mrf"),
    [(2, 1, False), (2, 3, True), (3, 1, True), (3, 3, False)],
    ids=["2D sigmoid", "2D softmax MRF", "3D sigmoid MRF", "3D softmax"],
)


@pytest.fixture
def checkpoint(tiny_card):
    return lambda *options, **more: ambiguous_checkpoint(tiny_card, *options, **more)


def scan() -> Volume:
    """A volume whose spacing is not the network's, with axes that run other ways."""
    array = head((14, 26, 22))
    return Volume(array, geometry(array, spacing=(9.0, 7.0, 10.0), direction=LEFT_HANDED))


@every_kind
def test_result_says_what_all_samples_say(checkpoint, dim, channels, mrf):
    segmenter, volume = Segmenter(checkpoint(dim, channels, mrf=mrf), "cpu"), scan()
    seen = {}

    def on_sample(n, compressed, probabilities):
        seen[n] = compressed, probabilities

    result = segmenter.sample(volume, 6, seed=3, on_sample=on_sample, keep_probabilities=True)
    p = np.stack([seen[n][1] for n in range(6)]).astype(np.float64)  # (N, K, k, j, i)
    labels = np.stack([result.labels(n) for n in range(6)])

    assert (result.number, result.seed, result.model, result.options["mrf"]) == (6, 3, "tiny", mrf)
    assert [seen[n][0] for n in range(6)] == list(result.compressed)
    np.testing.assert_array_equal(labels, p.argmax(1))
    one_by_one = [s.labels for s in segmenter.samples(volume, 6, seed=3)]
    np.testing.assert_array_equal(labels, one_by_one)
    assert (labels != labels[:1]).any()

    classes = max(2, channels)
    tiny = np.finfo(np.float64).tiny
    frequency = np.stack([(labels == k).mean(0) for k in range(classes)])
    bits = -(p * np.log2(np.maximum(p, tiny))).sum(1).mean(0)
    of_mean = -(p.mean(0) * np.log2(np.maximum(p.mean(0), tiny))).sum(0)
    expected = {
        "variance": p.var(0).sum(0) / 2,
        "entropy": of_mean,
        "expected_entropy": bits,
        "mutual_information": of_mean - bits,
        "agreement": frequency.max(0),
        **{f"probability_{k}": p[:, k].mean(0) for k in range(classes)},
    }
    assert result.maps.keys() == expected.keys() == result.maximum.keys()
    for name, values in expected.items():
        found = result.maps[name]
        assert (found.dtype, found.shape) == (np.float32, volume.array.shape)
        np.testing.assert_allclose(found, values, atol=5e-6, rtol=1e-4, err_msg=name)
        assert 0 <= found.min() and found.max() <= result.maximum[name] * (1 + 1e-6)
    first, second = np.sort(p.mean(0), axis=0)[:-3:-1]
    clear = first - second > 1e-5
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(result.consensus[clear], p.mean(0).argmax(0)[clear])

    ml = volume.geometry.voxel_ml
    assert len(result.structures) == classes - 1
    for structure in result.structures:
        k = structure["value"]
        volumes = (labels == k).sum((1, 2, 3)) * ml
        assert structure["volume_ml"]["mean"] == pytest.approx(volumes.mean())
        assert structure["volume_ml"]["sd"] == pytest.approx(volumes.std(ddof=1))
        assert structure["consensus_ml"] == pytest.approx((result.consensus == k).sum() * ml)
        assert [e["volumes_ml"][k] for e in result.per_sample] == pytest.approx(list(volumes))
    for direction in result.directions:
        assert np.linalg.norm(direction["direction"]) == pytest.approx(1)


def test_log_density_is_the_priors(checkpoint):
    segmenter, volume = Segmenter(checkpoint(3, 1), "cpu"), scan()
    space = segmenter.encode(volume)
    result = space.sample(3, seed=1)
    for entry in result.per_sample:
        mean, scale = space.encoding.mean[0], space.encoding.scale[0]
        z = mean + scale * torch.tensor(entry["epsilon"])
        expected = torch.distributions.Normal(mean, scale).log_prob(z).sum()
        assert entry["log_density"] == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize(("dim", "channels"), [(2, 1), (3, 3)])
def test_mrf_is_the_mean_field_of_each_samples_logits(checkpoint, dim, channels):
    """On the network's own grid, where nothing is interpolated."""
    checkpoint = checkpoint(dim, channels, mrf=True)
    network, array = checkpoint.network, head((9, 18, 21))
    volume = Volume(array, geometry(array, spacing=(8.0, 8.0, 8.0)))
    segmenter = Segmenter(checkpoint, "cpu")
    space = segmenter.encode(volume)
    for epsilon in space.latents(2, seed=0):
        z = space.encoding.mean + space.encoding.scale * torch.from_numpy(epsilon)
        with torch.no_grad():
            likelihood = network.log_likelihood(network.decode(space.encoding.projected, z))
            *_, expected = mean_field(likelihood, network.mrf, network.config.iterations)
        expected = segmenter.predictor.batches.join(expected)
        for value, found in enumerate(space.probabilities(epsilon)):
            back = space.to_volume.grid.restore(expected[value])
            torch.testing.assert_close(found, back, atol=1e-5, rtol=1e-4)


def specks(labels: np.ndarray) -> int:
    """Voxels without a neighbour of the same label along any axis."""
    padded = np.pad(labels, 1, constant_values=255)
    inner = (slice(1, -1),) * 3
    alone = np.ones(labels.shape, bool)
    for axis in range(3):
        for step in (-1, 1):
            alone &= np.roll(padded, step, axis)[inner] != labels
    return int(alone.sum())


def test_mrf_makes_samples_regular_and_can_be_left_out(checkpoint):
    """On an image of noise, where half of the voxels are of either class."""
    checkpoint, volume = checkpoint(3, 1, mrf=True), scan()
    noise = np.random.default_rng(0).uniform(0, 1000, (18, 20, 16)).astype(np.float32)
    volume = Volume(noise, geometry(noise, spacing=(8.0, 8.0, 8.0)))
    space = Segmenter(checkpoint, "cpu").encode(volume)
    f_comb = checkpoint.network.f_comb
    with torch.inference_mode():
        logits = f_comb(space.encoding.projected, space.encoding.mean)
        f_comb.final.bias.sub_(logits.median())
        f_comb.final.weight.div_(logits.std())
        f_comb.final.bias.div_(logits.std())
    with_mrf = Segmenter(checkpoint, "cpu").sample(volume, 3)
    without = Segmenter(checkpoint, "cpu", mrf=False).sample(volume, 3)
    assert (with_mrf.options["mrf"], without.options["mrf"]) == (True, False)
    counts = [sum(specks(r.labels(n)) for n in range(3)) for r in (with_mrf, without)]
    assert counts[0] < counts[1] / 2, counts
    assert [e["epsilon"] for e in with_mrf.per_sample] == [e["epsilon"] for e in without.per_sample]


def test_consensus_that_there_is_not_is_told_before_anything_is_computed(checkpoint):
    segmenter, stages = Segmenter(checkpoint(3), "cpu"), []
    with pytest.raises(InputError, match="no such consensus"):
        segmenter.sample(scan(), 2, progress=lambda *step: stages.append(step), consensus="vote")
    assert not stages


def test_each_sample_has_the_seconds_of_sampling_too(checkpoint):
    found = [s.timings for s in Segmenter(checkpoint(3), "cpu").samples(scan(), 2)]
    assert 0 < found[0][run.SAMPLING] < found[1][run.SAMPLING]
    assert found[0][run.UNET] == found[1][run.UNET]


def test_mrf_survives_the_file(checkpoint, tmp_path):
    made = checkpoint(3, 1, mrf=True)
    save_checkpoint(tmp_path / "a.safetensors", made.network, made.card)
    loaded, volume = load_checkpoint(tmp_path / "a.safetensors"), scan()
    a, b = (Segmenter(c, "cpu").sample(volume, 2) for c in (made, loaded))
    assert a.options == b.options and a.options["mrf"] and a.compressed == b.compressed


def test_no_mrf_to_leave_out(checkpoint, tiny_checkpoint):
    with pytest.raises(InputError, match="has no MRF"):
        Segmenter(checkpoint(3), "cpu", mrf=False)
    # Of an MRF-UNet the U-Net is left.
    loaded, volume = load_checkpoint(tiny_checkpoint), scan()
    alone = Segmenter(loaded, "cpu", mrf=False).segment(volume)
    assert run.MEAN_FIELD not in alone.timings
    assert (alone.labels != Segmenter(loaded, "cpu").segment(volume).labels).any()


def test_entropy_and_variance_of_an_mrf_unets_posterior(tiny_checkpoint):
    segmenter, volume = Segmenter(load_checkpoint(tiny_checkpoint), "cpu"), scan()
    found = segmenter.segment(volume, maps=("entropy", "variance"))
    plain = segmenter.segment(volume)
    np.testing.assert_array_equal(found.labels, plain.labels)
    assert plain.maps == {}
    for name, values in found.maps.items():
        assert values.dtype == np.float32 and values.shape == volume.array.shape
        assert 0 <= values.min() < values.max() <= sampled.maximum(name, 5)
    with pytest.raises(InputError, match="mutual_information"):
        segmenter.segment(volume, maps=("mutual_information",))


def test_maps_of_one_hypothesis_are_refused(checkpoint):
    with pytest.raises(InputError, match="Ask for samples"):
        Segmenter(checkpoint(3), "cpu").segment(scan(), maps=("entropy",))


def test_consensus_methods(checkpoint):
    space = Segmenter(checkpoint(3, 3), "cpu").encode(scan())
    results = {m: space.sample(5, seed=1, consensus=m) for m in sampled.CONSENSUS_METHODS}
    labels = np.stack([results["mean"].labels(n) for n in range(5)])
    counts = np.stack([(labels == k).sum(0) for k in range(3)])
    clear = np.sort(counts, 0)[-1] > np.sort(counts, 0)[-2]
    majority = results["majority"].consensus
    np.testing.assert_array_equal(majority[clear], counts.argmax(0)[clear])
    assert results["staple"].consensus.max() < 3
    agreed = (labels == labels[:1]).all(0)
    for method, result in results.items():
        assert result.consensus_method == method
        np.testing.assert_array_equal(result.consensus[agreed], labels[0][agreed])


def test_class_that_no_sample_contains(checkpoint):
    made = checkpoint(3, 3)
    with torch.no_grad():
        made.network.f_comb.final.bias[2] -= 100
    result = Segmenter(made, "cpu").sample(scan(), 3)
    absent = result.structures[1]
    assert absent["value"] == 2
    assert absent["volume_ml"] == {"mean": 0, "sd": 0, "p5": 0, "p95": 0, "cv": None}
    assert (absent["iou"], absent["pairwise_dice"]) == (None, 1)
    assert result.warnings[-1] == f"No sample contains {absent['name']}."


def test_one_sample(checkpoint):
    result = Segmenter(checkpoint(2, 1), "cpu").sample(scan(), 1)
    np.testing.assert_array_equal(result.consensus, result.labels(0))
    (structure,) = result.structures
    assert structure["volume_ml"]["sd"] is structure["pairwise_dice"] is None
    assert result.maps["variance"].max() == 0


@pytest.mark.parametrize("number", [0, -1, 1001, 10_000])
def test_impossible_numbers(checkpoint, number):
    segmenter = Segmenter(checkpoint(2), "cpu")
    for draw in (segmenter.sample, segmenter.samples):
        with pytest.raises(InputError, match="From 1 to 1000"):
            draw(scan(), number)


def test_impossible_requests(checkpoint, tiny_checkpoint):
    segmenter = Segmenter(checkpoint(2), "cpu")
    with pytest.raises(InputError, match="no such consensus"):
        segmenter.sample(scan(), 2, consensus="median")
    with pytest.raises(InputError, match="no samples"):
        Segmenter(load_checkpoint(tiny_checkpoint), "cpu").sample(scan(), 2)
    with pytest.raises(InputError, match="no voxel"):
        segmenter.encode(scan()).slice_labels(np.zeros(3), (0, 0, 22))


@pytest.mark.parametrize("stage", [run.PRIOR, run.SAMPLING, run.COUNTING])
def test_cancel(checkpoint, stage):
    current = []
    with pytest.raises(Cancelled):
        Segmenter(checkpoint(2), "cpu").sample(
            scan(),
            3,
            progress=lambda name, fraction: current.append(name),
            cancelled=lambda: bool(current) and current[-1] == stage,
        )
    assert current[-1] == stage


def test_progress(checkpoint):
    seen = []
    Segmenter(checkpoint(2), "cpu").sample(scan(), 3, progress=lambda *step: seen.append(step))
    fractions = [f for _, f in seen]
    assert fractions == sorted(fractions) and fractions[-1] > 0.97
    stages = list(dict.fromkeys(stage for stage, _ in seen))
    assert stages == [run.RESAMPLING, run.PRIOR, run.UNET, run.SAMPLING, run.COUNTING]


def test_memory_does_not_grow_with_the_samples(checkpoint, monkeypatch):
    """But by the compressed label maps, which torch does not hold."""
    monkeypatch.setattr(structures, "_HELD_BYTES", 2**14)
    monkeypatch.setattr(structures, "_MASK_VALUES", 2**14)
    space = Segmenter(checkpoint(2), "cpu").encode(scan())

    def peak(number: int) -> int:
        with torch.profiler.profile(profile_memory=True) as profiler:
            space.sample(number)
        held = highest = 0
        events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
        for event in sorted(events, key=lambda e: e.start_ns()):
            held += event.nbytes()
            highest = max(highest, held)
        return highest

    peak(2)
    voxels = scan().array.size
    assert peak(24) - peak(4) < 10 * voxels  # 20 label maps, a byte a voxel, would be twice that


# --- Any latent -----------------------------------------------------------------------------


@every_kind
def test_any_latent_of_the_same_features(checkpoint, dim, channels, mrf):
    checkpoint, volume = checkpoint(dim, channels, mrf=mrf), scan()
    calls = []
    checkpoint.network.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    space = Segmenter(checkpoint, "cpu").encode(volume)
    result = space.sample(3, seed=2)
    for n in range(3):
        labels = space.labels(result.per_sample[n]["epsilon"])
        np.testing.assert_array_equal(labels, result.labels(n))
    assert len(calls) == 1
    middle = Segmenter(checkpoint, "cpu").segment(volume).labels
    assert (space.labels(np.zeros(3)) == middle).mean() > 0.999


@every_kind
@pytest.mark.parametrize("voxel", [(0, 0, 0), (13, 25, 21), (6, 11, 9)], ids=str)
def test_slices_are_those_of_the_whole(checkpoint, dim, channels, mrf, voxel):
    space = Segmenter(checkpoint(dim, channels, mrf=mrf), "cpu").encode(scan())
    epsilon = np.array([1.0, -0.5, 0.3])
    whole = space.labels(epsilon)
    slices = space.slice_labels(epsilon, voxel)
    k, j, i = voxel
    for found, expected in zip(slices, (whole[k], whole[:, j], whole[:, :, i]), strict=True):
        assert found.shape == expected.shape and found.dtype == np.uint8
        # An MRF sees less there.
        assert (found == expected).mean() > (0.9 if mrf else 0.999)
    assert len(np.unique(whole)) > 1


# --- Files ----------------------------------------------------------------------------------


def test_workers_files_hold_the_whole_result(checkpoint, tmp_path):
    result = Segmenter(checkpoint(2, 3), "cpu").sample(scan(), 4, seed=9)
    for n, compressed in enumerate(result.compressed):
        files.write_sample(tmp_path, n, compressed)
    files.write(tmp_path, result)
    back = files.read(tmp_path)
    for name in vars(result):
        if name not in ("maps", "consensus", "compressed"):
            assert getattr(back, name) == getattr(result, name), name
    assert back.compressed == list(result.compressed)
    np.testing.assert_array_equal(back.consensus, result.consensus)
    assert back.maps.keys() == result.maps.keys()
    for name, values in result.maps.items():
        np.testing.assert_array_equal(back.maps[name], values)
    (tmp_path / files.RESULT).unlink()
    with pytest.raises(OSError):
        files.read(tmp_path)


def test_titles_name_what_is_shown_and_its_unit(checkpoint):
    result = Segmenter(checkpoint(2), "cpu").sample(scan(), 2)
    assert result.title("mutual_information").endswith("[bit]")
    assert "Grey matter" in result.title("probability_1")
    for name in result.maps:
        title = result.title(name).lower()
        assert "epistemic" not in title and "model" not in title


def test_label_map_on_a_full_disk(tmp_path, monkeypatch):
    """The NIfTI writer would cut the file short and say nothing."""
    monkeypatch.setattr(
        "SimpleITK.ReadImage", lambda path: (_ for _ in ()).throw(RuntimeError("short"))
    )
    labels = np.zeros((8, 8, 8), np.uint8)
    with pytest.raises(OSError, match="incomplete"):
        write_label_map(tmp_path / "a.nii.gz", labels, Geometry((8, 8, 8), (1.0, 1.0, 1.0)))
    monkeypatch.undo()
    np.testing.assert_array_equal(read_array(tmp_path / "a.nii.gz"), labels)


def test_map_on_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "SimpleITK.ReadImage", lambda path: (_ for _ in ()).throw(RuntimeError("short"))
    )
    with pytest.raises(OSError, match="incomplete"):
        write_map(
            tmp_path / "a.nii.gz", np.zeros((8, 8, 8), np.float32), Geometry((8, 8, 8), (1, 1, 1))
        )


def test_time_of_a_stage_that_begins_again_is_added_up(monkeypatch):
    """As where memory ran out, and it was computed again in smaller parts."""
    monkeypatch.setattr("time.perf_counter", Mock(side_effect=[0, 1, 1, 3, 3, 4]))
    begun = run.Run({run.UNET: 0.0, run.BACK: 0.5}, lambda *_: None, lambda: False)
    for stage in (run.UNET, run.BACK, run.UNET):
        begun.begin(stage)
    begun.end()
    assert begun.timings == {run.UNET: 2, run.BACK: 2}
