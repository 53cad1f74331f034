"""The dynamic-k gate: which experts a token's predicted norms ask for (D2DMoE, section 3.3).

Legend: E experts.
"""

import torch
from torch import Tensor


def max_rule(predictions: Tensor, threshold: float) -> Tensor:
    """Keeps expert i where predictions_i >= threshold · max_j predictions_j.

    The largest prediction is kept whatever its sign, ties with it too; a token whose largest prediction is not finite,
    or that has a NaN, keeps every expert: an untrustworthy router falls back to the dense FFN. One launch on a GPU.

    Args:
        predictions: [..., E], any floating dtype, compared in fp32.
        threshold: the paper's tau, in [0, 1]; 0 keeps all non-negative predictions.

    Returns:
        [..., E], bool.

    Raises:
        ValueError: for a threshold outside [0, 1].
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}; expected a share of the largest prediction, in [0, 1]")
    return max_rule_op(predictions, threshold)


@torch.library.custom_op("cl_ac::max_rule", mutates_args=())
def max_rule_op(predictions: Tensor, threshold: float) -> Tensor:
    """`max_rule` on checked arguments."""
    predictions = predictions.float().contiguous()
    if predictions.device.type == "cuda":
        # imported here because Triton exists on Linux only
        from cl_ac.kernels.plan import gate

        with torch.cuda.device_of(predictions):
            return gate(predictions, threshold)
    largest = predictions.amax(-1, keepdim=True)
    return (predictions >= threshold * largest) | (predictions == largest) | ~largest.isfinite()


@max_rule_op.register_fake
def _(predictions: Tensor, threshold: float) -> Tensor:
    return torch.empty_like(predictions, dtype=torch.bool, memory_format=torch.contiguous_format)
