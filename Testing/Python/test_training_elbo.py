"""The evidence lower bound and its constrained form, by hand where that can be."""

import math

import pytest
import torch
from MRFUNetSegmentationLib.networks import (
    MRFUNet,
    MRFUNetConfig,
    ProbabilisticUNet,
    ProbabilisticUNetConfig,
)
from MRFUNetSegmentationLib.training.config import ConfigError, ElboConfig, Stage
from MRFUNetSegmentationLib.training.elbo import (
    ElboTerms,
    Geco,
    elbo_terms,
    kl_by_dimension,
    terms_without_latent,
)
from MRFUNetSegmentationLib.training.objectives import (
    ElboObjective,
    LikelihoodObjective,
    soft_dice_loss,
)


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


def test_a_share_of_the_prior_trains_the_prior_by_the_labels():
    network = small()
    image, labels = torch.randn(2, 1, 8, 8).double(), torch.zeros(2, 8, 8)
    shared = elbo_terms(network, image, labels, prior_share=1.0)
    plain = elbo_terms(network, image, labels)
    assert torch.equal(shared.kl, plain.kl)
    for terms, reached in ((shared, True), (plain, False)):
        network.zero_grad()
        terms.reconstruction.backward()
        gradient = network.prior_encoder.moments.weight.grad
        assert (gradient is not None and bool(gradient.any())) == reached
    # Where the prior is the posterior and certain, both terms are the same.
    for encoder in (network.prior_encoder, network.posterior_encoder):
        set_moments(encoder, (0.3, -0.2), (-40.0, -40.0))
    alike = [elbo_terms(network, image, labels, prior_share=s).reconstruction for s in (0.0, 0.5)]
    assert alike[0].item() == pytest.approx(alike[1].item(), rel=1e-9)
    with pytest.raises(ConfigError, match="prior_share must lie"):
        ElboConfig(prior_share=2)


def test_terms_without_latent_are_those_of_the_latent_zero():
    network = small()
    image, labels = torch.randn(2, 1, 8, 8).double(), torch.ones(2, 8, 8)
    terms = terms_without_latent(network, image, labels)
    for encoder in (network.prior_encoder, network.posterior_encoder):
        set_moments(encoder, (0.0, 0.0), (-40.0, -40.0))
    expected = elbo_terms(network, image, labels).reconstruction
    assert terms.reconstruction.item() == pytest.approx(expected.item(), rel=1e-9)
    assert terms.kl == 0
    terms.loss(1.0).backward()
    # Every weight has a gradient, as processes that share them need; the encoders' is 0.
    assert all(p.grad is not None for p in network.parameters())
    assert not network.prior_encoder.moments.weight.grad.any()
    assert network.unet.encoder.scales[0][0].weight.grad.any()


def test_a_stage_says_whether_the_latent_takes_part():
    objective = ElboObjective(small(), False, ElboConfig())
    image, labels = torch.randn(2, 1, 8, 8).double(), torch.ones(2, 8, 8, dtype=torch.long)
    for latent in (False, True):
        objective.begin_stage(Stage(1, (1e-3, 1e-3), (8, 8), latent=latent))
        assert bool(objective(image, labels)["kl"] > 0) == latent


