import torch

from cl_ac.approach import Approach, Batch, ExitNetwork, Task
from cl_ac.classifiers.nearest_mean import NearestMean
from cl_ac.evaluation import exit_accuracy
from cl_ac.losses import cross_entropy
from cl_ac.memory import Memory
from cl_ac.recording.checkpoint import Checkpoint
from cl_ac.teacher import Teacher
from cl_ac.training import Trainer
from cl_ac.watching.watch import Watch


class Forgetful(Approach):
    """Its author wrote an `end_task` and thought of nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.exemplars_at_end: list[int] = []

    def loss(self, network: ExitNetwork, batch: Batch) -> torch.Tensor:
        return cross_entropy(network(batch.images), batch.targets, self.trained_classes(batch.task))

    def end_task(self, task: Task, network: ExitNetwork, trainer: Trainer) -> None:
        self.exemplars_at_end.append(len(self.memory))


def test_exemplars_are_stored_whatever_end_task_does(toy_benchmark, toy_network, toy_learn):
    approach = Forgetful()
    approach.memory = Memory(per_class=2)
    toy_learn(approach, toy_network(sizes=()), toy_benchmark().tasks[:2])
    assert approach.exemplars_at_end == [4, 8]
    assert approach.memory.targets.bincount().tolist() == [2, 2, 2, 2]


def test_which_rows_learn_is_apart_from_which_classes_are_scored(toy_benchmark):
    class FrozenRows(Forgetful):
        trains_old_rows = False

    task = toy_benchmark()[1]
    for approach, rows in ((Forgetful(), True), (FrozenRows(), False)):
        assert approach.trained_classes(task) == task.classes
        approach.memory = Memory(per_class=1)
        approach.memory.store(task.previous.train)
        assert approach.trained_classes(task) == task.seen_classes
        assert approach.trains_old_rows is rows


class FirstTaskOnly(Forgetful):
    """Fits nothing after the first task."""

    def training_set(self, task):
        return super().training_set(task) if task.is_first else None


def test_a_task_without_a_training_set_fits_nothing(toy_run):
    directory = toy_run(FirstTaskOnly(), exits="sdn", classifier=NearestMean(), watch=Watch(2))
    assert [record.task for record in directory.records] == [0, 1, 2]
    states = Checkpoint.load(directory.checkpoint_path)
    assert states.steps == 6
    assert directory.outputs(2).logits.shape[-1] == 6
    assert [watched.steps.tolist() for watched in directory.watched_all()] == [[0, 1, 2, 4, 6], [0], [0]]


class SecondNetwork(Forgetful):
    """Answers with a copy of the network as it was when the task began, but for the sign of its answers."""

    def __init__(self):
        super().__init__()
        self.copy = Teacher()

    def end_task(self, task, network, trainer):
        self.copy.update(network)
        for head in self.copy.network.heads:
            head.classifier.new_weight.data.neg_()

    def inference_network(self, network):
        return network if self.copy.network is None else self.copy.network


def test_the_network_that_answers_may_be_another_than_the_one_that_learns(toy_run):
    directory = toy_run(SecondNetwork(), "other", exits="sdn", watch=Watch(100))
    plain = toy_run(Forgetful(), "plain", exits="sdn")
    assert not torch.equal(directory.outputs(0).logits, plain.outputs(0).logits)
    watched = directory.watched_all()[1]
    accuracy = exit_accuracy(directory.outputs(0)).T.float()
    torch.testing.assert_close(watched.accuracy[0, :3, :-1], accuracy)


def test_a_network_made_of_the_one_that_answers_answers_itself(toy_network):
    network, approach = toy_network("sdn", (2,)).eval(), SecondNetwork()
    approach.end_task(None, network, None)
    images, made_of_it = torch.randn(4, 1, 6, 6), toy_network("sdn", (2,), seed=1).eval()
    assert torch.equal(approach.answer(made_of_it, images), made_of_it(images))


def test_a_known_task_leaves_its_own_classes(toy_network):
    network = toy_network("sdn", (2, 3))
    images = torch.randn(4, 1, 6, 6)
    approach = Forgetful()
    assert torch.equal(approach.answer_in_task(network, images, 1), approach.answer(network, images)[..., 2:])
