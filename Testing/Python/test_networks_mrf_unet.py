"""The MRF-UNet against the golden vectors and the published network's facts."""

import itertools

import pytest
import torch
from MRFUNetSegmentationLib.networks import MRF, MRFUNet, MRFUNetConfig, mean_field
from MRFUNetSegmentationLib.networks import mrf as mrf_module
from MRFUNetSegmentationLib.networks.mrf import log_posterior
from MRFUNetSegmentationLib.networks.unet import InstanceNorm


def fill_with_sines(network: MRFUNet, scale: float) -> None:
    """Fill weights and biases of all convolutions, in order, with scale * sin(1, 2, 3, ...)."""
    k = 1
    convolutions = [m.conv for m in network.unet.modules() if hasattr(m, "conv")]
    convolutions += [network.mrf.neighbours, *network.mrf.extra, network.mrf.final]
    with torch.no_grad():
        for convolution in convolutions:
            for parameter in (convolution.weight, convolution.bias):
                n = parameter.numel()
                values = scale * torch.sin(torch.arange(k, k + n, dtype=torch.float64))
                parameter.copy_(values.view_as(parameter))
                k += n


@pytest.fixture
def golden() -> MRFUNet:
    network = MRFUNet(MRFUNetConfig(classes=3)).double().eval()
    fill_with_sines(network, 0.1)
    return network


def test_golden_vectors(golden):
    image = torch.cos(torch.arange(1, 33**3 + 1, dtype=torch.float64)).view(1, 1, 33, 33, 33)
    logits = golden.logits(image)
    posterior = golden(image)
    expected_logits = torch.tensor([-0.4933253772, 3.6678364958, 0.6480271791], dtype=torch.float64)
    expected = torch.tensor([0.01090834577, 0.943800917177, 0.045290737053], dtype=torch.float64)
    centre = (0, slice(None), 16, 16, 16)
    torch.testing.assert_close(logits[centre], expected_logits, rtol=0, atol=1e-9)
    torch.testing.assert_close(posterior[centre], expected, rtol=0, atol=1e-9)


def test_default_network_has_the_published_number_of_parameters():
    network = MRFUNet(MRFUNetConfig(classes=3))
    # 88 entries of upstream's state include one counter for each normalisation.
    assert len(network.state_dict()) == 88
    assert sum(p.numel() for p in network.parameters()) == 301_655


@pytest.mark.parametrize(
    ("j", "unet", "mrf"), [(1, 74_366, 1_812), (2, 295_712, 1_812), (3, 1_179_692, 1_812)]
)
def test_paper_networks_have_the_published_number_of_parameters(j, unet, mrf):
    network = MRFUNet(MRFUNetConfig.paper(j))
    assert sum(p.numel() for p in network.mrf.parameters()) == mrf
    assert sum(p.numel() for p in network.unet.parameters()) == unet


@pytest.mark.parametrize(
    "size", [(31, 31, 31), (32, 33, 34), (40, 31, 47)], ids=lambda s: "x".join(map(str, s))
)
def test_any_size_from_the_minimum_on(size):
    network = MRFUNet(MRFUNetConfig(classes=3)).eval()
    posterior = network(torch.randn(2, 1, *size))
    assert posterior.shape == (2, 3, *size)
    torch.testing.assert_close(posterior.sum(1), torch.ones(2, *size))


def test_2d():
    network = MRFUNet(MRFUNetConfig(classes=4, dim=2)).eval()
    assert network(torch.randn(2, 1, 50, 37)).shape == (2, 4, 50, 37)


@pytest.mark.parametrize("shape", [(1, 1, 30, 40, 40), (1, 2, 40, 40, 40), (1, 1, 40, 40)])
def test_wrong_images_are_refused(shape):
    with pytest.raises(ValueError, match="image"):
        MRFUNet(MRFUNetConfig(classes=3))(torch.zeros(shape))


def test_centre_stays_zero_in_training():
    torch.manual_seed(0)
    mrf = MRF(3, 3)
    optimiser = torch.optim.SGD(mrf.parameters(), lr=1.0)
    before = mrf.neighbours.weight.detach().clone()
    for _ in range(3):
        optimiser.zero_grad()
        mrf(torch.rand(1, 3, 5, 5, 5)).square().sum().backward()
        optimiser.step()
    change = (mrf.neighbours.weight - before).abs().amax((0, 1))
    assert change[1, 1, 1] == 0
    assert change[0, 1, 1] > 0