def test_kl_of_single_dimensions_by_hand():
    network = small()
    set_moments(network.posterior_encoder, (1.0, 0.5), (math.log(2), math.log(3)))
    set_moments(network.prior_encoder, (0.0, 0.5), (0.0, math.log(3)))
    image = torch.randn(2, 1, 8, 8).double()
    kl = kl_by_dimension(network, image, [torch.zeros(2, 8, 8)] * 3)
    expected = torch.tensor([math.log(1 / 2) + (4 + 1) / 2 - 0.5, 0.0]).double()
    torch.testing.assert_close(kl, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("classes", [1, 3])
def test_reconstruction_with_an_mrf_is_that_after_the_mean_field(classes):
    network = small(classes, mrf=True, iterations=3).eval()
    image, labels = torch.randn(1, 1, 8, 8).double(), torch.randint(max(2, classes), (1, 8, 8))
    terms = elbo_terms(network, image, labels, torch.zeros(1, 2).double())
    z = network.posterior(image, labels).mean
    logits = network.decode(network.project(network.features(image)), z)
    *_, posterior = network.responsibilities(logits)
    by_hand = -posterior.gather(1, labels[:, None]).log().sum()
    torch.testing.assert_close(terms.reconstruction, by_hand)
    without = small(classes).eval()
    without.load_state_dict(network.state_dict(), strict=False)
    assert (
        terms.reconstruction
        != elbo_terms(without, image, labels, torch.zeros(1, 2).double()).reconstruction
    )


def test_sums_are_exact_in_mixed_precision():
    """bfloat16 has 8 bits: a sum over 4096 voxels in it would be off by far more than this."""
    network = small(2).float()
    image, labels = torch.randn(1, 1, 64, 64), torch.randint(2, (1, 64, 64))
    exact = elbo_terms(network, image, labels, torch.zeros(1, 2))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = elbo_terms(network, image, labels, torch.zeros(1, 2))
    assert mixed.reconstruction.dtype == mixed.kl.dtype == torch.float32
    torch.testing.assert_close(mixed.reconstruction, exact.reconstruction, rtol=2e-3, atol=0)


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


@pytest.mark.parametrize("options", [{}, {"informed": True}, {"mrf": True, "iterations": 2}])
def test_several_raters_of_an_image_count_as_that_image_several_times(options):
    network = small(**options).eval()
    image, labels = torch.randn(2, 1, 8, 8).double(), torch.randint(3, (6, 8, 8))
    repeated, epsilon = image.repeat_interleave(3, 0), torch.randn(6, 2).double()
    for several, one_by_one in (
        (
            elbo_terms(network, image, labels, epsilon),
            elbo_terms(network, repeated, labels, epsilon),
        ),
        (
            terms_without_latent(network, image, labels),
            terms_without_latent(network, repeated, labels),
        ),
    ):
        torch.testing.assert_close(several.reconstruction, one_by_one.reconstruction)
        torch.testing.assert_close(several.kl, one_by_one.kl)
    shared = elbo_terms(network, image, labels, prior_share=1.0).reconstruction
    assert torch.isfinite(shared)


def test_several_raters_count_alike_without_a_latent():
    torch.manual_seed(0)
    network = MRFUNet(
        MRFUNetConfig(dim=2, classes=3, encoder=(4, 4), decoder=(4, 4), norm="instance", mrf=False)
    )
    objective = LikelihoodObjective(network, mixed=False, dice_weight=1.0)
    image, labels = torch.randn(2, 1, 16, 16), torch.randint(3, (6, 16, 16))
    several = objective(image, labels)
    one_by_one = objective(image.repeat_interleave(3, 0), labels)
    for name in ("likelihood", "dice"):
        torch.testing.assert_close(several[name], one_by_one[name])


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


@pytest.mark.parametrize("informed", [False, True])
def test_mixed_precision_trains_every_weight(informed):
    """Up to torch 2.9 its cache kept the gradients of an informed posterior from f_comb."""
    network = small(informed=informed).float()
    objective = ElboObjective(network, mixed=True, balance=ElboConfig())
    objective.begin_stage(Stage(steps=5, learning_rate=(0.1, 0.1), shape=(8, 8)))
    terms = objective(torch.rand(2, 1, 8, 8), torch.randint(0, 3, (2, 8, 8)))
    objective.loss(terms, terms, 3, voxels=64).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []
    with objective._autocast(torch.zeros(1)):
        assert not torch.is_autocast_cache_enabled()


def test_multiplier_waits_for_the_latent():
    """Without it the constraint may be out of reach, and the multiplier would rise for nothing."""
    balance = ElboConfig(target=0.01)
    objective = ElboObjective(small(), mixed=False, balance=balance, begins=5)
    objective.begin_stage(Stage(steps=5, learning_rate=(0.1, 0.1), shape=(8, 8), latent=False))
    costs = {"reconstruction": torch.tensor(64.0), "kl": torch.tensor(0.0)}
    for step in range(5):
        assert objective.loss(costs, costs, step, voxels=64) == 64
    assert objective.geco.multiplier == 1
    objective.begin_stage(Stage(steps=5, learning_rate=(0.1, 0.1), shape=(8, 8)))
    objective.loss(costs, costs, 5, voxels=64)
    assert objective.geco.multiplier > 1


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


def test_processes_that_see_different_images_keep_one_multiplier():
    one, two = Geco(target=10.0), Geco(target=10.0)
    for mine, other in ((30.0, 12.0), (5.0, 25.0)):
        mean = (mine + other) / 2
        one.loss(terms(mine), mean)
        two.loss(terms(other), mean)
        assert one.multiplier == two.multiplier
        assert one.violation == two.violation


def test_beta_rises_to_its_value():
    balance = ElboConfig(beta=4.0, warm_up=8)
    assert [balance.beta_at(step) for step in (0, 3, 7, 100)] == [0.5, 2.0, 4.0, 4.0]
    assert ElboConfig(beta=4.0).beta_at(0) == 4.0
    with pytest.raises(ConfigError, match="target must be above 0"):
        ElboConfig(target=0.0)


def test_target_of_the_objective_is_for_a_voxel():
    objective = ElboObjective(small(), mixed=False, balance=ElboConfig(target=0.5))
    parts = {"reconstruction": torch.tensor(60.0), "kl": torch.tensor(2.0)}
    loss = objective.loss(parts, parts, step=0, voxels=100)
    assert loss.item() == pytest.approx(2 + 1 * (60 - 50))  # the multiplier begins at 1
    other = ElboObjective(small(), mixed=False, balance=ElboConfig(target=0.5))
    other.load_balance_state(objective.balance_state())
    assert other.geco.multiplier == objective.geco.multiplier != 1


def test_soft_dice_loss_by_hand():
    labels = torch.tensor([[0, 1, 1, 2]]).view(1, 2, 2)
    certain = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).double()
    assert soft_dice_loss(certain, labels) == 0
    wrong = certain.roll(1, dims=1)  # 0 as 1, 1 as 2, 2 as 0: nothing overlaps
    # 1 - 100 / (total + 100), totals 1 + 2 of class 1 and 2 + 1 of class 2
    assert soft_dice_loss(wrong, labels).item() == pytest.approx(1 - 100 / 103)


@pytest.mark.parametrize(
    "wrong", [{"target": 0}, {"decay": 1.0}, {"rate": 0}, {"bounds": (2.0, 1.0)}]
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="expected target"):
        Geco(**{"target": 1.0, **wrong})
