"""Cutting a language model of Hugging Face into stages: its embeddings, its layers, and what follows them.

What a layer is given beside the hidden states (masks, rotary positions) depends only on how long the texts are, since
padding stands behind their ends. It is looked at once, for the longest texts, and cut to those of a batch.
"""

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cl_ac.backbones.calls import first_tensor
from cl_ac.backbones.cutting import LAST_STAGE
from cl_ac.backbones.text_parts import Embeddings, Ending, Layer, without_cache
from cl_ac.data.texts import PADDING, parted
from cl_ac.errors import ConfigurationError, told, unknown

EMBEDDINGS = "embeddings"


def cut_texts(model: nn.Module, length: int, stages: Sequence[str] | None, layout: str) -> dict[str, nn.Module]:
    """The stages of a language model by name: `embeddings`, one for each layer, and `penultimate`, a vector.

    What they give is compared with what the model itself gives of texts of several lengths.

    Args:
        model: an encoder, or a decoder without its classifier; shares its layers with the stages.
        length: tokens of the longest text.
        stages: names of the stages after which exits may hang, shallow to deep; None for all.
        layout: how the final exit reads tokens, one of `TEXT_READINGS`.

    Raises:
        ConfigurationError: if it has no such stages, does not work in such steps, or cannot read texts as long.
    """
    name = type(model).__name__
    most = getattr(model.config, "max_position_embeddings", None)
    if isinstance(most, int) and length > most:
        raise ConfigurationError(
            f"texts have up to {length} tokens, but the model {name} reads {most}: set tokens to at most that"
        )
    was_training = model.training
    model.eval()
    try:
        parts = _parts(model, length, layout)
        _compare(model, parts, length)
    except ConfigurationError:
        raise
    # Other people's code, called in a way that not all of it expects.
    except Exception as error:
        raise ConfigurationError(
            f"the model {name} cannot be cut at its layers ({told(error)}); choose an encoder or a decoder whose "
            "layers run one after the other"
        ) from error
    model.train(was_training)
    return parts if stages is None else _grouped(parts, stages, name)


def _parts(model: nn.Module, length: int, layout: str) -> dict[str, nn.Module]:
    path, layers = _layers(model)
    config: Any = model.config
    implementation = config._attn_implementation
    # Only this one shows every mask as numbers.
    model.set_attn_implementation("eager")
    shorter = max(length - 3, 1)
    calls, after = _watched(model, layers, length)
    twins, _ = _watched(model, layers, shorter)
    model.set_attn_implementation(implementation)
    adds = implementation != "sdpa"
    parts: dict[str, nn.Module] = {}
    for index, (layer, call, twin) in enumerate(zip(layers, calls, twins, strict=True)):
        mask, _ = call.pop("attention_mask", None), twin.pop("attention_mask", None)
        growing = {key: _growing(model, key, call[key], twin[key], length, shorter) for key in call}
        visible = torch.ones(length, length, dtype=torch.bool)
        if mask is not None:
            visible = (mask > torch.finfo(mask.dtype).min / 2)[0, 0].expand(length, length)
        kept = {key: axes for key, axes in growing.items() if axes is not None}
        parts[f"{path}.{index}"] = Layer(layer, call, kept, visible, adds)
    shell = _without(model, {path: nn.ModuleList(), **{key: nn.Identity() for key in after}})
    for key in [key for key, _ in shell.named_children() if key == "pooler"]:
        setattr(shell, key, None)
    padding = getattr(config, "pad_token_id", None)
    ending = Ending([model.get_submodule(key) for key in after], layout)
    return {EMBEDDINGS: Embeddings(shell, padding if isinstance(padding, int) else 0), **parts, LAST_STAGE: ending}


def _layers(model: nn.Module) -> tuple[str, list[nn.Module]]:
    """The list of layers that holds most of the model, and where it is."""
    lists = {path: part for path, part in model.named_modules() if isinstance(part, nn.ModuleList) and len(part)}
    if not lists:
        raise ConfigurationError(f"the model {type(model).__name__} has no list of layers to hang exits at")
    path = max(lists, key=lambda each: sum(p.numel() for p in lists[each].parameters()))
    return path, list(lists[path])


