"""The plugin contract: what a continual-learning method defines, and what it is handed.

An approach is written once, for a network with any number of exits E: its loss returns one value per exit, [E], and
the training loop weighs and sums them. It is a module: what it keeps between tasks (teacher, importance, prototypes)
lives in parameters and buffers and is thereby saved, restored and moved to the training device.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.func import functional_call

from cl_ac.classifiers.classifier import Classifier
from cl_ac.data.batches import Batch, TrainingSet
from cl_ac.data.growing import Growing
from cl_ac.data.samples import concatenate
from cl_ac.data.tasks import Task, task_slices
from cl_ac.errors import ConfigurationError
from cl_ac.heads import GrowingClassifier, GrowingLinear
from cl_ac.memory import Memory
from cl_ac.network import Backbone, ExitNetwork
from cl_ac.teacher import Teacher
from cl_ac.training import Learning, Trainer

Family = Literal[
    "baseline",
    "regularisation",
    "distillation",
    "replay",
    "generative replay",
    "rebalancing",
    "prototypes",
    "expansion",
    "tuning",
    "task networks",
    "own",
]

# What some streams bring: classes of earlier tasks, or none that are new; exemplars that change while a task is
# learned; and tasks whose begin and end nobody tells.
Challenge = Literal["repeated classes", "live memory", "no boundaries"]

__all__ = ["Approach", "Batch", "ExitNetwork", "Task", "TaskApproach", "TrainingSet"]


class Approach(Growing):
    """A continual-learning method. Override `loss`, and the hooks that the method needs, in the order they run here.

    `memory` holds the exemplars; `memory_use` says whether the method can do without, and `exemplars_per_class` how
    many of each class it cannot do without if there is a memory. `most_classes` is how many classes a run may have at
    most, None for any number; an approach with it has it as its option `classes`. `trains_heads` says whether the
    linear heads learn, which the best epoch is selected by, `adds_features` that exits read more features with each
    task, and `needs_transformer` that only vision transformers can be trained so. `needs_images` says what the
    method does to images that nobody can do to texts, such as "turns images"; None for most. `copes_with` names what
    the method can learn from beside disjoint tasks with boundaries; runs that bring anything else are refused. `family`
    is where it stands in lists. `training_macs` is kept with the results of a task: the multiply-accumulates that
    training takes for each new image, by what they are spent on, where the method counts them.
    """

    family: ClassVar[Family] = "own"
    memory_use: ClassVar[Literal["none", "optional", "required"]] = "optional"
    exemplars_per_class: ClassVar[int] = 1
    most_classes: int | None = None
    trains_heads: ClassVar[bool] = True
    adds_features: ClassVar[bool] = False
    needs_transformer: ClassVar[bool] = False
    needs_images: str | None = None
    copes_with: frozenset[Challenge] = frozenset()
    training_macs: Mapping[str, float] | None = None

    def __init__(self) -> None:
        super().__init__()
        self.memory = Memory()
        self.inference: Classifier | None = None

    @property
    def sees_old_classes(self) -> bool:
        """Whether samples of earlier tasks are trained on; by default if there are exemplars."""
        return len(self.memory) > 0

    @property
    def trains_old_rows(self) -> bool:
        """Whether classifier rows of earlier tasks learn; by default if there are samples to learn from."""
        return self.sees_old_classes

    def trained_classes(self, task: Task) -> slice:
        """The classes that the cross-entropy runs over: all if samples of old ones are seen, else the newest."""
        return task.seen_classes if self.sees_old_classes or task.repeats else task.classes

    def build_classifier(self, in_features: int) -> GrowingClassifier:
        """The classifier of one exit, for features [B, in_features]."""
        return GrowingLinear(in_features)

    def prepare(self, backbone: Backbone) -> None:
        """Changes the backbone before the run, where the method puts modules of its own into it."""

    def expand(self, task: Task, network: ExitNetwork, trainer: Trainer) -> None:
        """Runs first at every task, before heads grow: makes the network wider, or branches it."""

    def begin_task(self, task: Task, network: ExitNetwork, trainer: Trainer) -> None:
        """Runs before training, when the heads have grown for the new classes."""

    def training_set(self, task: Task) -> TrainingSet | None:
        """What to iterate over, None to learn nothing; by default the task's data with the exemplars, shuffled."""
        return TrainingSet(concatenate(task.train, self.memory.samples), task)

    def learns(self, network: ExitNetwork) -> Learning:
        """What training moves, with rates of its own where they differ; by default the network's parameters."""
        return network.parameters()

    def following(self) -> dict[str, Tensor]:
        """What goes with the network's weights where the best epoch is taken: all that is kept but the exemplars."""
        named = ((name, value) for name, value in self.state_dict().items() if isinstance(value, Tensor))
        return {name: value for name, value in named if not name.startswith("memory.")}

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        """The whole loss of one batch, forward passes included: one value per exit, [E]."""
        raise ConfigurationError(f"the approach '{type(self).__name__}' has no method `loss`")

    def end_step(self, network: ExitNetwork) -> None:
        """Runs after every step of the optimiser on the task, for methods that follow the path of the weights."""

    def stored_with(self, batch: Batch) -> Mapping[str, Tensor]:
        """What a live memory keeps with each image of a step's batch [B, ...]; by default nothing. Runs after it."""
        return {}

    def choose_exemplars(self, task: Task, network: ExitNetwork, trainer: Trainer) -> None:
        """Runs after training, before `end_task`; by default chooses the exemplars of the new classes."""
        self.memory.update(task.train, trainer.generator("exemplars", task.index), network, trainer)

    def end_task(self, task: Task, network: ExitNetwork, trainer: Trainer) -> None:
        """Runs last, when the exemplars are chosen: what is kept of the task beside them."""

    def correct(self, logits: Tensor) -> Tensor:
        """Corrects logits [E, B, C] at inference; the identity for most."""
        return logits

    def inference_classifier(self) -> Classifier | None:
        """What answers at inference, where the user names nothing else; by default None, the linear heads."""
        return None

    def inference_network(self, network: ExitNetwork) -> ExitNetwork:
        """The network that answers at inference and is kept for use; by default the one that learns."""
        return network

    def answer(self, network: ExitNetwork, images: Tensor) -> Tensor:
        """The logits [E, B, C] of images at inference: of the inference classifier, or corrected linear ones.

        Args:
            network: what `inference_network` gives, or a network made of that, such as a sparser one.
        """
        if self.inference is None:
            return self.correct(network(images))
        return self.inference.logits(self.inference.features(network, images))

    def passes(self, network: ExitNetwork) -> int:
        """How many passes of the network `answer` takes: its cost."""
        return 1

    def answer_in_task(self, network: ExitNetwork, images: Tensor, task: int) -> Tensor:
        """The logits [E, B, classes of the task] of images whose task is known: by default those of `answer`."""
        return self.answer(network, images)[..., task_slices(network.sizes)[task]]

    def restore(self, state: Mapping[str, Tensor], network: ExitNetwork) -> None:
        """Loads a state saved at any task; teachers that it holds are rebuilt on the model of `network`."""
        for name, module in self.named_modules():
            if isinstance(module, Teacher) and any(key.startswith(f"{name}.network.") for key in state):
                module.update(network)
        self.load_state_dict(state)


class TaskApproach(Approach):
    """A method with a network for each task, which answers images that are known to be of that task.

    Where the task is not known, the networks of all tasks answer, each for its own classes; their confidences were
    never compared in training. The cost of a run is that of such an answer: one pass for each task.
    """

    memory_use = "none"

    def tensors_in_task(self, network: ExitNetwork, task: int) -> dict[str, Tensor]:
        """The parameters and buffers in which the network of `task` differs from `network`, by name."""
        raise NotImplementedError

    def task_network(self, network: ExitNetwork, task: int) -> ExitNetwork:
        """A copy of `network` as it is for `task`."""
        copy = network.frozen_copy()
        copy.load_state_dict(self.tensors_in_task(network, task), strict=False)
        return copy

    def answer_in_task(self, network: ExitNetwork, images: Tensor, task: int) -> Tensor:
        logits = functional_call(network, self.tensors_in_task(network, task), (images,))
        return self.correct(logits)[..., task_slices(network.sizes)[task]]

    def passes(self, network: ExitNetwork) -> int:
        return len(network.sizes)

    def answer(self, network: ExitNetwork, images: Tensor) -> Tensor:
        answers = [self.answer_in_task(network, images, task) for task in range(len(network.sizes))]
        return torch.cat(answers, -1)
