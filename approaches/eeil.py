"""EEIL: distillation of each old task on its own, and a second, balanced phase on exemplars of all classes."""

from torch import Tensor

from cl_ac.approach import Approach, Batch, ExitNetwork, Task, TrainingSet
from cl_ac.errors import ConfigurationError
from cl_ac.importance.noise import with_gradient_noise
from cl_ac.losses import binary_softmax_distillation, cross_entropy, global_distillation
from cl_ac.memory import Memory
from cl_ac.teacher import Teacher, TeacherStatistics
from cl_ac.training import Fit


class EEIL(Approach):
    """End-to-end incremental learning (Castro et al., 2018).

    Cross-entropy over all classes, and for each old task the soft-target cross-entropy to the previous network's
    softmax over the task's classes. Then the whole network learns once more, from as many images of each new class as
    there are exemplars of an old one, while the network that the first phase ended with teaches all tasks, the newest
    included. Exemplars are meant to be chosen by herding; they are chosen after both phases.

    In epoch e, counted from 1 over both phases, every gradient gets normal noise (Neelakantan et al., 2015) with the
    standard deviation `noise / (1 + e)^0.55` divided by the batch size, as in the authors' code, but before clipping.
    (FACIL, where noise is off by default, does not divide by the batch size. In the paper `noise / (1 + e)^0.55` is the
    variance.)

    Args:
        strength: weight of the distillation term.
        temperature: softmax temperature of teacher and student.
        balanced_epochs: epochs of the second phase; its rate falls to a tenth after each third of them.
        balanced_lr: its learning rate at the start, as a share of `training.lr`. FACIL takes 0.01, and 40 epochs.
        noise: of gradients (η); 0 for none.
        published: FACIL's distillation: the binary cross-entropy of softmax outputs, which leaves out the newest of the
            tasks that it should run over, in either phase, so that the first phase of task 2 distils nothing at all.
        teacher_bn: the statistics of the first phase's teacher's batch norm; `batch` is teacher adaptation.
    """

    family = "rebalancing"
    memory_use = "required"

    def __init__(
        self,
        strength: float = 1.0,
        temperature: float = 2.0,
        balanced_epochs: int = 30,
        balanced_lr: float = 0.1,
        noise: float = 0.3,
        published: bool = False,
        teacher_bn: TeacherStatistics = "frozen",
    ):
        super().__init__()
        if balanced_epochs < 0 or balanced_lr <= 0 or noise < 0:
            raise ConfigurationError(
                f"EEIL.balanced_epochs is {balanced_epochs}, EEIL.balanced_lr {balanced_lr} and EEIL.noise {noise}; "
                "the rate must be above 0, the others at least 0"
            )
        self.strength, self.temperature, self.published = strength, temperature, published
        self.balanced_epochs, self.balanced_lr, self.noise = balanced_epochs, balanced_lr, noise
        self.teacher = Teacher(teacher_bn)

    def begin_task(self, task, network, trainer) -> None:
        self.teacher.begin_task(task, trainer)

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        task = batch.task
        if task.is_first:
            loss = cross_entropy(network(batch.images), batch.targets, task.classes)
        else:
            loss = self.distilling_loss(network, batch, self.teacher, task.old_tasks)
        return self.with_noise(loss, network, batch)

    def distilling_loss(self, network: ExitNetwork, batch: Batch, teacher: Teacher, tasks: list[slice]) -> Tensor:
        """The loss of either phase, in which `teacher` is asked about the classes of `tasks`: [E]."""
        logits, taught = network(batch.images), teacher(batch.images)
        distil = binary_softmax_distillation if self.published else global_distillation
        loss = cross_entropy(logits, batch.targets, batch.task.seen_classes)
        for task in tasks[:-1] if self.published else tasks:
            loss = loss + self.strength * distil(logits[:, :, task], taught[:, :, task], self.temperature)
        return loss

    def with_noise(self, loss: Tensor, network: ExitNetwork, batch: Batch, epochs_before: int = 0) -> Tensor:
        """`loss` [E] with the noise of its phase and epoch."""
        epoch = epochs_before + batch.epoch + 1
        return with_gradient_noise(loss, network, batch, self.noise / (1 + epoch) ** 0.55 / len(batch))

    def choose_exemplars(self, task, network, trainer) -> None:
        if not task.is_first and self.balanced_epochs:
            self.balance(task, network, trainer)
        super().choose_exemplars(task, network, trainer)

    def balance(self, task: Task, network: ExitNetwork, trainer) -> None:
        """The second phase."""
        teacher = Teacher()
        teacher.update(network)
        tasks = [*task.old_tasks, task.classes]
        balanced = Memory(per_class=max(self.memory.quotas(task.old_classes.stop)), selection=self.memory.selection)
        balanced.store(self.memory.samples)
        balanced.update(task.train, trainer.generator("balanced", task.index), network, trainer)
        epochs_before = trainer.training.epochs_of(task.index)

        def loss(network: ExitNetwork, batch: Batch) -> Tensor:
            return self.with_noise(self.distilling_loss(network, batch, teacher, tasks), network, batch, epochs_before)

        settings = {"epochs": self.balanced_epochs, "lr": self.balanced_lr * trainer.training.lr, "warmup": 0}
        steps = {"schedule": "multistep", "milestones": (1 / 3, 2 / 3), "decay": 0.1, "select": "last"}
        trainer.fit(
            Fit(
                network,
                loss,
                TrainingSet(balanced.samples, task),
                trainer.with_training(**settings, **steps),
                stage="balanced",
            )
        )

    def end_task(self, task, network, trainer) -> None:
        self.teacher.update(network)
