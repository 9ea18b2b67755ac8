"""What samples say together, against the same computed from all of them side by side."""

import itertools

import numpy as np
import pytest
import torch
from MRFUNetSegmentationLib.errors import InputError
from MRFUNetSegmentationLib.inference.sampled import maximum
from MRFUNetSegmentationLib.uncertainty import consensus as consensus_module
from MRFUNetSegmentationLib.uncertainty import structures
from MRFUNetSegmentationLib.uncertainty.consensus import (
    majority_consensus,
    mean_consensus,
    staple_consensus,
)
from MRFUNetSegmentationLib.uncertainty.statistics import (
    RunningStatistics,
    entropy,
    label_variance,
)
from MRFUNetSegmentationLib.uncertainty.structures import (
    Overlaps,
    principal_directions,
    volume_statistics,
)

SHAPE = (4, 5, 6)


def draw(samples: int, classes: int = 3, sharpness: float = 3.0) -> torch.Tensor:
    """Class probabilities (N, K, *SHAPE)."""
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(1, classes, *SHAPE, generator=rng)
    logits = logits + torch.randn(samples, classes, *SHAPE, generator=rng)
    return (sharpness * logits).softmax(1)


def statistics_of(probabilities: torch.Tensor) -> RunningStatistics:
    statistics = RunningStatistics(probabilities.shape[1], probabilities.shape[2:])
    for sample in probabilities:
        labels = statistics.add(iter(sample))
        assert torch.equal(labels, sample.argmax(0).to(torch.uint8))
    return statistics


@pytest.mark.parametrize(("samples", "classes"), [(1, 2), (7, 2), (20, 4)])
def test_streamed_statistics_are_those_of_all_samples(samples, classes):
    p = draw(samples, classes).double()
    statistics = statistics_of(p.float())
    mean = p.mean(0)

    def bits(q: torch.Tensor, axis: int) -> torch.Tensor:
        return -(q * q.log2()).sum(axis)

    expected = {
        "mean": mean,
        "variance": ((p - mean) ** 2).mean(0).sum(0) / 2,
        "entropy": bits(mean, 0),
        "expected_entropy": bits(p, 1).mean(0),
        "mutual_information": bits(mean, 0) - bits(p, 1).mean(0),
        "agreement": torch.stack(
            [(p.argmax(1) == k).double().mean(0) for k in range(classes)]
        ).amax(0),
    }
    for name, values in expected.items():
        found = getattr(statistics, name)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), values, rtol=1e-4, atol=2e-6, msg=name)
    if classes == 2:
        of_one_class = p[:, 1].var(0, unbiased=False)
        torch.testing.assert_close(statistics.variance.double(), of_one_class, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 5])
def test_maxima_are_reached_and_not_passed(classes):
    """Each class certain in one sample of K: as much disagreement as there can be."""
    certain = torch.eye(classes)[:, :, None, None, None].expand(-1, -1, *SHAPE)
    statistics = statistics_of(certain.contiguous())
    for name in ("variance", "entropy", "mutual_information"):
        values = getattr(statistics, name)
        torch.testing.assert_close(values, torch.full(SHAPE, maximum(name, classes)))
    flat = torch.full((3, classes, *SHAPE), 1 / classes)
    statistics = statistics_of(flat)
    expected = torch.full(SHAPE, maximum("expected_entropy", classes))
    torch.testing.assert_close(statistics.expected_entropy, expected)
    assert statistics.mutual_information.max() < 1e-5
    assert statistics.agreement.min() == maximum("agreement", classes) == 1


def test_variance_is_sound_where_samples_agree_almost():
    """About 1e-10 around 0.9: sums of squares in float32 would lose all of it."""
    noise = 1e-5 * torch.randn(300, *SHAPE, generator=torch.Generator().manual_seed(0))
    p = torch.stack((0.9 + noise, 0.1 - noise), dim=1)
    expected = p.double().var(0, unbiased=False).sum(0) / 2
    torch.testing.assert_close(statistics_of(p).variance, expected.float(), rtol=2e-2, atol=0)


