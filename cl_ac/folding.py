"""Convolutions for inference: the same answers up to rounding, in less time."""

import copy
import math

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

PAIRS = ((nn.Conv1d, nn.BatchNorm1d), (nn.Conv2d, nn.BatchNorm2d), (nn.Conv3d, nn.BatchNorm3d))


def fold_batch_norm(module: nn.Module) -> nn.Module:
    """A frozen copy of `module` for evaluation, in which convolutions have absorbed the batch norm that follows them.

    Batch norm that does not follow a convolution stays, and so does all of it in a module whose control flow depends on
    its input, which cannot be traced.
    """
    module = copy.deepcopy(module).eval().requires_grad_(False)
    try:
        traced = fx.symbolic_trace(module)
    # Tracing runs the module's own code on stand-ins for tensors, which raises whatever that code raises.
    except Exception:
        return module
    layers = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        source = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) > 1:
            continue
        convolution, norm = layers[source.target], layers[node.target]
        uses = sum(other.target == source.target for other in traced.graph.nodes)
        if (type(convolution), type(norm)) not in PAIRS or uses > 1 or norm.running_mean is None:
            continue
        layers[source.target] = fused = fuse_conv_bn_eval(convolution, norm)
        traced.set_submodule(source.target, fused)
        node.replace_all_uses_with(source)
        traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced.eval().requires_grad_(False)


# Values of an unfolded image, 0.4 MB in float32, beyond which unfolding it is slower than a direct convolution.
UNFOLDED_VALUES = 100_000


class DirectConvolution(nn.Module):
    """A convolution on a CPU that never unfolds a large image.

    A single small image on one thread PyTorch unfolds into a matrix and multiplies, where it gives all else to oneDNN.
    That is slower once the matrix, which grows with kernel area and image size, is out of the first caches.
    """

    def __init__(self, convolution: nn.Conv2d):
        super().__init__()
        self.convolution = convolution
        self.values = math.prod(convolution.weight.shape[1:]) / math.prod(convolution.stride)

    def forward(self, images: Tensor) -> Tensor:
        given = self.convolution
        large = self.values * images.shape[2] * images.shape[3] > UNFOLDED_VALUES
        if not large or images.device.type != "cpu" or images.dtype != torch.float32:
            return given(images)
        options = given.padding, given.stride, given.dilation, given.groups
        return torch.mkldnn_convolution(images, given.weight, given.bias, *options)


def direct_convolutions(module: nn.Module) -> None:
    """Makes the 2-d convolutions inside `module`, for inference, direct ones where oneDNN is there."""
    if not torch.backends.mkldnn.is_available():
        return
    for name, layer in list(module.named_modules()):
        if type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
            module.set_submodule(name, DirectConvolution(layer))