def _watched(model: nn.Module, layers: Sequence[nn.Module], length: int) -> tuple[list[dict[str, Any]], list[str]]:
    """What each layer is given beside the hidden states for a text of `length` tokens, by name, and the paths of the
    modules that run after the last layer on what it gave."""
    calls: list[dict[str, Any]] = []
    after: list[str] = []
    outside = {part: path for path, part in model.named_modules() if path and "." not in path}
    outside |= {part: path for path, part in model.named_modules() if path.count(".") == 1}

    def before_layer(layer: nn.Module, arguments: tuple, options: dict[str, Any]) -> None:
        bound = inspect.signature(layer.forward).bind(*arguments, **options)
        given = dict(bound.arguments)
        extra = [p.name for p in inspect.signature(layer.forward).parameters.values() if p.kind is p.VAR_KEYWORD]
        given |= {key: value for name in extra for key, value in given.pop(name, {}).items()}
        given.pop(next(iter(given)))
        calls.append(given)

    def after_module(module: nn.Module, arguments: tuple, output: Any) -> None:
        if len(calls) == len(layers) and isinstance(output, Tensor) and output.ndim == 3:
            after.append(outside[module])

    handles = [layer.register_forward_pre_hook(before_layer, with_kwargs=True) for layer in layers]
    inside = {part for layer in layers for part in layer.modules()}
    handles += [
        part.register_forward_hook(after_module)
        for part in outside
        if part not in inside and not any(part is parent for parent in _parents(model, layers))
    ]
    try:
        numbers = torch.ones(1, length, dtype=torch.int64)
        with torch.enable_grad():
            model(numbers, attention_mask=torch.ones_like(numbers), **without_cache(model))
    finally:
        for handle in handles:
            handle.remove()
    return calls, [path for path in after if path != "pooler"]


def _parents(model: nn.Module, layers: Sequence[nn.Module]) -> list[nn.Module]:
    """The modules that hold the layers."""
    return [part for part in model.modules() if any(layer is each for layer in layers for each in part.modules())]


def _growing(model: nn.Module, key: str, value: Any, twin: Any, length: int, shorter: int) -> tuple[int, ...] | None:
    """Along which axes an argument of a layer grows with the text; None of one that is no tensor."""
    both = [torch.stack(each) if _pair(each) else each for each in (value, twin)]
    if not isinstance(both[0], Tensor):
        if both[0] is not both[1] and both[0] != both[1]:
            raise ConfigurationError(f"the layers of {type(model).__name__} are given '{key}', which changes by text")
        return None
    if both[0].requires_grad:
        raise ConfigurationError(f"the layers of {type(model).__name__} are given '{key}', which learns")
    axes = tuple(axis for axis, (one, other) in enumerate(zip(*(e.shape for e in both), strict=True)) if one != other)
    cut = both[0]
    for axis in axes:
        cut = cut.narrow(axis, 0, shorter)
    if cut.shape != both[1].shape or not torch.equal(cut, both[1]):
        raise ConfigurationError(
            f"the layers of {type(model).__name__} are given '{key}', which depends on how long a text is"
        )
    return axes


def _pair(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and all(isinstance(part, Tensor) for part in value)


def _without(model: nn.Module, changes: Mapping[str, nn.Module]) -> nn.Module:
    """A copy of `model` that shares all but the parts at the paths in `changes`."""
    found = copy.copy(model)
    found.__dict__["_modules"] = dict(model._modules)
    inside: dict[str, dict[str, nn.Module]] = {}
    for path, part in changes.items():
        name, _, rest = path.partition(".")
        if rest:
            inside.setdefault(name, {})[rest] = part
        else:
            found._modules[name] = part
    for name, parts in inside.items():
        found._modules[name] = _without(model.get_submodule(name), parts)
    return found


def _compare(model: nn.Module, parts: Mapping[str, nn.Module], length: int) -> None:
    """Raises a `ConfigurationError` if the parts give something else than the model, of texts with and without end."""
    counts = [length, max(length - 2, 1), max(length // 2, 1)]
    stream = torch.Generator().manual_seed(0)
    vocabulary = model.get_input_embeddings().num_embeddings
    numbers = torch.randint(1, vocabulary, (len(counts), length), generator=stream)
    real = torch.arange(length) < torch.tensor(counts)[:, None]
    chain = nn.Sequential(*list(parts.values())[:-1])
    ending = parts[LAST_STAGE]
    with torch.no_grad():
        for row, count in enumerate(counts):
            alone = numbers[row : row + 1, :count]
            expected = first_tensor(model(alone, attention_mask=torch.ones_like(alone), **without_cache(model)))
            batch = numbers.masked_fill(~real, PADDING)[:, None, None].float()
            values, _ = parted(chain.eval()(batch))
            found = ending.eval().after(values)[row : row + 1, :count]
            near = torch.allclose(found, expected, atol=1e-3 * float(expected.abs().max()), rtol=1e-3)
            if not near:
                raise ConfigurationError(
                    f"the model {type(model).__name__} gives something else when its layers run one after the other; "
                    "choose another"
                )


def _grouped(parts: Mapping[str, nn.Module], stages: Sequence[str], name: str) -> dict[str, nn.Module]:
    """The parts, joined to stages that end at those that are named."""
    names = list(parts)
    for stage in stages:
        if stage not in names[:-1]:
            raise ConfigurationError(unknown(f"stage to cut the model {name} at", stage, names[:-1]))
    ends = [names.index(stage) + 1 for stage in stages]
    if sorted(set(ends)) != ends:
        raise ConfigurationError(f"stages is {list(stages)}; name each end once, from shallow to deep")
    bounds = zip([0, *ends], [*ends, len(names)], [*stages, LAST_STAGE], strict=True)
    return {stage: nn.Sequential(*list(parts.values())[start:end]) for start, end, stage in bounds}
