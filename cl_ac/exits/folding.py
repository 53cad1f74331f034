"""Convolutions for inference: the same answers up to rounding, in less time."""

import copy
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cl_ac.data.copying import copied

PAIRS = ((nn.Conv1d, nn.BatchNorm1d), (nn.Conv2d, nn.BatchNorm2d), (nn.Conv3d, nn.BatchNorm3d))


def fold_batch_norm(module: nn.Module) -> nn.Module:
    """A frozen copy of `module` for evaluation, in which convolutions have absorbed the batch norm that follows them,
    and weights what tunes them.

    Batch norm that does not follow a convolution stays, and so does all of it in a module whose control flow depends on
    its input, which cannot be traced.
    """
    module = with_plain_weights(copied(module).eval().requires_grad_(False))
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
        traced.set_submodule(str(source.target), fused)
        node.replace_all_uses_with(source)
        traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced.eval().requires_grad_(False)


@torch.no_grad()
def with_plain_weights(module: nn.Module) -> nn.Module:
    """`module` with the present weights of layers that compute theirs, such as by masks or adapters, in place of that.

    Torch's own function changes the classes of such layers, which copies share.
    """
    for layer in [each for each in module.modules() if parametrize.is_parametrized(each)]:
        parametrized = cast(nn.ModuleDict, layer.parametrizations)
        weights = {name: getattr(layer, name).detach().clone() for name in parametrized}
        del layer.parametrizations
        layer.__class__ = type(layer).__bases__[0]
        for name, weight in weights.items():
            setattr(layer, name, nn.Parameter(weight, requires_grad=False))
    return module


class InferenceStages(nn.Module):
    """Stages in evaluation mode with batch norm folded into convolutions, and in their packed form where there is one.

    Args:
        stages: copied; later changes of them do not show.
        shape: of what they read, without the batch.
    """

    def __init__(self, stages: nn.Module, shape: Sequence[int]):
        super().__init__()
        own = copied(stages).eval().requires_grad_(False)
        folded = fold_batch_norm(own)
        self.folded = folded if _agree(own, folded, shape) else own
        self.shape = tuple(shape)
        self.packed: Callable[[Tensor], Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Packed weights can be neither copied nor saved; they are packed again.
        return {**self.__dict__, "packed": None}

    def forward(self, hidden: Tensor) -> Tensor:
        elsewhere = torch.jit.is_tracing() or torch.compiler.is_compiling()
        if elsewhere or hidden.device.type != "cpu" or hidden.dtype != torch.float32:
            return self.folded(hidden)
        if self.packed is None:
            self.packed = packed_form(self.folded, self.shape)
        return self.packed(hidden)


@torch.no_grad()
def _agree(stages: nn.Module, folded: nn.Module, shape: Sequence[int]) -> bool:
    """Whether both say the same of random values: tracing loses what a module changes in place and reads again."""
    like = next(folded.parameters(), torch.empty(0))
    values = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).to(like)
    expected, found = stages(values.clone()), folded(values)
    return torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item(), equal_nan=True)


# Multiply-accumulates of one image below which preparing a oneDNN call takes longer than PyTorch's own convolution.
FEW_MACS = 200_000


@torch.no_grad()
def packed_form(module: nn.Module, shape: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """A function that does the same for float32 on a CPU, in fewer and faster calls.

    Where PyTorch brings a convolution's weights into oneDNN's layout in each call, and unfolds a single image on one
    thread into a matrix, here they wait in that layout, and the sum and the ReLU that follow are part of the call.
    Small convolutions stay as they are, and so does all of a module that was not traced.

    Args:
        module: as `fold_batch_norm` returns it.
        shape: of what it reads, without the batch.
    """
    if not isinstance(module, fx.GraphModule) or not torch.backends.mkldnn.is_available():
        return module.forward
    packed = fx.GraphModule(module, copy.deepcopy(module.graph))
    ShapeProp(packed).propagate(torch.zeros(1, *shape))
    layers = dict(packed.named_modules())
    for node in list(packed.graph.nodes):
        layer = layers[node.target] if node.op == "call_module" else None
        if type(layer) is not nn.Conv2d or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            continue
        if layer.weight.numel() * math.prod(_shape(node)[2:]) >= FEW_MACS:
            _pack(packed, node, layer, layers)
    packed.recompile()
    # Its own `forward` and not the call of a module, which takes as long as a small layer.
    return packed.forward


def _pack(module: fx.GraphModule, node: fx.Node, convolution: nn.Conv2d, layers: Mapping[str, nn.Module]) -> None:
    """Replaces a node that calls a convolution, and the sum and the ReLU after it, by one call."""
    source, chain = node.all_input_nodes[0], [node]
    added = _summand(node)
    if added is not None:
        chain += node.users
    rectified = _is_rectified(chain[-1], layers)
    if rectified:
        chain += chain[-1].users
    options: list[Any] = [list(each) for each in (convolution.padding, convolution.stride, convolution.dilation)]
    options.append(convolution.groups)
    weight = convolution.weight.contiguous()
    weight = torch.ops.mkldnn._reorder_convolution_weight(weight, *options, [*_shape(source)])
    call = torch.ops.mkldnn._convolution_pointwise
    with module.graph.inserting_before(chain[-1]):
        weights = [
            None if value is None else _constant(module, f"{node.name}_{name}", value)
            for name, value in (("weight", weight), ("bias", convolution.bias))
        ]
        then: tuple[Any, ...]
        if added is None:
            then = "relu" if rectified else "none", [], ""
            replacement = module.graph.call_function(call.default, (source, *weights, *options, *then))
        else:
            then = "add", None, "relu" if rectified else None, [], ""
            replacement = module.graph.call_function(call.binary, (source, added, *weights, *options, *then))
    replacement.meta = chain[-1].meta
    chain[-1].replace_all_uses_with(replacement)
    for replaced in reversed(chain):
        module.graph.erase_node(replaced)


def _constant(module: fx.GraphModule, name: str, value: Tensor) -> fx.Node:
    """Stores a tensor in a module where its graph can read it."""
    # A plain attribute: packed weights can be no buffers.
    object.__setattr__(module, name, value.detach())
    return module.graph.create_node("get_attr", name)


def _shape(node: fx.Node) -> tuple[int, ...]:
    """Of what a node of a graph gave when shapes were propagated; () if that is not one tensor."""
    return tuple(getattr(node.meta.get("tensor_meta"), "shape", ()))


def _summand(node: fx.Node) -> fx.Node | None:
    """What is added to a node's tensor, if that is all that becomes of it and the shapes are the same."""
    if len(node.users) != 1:
        return None
    (user,) = node.users
    if user.op != "call_function" or user.target not in (operator.add, torch.add) or user.kwargs:
        return None
    others = [each for each in user.args if each is not node]
    if len(others) != 1 or not isinstance(others[0], fx.Node) or _shape(others[0]) != _shape(node):
        return None
    return others[0]


def _is_rectified(node: fx.Node, layers: Mapping[str, nn.Module]) -> bool:
    """Whether ReLU is all that reads a node's tensor."""
    if len(node.users) != 1:
        return False
    (user,) = node.users
    if user.op == "call_module":
        return type(layers.get(str(user.target))) is nn.ReLU
    return user.op == "call_function" and user.target in (F.relu, torch.relu)
