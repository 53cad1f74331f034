"""Cutting a model into stages at named submodules, without editing it."""

import operator
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, fx, nn

from cl_ac.backbones.blocks import find_blocks
from cl_ac.backbones.feed_forward import find_feed_forwards
from cl_ac.data.layouts import Layout
from cl_ac.errors import ConfigurationError, unknown

LAST_STAGE = "penultimate"


class CannotBeTraced(ConfigurationError):
    """A model's code depends on its input or its mode."""


class _Root(nn.Module):
    """Calls a model with images only, so that its further arguments keep their defaults and are no inputs."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)


class _Tracer(fx.Tracer):
    """Keeps modules that act differently in training whole: they obey `train()` and `eval()` when the graph runs.

    Transformer blocks and feed-forward networks stay whole too, and layers with a weight that pad or scale in a way of
    their own, so that other rooms can put something into them.
    """

    def __init__(self, whole: Collection[nn.Module]):
        super().__init__()
        self.whole = whole

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        layers = nn.modules.batchnorm._NormBase, nn.modules.conv._ConvNd, nn.Linear
        whole = isinstance(module, layers) or module in self.whole or not list(module.children())
        return whole or super().is_leaf_module(module, name)


def cut(model: nn.Module, stages: Sequence[str] | None) -> dict[str, fx.GraphModule]:
    """Cuts a classification model into stages that are called one after the other.

    The linear layer at its end is dropped: the last stage, `penultimate`, gives what that layer would read. Activations
    no longer work in place, since an exit may read what the next stage would overwrite.

    Args:
        model: shares its layers with the stages.
        stages: submodules at whose end a stage ends, shallow to deep; None for those of `usual_stages`.

    Raises:
        CannotBeTraced: if its code depends on what it reads, or is another in training.
        ConfigurationError: if it cannot be cut there because more than one tensor crosses.
    """
    name, root = type(model).__name__, _Root(model)
    graph = _trace(root, name)
    _drop_classifier(root, graph, name)
    _make_out_of_place(root, graph)
    points = cut_points(graph)
    stages = usual_stages(model, points) if stages is None else stages
    for stage in stages:
        if stage not in points:
            raise ConfigurationError(unknown(f"stage to cut the model {name} at", stage, points))
    ends = [points[stage] for stage in stages]
    if sorted(set(ends)) != ends:
        raise ConfigurationError(f"stages is {list(stages)}; name each end once, from shallow to deep")
    bounds = pairwise([0, *(end + 1 for end in ends), len(graph.nodes)])
    parts = [_part(root, list(graph.nodes), start, end) for start, end in bounds]
    return dict(zip([*stages, LAST_STAGE], parts, strict=True))


def _part(root: nn.Module, nodes: list[fx.Node], start: int, end: int) -> fx.GraphModule:
    """The nodes from `start` to before `end` as a module, from the tensor that enters to the one that leaves."""
    part, inside = fx.Graph(), nodes[start:end]
    copies: dict[fx.Node, fx.Node] = {}
    entering = [source for node in inside for source in node.all_input_nodes if source not in inside]
    for source in entering:
        if not _is_batch_size(source):
            copies.setdefault(source, part.placeholder("hidden") if not copies else next(iter(copies.values())))
    for source in filter(_is_batch_size, entering):
        # What enters has as many images.
        copies[source] = part.call_method("size", (next(iter(copies.values())), 0))
    for node in inside:
        copies[node] = part.node_copy(node, copies.__getitem__)
    if inside[-1].op != "output":
        leaving = next(
            node for node in inside if not _is_batch_size(node) and any(user not in copies for user in node.users)
        )
        part.output(copies[leaving])
    return fx.GraphModule(root, part)


def _is_batch_size(node: fx.Node) -> bool:
    """Whether a node is the number of images, as `x.size(0)`, `x.shape[0]` or the first of an unpacked shape."""
    if node.target == "size":
        return node.args[1:] == (0,) or bool(node.kwargs.get("dim") == 0)
    if node.target is not operator.getitem or node.args[1] != 0:
        return False
    shape = node.args[0]
    named = shape.target is getattr and bool(shape.args[1] == "shape")
    return named or (shape.target == "size" and len(shape.args) == 1)


def cut_points(graph: fx.Graph) -> dict[str, int]:
    """The submodules at whose end exactly one tensor goes on, each with the index of its last node."""
    nodes = list(graph.nodes)
    index_of = {node: index for index, node in enumerate(nodes)}
    last_use = [max((index_of[user] for user in node.users), default=-1) for node in nodes]
    crossing = [-1 if _is_batch_size(node) else use for node, use in zip(nodes, last_use, strict=True)]
    last_node: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for path, _ in node.meta.get("nn_module_stack", {}).values():
            last_node[path.removeprefix("model").removeprefix(".")] = index
    return {
        path: end
        for path, end in last_node.items()
        if path
        and crossing[end] > end
        and sum(use > end for use in crossing[: end + 1]) == 1
        # The last node before the output ends the last stage.
        and nodes[last_use[end]].op != "output"
    }


def usual_stages(model: nn.Module, points: Mapping[str, int]) -> list[str]:
    """Where to cut a model of which nothing else is known: after each of its blocks, shallow to deep.

    Blocks are modules that hold modules. Where one of them holds nine tenths of all parameters in blocks, such as the
    layers of a transformer, its own blocks are taken instead; so are those of lists of modules.

    Args:
        points: where the model can be cut, each with the place of its end.
    """
    blocks = _blocks(model, "")
    while blocks:
        sizes = {name: sum(p.numel() for p in block.parameters()) for name, block in blocks.items()}
        path = max(sizes, key=sizes.__getitem__)
        inside = _blocks(blocks[path], f"{path}.")
        if not inside or sizes[path] < 0.9 * sum(sizes.values()):
            break
        blocks = inside
    while any(isinstance(block, nn.ModuleList) for block in blocks.values()):
        opened = [
            _blocks(block, f"{name}.") if isinstance(block, nn.ModuleList) else {name: block}
            for name, block in blocks.items()
        ]
        blocks = {name: block for part in opened for name, block in part.items()}
    by_end = {points[name]: name for name in blocks if name in points}
    return [by_end[end] for end in sorted(by_end)]


def _blocks(module: nn.Module, prefix: str) -> dict[str, nn.Module]:
    return {f"{prefix}{name}": child for name, child in module.named_children() if list(child.children())}


def token_layout(graph: fx.Graph) -> Layout | None:
    """Whether a model's last stage reads the first of its tokens or their mean; None if neither."""
    for node in reversed(graph.nodes):
        index = node.args[1] if node.op == "call_function" and node.target is operator.getitem else None
        if isinstance(index, tuple) and index[:2] == (slice(None), 0):
            return "class_token"
        if node.target in ("mean", torch.mean) and (node.kwargs.get("dim", node.args[1:2]) in (1, (1,), [1], ([1],))):
            return "tokens"
    return None


