"""What two processes find when they share a pass, beside what one finds: `pass_checks.py FILE`."""

import sys
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cl_ac.processes import passes
from cl_ac.processes.group import ALONE, Group, together
from cl_ac.processes.passes import shared, sharing


class Small(nn.Module):
    """A convolution with batch norm and two linear exits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU())
        self.exits = nn.ModuleList([nn.Linear(48, 4), nn.Linear(48, 4)])

    def stacked(self, images: Tensor) -> Tensor:
        hidden = self.stem(images).flatten(1)
        return torch.stack([layer(hidden) for layer in self.exits])

    def listed(self, images: Tensor) -> list[Tensor]:
        return [self.stem(images)]


def found(group: Group, synchronised: bool) -> dict[str, Tensor]:
    """Outputs, gradients and statistics of a loss over the whole batch with a penalty on weights."""
    torch.manual_seed(0)
    network, scale = Small().double(), torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    images = torch.randn(7, 2, 6, 6, dtype=torch.float64)
    with sharing(group, synchronised):
        logits = shared(network, network.stacked, images)
        (maps,) = shared(network, network.listed, images)
        with torch.no_grad():
            quiet = shared(network, network.stacked, images[:1])
    contrast = (logits.flatten(0, 1) @ logits.flatten(0, 1).T).softmax(1).square().sum()
    penalty = sum(parameter.square().sum() for parameter in network.parameters())
    (scale * contrast + maps.square().mean() + 0.1 * penalty).backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    statistics = dict(network.stem[1].named_buffers())
    return {"logits": logits, "maps": maps, "quiet": quiet, "scale": scale.grad, **gradients, **statistics}


def exchanges(group: Group) -> list[str]:
    """What a backward pass does, in order: `exchange` of gradients, and `NAME` once a layer's gradients are known."""
    order: list[str] = []
    all_reduce = dist.all_reduce

    def seen(*arguments, **options):
        order.append("exchange")
        return all_reduce(*arguments, **options)

    def known(name: str):
        return lambda module, inputs, outputs: order.append(name)

    layers = nn.Sequential(*[nn.Linear(3, 3) for _ in range(3)])
    for name, layer in layers.named_children():
        layer.register_full_backward_hook(known(name))
    images = torch.randn(4, 3, requires_grad=True)
    with patch.object(dist, "all_reduce", seen), patch.object(passes, "BUCKET", 48), sharing(group, True):
        shared(layers, lambda images: [layers(images)], images)[0].sum().backward()
    return order


if __name__ == "__main__":
    with together() as group:
        kept = {"alone": found(ALONE, True), "together": found(group, True), "apart": found(group, False)}
        with patch.object(passes, "BUCKET", 1):
            kept["bucketed"] = found(group, True)
        order = exchanges(group)
        own = torch.full((3,), float(group.rank))
        group.take_from_first([own])
        kept["first"] = {"own": own}
        found_here = {name: {key: value.detach() for key, value in each.items()} for name, each in kept.items()}
        torch.save(found_here | {"order": order}, f"{sys.argv[1]}.{group.rank}")
