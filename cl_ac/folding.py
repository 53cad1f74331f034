"""Batch norm that is folded into the convolution before it: the same answers up to rounding, in less time."""

import copy

from torch import fx, nn
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
