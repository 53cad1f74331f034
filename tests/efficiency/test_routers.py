import pytest
import torch

from cl_ac.efficiency.routers import (
    ActivationRouter,
    NormRouter,
    OracleRouter,
    RouterTraining,
    SimilarityRouter,
    activation_loss,
    activation_sums,
    centroids,
    empty_router,
    expert_norms,
    fitted_router,
    norm_loss,
    router_description,
    train_router,
)
from cl_ac.errors import ConfigurationError
from cl_ac.kernels.experts import Experts


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=stream(sum(shape)), dtype=torch.float64).to(dtype)


def some_experts(neurons: int = 3, gated: bool = False, dtype: torch.dtype = torch.float64) -> Experts:
    weights = random(4, neurons, 5, dtype=dtype), random(4, neurons, 5, dtype=dtype) + 1
    gate = random(4, neurons, 5, dtype=dtype) - 1 if gated else None
    return Experts(*weights, "silu" if gated else "relu", random(4, neurons, dtype=dtype), random(5, dtype=dtype), gate)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("neurons", [3, 8])
def test_norms_by_factors_are_the_norms_of_the_outputs(neurons, gated):
    experts = some_experts(neurons, gated)
    x = random(2, 7, 5)
    up = torch.einsum("btd,emd->btem", x, experts.up) + experts.up_bias
    hidden = up.relu()
    if gated:
        hidden = torch.nn.functional.silu(torch.einsum("btd,emd->btem", x, experts.gate)) * up
    expected = torch.einsum("btem,emd->bted", hidden, experts.down).norm(dim=-1)
    torch.testing.assert_close(expert_norms(x, experts), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(OracleRouter(experts)(x), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(activation_sums(x, experts), hidden.float().relu().sum(-1))


def test_a_norm_router_by_hand():
    router = NormRouter(2, 3, 2, 2, stream())
    assert all(layer.bias is None for layer in router.layers)
    router.layers[0].weight.data = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    router.layers[1].weight.data = torch.tensor([[1.0, 1.0], [-2.0, 0.0], [0.0, 3.0]])
    assert router(torch.tensor([3.0, 4.0])).tolist() == [3, 6, 0]


def test_moefication_starts_from_the_centroids():
    experts = some_experts(dtype=torch.float32)
    unit = experts.up / experts.up.norm(dim=-1, keepdim=True)
    start = centroids(experts)
    torch.testing.assert_close(start, unit.mean(1))
    x = random(6, 5, dtype=torch.float32)
    cosines = (x / x.norm(dim=-1, keepdim=True)) @ start.T
    torch.testing.assert_close(ActivationRouter(start)(x), cosines.tanh())
    torch.testing.assert_close(SimilarityRouter(start)(x), cosines / start.norm(dim=-1))


def test_activation_loss_by_hand():
    predictions, targets = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 4.0]])
    first = -0.5 * torch.log(torch.tensor(2.0))
    second = torch.tensor(2.0).sigmoid().log()
    # target shares: 1/4 and 1; at a logit of 0 both labels cost log 2
    assert activation_loss(predictions, targets).item() == pytest.approx((-2 * first - second).item() / 2)


def test_training_learns_the_norms_and_is_repeatable():
    experts = some_experts(dtype=torch.float32)
    x = random(1024, 5, dtype=torch.float32)
    targets = expert_norms(x, experts)

    def fitted() -> tuple[NormRouter, float]:
        router = NormRouter(5, 4, 32, 2, stream(1))
        return router, train_router(router, x, targets, norm_loss, RouterTraining(20, 64, 5e-3), stream(2))

    (one, loss), (other, again) = fitted(), fitted()
    assert loss == again
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert norm_loss(one(x), targets) < 0.1 * targets.var()
    assert not one.training


@pytest.mark.parametrize("kind", ["norm", "moefication", "similarity", "oracle"])
def test_every_kind_ranks_better_than_chance_and_is_rebuilt_from_its_description(kind):
    experts = some_experts(dtype=torch.float32)
    x = random(512, 5, dtype=torch.float32)
    router = fitted_router(kind, experts, x, 16, 2, RouterTraining(10, 64, 5e-3), stream())
    best = expert_norms(x, experts).argmax(-1)
    assert (router(x).argmax(-1) == best).double().mean() > 0.4
    rebuilt = empty_router(router_description(router), experts)
    rebuilt.load_state_dict(router.state_dict())
    assert torch.equal(rebuilt(x), router(x))


def test_scale_free_targets_forget_the_size_of_tokens():
    experts = some_experts(dtype=torch.float32)._replace(up_bias=None)
    x = random(256, 5, dtype=torch.float32)
    sizes = torch.rand(256, 1, generator=stream(3)) * 100
    training = RouterTraining(5, 64, 5e-3, scale_free=True)
    router = fitted_router("norm", experts, x * sizes / x.norm(dim=-1, keepdim=True), 16, 2, training, stream())
    assert router(x / x.norm(dim=-1, keepdim=True) * 50).mean() < 3


def test_wrong_settings_are_one_sentence():
    with pytest.raises(ConfigurationError, match=r"experts\.router_width is 0"):
        NormRouter(2, 2, 0, 2, stream())
    with pytest.raises(ConfigurationError, match=r"experts\.router_training has epochs 0"):
        RouterTraining(epochs=0)


@pytest.mark.parametrize("kind", ["norm", "moefication", "similarity", "oracle"])
def test_no_tokens_have_no_predictions(kind):
    experts = some_experts(dtype=torch.float32)
    router = empty_router({"kind": kind, "hidden": 3, "depth": 2}, experts)
    assert router(torch.empty(2, 0, 5)).shape == (2, 0, 4)
    assert activation_sums(torch.empty(0, 5), experts).shape == (0, 4)
