"""What is known of a domain before it is learned."""

from dataclasses import replace

import pytest
import torch

from cl_ac.approaches.er import ER
from cl_ac.approaches.finetuning import FineTuning
from cl_ac.memory import Memory
from cl_ac.network import ExitNetwork
from cl_ac.streams.domain_incremental import DomainIncremental, PermutedPixels, RotatedImages
from cl_ac.watching.ahead import Outlook


def test_the_next_domain_is_answered_by_the_network_now_and_as_it_began(toy_benchmark, toy_backbone, toy_trainer):
    benchmark = toy_benchmark()
    benchmark.stream = RotatedImages()
    first, second, last = benchmark
    network = ExitNetwork(toy_backbone(), toy_backbone().exits("sdn"))
    outlook = Outlook(network, benchmark.tasks, seed=0)
    network.grow(6, 0)
    answers = toy_trainer.predict(network, second.test)
    untrained = (answers.argmax(-1) == second.test.targets).double().mean(1).tolist()
    ahead = outlook.after(first, toy_trainer, network, network)
    assert ahead.learned == ahead.untrained == untrained, "nothing has been learned yet"

    def right(images: torch.Tensor) -> torch.Tensor:
        """Answers the last domain without fault, image after image."""
        targets = last.test.targets[: len(images)]
        return torch.eye(6)[targets].expand(3, -1, -1)

    ahead = outlook.after(second, toy_trainer, network, right)
    assert ahead.learned == [1, 1, 1]
    assert ahead.untrained != ahead.learned
    assert outlook.after(last, toy_trainer, network, network) is None


def test_new_classes_have_no_answer_before_they_are_learned(toy_benchmark, toy_network, toy_trainer):
    benchmark = toy_benchmark()
    outlook = Outlook(toy_network(sizes=()), benchmark.tasks, seed=0)
    assert outlook.initial is None
    assert outlook.after(benchmark[0], toy_trainer, toy_network(), toy_network()) is None


@pytest.mark.parametrize("apart", [True, False])
def test_test_images_that_come_with_every_domain_tell_nothing_of_the_next(
    apart, toy_benchmark, toy_backbone, toy_trainer, monkeypatch
):
    benchmark = toy_benchmark(tasks=2)
    train, test = (
        replace(part, extras={"domain": torch.arange(len(part)) % 2} if has_domains else {})
        for part, has_domains in zip(benchmark.load(), (True, apart), strict=True)
    )
    monkeypatch.setattr(benchmark, "load", lambda: (train, test))
    benchmark.domain_names, benchmark.stream = ("even", "odd"), DomainIncremental()
    network = ExitNetwork(toy_backbone(), toy_backbone().exits("sdn"))
    outlook = Outlook(network, benchmark.tasks, seed=0)
    network.grow(6, 0)
    assert (outlook.after(benchmark[0], toy_trainer, network, network) is not None) == apart


def test_records_and_checkpoints_keep_it(toy_run, toy_benchmark):
    def go(name: str, resume: bool = False):
        benchmark = toy_benchmark()
        benchmark.stream = PermutedPixels()
        return toy_run(ER(), name, "sdn", Memory(12), benchmark=benchmark, resume=resume)

    records = go("run").records
    assert [len(record.next_task or []) for record in records] == [3, 3, 0]
    assert all(0 <= value <= 1 for record in records[:2] for value in record.next_task_untrained)
    assert [record.next_task for record in go("run", resume=True).records] == [each.next_task for each in records]


def test_today_s_lines_have_nothing_of_it(toy_run):
    line = toy_run(FineTuning()).records[-1].line()
    assert not {"next_task", "missing_classes", "thirds"} & set(line.replace('"', " ").split())
