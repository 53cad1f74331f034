"""What a network knows of the next task before it learns it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from cl_ac.data.tasks import Task
from cl_ac.network import ExitNetwork
from cl_ac.training import Trainer


@dataclass(frozen=True)
class Ahead:
    """Accuracies [E] on a task that is yet to be learned.

    Args:
        learned: of the network as it is.
        untrained: of the network as the run began.
    """

    learned: list[float]
    untrained: list[float]


class Outlook:
    """Asks for the next task where its answer is known: in a domain with test samples of its own and no new classes.

    Args:
        network: as the run begins, before it has any classes.
        tasks: of the whole run.
        seed: of the run.
    """

    def __init__(self, network: ExitNetwork, tasks: Sequence[Task], seed: int):
        self.tasks, self.initial = tasks, None
        if any(self._is_answerable(task) for task in tasks):
            self.initial = network.frozen_copy()
            for task in tasks:
                self.initial.grow(task.num_classes, seed)

    def after(
        self, task: Task, trainer: Trainer, network: ExitNetwork, answer: Callable[[Tensor], Tensor]
    ) -> Ahead | None:
        """What is known of the task after `task`; None if nothing can be.

        Args:
            network: what answers after `task`.
            answer: its logits [E, B, C] of images.
        """
        if self.initial is None or task.index + 1 == len(self.tasks):
            return None
        following = self.tasks[task.index + 1]
        if not self._is_answerable(following):
            return None
        initial = self.initial.to(trainer.device)
        learned = trainer.predict(network, following.test, answer)
        untrained = trainer.predict(initial, following.test, lambda images: initial(images)[..., task.seen_classes])
        right = ((logits.argmax(-1) == following.test.targets).double().mean(1) for logits in (learned, untrained))
        return Ahead(*(accuracy.tolist() for accuracy in right))

    @staticmethod
    def _is_answerable(task: Task) -> bool:
        # Test samples that come with every domain are not of one that is yet to be learned.
        return task.domain is not None and not task.num_classes and "domain" in task.test.extras
