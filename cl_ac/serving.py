"""Early-exit models of finished runs: rebuilt, saved to one file, and loaded where there is no run."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cl_ac.approach import Approach
from cl_ac.checkpoint import Checkpoint, write_atomically
from cl_ac.early_exit_model import EarlyExitModel
from cl_ac.efficiency.dynamic import descriptions, insert_described
from cl_ac.errors import ConfigurationError, DataError
from cl_ac.exit_rules import Confidence, Entropy, LearnedScorer, Margin, Patience, Rule
from cl_ac.memory import Memory
from cl_ac.network import ExitNetwork
from cl_ac.run import assemble, choose_device, restore
from cl_ac.rundir import RunDirectory
from cl_ac.settings import Objects, rebuild
from cl_ac.teacher import Teacher

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


def load(path: Path, device: str = "auto") -> EarlyExitModel:
    """Reads what `save` wrote; runs no code from the file, but imports the plugins that its settings name.

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
    return EarlyExitModel(
        network.to(place), approach.to(place) if content["corrected"] else None, RULES[name](**options)
    )


def serving_state(approach: Approach) -> dict[str, Tensor]:
    """The state of `approach` without that of its memories, which hold images, and its teachers."""
    unused = [f"{name}." for name, module in approach.named_modules() if isinstance(module, Memory | Teacher)]
    return {key: value for key, value in approach.state_dict().items() if not key.startswith(tuple(unused))}


class Stage(nn.Module):
    """The part of a network up to one exit, from the exit before it: hidden values to hidden values and logits."""

    def __init__(self, network: ExitNetwork, index: int):
        super().__init__()
        self.index, (start, end) = index, network.bounds[index]
        self.stages, self.head = nn.Sequential(*network.backbone.stages[start:end]), network.heads[index]

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.stages(hidden)
        return hidden, self.head(hidden)


def export_stages(network: ExitNetwork) -> list[torch.export.ExportedProgram]:
    """Each part between exits as a program for any batch size: hidden values to (hidden values, raw logits).

    What a server does between them is `exit_rules.step`.
    """
    network.eval()
    shapes = [network.backbone.image_shape, *network.shapes]
    batch, device = torch.export.Dim("batch", min=1, max=1 << 16), next(network.parameters()).device
    programs = []
    for index, shape in enumerate(shapes[:-1]):
        # Two images: a batch of one would be taken for a constant.
        example = torch.zeros(2, *shape, device=device)
        stage = Stage(network, index).eval()
        programs.append(torch.export.export(stage, (example,), dynamic_shapes=({0: batch},)))
    return programs
