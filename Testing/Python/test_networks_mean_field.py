"""Mean field without gradients: the same labels as with them, and an early stop that keeps them."""

import weakref

import pytest
import torch
from MRFUNetSegmentationLib.benchmark.mrf_unet import EARLY_STOP_TOLERANCE
from MRFUNetSegmentationLib.networks.mrf import MRF, last, log_posterior, mean_field


def scaled_mrf(dim: int, classes: int, scale: float, seed: int = 0) -> MRF:
    """Return an MRF of random weights; the larger they are, the stronger the coupling."""
    torch.manual_seed(seed)
    mrf = MRF(dim, classes)
    with torch.no_grad():
        mrf.neighbours.weight *= scale
        mrf.final.weight *= scale
    return mrf


def blurred_noise(classes: int, size: tuple[int, ...]) -> torch.Tensor:
    """Return log-probabilities with regions of a few voxels, and noise."""
    coarse = torch.randn(1, classes, *[max(2, n // 3) for n in size])
    blobs = torch.nn.functional.interpolate(coarse, size, mode="trilinear")
    return torch.log_softmax(3 * blobs + torch.randn(1, classes, *size), 1)


@pytest.mark.parametrize("classes", [2, 4, 9])
def test_labels_are_equal_in_single_precision_and_any_memory_layout(classes):
    mrf = scaled_mrf(3, classes, 3.0)
    log_f = blurred_noise(classes, (24, 23, 22))
    *_, expected = mean_field(log_f, mrf, 10)
    before = log_f.clone()
    log_f = log_f.contiguous(memory_format=torch.channels_last_3d)
    with torch.no_grad():
        *_, r = mean_field(log_f, mrf, 10)
    assert torch.equal(log_f, before)
    assert (r - expected).abs().max() < 1e-5
    assert (r.argmax(1) == expected.argmax(1)).float().mean() >= 0.9999
    # The prior has something to say, else nothing was tested.
    assert (r.argmax(1) != log_f.argmax(1)).float().mean() > 0.01


def test_last_keeps_no_other_step():
    seen = []

    def steps():
        for n in range(5):
            assert all(earlier() is None for earlier in seen[:-1])
            step = torch.full((3,), float(n))
            seen.append(weakref.ref(step))
            yield step
            del step

    assert last(steps()).tolist() == [4.0] * 3


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scale", [1.0, 2.0, 3.0])
@torch.no_grad()
def test_early_stop_changes_at_most_one_voxel_in_a_thousand(seed, scale):
    mrf = scaled_mrf(3, 4, scale, seed)
    log_f = blurred_noise(4, (40, 40, 40))
    *_, full = mean_field(log_f, mrf, 40)
    steps = list(mean_field(log_f, mrf, 40, tolerance=EARLY_STOP_TOLERANCE))
    assert 2 <= len(steps) < 20
    assert (steps[-1].argmax(1) != full.argmax(1)).float().mean() <= 1e-3


def test_settled_field_stops_at_once_and_only_with_a_tolerance():
    mrf = MRF(2, 3)
    with torch.no_grad():
        mrf.final.weight.zero_()
        log_f = torch.zeros(1, 3, 4, 4)
        assert len(list(mean_field(log_f, mrf, 6))) == 6
        assert len(list(mean_field(log_f, mrf, 6, tolerance=1e-6))) < 6


def test_damped_log_posterior_is_finite_where_probabilities_underflow():
    mrf = scaled_mrf(3, 2, 0.0)
    logits = torch.zeros(1, 2, 2, 2, 2)
    logits[:, 0] = 150
    logits.requires_grad_()
    found = log_posterior(logits.log_softmax(1), mrf, 15, w=0.9999)
    found[:, 1].sum().backward()
    assert found.isfinite().all()
    assert logits.grad.isfinite().all()
    *_, plain = mean_field(logits.log_softmax(1), mrf, 2, w=0.7)
    exact = log_posterior(logits.log_softmax(1), mrf, 2, w=0.7)
    torch.testing.assert_close(exact, plain.log())


def test_training_gradients_reach_every_weight():
    mrf = scaled_mrf(3, 3, 3.0)
    logits = torch.randn(1, 3, 5, 5, 5, requires_grad=True)
    log_posterior(logits.log_softmax(1), mrf, 3)[:, 0].sum().backward()
    for parameter in (logits, *mrf.parameters()):
        assert parameter.grad.abs().max() > 0