def _trace(model: nn.Module, name: str) -> fx.Graph:
    """The graph of `model`; `training=` arguments of its functions follow the mode in which the graph runs."""
    graphs = []
    whole = {found.module for found in find_feed_forwards(model).values()}
    whole |= {block.module for block in find_blocks(model)}
    for mode in (True, False):
        try:
            graphs.append(_Tracer(whole).trace(model.train(mode)))
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise CannotBeTraced(
                f"the model {name} cannot be traced ({reason}); choose a model without control "
                "flow that depends on its input, or write a Backbone with its stages"
            ) from error
    model.train()
    training, evaluation = graphs
    for node, twin in zip(list(training.nodes), list(evaluation.nodes), strict=False):
        if node.kwargs.get("training") is True and twin.kwargs.get("training") is False:
            with training.inserting_before(node):
                node.kwargs = {**node.kwargs, "training": training.get_attr("training")}
            with evaluation.inserting_before(twin):
                twin.kwargs = {**twin.kwargs, "training": evaluation.get_attr("training")}
    if _structure(training) != _structure(evaluation):
        raise CannotBeTraced(
            f"the model {name} runs other code in training than in evaluation; choose another model, "
            "or write a Backbone with its stages"
        )
    return training


def _structure(graph: fx.Graph) -> list[tuple]:
    """What the nodes of `graph` do, independent of their names."""
    index_of = {node: index for index, node in enumerate(graph.nodes)}

    def plain(arguments):
        return repr(fx.map_arg(arguments, lambda node: f"node {index_of[node]}"))

    return [
        (node.op, "" if node.op == "get_attr" else node.target, plain(node.args), plain(node.kwargs))
        for node in graph.nodes
    ]


def _drop_classifier(model: nn.Module, graph: fx.Graph, name: str) -> None:
    """Makes the graph return what its last linear layer reads."""
    *_, last, output = graph.nodes
    while last.op == "call_module" and _is(model, last, nn.Identity):
        last = last.prev
    if last.op != "call_module" or not _is(model, last, nn.Linear):
        raise ConfigurationError(f"the model {name} does not end in a linear layer; choose a classification model")
    output.args = (last.args[0],)
    while output.prev is not last.prev:
        graph.erase_node(output.prev)


def _is(model: nn.Module, node: fx.Node, kind: type) -> bool:
    return isinstance(model.get_submodule(str(node.target)), kind)


def _make_out_of_place(model: nn.Module, graph: fx.Graph) -> None:
    """Activations and functions with `inplace=` get a tensor of their own; tracing does so for `+=`."""
    for module in model.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
    for node in graph.nodes:
        if node.kwargs.get("inplace") is True:
            node.kwargs = {**node.kwargs, "inplace": False}
