"""Disagreement and calibration, against published implementations and counting by hand.

Arrays come from numpy's RandomState, whose numbers are frozen. Values named as published were
computed with the code of PHiSeg (github.com/baumgach/PHiSeg-code at c43f3b3, utils.py) and of
Stochastic Segmentation Networks (github.com/biomedia-mira/stochastic_segmentation_networks at
8a622bf, running_probability_distribution.py).
"""

from itertools import permutations, product

import numpy as np
import pytest
from MRFUNetSegmentationLib.evaluation.raters import hungarian_matched_iou, score_samples
from MRFUNetSegmentationLib.uncertainty.calibration import (
    interval_coverage,
    normalised_cross_correlation,
    reliability_diagram,
    surroundings,
    volume_interval,
)
from MRFUNetSegmentationLib.uncertainty.disagreement import (
    generalised_energy_distance,
    iou_distance,
    pairwise_iou,
)


@pytest.fixture
def sets() -> tuple[np.ndarray, np.ndarray]:
    """Five samples and three raters of 4 x 4 pixels, with empty masks among them."""
    random = np.random.RandomState(0)
    samples, raters = random.randint(0, 3, (5, 4, 4)), random.randint(0, 3, (3, 4, 4))
    samples[0] = 0
    samples[1][samples[1] == 2] = 0
    raters[0][raters[0] == 2] = 0
    return samples, raters


def iou_by_counting(a: np.ndarray, b: np.ndarray) -> float:
    union = sum(bool(x or y) for x, y in zip(a.flat, b.flat, strict=True))
    return sum(bool(x and y) for x, y in zip(a.flat, b.flat, strict=True)) / union if union else 1.0


def test_energy_distance_is_the_published_one(sets):
    samples, raters = sets
    both = generalised_energy_distance(samples, raters, classes=(1, 2))
    # PHiSeg and SSN
    assert both.squared == pytest.approx(0.40267145200478527, abs=1e-12)
    # SSN
    assert both.sample_diversity == pytest.approx(0.6982222222222222, abs=1e-12)
    assert both.rater_diversity == pytest.approx(0.5288698955365622, abs=1e-12)
    # What the diversities are without each one's distance from itself.
    apart = 1 - pairwise_iou(samples, samples, (1, 2)).mean(-1)
    assert both.two_samples == pytest.approx(apart[~np.eye(5, dtype=bool)].mean(), abs=1e-12)
    assert both.two_raters == pytest.approx(0.5288698955365622 * 3 / 2, abs=1e-12)
    assert generalised_energy_distance(samples[:1], raters, (1, 2)).two_samples is None
    # PHiSeg, the first class alone
    binary = generalised_energy_distance(samples == 1, raters == 1)
    assert binary.squared == pytest.approx(0.4824524611191278, abs=1e-12)


def test_iou_of_every_pair(sets):
    samples, raters = sets
    iou = pairwise_iou(samples, raters, (1, 2))
    assert iou.shape == (5, 3, 2)
    for n, m, k in product(range(5), range(3), range(2)):
        expected = iou_by_counting(samples[n] == k + 1, raters[m] == k + 1)
        assert iou[n, m, k] == pytest.approx(expected, abs=1e-12)


def test_empty_masks():
    empty, full = np.zeros((1, 3, 3), bool), np.ones((1, 3, 3), bool)
    assert iou_distance(empty, empty)[0, 0] == 0
    assert iou_distance(empty, full)[0, 0] == 1


def test_large_masks_are_counted_exactly():
    # More voxels than float32 can count one by one.
    ones = np.ones((1, 2**24 + 3), bool)
    other = ones.copy()
    other[0, 0] = False
    assert pairwise_iou(ones, other)[0, 0, 0] == (2**24 + 2) / (2**24 + 3)


def test_sets_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        pairwise_iou(np.zeros((2, 3, 3)), np.zeros((2, 4, 3)))
    with pytest.raises(ValueError, match="no foreground class"):
        pairwise_iou(np.zeros((2, 3)), np.zeros((2, 3)), ())


