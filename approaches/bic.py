"""BiC: a bias layer, fitted to held-out exemplars, takes back the preference for new classes."""

import math
import warnings

import torch
from torch import Tensor, nn

from cl_ac.approach import Approach, Batch, ExitNetwork, Task, TrainingSet
from cl_ac.data.samples import Samples, concatenate
from cl_ac.errors import ConfigurationError
from cl_ac.losses import cross_entropy, global_distillation
from cl_ac.memory import Memory, rank_in_class
from cl_ac.teacher import Teacher, TeacherStatistics
from cl_ac.training import Fit


class BiC(Approach):
    """Bias correction (Wu et al., 2019): every exit has a scale α and a shift β for the logits of each task.

    Stage 1 trains the network with the bias layers of old tasks in place, stage 2 the newest α and β alone, on
    exemplars that stage 1 does not see. Those are part of the memory: of q exemplars per class, the first
    ceil(validation · q) in the order of the data.

    Args:
        strength: weight of distillation (AC paper: 2 or 3); None weighs as the original, by the share of old classes λ:
            (1 - λ) times cross-entropy and λ times distillation.
        temperature: softmax temperature of teacher and student.
        validation: share of each class's exemplars that the bias layers are fitted to.
        bias_epochs: epochs of stage 2: SGD with momentum 0.9 at a constant rate, as in FACIL's and the AC paper's code.
        bias_lr: its rate. None takes the run's where that is of SGD too, as both codes do, else 0.1, their rate.
        teacher_bn: statistics of the teacher's batch norm.
    """

    family = "rebalancing"
    memory_use = "required"
    exemplars_per_class = 2

    def __init__(
        self,
        strength: float | None = None,
        temperature: float = 2.0,
        validation: float = 0.1,
        bias_epochs: int = 200,
        bias_lr: float | None = None,
        teacher_bn: TeacherStatistics = "frozen",
    ):
        super().__init__()
        if not 0 < validation <= 0.5 or bias_epochs < 1:
            got = f"BiC.validation is {validation} and BiC.bias_epochs {bias_epochs}"
            raise ConfigurationError(f"{got}; the share must be above 0 and at most 0.5, the epochs at least 1")
        self.strength, self.temperature = strength, temperature
        if bias_lr is not None and bias_lr <= 0:
            raise ConfigurationError(f"BiC.bias_lr is {bias_lr}; it must be above 0")
        self.validation, self.bias_epochs, self.bias_lr = validation, bias_epochs, bias_lr
        self.teacher = Teacher(teacher_bn)
        self.held_out = Memory()
        # Scale and shift of the logits, for each task and exit: [T, 2, E].
        self.register_buffer("earlier", torch.empty(0))
        self.newest = nn.Parameter(torch.empty(0), requires_grad=False)
        self.register_buffer("task_of_class", torch.empty(0, dtype=torch.int64))

    def begin_task(self, task, network, trainer) -> None:
        if not len(self.split(task)[1]):
            raise ConfigurationError(
                f"BiC holds back exemplars for its bias layers, but no class of task {task.index + 1} has two images"
            )
        self.teacher.begin_task(task, trainer)
        identity = self.newest.new_tensor([1.0, 0.0])[None, :, None].repeat(1, 1, len(network))
        self.earlier = torch.cat([self.earlier, self.newest.detach()])
        self.newest = nn.Parameter(identity, requires_grad=False)
        self.task_of_class = nn.functional.pad(self.task_of_class, (0, task.num_classes), value=task.index)
        held_out = concatenate(self.held_out.samples, self.split(task)[1])
        self.held_out.store(held_out.select(rank_in_class(held_out.targets) < self.shares(task)[1]))

    def shares(self, task: Task) -> tuple[int, int]:
        """Exemplars of each class that the network is trained on, and that the bias layers are fitted to."""
        quota = min(self.memory.quotas(task.classes_seen))
        held_out = math.ceil(round(self.validation * quota, 9))
        return quota - held_out, held_out

    def split(self, task: Task) -> tuple[Samples, Samples]:
        """The task's images to train on, and to hold out; half of a class at most is held out."""
        targets = task.train.targets
        shares = (targets.bincount(minlength=task.classes_seen) // 2).clamp(max=self.shares(task)[1])
        held_out = rank_in_class(targets) < shares[targets]
        return task.train.select(~held_out), task.train.select(held_out)

    def training_set(self, task: Task) -> TrainingSet:
        return TrainingSet(concatenate(self.split(task)[0], self.memory.samples), task)

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        task = batch.task
        logits = self.correct(network(batch.images))
        loss = cross_entropy(logits, batch.targets, task.seen_classes)
        if task.is_first:
            return loss
        distillation = global_distillation(logits, self.correct(self.teacher(batch.images)), self.temperature)
        if self.strength is None:
            return torch.lerp(loss, distillation, task.old_classes.stop / task.classes_seen)
        return loss + self.strength * distillation

    def bias_loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        """Stage 2: cross-entropy, and a decay of the newest shift, `0.1 β² / 2`."""
        with torch.no_grad():
            logits = network(batch.images)
        loss = cross_entropy(self.correct(logits), batch.targets, batch.task.seen_classes)
        return loss + 0.05 * self.newest[0, 1] ** 2

    def choose_exemplars(self, task, network, trainer) -> None:
        draws, share = trainer.generator("exemplars", task.index), self.shares(task)[0]
        self.memory.update(self.split(task)[0], draws, network, trainer, share)

    def end_task(self, task, network, trainer) -> None:
        if not task.is_first:
            run_lr = trainer.training.lr if trainer.training.optimizer == "sgd" else 0.1
            lr = run_lr if self.bias_lr is None else self.bias_lr
            settings = {"epochs": self.bias_epochs, "lr": lr, "optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.0}
            self.newest.requires_grad_(True)
            stage_2 = Fit(
                network,
                self.bias_loss,
                TrainingSet(self.held_out.samples, task),
                trainer.with_training(**settings, schedule="constant", warmup=0),
                stage="bias",
                parameters=[self.newest],
                fixed_statistics=True,
                exit_weights=[1.0] * len(network),
            )
            trainer.fit(stage_2)
            self.newest.requires_grad_(False)
            if (self.newest[0, 0] < 0).any():
                warnings.warn(
                    f"BiC fitted a negative scale to the logits of task {task.index + 1}, which reverses their order; "
                    f"lower approach.bias_lr (now {lr:g})",
                    stacklevel=2,
                )
        self.teacher.update(network)

    def correct(self, logits: Tensor) -> Tensor:
        biases = torch.cat([self.earlier, self.newest])[self.task_of_class[: logits.shape[-1]]]
        scale, shift = biases.permute(1, 2, 0)[:, :, None]  # [C, 2, E] to [2, E, 1, C]
        return scale * logits + shift
