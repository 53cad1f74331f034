import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, norm
from torch import nn

from cl_ac.data.seeding import global_stream
from cl_ac.errors import ConfigurationError
from cl_ac.generators import VAE, Adam


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def built(shapes=((2, 3), (4,)), classes: int = 3, reads=None, **options) -> VAE:
    with global_stream(0, "test"):
        vae = VAE(**{"latent": 2, "width": 5, "layers": 2, **options})
        vae.build(shapes, reads)
        vae.grow(classes)
    return vae


def constant(
    vae: VAE, mean: tuple[float, float], log_variance: tuple[float, float], outputs: tuple[float, ...]
) -> None:
    """Lets a VAE encode and decode everything alike."""
    with torch.no_grad():
        for layer, bias in [(vae.posterior, (*mean, *log_variance))]:
            layer.weight.zero_()
            layer.bias.copy_(torch.tensor(bias))
        for layer, value in zip(vae.outputs, outputs, strict=True):
            layer.weight.zero_()
            layer.bias.fill_(value)


def test_the_divergence_is_that_of_two_normal_distributions_in_the_mean_over_draws():
    vae = built(((6,),), standardise=False, noise=6.0)
    mean, log_variance = (0.5, -1.0), (math.log(0.3), math.log(2.0))
    constant(vae, mean, log_variance, (0.0,))
    with torch.no_grad():
        vae.prior.means[1] = torch.tensor([1.0, 2.0])
        vae.prior.log_variances[1] = torch.tensor([0.5, 1.5]).log()
    count = 40_000
    loss = vae.loss([torch.zeros(count, 6)], torch.ones(count, dtype=torch.int64), stream())
    # KL(N(m, s) || N(a, b)) = ½ Σ (s / b + (m − a)² / b − 1 + log(b / s)); no error, and 6 features weigh it 6 / 6.
    by_hand = 0.5 * ((0.3 / 0.5 + 0.25 / 0.5 - 1 + math.log(0.5 / 0.3)) + (2 / 1.5 + 9 / 1.5 - 1 + math.log(1.5 / 2)))
    assert loss.item() == pytest.approx(by_hand, rel=0.02)


def test_reconstruction_is_half_the_mean_square_of_each_level_summed():
    vae = built(standardise=False, noise=1e-9)
    constant(vae, (0, 0), (0, 0), (1.0, -1.0))
    features = [torch.full((4, 2, 3), 3.0), torch.tensor([[0.0, 1.0, 2.0, 3.0]]).expand(4, 4)]
    # ½ · 2² at level 0 and ½ · (1 + 4 + 9 + 16) / 4 at level 1.
    assert vae.loss(features, torch.zeros(4, dtype=torch.int64), stream()).item() == pytest.approx(2 + 30 / 8, abs=1e-6)


def test_standardised_errors_are_relative_to_the_variance_of_the_features():
    features = [torch.randn(50, 2, 3, generator=stream()), torch.rand(50, 4, generator=stream())]
    scaled = [10 * features[0], 0.01 * features[1]]
    targets = torch.zeros(50, dtype=torch.int64)
    losses = []
    for values in (features, scaled):
        vae = built(noise=1e-9)
        constant(vae, (0, 0), (0, 0), (0.0, 0.0))
        losses.append(vae.loss(values, targets, stream()).item())
    by_hand = sum(0.5 * (value.numpy() ** 2).mean() / value.numpy().var() for value in features)
    assert losses == pytest.approx([by_hand, by_hand], rel=1e-5)


def test_a_batch_that_overflows_spoils_no_later_one():
    vae, targets = built(((6,),)), torch.tensor([0, 1, 2])
    features = torch.randn(3, 6, generator=stream())
    vae.loss([features], targets, stream())
    before = vae.variances.clone()
    vae.loss([features.index_fill(0, torch.tensor([0]), torch.inf)], targets, stream())
    assert torch.equal(vae.variances, before)
    assert vae.loss([features], targets, stream()).isfinite()


def test_soft_targets_are_a_mixture_of_the_classes_modes():
    vae = built()
    with torch.no_grad():
        vae.prior.log_variances.copy_(torch.tensor([[0.1, -0.4], [0.7, 0.0], [-1.0, 0.3]]))
    values, weights = torch.randn(5, 2, generator=stream()), torch.rand(5, 3, generator=stream(1))
    weights /= weights.sum(1, keepdim=True)
    means, variances = (value.detach().double().numpy() for value in (vae.prior.means, vae.prior.log_variances.exp()))
    densities = np.stack(
        [multivariate_normal(m, np.diag(v)).pdf(values.numpy()) for m, v in zip(means, variances, strict=True)], 1
    )
    expected = np.log((weights.numpy() * densities).sum(1))
    torch.testing.assert_close(
        vae.prior.log_density(values, weights).detach().double(), torch.tensor(expected), rtol=1e-4, atol=1e-4
    )