def test_uncertainty_of_one_posterior():
    p = torch.tensor([[0.5, 1.0, 0.9], [0.5, 0.0, 0.1]])
    torch.testing.assert_close(entropy(p), torch.tensor([1.0, 0.0, 0.4690]), atol=1e-4, rtol=0)
    torch.testing.assert_close(label_variance(p), torch.tensor([0.25, 0.0, 0.09]))


# --- One segmentation for all ---------------------------------------------------------------


def test_consensus_by_mean_and_by_majority():
    # Two samples lean to class 0, one is sure of class 1; then a tie that the mean decides.
    p = torch.tensor([[[0.6, 0.1], [0.6, 0.7], [0.0, 0.4]]]).movedim(0, -1)
    p = torch.stack((p[..., 0], 1 - p[..., 0]), dim=1)[..., None, None]
    statistics = RunningStatistics(2, (2, 1, 1))
    for sample in p:
        statistics.add(sample)
    assert mean_consensus(statistics).flatten().tolist() == [1, 1]
    assert majority_consensus(statistics).flatten().tolist() == [0, 1]
    tied = RunningStatistics(2, (2, 1, 1))
    for sample in p[[0, 1]]:
        tied.add(sample)
    # Voxel 1: one sample for either class; the mean of class 0 is 0.4.
    assert majority_consensus(tied).flatten().tolist() == [0, 1]


def sphere(radius: float, shape=(20, 20, 20)) -> np.ndarray:
    axes = [np.arange(n) - (n - 1) / 2 for n in shape]
    squares = sum(a**2 for a in np.meshgrid(*axes, indexing="ij"))
    return (squares <= radius**2).astype(np.uint8)


def statistics_of_labels(labels: np.ndarray, classes: int) -> RunningStatistics:
    statistics = RunningStatistics(classes, labels.shape[1:])
    for sample in labels:
        statistics.add(torch.from_numpy(sample == k).float() for k in range(classes))
    return statistics


def test_staple_trusts_the_samples_that_agree():
    labels = np.stack([sphere(6)] * 4 + [sphere(3)] * 3)
    labels[4] = 0  # one sample without the structure
    statistics = statistics_of_labels(labels, 2)
    found = staple_consensus(lambda n: labels[n], statistics)
    assert found.dtype == torch.uint8
    np.testing.assert_array_equal(found.numpy(), sphere(6))


def test_staple_of_nothing_and_of_too_much(monkeypatch):
    empty = np.zeros((3, 8, 8, 8), np.uint8)
    statistics = statistics_of_labels(empty, 2)
    assert not staple_consensus(lambda n: empty[n], statistics).any()
    monkeypatch.setattr(consensus_module, "_STAPLE_BYTES", 1000)
    labels = np.stack([sphere(6)] * 2)
    with pytest.raises(InputError, match="mean or majority"):
        staple_consensus(lambda n: labels[n], statistics_of_labels(labels, 2))


# --- Structures -----------------------------------------------------------------------------


@pytest.fixture(params=[2**28, 50], ids=["at once", "in parts"])
def overlaps(request, monkeypatch):
    """Overlaps of six samples of three classes, of which class 2 is in no sample."""
    monkeypatch.setattr(structures, "_HELD_BYTES", request.param)
    monkeypatch.setattr(structures, "_MASK_VALUES", request.param)
    rng = np.random.default_rng(3)
    base = rng.integers(0, 2, SHAPE)
    samples = np.where(rng.random((6, *SHAPE)) < 0.2, rng.integers(0, 2, (6, *SHAPE)), base)
    samples = samples.astype(np.uint8)
    statistics = statistics_of_labels(samples, 3)
    consensus = majority_consensus(statistics).numpy()
    return samples, consensus, Overlaps.of(lambda n: samples[n], 6, statistics.counts, consensus)


