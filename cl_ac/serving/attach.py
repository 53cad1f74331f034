"""Auxiliary classifiers for a network that has learned: on the frozen backbone of a finished run.

Shapes: E exits, N samples, C classes, T tasks.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from cl_ac.approach import Approach, Batch, ExitNetwork, TaskApproach, TrainingSet
from cl_ac.data.samples import Samples, concatenate
from cl_ac.data.seeding import generator
from cl_ac.data.tasks import Task
from cl_ac.errors import ConfigurationError, unknown
from cl_ac.heads import GrowingClassifier
from cl_ac.losses import cross_entropy
from cl_ac.network import Backbone, Exits
from cl_ac.recording.checkpoint import Checkpoint
from cl_ac.recording.fingerprint import fingerprint
from cl_ac.recording.records import Record
from cl_ac.recording.rundir import RunDirectory
from cl_ac.run import assemble, evaluate
from cl_ac.serving.finished import Finished, finished
from cl_ac.training import Fit, Trainer, Training

Source = Literal["memory", "last", "all"]
GIBIBYTE = 2**30


@dataclass(frozen=True)
class Attachment:
    """How ACs are attached. The defaults are those of Zero Time Waste for CIFAR.

    Args:
        data: what they learn from: `memory`, the run's exemplars; `last`, the training data of the last task, which
            has no sample of earlier classes; `all`, the training data of all tasks.
        epochs: over these data.
        batch_size: images per step.
        lr: learning rate of Adam at the start; a tenth of it after 30 % of the epochs.
        cache: GiB that features of all samples may take, which are then computed once; else they are in every epoch.
    """

    data: Source = "all"
    epochs: int = 50
    batch_size: int = 128
    lr: float = 1e-3
    cache: float = 2.0

    def __post_init__(self) -> None:
        if self.data not in get_args(Source):
            raise ConfigurationError(unknown("data", self.data, get_args(Source)))
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.cache < 0:
            raise ConfigurationError(f"cache is {self.cache:g} GiB; it must be at least 0")

    @property
    def training(self) -> Training:
        """The settings of the fit."""
        return Training(self.epochs, self.batch_size, "adamw", self.lr, milestones=(0.3,))


class Attached(Approach):
    """What answers in a run whose ACs were attached: linear heads, the final one corrected as the run had it.

    The correction is `scale · z + shift` for each class (BiC's bias layers, say); of most approaches there is none.

    Args:
        approach: of the run; it says what classifiers are like, and its state is of no use any more.
    """

    memory_use = "none"

    def __init__(self, approach: Approach) -> None:
        super().__init__()
        # No submodule: nothing of it is saved.
        self._build_classifier, self._prepare = approach.build_classifier, approach.prepare
        self.register_buffer("scale", torch.empty(0))
        self.register_buffer("shift", torch.empty(0))

    def build_classifier(self, in_features: int) -> GrowingClassifier:
        return self._build_classifier(in_features)

    def prepare(self, backbone: Backbone) -> None:
        self._prepare(backbone)

    def take(self, approach: Approach, exits: int, classes: int, device: torch.device) -> None:
        """Takes over what `approach`, with `exits` exits, does to the final exit's logits of `classes` classes.

        Raises:
            ConfigurationError: if that is more than a scale and a shift of each class.
        """

        if isinstance(approach, TaskApproach):
            raise ConfigurationError(
                f"{type(approach).__name__} has a network for each task, to which no AC can be attached together"
            )

        def final(logits: Tensor) -> Tensor:
            return approach.correct(logits.expand(exits, *logits.shape))[-1]

        self.shift = final(torch.zeros(1, classes, device=device))[0].detach()
        self.scale = final(torch.ones(1, classes, device=device))[0].detach() - self.shift
        some = torch.randn(4, classes, generator=torch.Generator().manual_seed(0)).to(device)
        if not torch.allclose(final(some), self.scale * some + self.shift, atol=1e-4):
            name = type(approach).__name__
            raise ConfigurationError(f"{name} corrects logits by more than a scale and a shift; no AC can be attached")

    def correct(self, logits: Tensor) -> Tensor:
        return torch.cat([logits[:-1], (self.scale * logits[-1] + self.shift)[None]])


def attach(
    source: RunDirectory,
    directory: RunDirectory,
    exits: Exits | str,
    attachment: Attachment = Attachment(),
    device: str = "auto",
) -> Record:
    """Trains fresh ACs on the frozen backbone of a finished run, whose final head stays as it is.

    Features are those of evaluation: no augmentation, batch norm and dropout in evaluation mode. ACs that the run has
    are left out. An inference classifier of the run is left out too: linear heads answer.

    Args:
        source: the finished run.
        directory: of the new one, which has outputs after the last task only.
        exits: where ACs hang, or the name of the backbone's preset; weights, ramp and `detach` play no part.
    Raises:
        UserError: if the run is not finished, or the settings do not fit it.
    """
    if (directory.path / "config.yaml").exists():
        raise ConfigurationError(f"'{directory.path}' already holds a run; give another --name or --out")
    began = time.perf_counter()
    run = finished(source, device)
    check_final_head(run)
    seed, tasks = source.config["seed"], run.objects.benchmark.tasks
    network, approach = with_fresh_heads(run, exits, seed)
    if len(network) == 1:
        raise ConfigurationError("exits names no stage; give a preset or exits.at")
    augmentation = replace(run.objects.benchmark.augmentation, crop="none", flip=False)
    settings = replace(attachment.training, workers=run.objects.training.workers)
    # Stages that the run had frozen run once on each image here too, whatever `cache` allows.
    frozen = run.network.backbone.frozen_stages
    recall = run.objects.training.frozen_outputs.recall(run.device) if frozen else None
    trainer = Trainer(settings, augmentation, run.device, seed, recall)
    samples = training_samples(run, tasks, attachment.data)
    config = new_settings(source, directory, network.exits, attachment)
    with directory.locked():
        directory.open(config, resume=False, data=fingerprint(run.objects.benchmark))
        fit(network, trainer, samples, tasks[-1], attachment.cache)

        outputs = evaluate(trainer, network, approach, run.objects.benchmark, tasks[-1])
        record = Record.of(tasks[-1].index, outputs, time.perf_counter() - began)
        directory.finish(record, outputs)
        checkpoint = Checkpoint(len(tasks), network=network.state_dict(), approach=approach.state_dict())
        checkpoint.save(directory.checkpoint_path)
    return record


def check_final_head(run: Finished) -> None:
    """Raises a `ConfigurationError` if the final exit's linear head, which is to answer, has not learned every task."""
    approach, epochs = run.objects.approach, run.objects.training.epochs
    if type(approach).answer not in (Approach.answer, TaskApproach.answer):
        raise ConfigurationError(
            f"{type(approach).__name__} answers with more than one pass of a network; no AC can be attached"
        )
    learned = all(epochs) if isinstance(epochs, list) else epochs
    # Rows that learned on features of their own task, and answer on those of all tasks only through prototypes.
    apart = approach.adds_features and approach.inference_classifier() is not None
    if apart or not (learned and approach.trains_heads) or approach.training_set(run.last_task) is None:
        raise ConfigurationError(
            f"{type(approach).__name__} left the linear heads untrained, and with attached ACs the final one answers; "
            "no AC can be attached"
        )


def with_fresh_heads(run: Finished, exits: Exits | str, seed: int) -> tuple[ExitNetwork, Attached]:
    """The run's backbone and final head with new ACs for all its classes, frozen but for these, and what answers."""
    objects, trained = run.objects, run.network
    approach = Attached(objects.approach)
    approach.take(objects.approach, len(trained), trained.num_classes, run.device)
    parts = approach, trained.backbone, exits, approach.memory, None, objects.training.channels_last
    network = assemble(*parts, objects.sparse)
    network.heads[-1].load_state_dict(trained.heads[-1].state_dict())
    network.sizes = list(trained.sizes)
    for depth, head in enumerate(network.heads[:-1]):
        head.grow(trained.num_classes, generator(seed, "attached head", depth))
    network.requires_grad_(False)
    for head in network.heads[:-1]:
        head.requires_grad_(True)
    return network.to(run.device).eval(), approach.to(run.device)


def training_samples(run: Finished, tasks: list[Task], data: Source) -> Samples:
    """What ACs learn from."""
    if data == "memory":
        samples = run.objects.memory.samples.without_extras()
        if not len(samples):
            raise ConfigurationError("data is 'memory', but the run has no exemplars; choose last or all")
        return samples
    chosen = tasks[-1:] if data == "last" else tasks
    return concatenate(*(task.train.without_extras() for task in chosen))


def fit(network: ExitNetwork, trainer: Trainer, samples: Samples, task: Task, cache: float) -> None:
    """Trains the ACs by cross-entropy over all classes; see `Attachment` for `cache`."""
    learning = list(network.heads[:-1])
    if len(samples) * bytes_of_one(network) <= cache * GIBIBYTE:
        parts = trainer.predict(network, samples, lambda images: reduced(network, images))
        samples = replace(samples, extras={str(index): part for index, part in enumerate(parts)})

    def loss(network: ExitNetwork, batch: Batch) -> Tensor:
        read = [batch.extras[str(index)] for index in range(len(learning))] if batch.extras else None
        logits: list[Tensor] = []
        for head, value in zip(learning, reduced(network, batch.images) if read is None else read, strict=True):
            logits.append(head.answer(value, logits[-1] if logits else None))
        losses = cross_entropy(torch.stack(logits), batch.targets, task.seen_classes)
        return torch.cat([losses, losses.new_zeros(1)])  # the final exit learns nothing

    attached_heads = Fit(
        network,
        loss,
        TrainingSet(samples, task),
        stage="attached heads",
        parameters=[parameter for head in learning for parameter in head.parameters()],
        fixed_statistics=True,
        exit_weights=[1.0] * len(network),
    )
    trainer.fit(attached_heads)


@torch.no_grad()
def reduced(network: ExitNetwork, images: Tensor) -> list[Tensor]:
    """What each AC reads of images: one tensor [B, ...] for each."""
    *hidden, _ = network.hidden(images)
    return [head.reduce(value) for head, value in zip(network.heads[:-1], hidden, strict=True)]


def bytes_of_one(network: ExitNetwork) -> int:
    """What `reduced` takes for one image."""
    image = torch.zeros(1, *network.backbone.image_shape, device=network.device)
    return sum(4 * math.prod(part.shape) for part in reduced(network, image))


def new_settings(source: RunDirectory, directory: RunDirectory, exits: Exits, attachment: Attachment) -> dict[str, Any]:
    """The settings of the new run: those of its source but for what answers, with what it comes from in `attached`."""
    config: Mapping[str, Any] = source.config
    return {
        **config,
        "approach": {
            "class_path": f"{Attached.__module__}.{Attached.__qualname__}",
            "init_args": {"approach": config["approach"]},
        },
        "classifier": None,
        "exits": asdict(exits),
        "out": str(directory.path.parent),
        "name": directory.name,
        "attached": {"run": str(source.path.resolve()), **asdict(attachment)},
    }
