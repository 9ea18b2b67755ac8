"""The Probabilistic U-Net: its parts, in 2D and 3D, for any size of image."""

import pytest
import torch
from MRFUNetSegmentationLib.networks import (
    ProbabilisticUNet,
    ProbabilisticUNetConfig,
    mean_field,
)


def build(**options) -> ProbabilisticUNet:
    torch.manual_seed(0)
    options = {"filters": (4, 6, 8), "latent": 3, **options}
    return ProbabilisticUNet(ProbabilisticUNetConfig(**options)).double().eval()


def images(dim: int, size=None, channels: int = 1, batch: int = 2) -> torch.Tensor:
    torch.manual_seed(1)
    size = size or (20, 24, 16)[:dim]
    return torch.randn(batch, channels, *size, dtype=torch.float64)


def test_the_default_has_the_published_number_of_parameters():
    network = ProbabilisticUNet(ProbabilisticUNetConfig(latent=2))
    assert sum(p.numel() for p in network.parameters()) == 4_996_233


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("channels", [1, 3])
def test_class_probabilities_of_any_configuration(dim, classes, channels):
    network = build(dim=dim, classes=classes, in_channels=channels)
    image = images(dim, channels=channels)
    probabilities = network(image)
    assert probabilities.shape == (2, classes, *image.shape[2:])
    assert probabilities.min() > 0
    assert probabilities.max() < 1
    if classes > 1:
        torch.testing.assert_close(probabilities.sum(1), torch.ones_like(probabilities[:, 0]))


@pytest.mark.parametrize("size", [(21, 17), (1, 9), (4, 30), (5, 6, 7), (16, 3, 9)])
def test_any_size_is_taken(size):
    image = images(len(size), size)
    assert build(dim=len(size))(image).shape == (2, 1, *size)


def test_sizes_that_divide_are_not_padded():
    network = build()
    image = images(2)
    assert torch.equal(network.features(image), network.unet(image))


def test_border_is_repeated_to_the_next_size_that_divides_and_cropped_again():
    network, image = build(), images(2, (21, 18))
    rows = [image[:, :, :1], image, image[:, :, -1:], image[:, :, -1:]]  # 24
    tall = torch.cat(rows, 2)
    padded = torch.cat([tall[..., :1], tall, tall[..., -1:]], 3)  # 20
    expected = network.unet(padded)[:, :, 1:22, 1:19]
    torch.testing.assert_close(network.features(image), expected)


@pytest.mark.parametrize("dim", [2, 3])
def test_decode_is_f_comb_on_features_beside_a_tiled_latent(dim):
    """The first layer, split into features and latent, against one layer on both."""
    network = build(dim=dim, classes=3)
    features, z = network.features(images(dim)), torch.randn(2, 3, dtype=torch.float64)
    f_comb = network.f_comb
    latent = f_comb.latent.weight.view(*f_comb.latent.weight.shape, *[1] * dim)
    weight = torch.cat((f_comb.features.weight, latent), 1)
    tiled = z.view(2, 3, *[1] * dim).expand(2, 3, *features.shape[2:])
    conv = torch.conv2d if dim == 2 else torch.conv3d
    x = conv(torch.cat((features, tiled), 1), weight, f_comb.features.bias).relu()
    for layer in f_comb.hidden:
        x = layer(x).relu()
    torch.testing.assert_close(network.decode(network.project(features), z), f_comb.final(x))


def test_samples_of_one_projection_equal_whole_passes():
    network, image = build(classes=3), images(2)
    prior, projected = network.prior(image), network.project(network.features(image))
    before = projected.clone()
    for _ in range(3):
        epsilon = torch.randn(2, 3, dtype=torch.float64)
        z = prior.mean + prior.stddev * epsilon
        sample = network.probabilities(network.decode(projected, z))
        torch.testing.assert_close(sample, network(image, epsilon))
    assert torch.equal(projected, before)


def test_prior_is_not_changed_by_what_another_image_or_the_padding_holds():
    network, image = build(), images(2, (21, 17))
    alone = network.prior(image[:1])
    torch.testing.assert_close(network.prior(image).mean[:1], alone.mean)
    # Odd sizes are pooled as they are: a constant image stays constant at every size.
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                kernel = module.weight
                kernel.zero_()
                kernel[:, :1, kernel.shape[2] // 2, kernel.shape[3] // 2] = 1
    constant = torch.ones(1, 1, 21, 17, dtype=torch.float64)
    torch.testing.assert_close(
        network.prior(constant).mean, network.prior(constant[:, :, :20, :16]).mean
    )


def test_posterior_sees_the_labels():
    network, image = build(classes=3), images(2)
    labels = torch.zeros(2, 20, 24, dtype=torch.long)
    other = labels.clone()
    other[1, 5:9] = 2
    a, b = network.posterior(image, labels), network.posterior(image, other)
    assert torch.equal(a.mean[0], b.mean[0])
    assert not torch.allclose(a.mean[1], b.mean[1])


def test_nothing_of_an_image_stays_on_the_network():
    network = build()
    before = set(vars(network)), {k: v.clone() for k, v in network.state_dict().items()}
    network(images(2))
    assert set(vars(network)) == before[0]
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[1][key])