def test_classes_are_drawn_as_often_as_soft_targets_say():
    prior = built(latent=1).prior
    with torch.no_grad():
        prior.means.copy_(torch.tensor([[0.0], [100.0], [200.0]]))
    drawn = prior.draw(torch.tensor([[0.2, 0.0, 0.8]]).expand(4000, 3), stream())
    counts = (drawn[:, 0] / 100).round().long().bincount(minlength=3) / 4000
    assert counts.tolist() == pytest.approx([0.2, 0.0, 0.8], abs=0.03)


def test_log_likelihood_of_a_linear_gaussian_model_is_the_exact_one():
    """x = a z + b + noise with one latent value has the density N(b, a aᵀ + σ²)."""
    vae = built(((3,),), classes=1, latent=1, width=1, layers=1, standardise=False, noise=0.5)
    slope, offset = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.1, 0.2, 0.3])
    with torch.no_grad():
        vae.prior.means.fill_(50.0)  # where the rectifier is linear
        vae.prior.log_variances.zero_()
        vae.decoder[0].weight.fill_(1.0)
        vae.decoder[0].bias.zero_()
        vae.outputs[0].weight.copy_(slope[:, None])
        vae.outputs[0].bias.copy_(offset - 50 * slope)
        vae.posterior.weight.zero_()
        vae.posterior.bias.copy_(torch.tensor([50.0, math.log(2.0)]))
    features = torch.tensor([[0.3, 0.1, 0.2], [1.0, -1.0, 0.0]])
    covariance = np.outer(slope, slope) + 0.5 * np.eye(3)
    expected = multivariate_normal(offset.numpy(), covariance).logpdf(features.numpy())
    for targets in (torch.zeros(2, dtype=torch.int64), None):
        found = vae.log_likelihood(features, targets, stream(), draws=20_000)
        assert found.tolist() == pytest.approx(expected.tolist(), abs=0.05)


def test_where_no_class_is_known_the_density_is_that_of_an_even_mixture_also_with_gates():
    vae = built(((1,),), classes=2, width=2, layers=1, gates=0.5, standardise=False, noise=0.5)
    with torch.no_grad():
        for layer in (vae.posterior, vae.decoder[0]):
            layer.weight.zero_()
            layer.bias.zero_()
        vae.prior.means.zero_()
        vae.decoder[0].bias.fill_(1.0)
        vae.class_gates.open.copy_(torch.eye(2)[:, None])  # the first class decodes to 3, the second to -1
        vae.outputs[0].weight.copy_(torch.tensor([[3.0, -1.0]]))
        vae.outputs[0].bias.zero_()
    features = torch.tensor([[2.5], [0.0]])
    densities = [norm(mean, math.sqrt(0.5)).pdf(features.numpy()[:, 0]) for mean in (3, -1)]
    found = vae.log_likelihood(features, None, stream(), draws=2)
    assert found.tolist() == pytest.approx(np.log(np.mean(densities, 0)).tolist(), rel=1e-5)


def test_a_deep_level_runs_no_layer_of_the_decoder_below_it():
    vae = built(((6,), (5,), (4,)), layers=3)
    ran: list[nn.Module] = []
    for layer in [*vae.decoder, *vae.outputs]:
        layer.register_forward_hook(lambda module, *_: ran.append(module))
    targets = torch.tensor([0, 1])
    for level, count in ((2, 1), (1, 2), (0, 3)):
        ran.clear()
        (sample,) = vae.sample(targets, [level], stream())
        assert sample.shape == (2, 6 - level)
        assert ran == [*vae.decoder[:count], vae.outputs[level]]


def test_levels_of_one_draw_belong_to_the_same_sample():
    vae, targets = built(), torch.tensor([0, 2, 1])
    both = vae.sample(targets, [0, 1], stream())
    for level in (0, 1):
        assert torch.equal(both[level], vae.sample(targets, [level], stream())[0])