def test_own_responsibility_does_not_count():
    torch.manual_seed(0)
    mrf = MRF(2, 3)
    with torch.no_grad():
        mrf.neighbours.weight.fill_(1.0)
    r = torch.rand(1, 3, 7, 7, requires_grad=True)
    mrf(r)[0, :, 3, 3].sum().backward()
    assert (r.grad[0, :, 3, 3] == 0).all()
    assert (r.grad[0, :, 3, 2] != 0).any()


def test_free_centre_is_honoured():
    torch.manual_seed(0)
    mrf = MRF(2, 3, free_centre=True)
    assert (mrf.neighbours.weight[:, :, 1, 1] != 0).any()
    r = torch.rand(1, 3, 7, 7, requires_grad=True)
    mrf(r)[0, :, 3, 3].sum().backward()
    assert (r.grad[0, :, 3, 3] != 0).any()


BLOCKS = [1, 40, 90, 250, 10**6]


@pytest.mark.parametrize("voxels", BLOCKS)
@pytest.mark.parametrize("shape", [(11, 6, 5), (1, 6, 5), (2, 3, 4), (7, 9)], ids=str)
@pytest.mark.parametrize("extra_layers", [0, 2])
def test_blocks_without_gradients_give_the_same_as_the_whole_with(
    monkeypatch, shape, voxels, extra_layers
):
    torch.manual_seed(0)
    monkeypatch.setitem(mrf_module._BLOCK_VOXELS, "cpu", voxels)
    mrf = MRF(len(shape), 4, extra_layers=extra_layers).double()
    log_f = torch.log_softmax(torch.randn(3, 4, *shape, dtype=torch.float64), 1)
    *_, whole = mean_field(log_f, mrf, 3, w=0.7)
    with torch.no_grad():
        *_, blocks = mean_field(log_f, mrf, 3, w=0.7)
    torch.testing.assert_close(blocks, whole.detach(), rtol=0, atol=1e-12)


def test_log_posterior_is_the_logarithm_of_the_last_responsibilities():
    torch.manual_seed(0)
    mrf = MRF(2, 3).double()
    log_f = torch.log_softmax(torch.randn(1, 3, 6, 6, dtype=torch.float64), 1)
    for iterations, w in ((1, 1.0), (4, 1.0), (1, 0.5), (4, 0.5)):
        *_, last = mean_field(log_f, mrf, iterations, w)
        torch.testing.assert_close(log_posterior(log_f, mrf, iterations, w).exp(), last)


def test_tolerance_ends_the_iterations_early_and_changes_little():
    torch.manual_seed(0)
    mrf = MRF(3, 4)
    log_f = torch.log_softmax(3 * torch.randn(1, 4, 20, 20, 20), 1)
    with torch.no_grad():
        all_steps = list(mean_field(log_f, mrf, 30))
        early = list(mean_field(log_f, mrf, 30, tolerance=1e-4))
    assert 1 < len(early) < len(all_steps) == 30
    for mine, full in zip(early, all_steps, strict=False):
        assert torch.equal(mine, full)
    moved = [(0.5 * (b - a).abs().sum(1)).mean() for a, b in itertools.pairwise(early)]
    assert moved[-1] < 1e-4 <= min(moved[:-1])
    changed = early[-1].argmax(1) != all_steps[-1].argmax(1)
    assert changed.float().mean() <= 1e-3


@pytest.mark.parametrize("w", [1.0, 0.3, 0.05])
def test_early_stop_is_not_fooled_by_damping(w):
    torch.manual_seed(0)
    mrf = MRF(2, 3)
    log_f = torch.log_softmax(2 * torch.randn(1, 3, 60, 60), 1)
    with torch.no_grad():
        *_, full = mean_field(log_f, mrf, 1000, w)
        *_, early = mean_field(log_f, mrf, 1000, w, tolerance=5e-4)
    assert (early.argmax(1) != full.argmax(1)).float().mean() <= 1e-3


def test_early_stop_waits_for_the_image_that_moves_most():
    torch.manual_seed(0)
    mrf = MRF(2, 3)
    settled = 20 * torch.randn(7, 3, 40, 40)
    images = torch.log_softmax(torch.cat((settled, 0.1 * torch.randn(1, 3, 40, 40))), 1)
    with torch.no_grad():
        alone = len(list(mean_field(images[-1:], mrf, 50, tolerance=5e-4)))
        together = len(list(mean_field(images, mrf, 50, tolerance=5e-4)))
    assert alone == together