@pytest.mark.parametrize("shape", [(1, 1, 8), (1, 2, 8, 8), (1, 1, 8, 8, 8)])
def test_wrong_images_are_refused(shape):
    with pytest.raises(ValueError, match="expected an image"):
        build()(torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize(
    "wrong",
    [
        {"dim": 4}, {"classes": 0}, {"latent": -1}, {"filters": ()}, {"f_comb_layers": 1},
        {"norm": "group"}, {"dropout": 1.0},
    ],
)  # fmt: skip
def test_impossible_hyper_parameters_are_refused(wrong):
    with pytest.raises(ValueError, match=r".+"):
        build(**wrong)


# --- With an MRF ----------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("classes", [1, 3])
def test_mrf_takes_the_likelihood_of_each_sample(dim, classes):
    network = build(dim=dim, classes=classes, mrf=True, iterations=4, w=0.8)
    image, epsilon = images(dim, size=(8, 9, 7)[:dim]), torch.randn(3, dtype=torch.float64)
    prior = network.prior(image)
    logits = network.decode(
        network.project(network.features(image)), prior.mean + prior.stddev * epsilon
    )
    both = torch.cat((torch.zeros_like(logits), logits), 1) if classes == 1 else logits
    *_, expected = mean_field(both.log_softmax(1), network.mrf, 4, 0.8)
    torch.testing.assert_close(network.log_posterior(logits).exp(), expected)
    torch.testing.assert_close(
        network(image, epsilon), expected[:, 1:] if classes == 1 else expected
    )
    # The product of experts has an effect, and without it there is the likelihood alone.
    alone = network.probabilities(logits)
    assert (network(image, epsilon) - alone).abs().max() > 1e-3
    torch.testing.assert_close(network.log_likelihood(logits).exp()[:, -classes:], alone)


@pytest.mark.parametrize("classes", [1, 3])
def test_without_an_mrf_the_posterior_is_the_likelihood(classes):
    network = build(classes=classes)
    logits = torch.randn(2, classes, 5, 6, dtype=torch.float64)
    assert network.mrf is None
    torch.testing.assert_close(network.log_posterior(logits), network.log_likelihood(logits))
    with pytest.raises(ValueError, match="without an MRF"):
        network.responsibilities(logits)


def test_mrf_can_be_trained_alone_and_together():
    network = build(classes=2, mrf=True).train()
    logits = network.decode(
        network.project(network.features(images(2))), torch.zeros(2, 3).double()
    )
    network.log_posterior(logits).sum().backward()
    for part in (network.mrf, network.unet, network.f_comb):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in part.parameters())
    network.zero_grad()
    network.log_posterior(logits.detach()).sum().backward()
    assert all(p.grad is None for p in network.unet.parameters())
    assert any(p.grad.abs().max() > 0 for p in network.mrf.parameters())


def test_impossible_iterations_are_refused():
    with pytest.raises(ValueError, match="iterations"):
        ProbabilisticUNetConfig(mrf=True, iterations=0)


def test_cards_from_before_the_mrf_still_fit():
    """Their architecture names no MRF."""
    config = ProbabilisticUNetConfig(filters=[4, 6], latent=2)
    assert config.mrf is False
    assert ProbabilisticUNetConfig(**config.to_dict()) == config


@pytest.mark.parametrize("classes", [1, 3])
def test_expected_foreground_is_where_the_probabilities_begin(classes):
    config = ProbabilisticUNetConfig(dim=2, classes=classes, filters=(4, 8), latent=2)
    network = ProbabilisticUNet(config)
    network.expect_foreground(0.02)
    nothing = torch.zeros(1, 1, 16, 16)  # features are 0, as all other biases are
    logits = network.decode(network.project(network.features(nothing)), torch.zeros(1, 2))
    foreground = network.log_likelihood(logits).exp()[:, 1:]
    torch.testing.assert_close(foreground.sum(1), torch.full((1, 16, 16), 0.02))
    torch.testing.assert_close(foreground[:, 0], foreground[:, -1])


@pytest.mark.parametrize("dim", [2, 3])
def test_batch_normalisation_keeps_every_convolutions_output_in_bounds(dim):
    network = build(dim=dim, norm="batch").train()
    features = [scale.flatten(2).var(2) for scale in network.unet.encoder(1000 * images(dim))]
    for variance in features:
        assert variance.mean() < 2
    assert any(name.endswith("running_mean") for name in network.state_dict())


def test_without_normalisation_the_weights_have_their_published_names():
    plain, with_dropout = build(), build(dropout=0.5)
    assert plain.state_dict().keys() == with_dropout.state_dict().keys()
    assert "unet.encoder.scales.0.4.weight" in plain.state_dict()


def test_dropout_leaves_out_channels_in_training_alone():
    network, image = build(dropout=0.5), images(2)
    assert torch.equal(network.features(image), network.features(image))
    network.train()
    assert not torch.equal(network.features(image), network.features(image))


@pytest.mark.filterwarnings("error")
def test_without_latent_it_is_a_plain_u_net():
    network, image = build(latent=0), images(2)
    assert not any("prior" in name or "posterior" in name for name in network.state_dict())
    assert network.prior(image).mean.shape == (2, 0)
    logits = network.decode(network.project(network.features(image)), image.new_zeros(2, 0))
    torch.testing.assert_close(network(image), logits.sigmoid())


@pytest.mark.parametrize("classes", [1, 3])
def test_an_informed_posterior_sees_what_the_u_net_finds(classes):
    network, image = build(informed=True, classes=classes), images(2)
    labels = torch.zeros(2, *image.shape[2:])
    projected = network.project(network.features(image))
    before = network.posterior(image, labels)
    given = network.posterior(image, labels, projected)
    assert torch.equal(before.mean, given.mean)
    assert not torch.equal(before.mean, network.posterior(image, labels, projected + 1).mean)
    # What raters differ in must not be learned by changing what is found.
    before.mean.sum().backward()
    assert network.unet.encoder.scales[0][0].weight.grad is None
