"""Finished runs, rebuilt and ready to answer."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from cl_ac.data.tasks import Task
from cl_ac.errors import ConfigurationError
from cl_ac.network import ExitNetwork
from cl_ac.recording.checkpoint import Checkpoint
from cl_ac.recording.fingerprint import fingerprint
from cl_ac.recording.rundir import RunDirectory
from cl_ac.run import assemble, choose_device
from cl_ac.settings.objects import Objects, rebuild
from cl_ac.training import Trainer


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
        """What the run was trained with.

        It keeps nothing of what frozen stages give: who measures a finished network counts what its layers do, times
        them, or puts others in their place.
        """
        benchmark = self.objects.benchmark
        return Trainer(self.objects.training, benchmark.augmentation, self.device, benchmark.seed)

    def inputs(self, things: Iterable[Any]) -> Tensor:
        """Pillow images of any mode and size, or texts, as the network takes them, without random augmentation.

        Returns:
            float32 [B, channels, height, width] on the run's device; of texts [B, 1, 1, tokens].
        """
        benchmark = self.objects.benchmark
        return benchmark.augmentation.apply(benchmark.stored(things).to(self.device))


def finished(directory: RunDirectory, device: str = "auto") -> Finished:
    """Rebuilds a finished run from its settings and its checkpoint.

    Raises:
        ConfigurationError: if it is not finished, or keeps no settings.
        ResumeError: if its checkpoint cannot be read, or its data have changed.
    """
    config = directory.config
    if "approach" not in config:
        raise ConfigurationError(
            f"'{directory.path}' keeps no settings to rebuild it from: its run was started from Python without "
            "`config`; start it as `run(**vars(configured(options)))` (cl_ac.settings.configured)"
        )
    if not directory.checkpoint_path.exists():
        raise ConfigurationError(f"'{directory.path}' has no checkpoint.pt; measuring needs the run's network")
    checkpoint = Checkpoint.load(directory.checkpoint_path)
    if checkpoint.fit is not None or checkpoint.task == 0:
        raise ConfigurationError(f"'{directory.path}' stopped inside a task; go on with it by --resume first")
    objects, place = _objects(config, directory.trusted), choose_device(device)
    objects.benchmark.seed = config["seed"]
    network = _assemble(objects)
    directory.check_data(fingerprint(objects.benchmark), Console(stderr=True, soft_wrap=True).print)
    checkpoint.restore(network, objects.approach, directory.checkpoint_path)
    objects.approach.to(place).eval()
    return Finished(objects, objects.approach.inference_network(network.to(place)).eval(), place)


def _objects(config: Mapping[str, Any], trusted: bool = False, given: Sequence[Any] = ()) -> Objects:
    """What the settings of a run describe; those of `attach.attach` also say what they come from."""
    return rebuild({name: value for name, value in config.items() if name != "attached"}, trusted, given)


def _assemble(objects: Objects) -> ExitNetwork:
    objects.sparsify.prepare(objects.backbone)
    objects.approach.prepare(objects.backbone)
    parts = objects.approach, objects.backbone, objects.exits, objects.memory, objects.classifier
    return assemble(*parts, sparse=objects.sparse)