def test_gates_switch_off_the_share_of_each_class_and_mix_by_probability():
    vae = built(width=10, gates=0.3)
    opened = vae.class_gates.open
    assert (opened.sum(-1) == 7).all()
    assert not torch.equal(opened[0], opened[1])
    hidden = torch.rand(1, 10, generator=stream())
    mixed = vae.class_gates(hidden, torch.tensor([[0.25, 0.75, 0.0]]), 1)
    torch.testing.assert_close(mixed, hidden * (0.25 * opened[0, 1] + 0.75 * opened[1, 1]))


def test_new_classes_leave_the_modes_and_gates_of_known_ones_alone():
    vae = built(gates=0.4)
    before = [vae.prior.means.clone(), vae.class_gates.open.clone()]
    vae.grow(2)
    for value, kept in zip((vae.prior.means, vae.class_gates.open), before, strict=True):
        assert len(value) == 5
        assert torch.equal(value[:3], kept)


def test_a_gradient_goes_into_what_stands_for_the_encoding_and_not_into_features():
    vae = built(((6,),), reads=(7,))
    read, features = torch.randn(4, 7, generator=stream()).requires_grad_(), torch.zeros(4, 6).requires_grad_()
    vae.loss([features], torch.zeros(4, dtype=torch.int64), stream(), read).backward()
    assert read.grad.abs().sum() > 0
    assert features.grad is None


def test_a_fitted_vae_draws_the_class_that_is_asked_for_and_finds_it_likely():
    vae = built(((4,),), classes=2, width=16, noise=0.1)
    centres = torch.tensor([[1.0, 1, 0, 0], [0, 0, -1, 2]])
    draws = stream()
    learning = list(vae.parameters())
    adam = Adam(0.01)
    adam.reset(learning)
    for _ in range(300):
        targets = torch.randint(2, (32,), generator=draws)
        noise = 0.1 * torch.randn(32, 4, generator=draws)
        vae.loss([centres[targets] + noise], targets, draws).backward()
        adam.step(learning)
    (sample,) = vae.sample(torch.tensor([0] * 50 + [1] * 50), [0], draws)
    torch.testing.assert_close(sample.unflatten(0, (2, 50)).mean(1), centres, atol=0.2, rtol=0)
    right, wrong = (vae.log_likelihood(centres, torch.tensor(order), draws) for order in ([0, 1], [1, 0]))
    assert (right > wrong + 1).all()


def test_a_state_that_was_saved_goes_on_with_the_same_numbers():
    first = built(gates=0.2)
    second = VAE(latent=2, width=5, layers=2, gates=0.2)
    second.build(((2, 3), (4,)))
    second.load_state_dict(first.state_dict())
    targets = torch.tensor([2, 0])
    for one, other in zip(
        first.sample(targets, [1, 0], stream()), second.sample(targets, [1, 0], stream()), strict=True
    ):
        assert torch.equal(one, other)


def test_adam_takes_the_steps_of_torch():
    start = torch.randn(3, 2, generator=stream())
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    adam, reference = Adam(0.03), torch.optim.Adam([theirs], 0.03)
    adam.reset([ours])
    for _ in range(5):
        for value in (ours, theirs):
            value.grad = None
            (value.square() * torch.arange(6.0).view(3, 2)).sum().backward()
        adam.step([ours])
        reference.step()
    torch.testing.assert_close(ours, theirs)


def test_a_scale_of_the_loss_that_changes_is_not_seen():
    values = [nn.Parameter(torch.tensor([1.0, -3.0])) for _ in range(2)]
    for value, scales in zip(values, ([1, 1, 1, 1], [2**16, 2**15, 2**15, 4]), strict=True):
        adam = Adam(0.1)
        adam.reset([value])
        for scale in scales:
            (scale * adam.watch(value.square().sum())).backward()
            adam.step([value])
    assert torch.equal(*values)


def test_a_step_without_a_finite_gradient_changes_nothing():
    value, adam = nn.Parameter(torch.ones(2)), Adam()
    adam.reset([value])
    value.grad = torch.tensor([1.0, math.inf])
    adam.step([value])
    assert torch.equal(value, torch.ones(2))
    assert adam.steps == 0


def test_without_classes_latent_values_are_standard_normal():
    vae = built(conditional=False)
    values = torch.tensor([[0.3, -2.0]])
    expected = norm.logpdf(values.numpy()).sum()
    assert vae.prior.log_density(values, torch.tensor([1])).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"latent": 0}, "VAE.latent is 0"),
        ({"gates": 1.0}, "VAE.gates is 1"),
        ({"noise": 0.0}, "VAE.noise 0"),
    ],
)
def test_options_out_of_range_are_refused(options, told):
    with pytest.raises(ConfigurationError, match=told):
        VAE(**options)