def test_overlaps_are_those_of_pairs(overlaps):
    samples, consensus, found = overlaps
    everything = [*samples, consensus]
    for value, (a, x), (b, y) in itertools.product(
        range(3), enumerate(everything), enumerate(everything)
    ):
        assert found.shared[value, a, b] == ((x == value) & (y == value)).sum()
    one = samples == 1
    assert found.iou_of_all(1) == pytest.approx(one.all(0).sum() / one.any(0).sum())
    assert found.iou_of_all(2) is None
    pairs = [
        2 * (one[a] & one[b]).sum() / (one[a].sum() + one[b].sum())
        for a, b in itertools.combinations(range(6), 2)
    ]
    assert found.mean_pairwise_dice(1) == pytest.approx(np.mean(pairs))
    assert found.mean_pairwise_dice(2) == 1
    reference = consensus == 1
    distances = [1 - (s & reference).sum() / (s | reference).sum() for s in one]
    # Class 2 is in none of them, so its distance is 0.
    np.testing.assert_allclose(found.distance_to_consensus([1]), distances)
    np.testing.assert_allclose(found.distance_to_consensus([1, 2]), np.array(distances) / 2)


def test_volume_statistics():
    found = volume_statistics(np.array([1.0, 2.0, 3.0, 6.0]))
    assert found["mean"] == 3
    assert found["sd"] == pytest.approx(np.sqrt(14 / 3))
    assert found["cv"] == pytest.approx(np.sqrt(14 / 3) / 3)
    assert (found["p5"], found["p95"]) == (1, 6)
    alone = volume_statistics(np.array([2.0]))
    assert (alone["mean"], alone["sd"], alone["cv"]) == (2, None, None)
    assert volume_statistics(np.zeros(4))["cv"] is None


def test_principal_directions_are_those_that_change_the_segmentation():
    """The first axis moves a large border, the second a small one, the third nothing."""
    rng = np.random.default_rng(0)
    epsilon = rng.standard_normal((60, 3))
    line = np.arange(100)
    samples = np.zeros((60, 40, 100), np.uint8)
    for sample, e in zip(samples, epsilon, strict=True):
        sample[:32, line < 50 - 10 * e[0]] = 1  # a step along the axis makes it smaller
        sample[32:, line < 50 + 10 * e[1]] = 1
    counts = statistics_of_labels(samples, 2).counts
    found = Overlaps.of(lambda n: samples[n], 60, counts, samples[0])
    (first, share), (second, less), (third, nothing) = principal_directions(epsilon, found, [1])
    np.testing.assert_allclose(first, [-1, 0, 0], atol=0.1)
    np.testing.assert_allclose(second, [0, 1, 0], atol=0.1)
    assert abs(third[2]) > 0.95
    assert share > 2 * less and less > 5 * nothing
    assert len(principal_directions(epsilon, found, [1], number=2)) == 2


def test_directions_where_all_samples_are_the_same():
    samples = np.stack([sphere(4, SHAPE)] * 3)
    counts = statistics_of_labels(samples, 2).counts
    found = Overlaps.of(lambda n: samples[n], 3, counts, samples[0])
    directions = principal_directions(np.random.default_rng(0).standard_normal((3, 2)), found, [1])
    np.testing.assert_array_equal([d for d, _ in directions], np.eye(2))
    assert [share for _, share in directions] == [0, 0]


def test_memory_of_staple_is_that_of_all_samples(monkeypatch):
    labels = np.stack([sphere(6)] * 3)
    statistics = statistics_of_labels(labels, 2)
    one = int((labels.any(0).any((1, 2)).sum()) ** 3)
    monkeypatch.setattr(consensus_module, "_STAPLE_BYTES", 2 * one)
    with pytest.raises(InputError, match="STAPLE of 3 samples"):
        staple_consensus(lambda n: labels[n], statistics)


def test_shares_are_of_the_samples_variance():
    """One axis moves the only border, so what follows a straight line is along it."""
    epsilon = np.random.default_rng(0).standard_normal((60, 3))
    line = np.arange(100)
    samples = np.stack([np.tile(line < 50 - 10 * e[0], (40, 1)) for e in epsilon]).astype(np.uint8)
    counts = statistics_of_labels(samples, 2).counts
    found = Overlaps.of(lambda n: samples[n], 60, counts, samples[0])
    shares = [share for _, share in principal_directions(epsilon, found, [1])]
    assert 0.4 < shares[0] <= sum(shares) <= 1
