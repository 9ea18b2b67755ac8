"""Streamed mean and variance of samples against all samples side by side."""

import pytest
import torch
from MRFUNetSegmentationLib.networks import ProbabilisticUNet, ProbabilisticUNetConfig
from MRFUNetSegmentationLib.uncertainty.sampling import _moments, sample_statistics


def small_network(**options) -> ProbabilisticUNet:
    torch.manual_seed(0)
    network = ProbabilisticUNet(
        ProbabilisticUNetConfig(**{"filters": (8, 12), "latent": 3, "convolutions": 1} | options)
    ).eval()
    with torch.no_grad():
        # So that the samples differ visibly.
        network.f_comb.latent.weight.normal_()
        for parameter in network.f_comb.final.parameters():
            parameter.normal_()
    return network


def all_samples(network, projected, prior, epsilon) -> torch.Tensor:
    """Return the class probabilities (N, B, K, *spatial), one decoding after another."""
    with torch.no_grad():
        return torch.stack(
            [
                network.probabilities(network.decode(projected, prior.mean + prior.stddev * e))
                for e in epsilon
            ]
        )


@pytest.mark.parametrize("block_values", [8 * 7, 2**18])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "per image"])
@pytest.mark.parametrize(
    "options",
    [{}, {"classes": 3}, {"dim": 3}, {"dim": 3, "classes": 4}, {"f_comb_layers": 2},
     {"f_comb_layers": 5}],
    ids=str,
)  # fmt: skip
def test_equals_the_samples_side_by_side(monkeypatch, block_values, shared, options):
    module = "MRFUNetSegmentationLib.uncertainty.sampling"
    monkeypatch.setattr(f"{module}._CPU_BLOCK_VALUES", block_values)
    network = small_network(**options)
    image = torch.randn(2, 1, *(6, 9, 5)[: network.config.dim])
    epsilon = torch.randn(11, 3) if shared else torch.randn(11, 2, 3)
    with torch.no_grad():
        projected, prior = network.project(network.features(image)), network.prior(image)
    expected = all_samples(network, projected, prior, epsilon)

    computed = sample_statistics(network, projected, prior, epsilon)

    assert computed.mean.shape == computed.variance.shape == expected.shape[1:]
    assert (computed.mean - expected.mean(0)).abs().max() < 1e-5
    assert (computed.variance - expected.var(0, unbiased=False)).abs().max() < 1e-5
    assert computed.variance.max() > 1e-3


def test_memory_layout_makes_no_difference():
    network = small_network()
    image = torch.randn(2, 1, 8, 8)
    prior, epsilon = network.prior(image), torch.randn(5, 3)
    projected = network.project(network.features(image))
    plain = sample_statistics(network, projected.contiguous(), prior, epsilon)
    last = projected.contiguous(memory_format=torch.channels_last)
    last = sample_statistics(network, last, prior, epsilon)
    torch.testing.assert_close(plain.mean, last.mean)
    torch.testing.assert_close(plain.variance, last.variance, rtol=1e-4, atol=1e-7)


def test_one_sample_has_no_variance():
    network = small_network()
    image = torch.randn(1, 1, 8, 8)
    projected, prior = network.project(network.features(image)), network.prior(image)
    statistics = sample_statistics(network, projected, prior, torch.zeros(1, 3))
    torch.testing.assert_close(statistics.mean, network(image).detach())
    assert (statistics.variance == 0).all()
    assert not statistics.mean.requires_grad


def test_without_a_latent_all_samples_are_the_plain_networks():
    network = ProbabilisticUNet(ProbabilisticUNetConfig(filters=(8, 12), latent=0)).eval()
    image = torch.randn(2, 1, 8, 8)
    projected, prior = network.project(network.features(image)), network.prior(image)
    statistics = sample_statistics(network, projected, prior, torch.zeros(3, 0))
    torch.testing.assert_close(statistics.mean, network(image).detach())
    assert (statistics.variance == 0).all()


def test_memory_does_not_grow_with_the_samples(monkeypatch):
    module = "MRFUNetSegmentationLib.uncertainty.sampling"
    monkeypatch.setattr(f"{module}._CPU_BLOCK_VALUES", 8 * 16)
    network = small_network(classes=2)
    image = torch.randn(1, 1, 8, 8)
    projected, prior = network.project(network.features(image)), network.prior(image)

    def allocated(samples: int) -> int:
        """Return the peak of bytes allocated and not yet freed."""
        epsilon = torch.randn(samples, 3)
        with torch.profiler.profile(profile_memory=True) as profiler:
            sample_statistics(network, projected, prior, epsilon)
        events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
        held = peak = 0
        for event in sorted(events, key=lambda e: e.start_ns()):
            held += event.nbytes()
            peak = max(peak, held)
        return peak

    # The latents and what they add to the features: 3 + 3 + 8 floating-point numbers each.
    assert allocated(200) - allocated(20) <= 180 * 4 * 24


def test_moments_are_sound_where_the_variance_is_tiny():
    """Variance 1e-12 about 0.9: squares of the values themselves would lose all of it."""
    torch.manual_seed(0)
    samples = 0.9 + 1e-6 * torch.randn(1000, 50)
    mean, variance = _moments(iter(samples.clone()))
    expected = samples.double()
    torch.testing.assert_close(mean, expected.mean(0).float(), rtol=1e-6, atol=0)
    torch.testing.assert_close(variance, expected.var(0, unbiased=False).float(), rtol=1e-3, atol=0)


def test_moments_are_sound_where_the_first_sample_is_the_outlier():
    samples = torch.full((10_000, 1), 0.5)
    samples[0] = 1.0
    _, variance = _moments(iter(samples.clone()))
    expected = samples.double().var(0, unbiased=False).float()
    torch.testing.assert_close(variance, expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("shape", [(3,), (0, 3), (5, 4), (5, 3, 3), (5, 1, 3, 1)], ids=str)
def test_wrong_epsilon_is_refused(shape):
    network = small_network()
    image = torch.randn(2, 1, 8, 8)
    projected, prior = network.project(network.features(image)), network.prior(image)
    with pytest.raises(ValueError, match="epsilon"):
        sample_statistics(network, projected, prior, torch.zeros(shape))
