"""Early-exit models of finished runs: rebuilt, saved to one file, and loaded where there is no run."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cl_ac.approach import Approach
from cl_ac.benchmark import Task
from cl_ac.checkpoint import Checkpoint, write_atomically
from cl_ac.early_exit_model import EarlyExitModel, Segment
from cl_ac.efficiency.dynamic import descriptions, insert_described
from cl_ac.errors import ConfigurationError, DataError
from cl_ac.exit_rules import Confidence, Entropy, LearnedScorer, Margin, Patience, Rule
from cl_ac.memory import Memory
from cl_ac.network import ExitNetwork
from cl_ac.run import assemble, choose_device, restore
from cl_ac.rundir import RunDirectory
from cl_ac.settings import Objects, rebuild
from cl_ac.teacher import Teacher
from cl_ac.training import Trainer

VERSION = 1
RULES: dict[str, type[Rule]] = {rule.__name__: rule for rule in (Confidence, Entropy, Margin, Patience, LearnedScorer)}


@dataclass(frozen=True)
class Finished:
    """A finished run, ready to answer.

    Args:
        objects: what its settings describe; the approach and the memory as they are after the last task.
        network: as it is after the last task.
        device: where both are.
    """

    objects: Objects
    network: ExitNetwork
    device: torch.device

    @property
    def last_task(self) -> Task:
        """The newest task that the network has learned."""
        return self.objects.benchmark[len(self.network.sizes) - 1]

    @property
    def trainer(self) -> Trainer:
        """What the run was trained with."""
        benchmark = self.objects.benchmark
        return Trainer(self.objects.training, benchmark.augmentation, self.device, benchmark.seed)


def finished(directory: RunDirectory, device: str = "auto") -> Finished:
    """Rebuilds a finished run from its settings and its checkpoint.

    Raises:
        ConfigurationError: if it is not finished.
        ResumeError: if its checkpoint cannot be read.
    """
    config = directory.config
    if not directory.checkpoint_path.exists():
        raise ConfigurationError(f"'{directory.path}' has no checkpoint.pt; measuring needs the run's network")
    checkpoint = Checkpoint.load(directory.checkpoint_path)
    if checkpoint.fit is not None or checkpoint.task == 0:
        raise ConfigurationError(f"'{directory.path}' stopped inside a task; go on with it by --resume first")
    objects, place = _objects(config), choose_device(device)
    objects.benchmark.seed = config["seed"]
    network = _assemble(objects)
    restore(checkpoint, network, objects.approach)
    objects.approach.to(place).eval()
    return Finished(objects, network.to(place).eval(), place)


def _objects(config: Mapping[str, Any]) -> Objects:
    """What the settings of a run describe; those of `attach.attach` also say what they come from."""
    return rebuild({name: value for name, value in config.items() if name != "attached"})


def _assemble(objects: Objects) -> ExitNetwork:
    objects.sparsify.prepare(objects.backbone)
    return assemble(objects.approach, objects.backbone, objects.exits, objects.memory, objects.classifier)


def save(model: EarlyExitModel, path: Path, config: Mapping[str, Any]) -> None:
    """Writes what answering takes to one file: no exemplars, no teacher.

    Args:
        config: the settings of the run, as its config.yaml holds them; they say how the network is built.
    """
    approach = {} if model.approach is None else serving_state(model.approach)
    rule = {field.name: getattr(model.rule, field.name) for field in fields(model.rule)}
    content = {
        "version": VERSION,
        "config": dict(config),
        "network": model.network.state_dict(),
        "dynamic": descriptions(model.network),
        "approach": approach,
        "corrected": model.approach is not None,
        "rule": {"name": type(model.rule).__name__, **rule},
    }
    write_atomically(Path(path), lambda file: torch.save(content, file))


def load(path: Path, device: str = "auto", fold: bool = False) -> EarlyExitModel:
    """Reads what `save` wrote; runs no code from the file, but imports the plugins that its settings name.

    Args:
        fold: whether stages take their form for inference: faster, and the same answers up to rounding.
    Raises:
        DataError: if the file cannot be read.
    """
    place = choose_device(device)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        version = content["version"]
    except Exception as error:
        raise DataError(f"'{path}' is no saved early-exit model ({error})") from error
    if version != VERSION:
        raise DataError(f"'{path}' has version {version}; this program reads version {VERSION}")
    objects = _objects(content["config"])
    network, approach = _assemble(objects), objects.approach
    # A file from before there were converted networks has none.
    insert_described(network, content.get("dynamic", {}))
    network.load_state_dict(content["network"])
    if content["corrected"]:
        missing, unexpected = approach.load_state_dict(content["approach"], strict=False)
        if unexpected or set(missing) & set(serving_state(approach)):
            raise DataError(f"'{path}' does not fit the approach {type(approach).__name__} of this program")
    name, options = content["rule"].pop("name"), content["rule"]
    answering = approach.to(place) if content["corrected"] else None
    return EarlyExitModel(network.to(place), answering, RULES[name](**options), fold)


def serving_state(approach: Approach) -> dict[str, Tensor]:
    """The state of `approach` without that of its memories, which hold images, and its teachers."""
    unused = [f"{name}." for name, module in approach.named_modules() if isinstance(module, Memory | Teacher)]
    return {key: value for key, value in approach.state_dict().items() if not key.startswith(tuple(unused))}


def export_stages(network: ExitNetwork, fold: bool = False) -> list[torch.export.ExportedProgram]:
    """Each part between exits as a program for any batch size: hidden values to (hidden values, raw logits).

    In a network with cascades, each part but the first reads the logits of the part before it as well. What a server
    does between parts is `exit_rules.step`.

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
