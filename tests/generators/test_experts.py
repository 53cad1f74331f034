import copy
import math

import pytest
import torch

from cl_ac.data.seeding import generator, global_stream
from cl_ac.errors import ConfigurationError
from cl_ac.generators import VAE, MixtureOfExperts

SIZES = {"latent": 2, "width": 8, "layers": 1, "noise": 0.1}


def built(classes=2, shapes=((1, 2, 2),), **options):
    with global_stream(0, "generator"):
        mixture = MixtureOfExperts(**{**SIZES, **options})
        mixture.build(shapes)
        mixture.grow(classes)
    return mixture


def test_one_expert_is_its_vae():
    mixture, images = built(experts=1, utilisation=1.0), torch.rand(5, 1, 2, 2)
    alone, targets = copy.deepcopy(mixture.experts[0]), torch.tensor([0, 1, 1, 0, 1])
    assert isinstance(alone, VAE)
    found = mixture.loss([images], targets, generator(0, "loss"))
    assert found.item() == pytest.approx(alone.loss([images], targets, generator(0, "loss")).item(), rel=1e-5)
    likelihood = mixture.log_likelihood(images, targets, generator(0, "draws"))
    assert torch.allclose(likelihood, alone.log_likelihood(images, targets, generator(0, "draws")), atol=1e-4)


def test_where_no_class_is_known_experts_are_asked_as_each_class_asks_them(monkeypatch):
    mixture, images = built(experts=2), torch.zeros(1, 1, 2, 2)
    mixture.router.data = torch.tensor([[0.0, math.log(3)], [50.0, 0.0]])
    logs = [{0: -1.0, 1: -4.0}, {0: -2.0, 1: -3.0}]  # of each expert, by class
    for expert, own in zip(mixture.experts, logs, strict=True):
        monkeypatch.setattr(
            expert, "log_likelihood", lambda _, targets, *__, own=own: torch.tensor([own[int(targets)]])
        )
    likelihood = mixture.log_likelihood(images, None, generator(0, "draws"))
    by_hand = 0.5 * (0.25 * math.exp(-1) + 0.75 * math.exp(-2)) + 0.5 * math.exp(-4)
    assert likelihood.item() == pytest.approx(math.log(by_hand), rel=1e-5)


def test_loss_and_gradient_of_the_router_by_hand(monkeypatch):
    mixture = built(experts=2, utilisation=0.0)
    bounds = iter([torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0])])  # in nats, of two samples of class 0
    monkeypatch.setattr(VAE, "losses", lambda *given: next(bounds) * 0.1 / 4)
    loss = mixture.loss([torch.zeros(2, 1, 2, 2)], torch.tensor([0, 0]), generator(0, "loss"))
    sums = [0.5 + 0.5 * math.exp(-1), 0.5 * math.exp(-2) + 0.5]
    assert loss.item() == pytest.approx(-sum(map(math.log, sums)) / 2 * 0.1 / 4, rel=1e-5)
    loss.backward()
    responsible = [0.5 / sums[0], 0.5 * math.exp(-2) / sums[1]]
    expected = (0.5 - sum(responsible) / 2) * 0.1 / 4
    assert mixture.router.grad[0].tolist() == pytest.approx([expected, -expected], rel=1e-4)
    assert mixture.router.grad[1].tolist() == [0, 0]


def test_samples_are_of_the_expert_that_their_class_is_routed_to():
    mixture = built(experts=2, shapes=((4,), (3,)))
    mixture.router.data = torch.tensor([[50.0, 0.0], [0.0, 50.0]])
    for number, expert in enumerate(mixture.experts):
        for output in expert.outputs:
            output.weight.data.zero_()
            output.bias.data.fill_(float(number))
    deep, shallow = mixture.sample(torch.tensor([0, 1, 0]), [1, 0], generator(0, "sample"))
    assert deep.tolist() == [[0] * 3, [1] * 3, [0] * 3]
    assert shallow.tolist() == [[0] * 4, [1] * 4, [0] * 4]
    mixed = mixture.sample(torch.full((4000, 2), 0.5), [1], generator(1, "sample"))[0]
    assert mixed.mean().item() == pytest.approx(0.5, abs=0.03)


def test_two_clusters_of_a_class_are_learned_and_no_expert_is_lost():
    mixture, stream = built(classes=1, experts=2, shapes=((2,),)), generator(0, "fit")
    optimizer = torch.optim.Adam(mixture.parameters(), 1e-2)
    for _ in range(150):
        centres = 2.0 * torch.randint(2, (64, 1), generator=stream) - 1
        samples = centres + 0.1 * torch.randn(64, 2, generator=stream)
        optimizer.zero_grad()
        mixture.loss([samples], torch.zeros(64, dtype=torch.int64), stream).backward()
        optimizer.step()
    drawn = mixture.sample(torch.zeros(500, dtype=torch.int64), [0], stream)[0]
    assert (drawn[:, 0] > 0).double().mean().item() == pytest.approx(0.5, abs=0.15)
    assert mixture.routed(torch.tensor([0])).min() > 0.1


def test_goes_on_bit_for_bit():
    first, second = built(classes=3, experts=2), built(classes=3, experts=2)
    first.router.data.normal_()
    second.load_state_dict(first.state_dict())
    targets = torch.tensor([0, 2])
    samples = [each.sample(targets, [0], generator(0, "sample"))[0] for each in (first, second)]
    assert torch.equal(*samples)


@pytest.mark.parametrize(
    ("options", "told"),
    [({"experts": 0}, r"experts is 0; it must be at least 1"), ({"utilisation": -1.0}, r"utilisation is -1; it must")],
)
def test_mistakes_are_refused(options, told):
    with pytest.raises(ConfigurationError, match=told):
        MixtureOfExperts(**options)