def test_floor_is_what_further_raters_give():
    """Raters are drawn from a pool, with replacement; the pool is the true distribution."""
    random = np.random.RandomState(1)
    pool = random.rand(6, 30) < np.linspace(0, 1, 30)
    table = iou_distance(pool, pool)
    n, m, found, expected = 4, 3, [], []
    for _ in range(2000):
        s, y = random.randint(0, 6, n), random.randint(0, 6, m)
        found.append(
            2 * table[np.ix_(s, y)].mean() - table[np.ix_(s, s)].mean() - table[np.ix_(y, y)].mean()
        )
        expected.append(generalised_energy_distance(pool[y], pool[y]).floor(n))
    error = np.std(found) / np.sqrt(len(found)) + np.std(expected) / np.sqrt(len(expected))
    assert np.mean(found) == pytest.approx(np.mean(expected), abs=3 * error)
    with pytest.raises(ValueError, match="at least 2"):
        generalised_energy_distance(pool, pool[:1]).floor(4)


def test_matched_iou_is_the_best_of_all_assignments(sets):
    samples, raters = sets[0][:2], sets[1]  # 2 and 3, both repeated to 6
    iou = pairwise_iou(samples, raters, (1, 2)).mean(-1)
    rows = [0, 0, 0, 1, 1, 1]
    best = max(
        np.mean([iou[r, c] for r, c in zip(rows, columns, strict=True)])
        for columns in permutations([0, 1, 2, 0, 1, 2])
    )
    assert hungarian_matched_iou(samples, raters, (1, 2)) == pytest.approx(best, abs=1e-12)
    assert hungarian_matched_iou(raters, raters[[2, 0, 1]], (1, 2)) == 1


def test_reliability_diagram_by_hand():
    probability = np.array([0.0, 0.05, 0.5, 0.55, 1.0, 0.95])
    raters = np.array([[0, 0, 1, 1, 1, 0], [0, 1, 0, 1, 1, 1]], bool)
    diagram = reliability_diagram(probability, raters, bins=10)
    assert diagram.counts.tolist() == [2, 0, 0, 0, 0, 2, 0, 0, 0, 2]
    assert diagram.confidence[[0, 5, 9]] == pytest.approx([0.025, 0.525, 0.975])
    assert diagram.frequency[[0, 5, 9]] == pytest.approx([0.25, 0.75, 0.75])
    assert np.isnan(diagram.frequency[1])
    # Each bin holds a third of the voxels.
    expected = (0.225 + 0.225 + 0.225) / 3
    assert diagram.expected_calibration_error == pytest.approx(expected)


def test_reliability_within_a_mask_and_added_up():
    random = np.random.RandomState(2)
    probability, raters = random.rand(6, 7), random.rand(3, 6, 7) < 0.4
    mask = random.rand(6, 7) < 0.5
    parts = reliability_diagram(probability, raters, mask) + reliability_diagram(
        probability, raters, ~mask
    )
    whole = reliability_diagram(probability, raters)
    for name in ("counts", "predicted", "observed"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name))
    # By the definition, bin by bin.
    share, error = raters.mean(0).ravel(), 0.0
    bins = np.floor(probability.ravel() * 10)
    for b in range(10):
        inside = bins == b
        if inside.any():
            gap = share[inside].mean() - probability.ravel()[inside].mean()
            error += inside.mean() * abs(gap)
    assert whole.expected_calibration_error == pytest.approx(error)


def test_calibrated_probabilities_have_no_error():
    random = np.random.RandomState(3)
    probability = random.rand(200_000)
    raters = random.rand(1, 200_000) < probability
    error = reliability_diagram(probability, raters).expected_calibration_error
    assert error < 0.005
    assert reliability_diagram(probability**3, raters).expected_calibration_error > 0.2


def test_impossible_probabilities_are_refused():
    with pytest.raises(ValueError, match=r"0\.\.1"):
        reliability_diagram(np.array([1.2]), np.array([[True]]))
    with pytest.raises(ValueError, match="expected raters"):
        reliability_diagram(np.array([0.2]), np.array([[True, False]]))


def test_surroundings_are_a_ball_in_mm():
    mask = np.zeros((9, 11, 13), bool)
    mask[4, 5, 6] = True
    spacing = (1.0, 1.5, 2.0)  # i, j, k
    k, j, i = np.indices(mask.shape)
    far = np.sqrt(((i - 6) * 1.0) ** 2 + ((j - 5) * 1.5) ** 2 + ((k - 4) * 2.0) ** 2)
    assert np.array_equal(surroundings(mask, spacing, 3.0), far <= 3.0)
    assert not surroundings(mask & False, spacing, 3.0).any()