@pytest.mark.parametrize("tolerance", [-1e-3, 1.0])
def test_impossible_tolerance_is_refused(tolerance):
    log_f = torch.zeros(1, 3, 4, 4)
    with pytest.raises(ValueError, match="tolerance must lie in"):
        next(mean_field(log_f, MRF(2, 3), 2, tolerance=tolerance))


def test_mean_field_by_hand():
    """Two voxels, two classes: the update written out."""
    mrf = MRF(2, 2, filters=1).double()
    with torch.no_grad():
        mrf.neighbours.weight.zero_()
        mrf.neighbours.weight[0, 0, 1, 2] = 2.0  # from the right neighbour's class 0
        mrf.neighbours.bias.fill_(-0.5)
        mrf.final.weight.copy_(torch.tensor([1.5, -1.0]).view(2, 1, 1, 1))
        mrf.final.bias.copy_(torch.tensor([0.1, 0.2], dtype=torch.float64))
    log_f = torch.log(torch.tensor([[0.6, 0.3], [0.4, 0.7]], dtype=torch.float64)).view(1, 2, 1, 2)

    def update(r0_of_the_right: float, f0: float) -> float:
        hidden = 2.0 * r0_of_the_right - 0.5
        hidden = hidden if hidden > 0 else 0.2 * hidden
        odds = (f0 / (1 - f0)) * 2.718281828459045 ** (1.5 * hidden + 0.1 + hidden - 0.2)
        return odds / (1 + odds)

    left, right = 0.5, 0.5
    for r in mean_field(log_f, mrf, 3):
        left, right = update(right, 0.6), update(0.0, 0.3)
        assert r[0, 0, 0].tolist() == pytest.approx([left, right], abs=1e-12)


def test_damping_mixes_new_and_old():
    torch.manual_seed(0)
    mrf = MRF(2, 3).double()
    log_f = torch.log_softmax(torch.randn(1, 3, 6, 6, dtype=torch.float64), 1)
    (undamped,) = mean_field(log_f, mrf, 1)
    (damped,) = mean_field(log_f, mrf, 1, w=0.3)
    torch.testing.assert_close(damped, 0.3 * undamped + 0.7 / 3)


def test_no_iteration_is_an_error():
    network = MRFUNet(MRFUNetConfig(dim=2, classes=3, encoder=(2,), decoder=(2,)))
    with pytest.raises(ValueError, match="at least 1 iteration"):
        list(network.responsibilities(torch.zeros(1, 3, 8, 8), iterations=0))


def test_iterations_are_fixed_at_test_and_drawn_within_the_range_in_training(monkeypatch):
    network = MRFUNet(
        MRFUNetConfig(dim=2, classes=3, iterations=7, training_iterations=(2, 4), encoder=(2,),
                      decoder=(2,))
    )  # fmt: skip
    counts = []
    original = network.mrf.forward
    monkeypatch.setattr(network.mrf, "forward", lambda r: counts.append(1) or original(r))

    def iterations() -> int:
        counts.clear()
        network(torch.randn(1, 1, 9, 9))
        return len(counts)

    network.eval()
    assert {iterations() for _ in range(3)} == {7}
    network.train()
    torch.manual_seed(0)
    assert {iterations() for _ in range(40)} == {2, 3, 4}


def test_responsibilities_after_each_iteration_end_at_the_posterior():
    network = MRFUNet(MRFUNetConfig(classes=3)).eval()
    image = torch.randn(1, 1, 31, 31, 31)
    steps = list(network.responsibilities(network.logits(image)))
    assert len(steps) == network.config.iterations
    torch.testing.assert_close(steps[-1], network(image))


def test_unet_alone_is_the_softmax_of_its_logits():
    network = MRFUNet(MRFUNetConfig(classes=3, mrf=False)).eval()
    image = torch.randn(1, 1, 31, 31, 31)
    torch.testing.assert_close(network(image), network.logits(image).softmax(1))
    with pytest.raises(ValueError, match="without an MRF"):
        next(network.responsibilities(network.logits(image)))


