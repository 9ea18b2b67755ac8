"""Mean field for inference: the same responsibilities as the differentiable one, only faster."""

import pytest
import torch
from MRFUNetSegmentationLib.networks.mrf import (
    EARLY_STOP_TOLERANCE,
    MRF,
    infer_responsibilities,
    mean_field,
)


def strong_mrf(dim: int, classes: int, seed: int = 0, scale: float = 3.0, **options) -> MRF:
    """Return an MRF whose random weights are large enough to change many labels."""
    torch.manual_seed(seed)
    mrf = MRF(dim, classes, **options)
    with torch.no_grad():
        mrf.neighbours.weight *= scale
        mrf.final.weight *= scale
    return mrf


def blurred_noise(classes: int, size: tuple[int, ...], batch: int = 1) -> torch.Tensor:
    """Return logits with regions of a few voxels, and noise."""
    coarse = torch.randn(batch, classes, *[max(2, n // 3) for n in size])
    mode = {2: "bilinear", 3: "trilinear"}[len(size)]
    return 3 * torch.nn.functional.interpolate(coarse, size, mode=mode) + torch.randn(
        batch, classes, *size
    )


@pytest.mark.parametrize("slab_values", [1, 3000, 2**20])
@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((11, 6, 5), {}),
        ((1, 4, 3), {}),
        ((2, 1, 1), {}),
        ((9, 8), {}),
        ((7, 6, 5), {"extra_layers": 2, "filters": 5}),
        ((7, 6, 5), {"free_centre": True}),
    ],
    ids=str,
)
@pytest.mark.parametrize("w", [1.0, 0.3])
def test_every_iteration_equals_the_differentiable_mean_field(
    monkeypatch, slab_values, size, options, w
):
    monkeypatch.setattr("MRFUNetSegmentationLib.networks.mrf.CPU_SLAB_VALUES", slab_values)
    mrf = strong_mrf(len(size), 4, **options).double()
    logits = torch.randn(2, 4, *size, dtype=torch.float64)
    expected = mean_field(logits.log_softmax(1), mrf, 4, w)
    computed = infer_responsibilities(logits, mrf, 4, w)
    for log_r, r in zip(expected, computed, strict=True):
        torch.testing.assert_close(r, log_r.exp(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("classes", [2, 4, 9])
def test_labels_are_equal_in_single_precision_and_any_memory_layout(classes):
    mrf = strong_mrf(3, classes)
    logits = blurred_noise(classes, (24, 23, 22))
    with torch.no_grad():
        *_, expected = mean_field(logits.log_softmax(1), mrf, 10)
    before = logits.clone()
    logits = logits.contiguous(memory_format=torch.channels_last_3d)
    *_, r = infer_responsibilities(logits, mrf, 10)
    assert torch.equal(logits, before)
    assert (r - expected.exp()).abs().max() < 1e-5
    assert (r.argmax(1) == expected.argmax(1)).float().mean() >= 0.9999
    # The prior has something to say, else nothing was tested.
    assert (r.argmax(1) != logits.argmax(1)).float().mean() > 0.01


def test_hidden_layers_exist_for_a_slab_only(monkeypatch):
    monkeypatch.setattr("MRFUNetSegmentationLib.networks.mrf.CPU_SLAB_VALUES", 4 * 16 * 30 * 30)
    sizes = []
    original = torch.nn.functional.leaky_relu_
    monkeypatch.setattr(
        "MRFUNetSegmentationLib.networks.mrf.functional.leaky_relu_",
        lambda x, slope: sizes.append(x.numel()) or original(x, slope),
    )
    next(infer_responsibilities(torch.randn(1, 4, 31, 30, 30), strong_mrf(3, 4), 1))
    assert len(sizes) == 8
    assert max(sizes) == 4 * 16 * 30 * 30


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scale", [1.0, 2.0, 3.0])
def test_early_stop_changes_at_most_one_voxel_in_a_thousand(seed, scale):
    """MRFs from weak to strong: up to a sixth of the labels differ from the U-Net's."""
    mrf = strong_mrf(3, 4, seed, scale)
    logits = blurred_noise(4, (40, 40, 40))
    *_, full = infer_responsibilities(logits, mrf, 40)
    steps = [r.clone() for r in infer_responsibilities(logits, mrf, 40, 1.0, EARLY_STOP_TOLERANCE)]
    assert 2 <= len(steps) < 20
    assert (steps[-1].argmax(1) != full.argmax(1)).float().mean() <= 1e-3


def test_early_stop_waits_for_the_largest_change_of_any_image():
    torch.manual_seed(0)
    mrf = strong_mrf(2, 3, scale=2)
    settled = torch.tensor([50.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 30, 30)
    undecided = torch.randn(1, 3, 30, 30)

    def iterations(logits: torch.Tensor) -> int:
        return sum(1 for _ in infer_responsibilities(logits, mrf, 50, 1.0, 1e-3))

    assert iterations(settled) < iterations(undecided) < 50
    assert iterations(torch.cat((settled, undecided))) == iterations(undecided)


def test_early_stop_is_not_fooled_by_damping():
    """A small w makes small steps; that they are small does not mean that they are the last."""
    mrf = strong_mrf(2, 3, scale=1)
    logits = torch.randn(1, 3, 20, 20)
    *_, undamped = infer_responsibilities(logits, mrf, 100)
    *_, damped = infer_responsibilities(logits, mrf, 1000, 0.01, 1e-4)
    change = (damped - undamped).abs().sum(1).mean() / 2
    assert change < 5e-4


def test_without_a_tolerance_all_iterations_run():
    logits = torch.full((1, 3, 4, 4), 0.0)
    mrf = MRF(2, 3)
    with torch.no_grad():
        mrf.final.weight.zero_()
    assert len(list(infer_responsibilities(logits, mrf, 6))) == 6
    assert len(list(infer_responsibilities(logits, mrf, 6, 1.0, 1e-6))) < 6


def test_no_gradient_is_kept():
    mrf = strong_mrf(2, 3)
    logits = torch.randn(1, 3, 5, 5, requires_grad=True)
    assert not next(infer_responsibilities(logits, mrf, 1)).requires_grad


def test_training_gradients_reach_every_weight():
    mrf = strong_mrf(3, 3)
    logits = torch.randn(1, 3, 5, 5, 5, requires_grad=True)
    *_, log_r = mean_field(logits.log_softmax(1), mrf, 3)
    log_r[:, 0].sum().backward()
    for parameter in (logits, *mrf.parameters()):
        assert parameter.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "at least 1 iteration"),
        ({"w": 0.0}, "damping"),
        ({"w": 1.5}, "damping"),
        ({"tolerance": -0.1}, "tolerance"),
        ({"tolerance": 1.0}, "tolerance"),
    ],
    ids=str,
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        next(
            infer_responsibilities(
                torch.zeros(1, 3, 4, 4), MRF(2, 3), **{"iterations": 1} | options
            )
        )
