"""The evidence lower bound and its constrained form, by hand where that can be."""

import math

import pytest
import torch
from MRFUNetSegmentationLib.networks import ProbabilisticUNet, ProbabilisticUNetConfig
from MRFUNetSegmentationLib.training.elbo import ElboTerms, Geco, elbo_terms


def small(classes: int = 3, dim: int = 2, seed: int = 0, **options) -> ProbabilisticUNet:
    torch.manual_seed(seed)
    return ProbabilisticUNet(
        ProbabilisticUNetConfig(
            dim=dim, classes=classes, filters=(4, 6), convolutions=1, latent=2, **options
        )
    ).double()


def set_moments(encoder, mean, log_scale) -> None:
    """Make an encoder's Gaussian the same for every image."""
    with torch.no_grad():
        encoder.moments.weight.zero_()
        encoder.moments.bias.copy_(torch.tensor([*mean, *log_scale]))


def test_kl_of_two_gaussians_by_hand():
    network = small()
    set_moments(network.posterior_encoder, (1.0, -0.5), (math.log(2), 0.0))
    set_moments(network.prior_encoder, (0.0, 0.5), (0.0, math.log(3)))
    image = torch.randn(2, 1, 8, 8).double()
    terms = elbo_terms(network, image, torch.zeros(2, 8, 8))
    # ln(s_p / s_q) + (s_q^2 + (m_q - m_p)^2) / (2 s_p^2) - 1/2, for each dimension
    expected = (math.log(1 / 2) + (4 + 1) / 2 - 0.5) + (math.log(3) + (1 + 1) / 18 - 0.5)
    assert terms.kl.item() == pytest.approx(expected, abs=1e-6)
    assert terms.loss(10.0) == terms.reconstruction + 10 * terms.kl


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("dim", [2, 3])
def test_reconstruction_is_the_cross_entropy_summed_over_the_image(classes, dim):
    network = small(classes, dim)
    size = (9, 8, 6)[:dim]
    image = torch.randn(3, 1, *size).double()
    labels = torch.randint(max(2, classes), (3, *size))
    epsilon = torch.randn(3, 2).double()
    terms = elbo_terms(network, image, labels, epsilon)
    q = network.posterior(image, labels)
    logits = network.decode(network.project(network.features(image)), q.mean + q.stddev * epsilon)
    p = network.probabilities(logits)
    p = torch.cat((1 - p, p), 1) if classes == 1 else p
    by_hand = -p.gather(1, labels[:, None]).log().sum() / 3
    torch.testing.assert_close(terms.reconstruction, by_hand)


def test_terms_do_not_depend_on_the_size_of_the_batch():
    network = small()
    image, labels = torch.randn(1, 1, 8, 8).double(), torch.randint(3, (1, 8, 8))
    epsilon = torch.randn(1, 2).double()
    one = elbo_terms(network, image, labels, epsilon)
    four = elbo_terms(network, *(x.repeat_interleave(4, 0) for x in (image, labels, epsilon)))
    torch.testing.assert_close(four.reconstruction, one.reconstruction)
    torch.testing.assert_close(four.kl, one.kl)


def test_gradients_reach_every_weight():
    network = small()
    terms = elbo_terms(network, torch.randn(2, 1, 8, 8).double(), torch.randint(3, (2, 8, 8)))
    terms.loss(1.0).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_training_lowers_the_bound():
    network = small()
    image = torch.randn(4, 1, 16, 16).double()
    labels = (image[:, 0] > 0).long()
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        loss = elbo_terms(network, image, labels).loss(1.0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def terms(reconstruction: float, kl: float = 2.0) -> ElboTerms:
    return ElboTerms(torch.tensor(reconstruction, requires_grad=True), torch.tensor(kl))


def test_multiplier_rises_while_the_constraint_is_violated_and_falls_afterwards():
    geco = Geco(target=10.0, decay=0.5)
    for _ in range(5):
        before = geco.multiplier
        geco.loss(terms(30.0))
        assert geco.multiplier > before
    for _ in range(10):
        geco.loss(terms(1.0))
    assert geco.violation < 0
    before = geco.multiplier
    geco.loss(terms(1.0))
    assert geco.multiplier < before


def test_lagrangian_by_hand():
    geco = Geco(target=10.0, decay=0.5, rate=0.1)
    first = terms(30.0)
    assert geco.loss(first).item() == pytest.approx(2 + 1 * 20)
    assert geco.multiplier == pytest.approx(math.exp(0.1 * 1))
    second = terms(12.0)
    loss = geco.loss(second)  # the average is (20 + 2) / 2
    assert loss.item() == pytest.approx(2 + math.exp(0.1) * 11, rel=1e-6)
    loss.backward()
    assert second.reconstruction.grad.item() == pytest.approx(math.exp(0.1), rel=1e-6)


def test_multiplier_stays_in_its_bounds_and_resumes():
    geco = Geco(target=1.0, bounds=(0.5, 2.0))
    for _ in range(50):
        geco.loss(terms(100.0))
    assert geco.multiplier == 2.0
    other = Geco(target=1.0, bounds=(0.5, 2.0))
    other.load_state_dict(geco.state_dict())
    assert other.loss(terms(3.0)) == geco.loss(terms(3.0))


@pytest.mark.parametrize(
    "wrong", [{"target": 0}, {"decay": 1.0}, {"rate": 0}, {"bounds": (2.0, 1.0)}]
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="expected target"):
        Geco(**{"target": 1.0, **wrong})
