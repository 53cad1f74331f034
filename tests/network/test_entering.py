import pytest
import torch
from torch import nn

from cl_ac.network import ExitNetwork, Exits
from cl_ac.network.entering import answers_of, run_places


def ran(network: ExitNetwork) -> list[tuple[str, int]]:
    """Notes which stages run, and on how many rows."""
    found: list[tuple[str, int]] = []
    for name, stage in zip(network.backbone.stage_names, network.backbone.stages, strict=True):
        stage.register_forward_hook(lambda _, inputs, __, name=name: found.append((name, len(inputs[0]))))
    return found


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


def test_images_alone_pass_as_in_any_pass(toy_network):
    network, images = toy_network("sdn").eval(), draw(3, 1, 6, 6)
    torch.testing.assert_close(torch.stack(answers_of(network, run_places(network, images, {}))), network(images))


def test_features_that_images_have_there_are_answered_as_the_images_are(toy_network):
    network, images = toy_network("sdn").eval(), draw(3, 1, 6, 6)
    outputs = network.stage_outputs(images)
    for place in (1, 2, 3):
        answers = answers_of(network, run_places(network, None, {place: outputs[place - 1]}))
        reached = [place <= end for end in (1, 2, 3)]
        assert [each is not None for each in answers] == reached
        for index, found in enumerate(answers):
            if found is not None:
                torch.testing.assert_close(found, network(images)[index])


def test_stages_run_on_what_has_entered_by_then_and_rows_keep_their_order(toy_network):
    network = toy_network("sdn").eval()
    found = ran(network)
    outputs = run_places(network, draw(2, 1, 6, 6), {1: draw(3, 4, 6, 6), 3: draw(5, 4)})
    assert found == [("first", 2), ("second", 5), ("pool", 5)]
    assert [len(each) for each in outputs] == [2, 5, 5, 10]
    assert torch.equal(outputs[1][2:], draw(3, 4, 6, 6))
    assert torch.equal(outputs[3][5:], draw(5, 4))
    assert [len(each) for each in answers_of(network, outputs)] == [5, 5, 10]


def test_without_images_no_stage_below_runs_forward_or_learns(toy_network):
    network = toy_network("sdn")
    found = ran(network)
    features = draw(3, 4, 6, 6).requires_grad_()
    answers = answers_of(network, run_places(network, None, {2: features}))
    assert found == [("pool", 3)]
    assert answers[0] is None
    torch.cat([each for each in answers if each is not None]).sum().backward()
    assert features.grad is not None
    below = [*network.backbone.stages[:2].parameters(), *network.heads[0].parameters()]
    assert all(parameter.grad is None for parameter in below)
    assert all(rows.grad is not None for rows in network.heads[1].new_rows)


def test_batch_norm_sees_images_and_features_as_one_batch(toy_network):
    network, images, features = toy_network().train(), draw(3, 1, 6, 6), draw(5, 4, 6, 6)
    norm = next(layer for layer in network.backbone.stages[1] if isinstance(layer, nn.BatchNorm2d))
    seen: list[torch.Tensor] = []
    norm.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    run_places(network, images, {1: features})
    mean = seen[0].mean((0, 2, 3))
    assert len(seen[0]) == 8
    torch.testing.assert_close(norm.running_mean, 0.1 * mean)


@pytest.mark.parametrize("detach", [False, True])
def test_acs_that_only_read_send_no_gradient_into_stages(toy_network, detach):
    network = toy_network(Exits(["first"], [1.0], detach=detach))
    answers = answers_of(network, run_places(network, draw(2, 1, 6, 6), {}))
    answers[0].sum().backward()
    assert (network.backbone.stages[0][0].weight.grad is None) == detach
