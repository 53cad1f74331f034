"""The stages of an early-exit network as programs for other runtimes."""

import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from cl_ac.exits.model import Segment
from cl_ac.network import ExitNetwork


def export_stages(network: ExitNetwork, fold: bool = False) -> list[torch.export.ExportedProgram]:
    """Each part between exits as a program for any batch size: hidden values to (hidden values, raw logits).

    In a network with cascades, each part but the first reads the logits of the part before it as well. What a server
    does between parts is `exits.rules.step`.

    Args:
        fold: whether convolutions absorb batch norm.
    """
    batch = torch.export.Dim("batch", min=1, max=1 << 16)
    programs = []
    for segment, example in _segments(network, fold):
        shapes = tuple({0: batch} for _ in example)
        programs.append(torch.export.export(segment, example, dynamic_shapes=shapes))
    return programs


def script_stages(network: ExitNetwork, fold: bool = False) -> list[torch.jit.ScriptModule]:
    """As `export_stages` for runtimes that read TorchScript: traced and frozen.

    PyTorch advises `torch.export` in its place and warns so; the warnings of tracing are left out here.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit\..* is deprecated", category=Warning)
        return [
            torch.jit.freeze(torch.jit.trace(segment, example, check_trace=False))
            for segment, example in _segments(network, fold)
        ]


def _segments(network: ExitNetwork, fold: bool) -> Iterator[tuple[Segment, tuple[Tensor, ...]]]:
    """The parts between exits, each with an example of what it reads."""
    network.eval()
    device = next(network.parameters()).device
    for index, shape in enumerate([network.backbone.image_shape, *network.shapes[:-1]]):
        # Two images: a batch of one would be taken for a constant.
        example = [torch.zeros(2, *shape, device=device)]
        if network.exits.cascade and index:
            example.append(torch.zeros(2, network.num_classes, device=device))
        yield Segment(network, index, fold).eval(), tuple(example)
