"""Fine experts tied into bundles for execution: fine ones choose well, wide ones compute fast.

Legend: N tokens, D model width, E (fine) experts, B bundles.
"""

import torch
from torch import Tensor

from cl_ac.errors import ConfigurationError
from cl_ac.kernels.experts import Experts, hidden_neurons
from cl_ac.kernels.torch_ffn import runs


def bundle_experts(mask: Tensor, size: int) -> Tensor:
    """Ties experts that run for the same tokens into bundles of `size` experts.

    Bundles double: in each round all are paired, those first whose union costs least more than the two alone,
    `P(A ∪ B)(|A| + |B|) − P(A)|A| − P(B)|B|` with P the share of tokens that need a bundle.

    Args:
        mask: of calibration tokens [N, E], bool.
        size: a power of two that divides E.

    Returns:
        the experts of each bundle [B, size], ascending.

    Raises:
        ConfigurationError: for another size.
    """
    experts = mask.shape[1]
    check_bundle(experts, size)
    used = mask.float()
    members = [[expert] for expert in range(experts)]
    while len(members) > experts // size:
        pairs = _cheapest_pairs(used)
        first, second = pairs.T
        used = used[:, first].maximum(used[:, second])
        members = [members[a] + members[b] for a, b in pairs.tolist()]
    return torch.tensor([sorted(each) for each in members])


def check_bundle(experts: int, size: int) -> None:
    """Raises a `ConfigurationError` if so many experts cannot be tied into bundles of `size`."""
    if size < 1 or size & (size - 1) or experts % size:
        raise ConfigurationError(
            f"experts.bundle is {size}; with {experts} experts it must be a power of two that divides their number"
        )


def _cheapest_pairs(used: Tensor) -> Tensor:
    """Pairs all columns of [N, B] greedily by the growth of their unions: int64 [B / 2, 2]."""
    together = used.T @ used
    alone = together.diagonal()
    # Of P(A ∪ B)·2 − P(A) − P(B) with equal sizes only this differs from pair to pair.
    growth = alone[:, None] + alone - 2 * together
    count = len(growth)
    rows, columns = torch.triu_indices(count, count, 1, device=used.device)
    order = growth[rows, columns].argsort(stable=True).tolist()
    rows, columns, free, pairs = rows.tolist(), columns.tolist(), [True] * count, []
    for index in order:
        a, b = rows[index], columns[index]
        if free[a] and free[b]:
            free[a] = free[b] = False
            pairs.append((a, b))
    return torch.tensor(pairs)


def bundle_mask(mask: Tensor, size: int) -> Tensor:
    """Which bundles of `size` neighbouring experts run: any of their experts does. [..., E] to [..., B]."""
    return mask.unflatten(-1, (-1, size)).any(-1)


def bundled_weights(experts: Experts, size: int) -> Experts:
    """The same neurons as experts of `size` times as many (views, no copy)."""

    def tied(weight: Tensor) -> Tensor:
        return weight.unflatten(0, (-1, size)).flatten(1, 2)

    up, down, activation, up_bias, down_bias, gate, gate_bias = experts
    up_bias, gate, gate_bias = (None if each is None else tied(each) for each in (up_bias, gate, gate_bias))
    return Experts(tied(up), tied(down), activation, up_bias, down_bias, gate, gate_bias)


def inflation(mask: Tensor, size: int) -> float:
    """Neurons that bundles execute for each that the experts of `mask` [..., E] would: at least 1."""
    return (bundle_mask(mask, size).sum() * size / mask.sum().clamp(min=1)).item()


def bundled_ffn(x: Tensor, mask: Tensor, experts: Experts, size: int) -> Tensor:
    """What the experts of `mask` compute, executed in bundles: members that were not asked for are zeroed inside.

    Runs bundle by bundle on gathered tokens and reads the mask on the host. For inference.

    Args:
        x: [N, D].
        mask: [N, E], bool.
        experts: in an order in which each `size` neighbours are a bundle.

    Returns:
        [N, D].
    """
    neurons = experts.up.shape[1]
    flat, width = experts.flat(), size * neurons
    out = x.new_zeros(x.shape) if experts.down_bias is None else experts.down_bias.repeat(len(x), 1)
    for first, last, rows in runs(bundle_mask(mask, size)):
        part = flat.neurons(first * width, last * width)
        asked = mask[:, first * size : last * size] if rows is None else mask[rows, first * size : last * size]
        hidden = hidden_neurons(x if rows is None else x[rows], part)
        hidden = hidden.unflatten(-1, (-1, neurons)).masked_fill(~asked[..., None], 0).flatten(-2)
        product = hidden @ part.down
        out = out + product if rows is None else out.index_add(0, rows, product)
    return out
