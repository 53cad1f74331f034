"""The feed-forward networks (FFNs) of any transformer, found by structure and described in one way.

Legend: D model width, F hidden neurons.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_ac.kernels.experts import ACTIVATIONS, activate


@dataclass(frozen=True)
class FeedForward:
    """One FFN: `down · act(up · x)`, or `down · (act(gate · x) * (up · x))` if it is a GLU.

    Weights are views on the model's parameters, without gradient: find them again after moving the model.

    Args:
        module: what holds all of it.
        parts: submodules of `module` that compute the FFN when called one after the other; "" is `module` itself.
        activation_path: the activation, a submodule of `module`.
        up: [F, D].
        down: [D, F].
        up_bias: [F] or None.
        down_bias: [D] or None.
        gate: [F, D], or None for a plain FFN.
        gate_bias: [F] or None.
        dropout: probability of dropping an output; set where it is found.
        hidden_dropout: probability of dropping a hidden neuron; set where it is found.
        activation: one of `kernels.experts.ACTIVATIONS`, or None if it is another function; set where it is found.
        name: path of `module` in the model; set where it is found.
    """

    module: nn.Module
    parts: tuple[str, ...]
    activation_path: str
    up: Tensor
    down: Tensor
    up_bias: Tensor | None = None
    down_bias: Tensor | None = None
    gate: Tensor | None = None
    gate_bias: Tensor | None = None
    dropout: float = 0.0
    hidden_dropout: float = 0.0
    activation: str | None = None
    name: str = ""

    @property
    def width(self) -> int:
        """D."""
        return self.up.shape[1]

    @property
    def hidden(self) -> int:
        """F."""
        return self.up.shape[0]

    @property
    def entry_path(self) -> str:
        """Path in the model of the module whose input is the FFN's, where a replacement goes."""
        return ".".join(filter(None, (self.name, self.parts[0])))

    @property
    def entry(self) -> nn.Module:
        """The module whose input is the FFN's."""
        return self.module.get_submodule(self.parts[0])

    @property
    def activation_module(self) -> nn.Module:
        """The activation; of a GLU, that of its gate."""
        return self.module.get_submodule(self.activation_path)

    @property
    def paths(self) -> list[str]:
        """Paths of `parts` in the model."""
        return [".".join(filter(None, (self.name, part))) for part in self.parts]

    def swap_activation(self, activation: nn.Module) -> None:
        """Puts another activation in place."""
        self.module.set_submodule(self.activation_path, activation.train(self.module.training))

    def replace(self, model: nn.Module, replacement: nn.Module) -> None:
        """Puts `replacement` ([..., D] to [..., D]) into `model` in place of this FFN.

        Raises:
            ValueError: if the FFN is the whole model, which has no place to put anything.
        """
        first, *rest = self.paths
        if not first:
            raise ValueError("the model is itself one FFN; wrap it in a module to replace it")
        model.set_submodule(first, replacement.train(self.module.training))
        for path in rest:
            model.set_submodule(path, nn.Identity())


Adapter = Callable[[nn.Module], Sequence[FeedForward]]


def plain(module: nn.Module) -> Sequence[FeedForward]:
    """Linear, activation, Linear: torchvision's `MLPBlock`, timm's `Mlp`, Hugging Face's `GPT2MLP`, our own ViT's."""
    names = PLAIN if not isinstance(module, nn.Sequential) else [_sequential_names(module)]
    for first, activation, second in names:
        up, down, act = (child(module, name) for name in (first, second, activation))
        if (up := linear_weights(up)) and (down := linear_weights(down)) and act is not None and _fits(up, down):
            return [_described(module, activation, up, down)]
    return []


def gated(module: nn.Module) -> Sequence[FeedForward]:
    """A GLU of three Linears: Hugging Face's `LlamaMLP` and `GemmaMLP`, timm's `SwiGLU`."""
    for first, activation, second, third in GATED:
        gate, up, down, act = (child(module, name) for name in (first, second, third, activation))
        gate, up, down = linear_weights(gate), linear_weights(up), linear_weights(down)
        if gate and up and down and act is not None and _fits(up, down) and gate[0].shape == up[0].shape:
            return [_described(module, activation, up, down, gate)]
    return []


