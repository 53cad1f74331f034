import copy

import pytest
import torch
from torch import nn

from cl_ac.backbones.vit import MLP, ViT
from cl_ac.efficiency.convert import Conversion, convert, entering, moefication
from cl_ac.efficiency.dynamic import dynamic_ffns, recording, set_gate
from cl_ac.efficiency.gates import Gate
from cl_ac.efficiency.routers import RouterTraining, expert_norms
from cl_ac.errors import ConfigurationError
from cl_ac.network import ExitNetwork

IMAGES = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
QUICK = RouterTraining(3, 64, 5e-3)


@pytest.fixture(scope="module")
def network() -> ExitNetwork:
    torch.manual_seed(0)
    backbone = ViT((1, 8, 8), width=16, depth=2, heads=2, activation="relu")
    network = ExitNetwork(backbone, backbone.exits("ln"))
    network.grow(3, 0)
    return network.eval()


def settings(**options) -> Conversion:
    return Conversion(**{"size": 5, "router_width": 8, "tokens": 300, "router_training": QUICK, **options})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"split": "coactivation"},
        {"split": "random", "router": "moefication"},
        {"router": "similarity"},
        {"router": "oracle"},
        {"size": 4, "bundle": 4},
        {"size": 4, "bundle": 2, "union": True},
    ],
)
def test_with_all_experts_the_copy_computes_what_the_model_does(network, options):
    before = copy.deepcopy(network.state_dict())
    model = convert(network, IMAGES.split(8), settings(**options))
    set_gate(model, Gate("all"))
    torch.testing.assert_close(model(IMAGES), network(IMAGES), atol=1e-5, rtol=1e-5)
    assert len(dynamic_ffns(model)) == 2
    assert not dynamic_ffns(network)
    assert all(
        torch.equal(value, before[name]) for name, value in network.state_dict().items() if torch.is_tensor(value)
    )
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_same_seed_gives_the_same_model(network):
    one, same, other = (convert(network, IMAGES.split(8), settings(), seed) for seed in (0, 0, 1))
    assert torch.equal(one(IMAGES), same(IMAGES))
    assert not torch.equal(one(IMAGES), other(IMAGES))


def test_learned_routers_choose_nearly_as_well_as_the_true_norms():
    # Neurons and inputs around six directions: each input wakes the neurons of its own.
    stream = torch.Generator().manual_seed(1)
    centres = torch.randn(6, 16, generator=stream)
    owners = torch.arange(6).repeat_interleave(5)
    mlp = MLP(16, 30, "relu")
    noise = torch.randn(30, 16, generator=stream)
    mlp.up.weight.data, mlp.up.bias.data = centres[owners] + 0.2 * noise, torch.full((30,), -4.0)
    model = nn.Sequential(mlp).eval()
    inputs = centres[torch.randint(6, (600,), generator=stream)] + 0.3 * torch.randn(600, 16, generator=stream)
    trained = settings(tokens=600, router_width=32, router_training=RouterTraining(20, 32, 5e-3))
    kinds = {
        "oracle": settings(router="oracle"),
        "norm": trained,
        "untrained": settings(router_training=RouterTraining(1, 600, 1e-9)),
    }
    lost = {}
    for name, kind in kinds.items():
        converted = convert(model, [inputs], kind)
        set_gate(converted, Gate("top_k", 2))
        lost[name] = (converted(inputs) - model(inputs)).square().mean().item()
    assert lost["oracle"] <= lost["norm"] < 0.1 * lost["untrained"]


def test_bundles_are_tied_by_what_runs_together(network):
    model = convert(network, [IMAGES], settings(size=4, bundle=4, router="oracle", gate=Gate("top_k", 4)))
    apart = convert(network, [IMAGES], settings(size=4, router="oracle", gate=Gate("top_k", 4)))
    torch.testing.assert_close(model(IMAGES), apart(IMAGES), atol=1e-5, rtol=1e-5)
    with recording(model) as recordings:
        model(IMAGES)
    executed = torch.cat([each.counts[0].flatten() for each in recordings.values()])
    # 4 experts in bundles of 4 out of 16: chance executes 1 − C(12, 4) / C(16, 4) of all, 11.6 experts.
    assert executed.double().mean() < 10


def test_calibration_tokens_are_what_enters_the_ffn(network):
    block = network.backbone.stages[1]
    caught = []
    hook = block.norm2.register_forward_hook(
        lambda module, inputs, output: caught.append(output.detach().flatten(0, 1))
    )
    network(IMAGES)
    hook.remove()
    tokens = entering(network, block.mlp, IMAGES.split(8), 300)
    torch.testing.assert_close(tokens, caught[0][:300])
    assert entering(network, block.mlp, IMAGES[:2].split(1), 300).shape == (34, 16)


def test_models_may_take_keyword_arguments():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.mlp = MLP(4, 8)

        def forward(self, tokens, scale):
            return scale * self.mlp(tokens)

    torch.manual_seed(0)
    model, tokens = Named(), torch.randn(2, 9, 4)
    made = convert(model, [{"tokens": tokens, "scale": 2.0}], settings(size=4, gate=Gate("all")))
    torch.testing.assert_close(made(tokens, 2.0), model(tokens, 2.0))


def test_training_mode_and_layers_are_reported(network):
    done = []
    model = convert(copy.deepcopy(network).train(), [IMAGES], settings(), on_layer=lambda *layer: done.append(layer))
    assert done == [(1, 2), (2, 2)]
    assert all(module.training for module in model.modules())


def test_moefication_learns_to_find_active_experts(network):
    model = convert(network, [IMAGES], moefication(5, 544, top_k=4))
    ffn = next(iter(dynamic_ffns(model).values()))
    tokens = entering(model, ffn, [IMAGES], 544)
    chosen, norms = ffn.gate.mask(ffn.router(tokens)), expert_norms(tokens, ffn.experts)
    assert (chosen.sum(-1) == 4).all()
    assert norms[chosen].mean() > 1.3 * norms[~chosen].mean()


def test_mistakes_are_one_sentence(network):
    with pytest.raises(ConfigurationError, match="Linear has no feed-forward network of a transformer"):
        convert(nn.Linear(2, 2), [])
    with pytest.raises(ConfigurationError, match="there are no inputs to calibrate on"):
        convert(network, [])
    with pytest.raises(ConfigurationError, match=r"experts\.split is 'best'; it must be one of kmeans"):
        Conversion(split="best")
    with pytest.raises(ConfigurationError, match=r"experts\.tokens is 0"):
        Conversion(tokens=0)


def test_inputs_that_can_be_read_only_once_are_refused():
    with pytest.raises(ConfigurationError, match="only once"):
        convert(nn.Linear(2, 2), (batch for batch in []))
