"""Counted multiply-accumulates (MACs)."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar, cast

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from cl_ac.classifiers.classifier import Classifier
from cl_ac.data.layouts import Layout
from cl_ac.evaluation import ExitCosts
from cl_ac.exits.heads import inference_head
from cl_ac.network import ExitNetwork

Result = TypeVar("Result")


@torch.no_grad()
def counted(run: Callable[[], Result]) -> tuple[float, Result]:
    """The MACs of the matrix products and convolutions in `run`, and what it returns.

    Element-wise work and normalisation are not counted.
    """
    fast_attention = torch.backends.mha.get_fastpath_enabled()
    # Fused attention is invisible to the counter: that of modules always, other kernels in some releases.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            result = run()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_attention)
    return counter.get_total_flops() / 2, result


@parametrize.cached()
@torch.no_grad()
def exit_costs(network: ExitNetwork, classifier: Classifier | None = None) -> ExitCosts:
    """Counted cost of one image at each exit, with what answers at inference, in the form that inference runs.

    What makes weights of other weights, as low-rank adapters do, is done once for all images and not counted.

    Args:
        classifier: what answers; None for the linear heads.
    """
    device, was_training = network.device, network.training
    network.eval()
    hidden, logits = torch.zeros(1, *network.backbone.image_shape, device=device), None
    backbone, heads = [], []
    known: list[Tensor] = []
    network.stage_outputs(hidden)
    for index, head in enumerate(network.heads):
        macs, hidden = counted(partial(network.segment, index, hidden))
        backbone.append(macs)
        alone, together = 0.0, 0.0
        if classifier is None or classifier.reads_logits:
            alone, logits = counted(partial(inference_head(head), hidden, logits))
        if classifier is not None:
            layout = cast(Layout, head.layout)
            features = cast(Tensor, logits) if classifier.reads_logits else classifier.vector(hidden, layout).float()
            macs, scores = counted(partial(classifier.score, index, features))
            alone, known = alone + macs, [*known, scores.log_softmax(-1)]
            together, _ = counted(partial(classifier.logits_at, index, torch.stack(known)))
        heads.append(alone + together)
    network.train(was_training)
    before = 0 if classifier is None else classifier.passes_before * sum(backbone)
    exits = [before + sum(backbone[: index + 1]) + sum(heads[: index + 1]) for index in range(len(network))]
    # Copies of a part may share its values, which are there once.
    apart = {parameter.untyped_storage().data_ptr(): parameter.numel() for parameter in network.parameters()}
    parameters = sum(apart.values())
    # Without ACs the final exit has none to answer together with.
    return ExitCosts(exits, before + sum(backbone) + alone, parameters)