def packed(module: nn.Module) -> Sequence[FeedForward]:
    """A GLU whose gate and up weights are the halves of one Linear, in either order: timm's `GluMlp`, `Phi3MLP`."""
    for first, activation, second in PACKED:
        both, down, act = (child(module, name) for name in (first, second, activation))
        if (both := linear_weights(both)) and (down := linear_weights(down)) and act is not None:
            weight, bias = both
            biases = (None, None) if bias is None else bias.chunk(2)
            one, other = zip(weight.chunk(2), biases, strict=True)
            if len(weight) % 2 == 0 and _fits(one, down):
                return [
                    _described(module, activation, other, down, one),
                    _described(module, activation, one, down, other),
                ]
    return []


def split_over_layer(module: nn.Module) -> Sequence[FeedForward]:
    """Hugging Face's `BertLayer` and its kin: `intermediate` and `output.dense`, residual and norm outside."""
    up, down = (linear_weights(child(module, f"{name}.dense")) for name in ("intermediate", "output"))
    activation = "intermediate.intermediate_act_fn"
    if up and down and child(module, activation) is not None and _fits(up, down):
        described = _described(module, activation, up, down)
        return [replace(described, parts=("intermediate", "output.dense"))]
    return []


# Names of first layer, activation and second layer; of gate, activation, up and down in GLUs.
PLAIN = (
    ("up", "activation", "down"),
    ("fc1", "act", "fc2"),
    ("fc1", "activation_fn", "fc2"),
    ("c_fc", "act", "c_proj"),
    ("lin1", "activation", "lin2"),
    ("wi", "act", "wo"),
    ("dense_h_to_4h", "act", "dense_4h_to_h"),
)
GATED = (
    ("gate_proj", "act_fn", "up_proj", "down_proj"),
    ("gate", "activation", "up", "down"),
    ("fc1_g", "act", "fc1_x", "fc2"),
    ("wi_0", "act", "wi_1", "wo"),
)
PACKED = (("fc1", "act", "fc2"), ("gate_up_proj", "activation_fn", "down_proj"))
ADAPTERS: tuple[Adapter, ...] = (gated, plain, packed, split_over_layer)


def find_feed_forwards(model: nn.Module, adapters: Sequence[Adapter] = ADAPTERS) -> dict[str, FeedForward]:
    """Every FFN of `model` by the path of its module, in the order of the model's modules.

    What an adapter describes is believed only if it computes what the module does, on two random tokens.

    Args:
        adapters: each maps a module to descriptions to try, or to none; put those for your own modules first.
    """
    found: dict[str, FeedForward] = {}
    for name, module in model.named_modules():
        if any(_inside(name, path) for each in found.values() for path in each.paths):
            continue
        candidates = (candidate for adapter in adapters for candidate in adapter(module))
        described = next(filter(computes_the_same, candidates), None)
        if described is not None:
            dropout, hidden_dropout = dropouts(described)
            found[name] = replace(
                described,
                name=name,
                activation=activation_name(described.activation_module),
                dropout=dropout,
                hidden_dropout=hidden_dropout,
            )
    return found


@torch.no_grad()
def computes_the_same(described: FeedForward) -> bool:
    """Whether the weights of `described`, used as it says, give what its module gives in evaluation mode."""
    up = described.up
    if up.is_meta:
        return True
    tokens = torch.randn(1, 2, described.width, generator=torch.Generator().manual_seed(0)).to(up)
    act = described.activation_module
    # Rounded weights would be compared, and autocast could go on with copies of them that were made without gradient.
    with evaluating(described.module), torch.autocast(up.device.type, enabled=False):
        try:
            hidden = F.linear(tokens, up, described.up_bias)
            if described.gate is None:
                hidden = act(hidden)
            else:
                hidden = act(F.linear(tokens, described.gate, described.gate_bias)) * hidden
            expected = F.linear(hidden, described.down, described.down_bias)
            output = tokens
            for part in described.parts:
                output = described.module.get_submodule(part)(output)
        # A module that is no FFN after all may ask for anything else.
        except Exception:
            return False
    if not isinstance(output, Tensor) or output.shape != expected.shape:
        return False
    tolerance = 1e-4 if up.dtype in (torch.float32, torch.float64) else 3e-2
    return bool((output - expected).abs().max() <= tolerance * expected.abs().max())