def test_coverage_of_intervals():
    samples = np.tile(np.arange(101.0), (2, 1))
    low, high = volume_interval(samples, 0.9)
    assert low == pytest.approx([4.1, 4.1])  # of 0..100, where 5 % of a further sample lie below
    assert high == pytest.approx([95.9, 95.9])
    raters = np.array([[5, 50, 96], [0, 95, np.nan]])
    assert interval_coverage(samples, raters, 0.9) == 3 / 5
    with pytest.raises(ValueError, match="between 0 and 1"):
        volume_interval(samples, 90)


def test_a_further_sample_lies_within_the_interval_as_often_as_it_says():
    random = np.random.default_rng(0)
    low, high = volume_interval(random.uniform(size=(20_000, 32)), 0.9)
    further = random.uniform(size=20_000)
    assert np.mean((low <= further) & (further <= high)) == pytest.approx(0.9, abs=0.01)


def test_correlation_is_the_published_one():
    random = np.random.RandomState(0)
    random.randint(0, 3, (5, 4, 4)), random.randint(0, 3, (3, 4, 4))
    a, b = random.rand(3, 4), random.rand(3, 4)
    assert normalised_cross_correlation(a, b) == pytest.approx(-0.24950284, abs=1e-8)  # PHiSeg
    assert normalised_cross_correlation(a, 2 * a + 1) == pytest.approx(1)
    for constant in (1.0, 0.1, 0.3):  # not all are their own mean when rounded
        assert np.isnan(normalised_cross_correlation(a, np.full_like(a, constant)))
        assert np.isnan(normalised_cross_correlation(np.full(1000, constant), np.arange(1000.0)))
    mask = b > 0.5
    assert normalised_cross_correlation(a, b, mask) == pytest.approx(
        np.corrcoef(a[mask], b[mask])[0, 1]
    )


@pytest.fixture(scope="module")
def lidc(shared_data) -> list[np.ndarray]:
    """Masks (4, 128, 128) of the lung-CT crops that four readers marked."""
    file = np.load(shared_data / "lidc_mini" / "lidc_mini.npz")
    return [
        masks[:n].astype(bool)
        for masks, n in zip(file["masks"], file["n_raters"], strict=True)
        if n == 4
    ]


def test_real_readers(lidc):
    assert len(lidc) == 12
    for masks in lidc:
        by_counting = np.mean([1 - iou_by_counting(a, b) for a in masks for b in masks])
        readers = generalised_energy_distance(masks, masks)
        assert readers.squared == pytest.approx(0, abs=1e-12)
        assert readers.rater_diversity == pytest.approx(by_counting, abs=1e-12)
        assert hungarian_matched_iou(masks, masks) == 1


def test_real_readers_against_their_majority_and_among_themselves(lidc):
    """The majority alone is worse than what a fifth reader is expected to do."""
    majority, floor = [], []
    for masks in lidc:
        vote = (masks.mean(0) >= 0.5)[None]
        majority.append(generalised_energy_distance(vote, masks).squared)
        floor.append(generalised_energy_distance(masks, masks).floor(16))
    assert np.mean(majority) > 1.5 * np.mean(floor) > 0


def test_readers_as_samples_are_calibrated(lidc):
    masks = lidc[0][:, None]  # slices of one plane
    found = score_samples({"nodule": masks}, {"nodule": masks}, (0.7, 0.7, 2.5), (1, 4), 5.0)
    assert found.distances[4].energy.squared == pytest.approx(0, abs=1e-12)
    assert found.distances[1].energy.squared > 0
    nodule = found.structures["nodule"]
    assert nodule.reliability.expected_calibration_error == pytest.approx(0, abs=1e-12)
    assert nodule.variance_ncc == pytest.approx(1)
    assert nodule.dice_of_mean == 1
    assert nodule.sample_ml == pytest.approx(masks.sum((1, 2, 3)) * 0.7 * 0.7 * 2.5 / 1000)
