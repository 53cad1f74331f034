"""How much each backbone parameter matters to each exit, and what it costs to move it.

Backbone parameters are one vector θ [P], in the order of the stages; heads are never part of it, for they grow. Shapes:
E exits, B batch, C classes seen.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from cl_ac.network import ExitNetwork

# Floats of one chunk's per-sample gradients: 256 MiB in float32. It must not depend on the number of exits, so that the
# final exit's sums are the same with and without ACs.
CHUNK = 2**26
# Scales that PyTorch's loss scaler finds for means over a batch are larger.
FLOAT16_SCALE = 2.0**12


def protected(network: ExitNetwork) -> dict[str, nn.Parameter]:
    """The backbone parameters that learn, by their names in `network`."""
    named = network.backbone.named_parameters(prefix="backbone")
    return {name: parameter for name, parameter in named if parameter.requires_grad}


def flatten(network: ExitNetwork) -> Tensor:
    """θ [P], differentiable."""
    return joined(protected(network).values(), network.device)


def joined(parts: Iterable[Tensor], device: torch.device) -> Tensor:
    """Values for the parameters, one after the other: [P]; of no values if the whole backbone is frozen."""
    every = [part.flatten() for part in parts]
    return torch.cat(every) if every else torch.empty(0, device=device)


def chunk_size(network: ExitNetwork) -> int:
    """Images whose per-sample gradients fit in `CHUNK`."""
    return min(max(CHUNK // max(sum(p.numel() for p in protected(network).values()), 1), 1), 256)


class _UpTo(nn.Module):
    """`network` cut off after the exit at `index`: images to logits [B, C]."""

    def __init__(self, network: ExitNetwork, index: int):
        super().__init__()
        self.network, self.index = network, index

    def forward(self, images: Tensor) -> Tensor:
        logits, exits = None, self.network.exits
        for index in range(self.index + 1):
            images = self.network.segment(index, images)
            detached = exits.detach and index < len(self.network) - 1
            if exits.cascade or index == self.index:
                logits = self.network.heads[index](images.detach() if detached else images, logits)
        return logits.float()


@torch.no_grad()
def per_sample_gradients(
    network: ExitNetwork, index: int, images: Tensor, objective: Callable[[Tensor, Tensor], Tensor], targets: Tensor
) -> Tensor:
    """The gradient of `objective` of one exit with respect to θ, for each image alone.

    Only the part of the network up to the exit is run, so that no backward pass goes through deeper stages. The network
    must be in evaluation mode: batch statistics would make one sample's gradient depend on the others.

    Args:
        index: the exit.
        images: [B, channels, height, width]; at most `chunk_size` of them.
        objective: maps the exit's logits [C] and the sample's target to a scalar.
        targets: [B].
    Returns:
        [B, P]; zero for what the exit does not depend on.
    """
    model = _UpTo(network, index)

    def value(parameters: dict[str, Tensor], image: Tensor, target: Tensor) -> Tensor:
        return objective(functional_call(model, parameters, (image[None],))[0], target)

    parameters = {f"network.{name}": parameter.detach() for name, parameter in protected(network).items()}
    if not parameters:
        return torch.empty(len(images), 0, device=images.device)
    found = vmap(grad(value), in_dims=(None, 0, 0))(parameters, images, targets)
    return torch.cat([gradient.flatten(1) for gradient in found.values()], 1)


def gradients(loss: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """The gradient of `loss` [] with respect to each of `parameters`, for use inside the loss of a step.

    In float16 small gradients would become 0 on their way. The training loop scales the losses that it is given, and
    here the loss is scaled meanwhile; what becomes infinite by that is 0, as the loop leaves such steps out.
    """
    device = loss.device.type
    halved = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
    scale = FLOAT16_SCALE if halved else 1
    parts = torch.autograd.grad(loss * scale, list(parameters), retain_graph=True, materialize_grads=True)
    return [(part / scale).nan_to_num(0, 0, 0) for part in parts] if halved else list(parts)


def batch_gradients(network: ExitNetwork, losses: Tensor) -> Tensor:
    """The gradients [E, P] of losses [E] that share one forward pass."""
    parameters = list(protected(network).values())
    if not parameters:
        return torch.empty(len(losses), 0, device=losses.device)
    rows = []
    for index, loss in enumerate(losses):
        found = torch.autograd.grad(loss, parameters, retain_graph=index + 1 < len(losses), materialize_grads=True)
        rows.append(torch.cat([gradient.flatten() for gradient in found]))
    return torch.stack(rows)


def final_blocks(network: ExitNetwork) -> Tensor:
    """Which of θ is in the stage that each AC hangs at; all of it for the final classifier: bool [E, P]."""
    parameters = protected(network).values()
    rows = []
    for _, end in network.bounds[:-1]:
        block = {id(parameter) for parameter in network.backbone.stages[end - 1].parameters()}
        rows.append(
            joined((torch.full((p.numel(),), id(p) in block, device=p.device) for p in parameters), network.device)
        )
    return torch.stack([*rows, torch.ones_like(flatten(network), dtype=torch.bool)]).bool()