@torch.no_grad()
def dropouts(described: FeedForward) -> tuple[float, float]:
    """Probabilities of dropping an output and a hidden neuron, by the order in which the modules of an FFN are called:
    dropouts after the last linear layer, and those between the activation and that layer. 0 on the meta device."""
    if described.up.is_meta:
        return 0.0, 0.0
    calls: list[nn.Module] = []
    parts = [described.module.get_submodule(part) for part in described.parts]
    with ExitStack() as stack:
        stack.enter_context(evaluating(described.module))
        stack.enter_context(torch.autocast(described.up.device.type, enabled=False))
        for module in {inner for part in parts for inner in part.modules()}:
            stack.enter_context(module.register_forward_hook(lambda module, inputs, output: calls.append(module)))
        output = described.up.new_zeros(1, 1, described.width)
        for part in parts:
            output = part(output)
    last = max((index for index, module in enumerate(calls) if linear_weights(module) is not None), default=0)
    activation = next((index for index, module in enumerate(calls) if module is described.activation_module), last)

    def dropped(modules: Sequence[nn.Module]) -> float:
        shares = (module.p for module in modules if isinstance(module, nn.Dropout))
        return reduce(lambda one, other: one + other - one * other, shares, 0.0)

    return dropped(calls[last:]), dropped(calls[activation:last])


def activation_name(module: nn.Module) -> str | None:
    """Which of `kernels.experts.ACTIVATIONS` the module computes, judged by its values; None if it is another."""
    parameter = next(module.parameters(), None)
    points = torch.linspace(-6, 6, 121, device=None if parameter is None else parameter.device)
    with torch.no_grad():
        values = module(points.clone())
        return next((name for name in ACTIVATIONS if torch.allclose(values, activate(points, name), atol=1e-5)), None)


def _described(module: nn.Module, activation: str, up, down, gate=(None, None)) -> FeedForward:
    """The description of a module that is one FFN as a whole."""
    return FeedForward(module, ("",), activation, up[0], down[0], up[1], down[1], *gate)


def _sequential_names(module: nn.Sequential) -> tuple[str, str, str]:
    """Where layers, activation and second layer stand in a Sequential, dropouts left out; "-" if it is no FFN."""
    kept = [name for name, child in module.named_children() if not isinstance(child, nn.Dropout)]
    return tuple(kept) if len(kept) == 3 else ("-", "-", "-")


def _inside(name: str, path: str) -> bool:
    return not path or name == path or name.startswith(f"{path}.")


def child(module: nn.Module, path: str) -> nn.Module | None:
    """The submodule at `path`; None if there is none."""
    for name in path.split("."):
        module = module._modules.get(name)
        if module is None:
            return None
    return module


def linear_weights(module: nn.Module | None) -> tuple[Tensor, Tensor | None] | None:
    """Weight [out, in] and bias of a Linear, or of Hugging Face's Conv1D, which stores the transpose."""
    if isinstance(module, nn.Linear):
        weight = module.weight
    elif type(module).__name__ == "Conv1D" and hasattr(module, "nf"):
        weight = module.weight.t()
    else:
        return None
    return weight.detach(), None if module.bias is None else module.bias.detach()


def _fits(up: tuple, down: tuple) -> bool:
    return up[0].shape == down[0].shape[::-1]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Puts a module into evaluation mode, then each of its layers back into its own."""
    modes = {layer: layer.training for layer in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for layer, mode in modes.items():
            layer.training = mode
