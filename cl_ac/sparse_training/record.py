"""What a sparse network is like at a point of its run: how dense, how orthogonal, how it passes signals, what it costs.

Shapes: E exits, D features, S images.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cl_ac.classifiers.classifier import Classifier
from cl_ac.exits.cost import exit_costs
from cl_ac.network import ExitNetwork
from cl_ac.sparse_training.heads import SparseLinear
from cl_ac.sparse_training.layers import MaskedLayer, masked_layers
from cl_ac.sparse_training.orthogonal import orthogonality_error

# Rows of a Jacobian in one pass.
ROWS = 64


@dataclass(frozen=True)
class LayerRecord:
    """One layer with a mask.

    Args:
        name: in the backbone.
        shape: of its weight.
        density: share of its weights that is kept, in [0, 1].
        orthogonality: how far its matrices, or those at the centre of its kernels, are from orthogonal:
            the largest entry of |W Wᵀ − σ² I| / σ², of the smaller of W Wᵀ and Wᵀ W.
    """

    name: str
    shape: list[int]
    density: float
    orthogonality: float


@dataclass(frozen=True)
class Signals:
    """Singular values of the Jacobians of the last features with respect to S images, over all images.

    Args:
        mean: of them.
        deviation: of them.
        smallest: of them.
        largest: of them.
    """

    mean: float
    deviation: float
    smallest: float
    largest: float


@dataclass(frozen=True)
class SparseRecord:
    """A sparse network at the start or after a task.

    Args:
        density: share of the weights of all masked layers that is kept.
        layers: each of them.
        signals: None where they are not recorded, or are no numbers.
        macs: multiply-accumulates of one image up to each exit, as dense arithmetic does them [E]; [] at the start.
        sparse_macs: without those of masked weights [E]. That is theoretical: dense arithmetic does not skip them.
        weights: parameters of the network, masked ones included.
        sparse_weights: without masked ones.
    """

    density: float
    layers: list[LayerRecord]
    signals: Signals | None
    macs: list[float]
    sparse_macs: list[float]
    weights: int
    sparse_weights: int

    @property
    def orthogonality(self) -> float:
        """Of the layer that is farthest from orthogonal."""
        return max(layer.orthogonality for layer in self.layers)

    def save(self, path: Path) -> None:
        """Writes a JSON file."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @staticmethod
    def load(path: Path) -> "SparseRecord":
        """Reads what `save` wrote."""
        content = json.loads(path.read_text())
        content["layers"] = [LayerRecord(**layer) for layer in content["layers"]]
        content["signals"] = None if content["signals"] is None else Signals(**content["signals"])
        return SparseRecord(**content)


def record(
    network: ExitNetwork, images: Tensor, gain: float = 1.0, classifier: Classifier | None = None
) -> SparseRecord:
    """What `network` is like now.

    Args:
        images: whose Jacobians are looked at [S, channels, height, width].
        gain: σ of its orthogonal matrices.
        classifier: what answers at inference; None for the linear heads.
    """
    layers = list(masked_layers(network.backbone))
    kept = sum(int(layer.mask.kept.sum()) for layer in layers)
    pruned = sum(layer.size for layer in layers) - kept
    heads = [pruned_of_head(head) for head in network.heads]
    # Heads without rows cannot answer.
    macs = exit_costs(network, classifier).exits if network.num_classes else []
    saved = saved_macs(network, layers)
    # A classifier that answers in place of linear heads takes nothing from their sparsity.
    per_head = [count if classifier is None else 0 for count in heads]
    spared = [saved[index] + sum(per_head[: index + 1]) for index in range(len(network))]
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return SparseRecord(
        kept / (kept + pruned),
        [
            LayerRecord(layer.name, list(layer.original.shape), layer.density, layer_error(layer, gain))
            for layer in layers
        ],
        signals(network, images) if len(images) else None,
        macs,
        [cost - less for cost, less in zip(macs, spared, strict=False)],
        parameters,
        parameters - pruned - sum(heads),
    )


def pruned_of_head(head: nn.Module) -> int:
    """How many weights of an exit's classifier are masked."""
    classifier = head.classifier
    return int((~classifier.mask).sum()) if isinstance(classifier, SparseLinear) else 0


@torch.no_grad()
def layer_error(layer: MaskedLayer, gain: float) -> float:
    """How far the central matrices of a layer are from orthogonal; the worst of its blocks."""
    matrices = layer.weight.reshape(layer.matrices)[..., layer.centre]
    return max(orthogonality_error(matrix, gain) for matrix in matrices)


@torch.no_grad()
def saved_macs(network: ExitNetwork, layers: Sequence[MaskedLayer]) -> list[float]:
    """Multiply-accumulates of one image with masked weights, up to each exit [E]."""
    pruned = {layer.module: layer.size - int(layer.mask.kept.sum()) for layer in layers}
    channels = {layer.module: len(layer.original) for layer in layers}
    for module in [each for each in pruned if isinstance(each, nn.MultiheadAttention)]:
        # Attention reads the weight of its last projection without calling it.
        pruned[module] += pruned.pop(module.out_proj, 0)
    total = 0.0

    def count(module: nn.Module, given: tuple[Tensor, ...], output: Tensor | tuple[Tensor, ...]) -> None:
        nonlocal total
        values = output[0] if isinstance(output, tuple) else output
        width = values.shape[-1] if isinstance(output, tuple) else channels[module]
        total += values.numel() / width * pruned[module]

    handles = [module.register_forward_hook(count) for module in pruned]
    was_training = network.training
    network.eval()
    found, hidden = [], torch.zeros(1, *network.backbone.image_shape, device=network.device)
    try:
        for index in range(len(network)):
            hidden = network.segment(index, hidden)
            found.append(total)
    finally:
        network.train(was_training)
        for handle in handles:
            handle.remove()
    return found


def jacobian(network: ExitNetwork, image: Tensor) -> Tensor:
    """∂(last features) / ∂image of one image: [D, pixels], in evaluation mode."""
    was_training = network.training
    network.eval()
    rows: list[Tensor] = []
    width = int(torch.tensor(network.shapes[-1]).prod())
    for places in torch.arange(width, device=image.device).split(ROWS):
        images = image.expand(len(places), *image.shape).clone().requires_grad_()
        hidden = images
        for stage in network.backbone.stages:
            hidden = stage(hidden)
        # Images do not see each other in evaluation mode: each gives one row.
        chosen = hidden.flatten(1).gather(1, places[:, None]).sum()
        rows.append(torch.autograd.grad(chosen, images)[0].flatten(1))
    network.train(was_training)
    return torch.cat(rows)


def signals(network: ExitNetwork, images: Tensor) -> Signals | None:
    """The singular values of the Jacobians of some images; None if they are no numbers."""
    jacobians = torch.stack([jacobian(network, image) for image in images]).double()
    if not jacobians.isfinite().all():
        return None
    values = torch.linalg.svdvals(jacobians)
    return Signals(values.mean().item(), values.std(correction=0).item(), values.min().item(), values.max().item())