@pytest.mark.parametrize(
    "wrong", [{"iterations": 0}, {"training_iterations": (5, 2)}, {"dim": 4}, {"decoder": (3,)}]
)
def test_impossible_hyper_parameters_are_refused(wrong):
    with pytest.raises(ValueError, match=r".+"):
        MRFUNet(MRFUNetConfig(**wrong))


def test_layers_deepen_every_level_but_the_full_resolution():
    config = MRFUNetConfig(classes=3, encoder=(4, 6), decoder=(6, 4, 4), layers=3)
    network = MRFUNet(config)
    convolutions = [m for m in network.unet.modules() if isinstance(m, torch.nn.Conv3d)]
    # Two levels down and one up (the other is the full resolution) with two more each; the
    # strided ones; the stack.
    assert len(convolutions) == 2 * 3 + 2 + 2
    image = torch.rand(1, 1, 17, 20, 15)
    assert network.logits(image).shape == (1, 3, 17, 20, 15)
    assert set(MRFUNet(MRFUNetConfig(classes=3)).state_dict()) == set(
        MRFUNet(MRFUNetConfig(classes=3, layers=1)).state_dict()
    )


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (9, 12), (16, 31)])
def test_padded_strided_convolutions_take_any_size(size):
    config = MRFUNetConfig(dim=2, encoder=(4, 6), decoder=(6, 4), strided_padding=1)
    network = MRFUNet(config).eval()
    assert network.unet.minimum_size == 1
    assert network(torch.randn(1, 1, *size)).shape == (1, 4, *size)


@pytest.mark.parametrize(
    "wrong",
    [
        {"strided_padding": 2},
        {"decoder_activations": ["none"]},
        {"decoder_activations": ["none", "tanh"]},
    ],
)
def test_other_padding_and_activations_are_refused(wrong):
    with pytest.raises(ValueError, match=r"padding|decoder layers"):
        MRFUNet(MRFUNetConfig(dim=2, encoder=(4, 6), decoder=(6, 4), **wrong))


def test_levels_without_layers_are_refused():
    with pytest.raises(ValueError, match="at least 1 layer"):
        MRFUNet(MRFUNetConfig(layers=0))


def test_instance_norm_of_a_single_voxel_is_its_limit():
    """A constant image becomes the bias, of however few voxels it is."""
    norm = InstanceNorm(3)
    with torch.no_grad():
        norm.bias.copy_(torch.tensor([1.0, -2.0, 0.5]))
    single = norm(torch.full((2, 3, 1, 1, 1), 7.0))
    several = norm(torch.full((2, 3, 2, 1, 1), 7.0))
    torch.testing.assert_close(single, several[:, :, :1], atol=1e-3, rtol=0)


@pytest.mark.parametrize("threads", [1, 2])
def test_instance_norm_is_exact_however_many_threads_compute_it(threads):
    """In channels-last, features off zero: what adding up in float32 gets wrong the most."""
    features = 3 + torch.randn(2, 4, 96, 96, 96).to(memory_format=torch.channels_last_3d)
    double = features.double()
    variance, mean = torch.var_mean(double, (2, 3, 4), correction=0, keepdim=True)
    norm = InstanceNorm(4)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            found = norm(features)
    finally:
        torch.set_num_threads(before)
    expected = (double - mean) / (variance + norm.eps).sqrt()
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)
    assert found.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16, torch.float16])
@torch.no_grad()
def test_instance_norm_in_any_precision(kind):
    image, norm = torch.randn(1, 4, 6, 6, 6), InstanceNorm(4)
    found = norm.to(kind)(image.to(kind))
    assert found.dtype == kind
    tolerance = max(1e-5, 4 * torch.finfo(kind).eps)
    torch.testing.assert_close(found.float(), InstanceNorm(4)(image), atol=4 * tolerance, rtol=0)


def test_gradients_pass_through_the_moments_of_instance_norm():
    """A shift of a channel, or a scale, changes nothing: so no gradient points along them."""
    image = (3 + torch.randn(2, 4, 8, 8, 8)).requires_grad_()
    InstanceNorm(4)(image).pow(3).sum().backward()
    axes = (2, 3, 4)
    centred = image.detach() - image.detach().mean(axes, keepdim=True)
    torch.testing.assert_close(image.grad.sum(axes), torch.zeros(2, 4), atol=1e-2, rtol=0)
    torch.testing.assert_close(
        (image.grad * centred).sum(axes), torch.zeros(2, 4), atol=1e-2, rtol=0
    )
    assert image.grad.abs().max() > 1
