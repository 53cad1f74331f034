"""Folders of domains, each with all classes."""

import pytest
import torch
from PIL import Image

from cl_ac.datasets.domain_folder import DomainFolder
from cl_ac.errors import ConfigurationError, DataError
from cl_ac.streams.domain_incremental import DomainIncremental

DOMAINS, CLASSES = ("art", "photo"), ("dog", "house")


def shade(domain: int, label: int, index: int) -> int:
    return 100 * domain + 50 * label + index


@pytest.fixture
def root(tmp_path):
    for domain, place in enumerate(DOMAINS):
        for label, name in enumerate(CLASSES):
            (tmp_path / place / name).mkdir(parents=True)
            for index in range(10):
                colour = (shade(domain, label, index),) * 3
                Image.new("RGB", (8, 8), colour).save(tmp_path / place / name / f"{index}.png")
    return tmp_path


@pytest.mark.parametrize("in_memory", [True, False])
def test_each_domain_is_a_task_with_all_classes(root, in_memory):
    benchmark = DomainFolder(str(root), domains=["photo", "art"], size=8, in_memory=in_memory, validation=0.25)
    benchmark.stream = DomainIncremental()
    assert len(benchmark) == 2
    assert [task.num_classes for task in benchmark] == [2, 0]
    for place, task in enumerate(benchmark):
        domain = 1 - place
        counts = [part.targets.bincount().tolist() for part in (task.train, task.validation, task.test)]
        assert counts == [[6, 6], [2, 2], [2, 2]]
        every = [int(part.images[torch.tensor([index])].flatten()[0])
                 for part in (task.train, task.validation, task.test) for index in range(len(part))]  # fmt: skip
        assert sorted(every) == sorted(shade(domain, label, index) for label in (0, 1) for index in range(10))
        assert task.train.extras["domain"].unique().tolist() == [place]


def test_without_that_stream_domains_come_together(root):
    benchmark = DomainFolder(str(root), size=8, tasks=2)
    assert [task.num_classes for task in benchmark] == [1, 1]
    assert {int(value) // 100 for value in benchmark[0].train.images[:, 0, 0, 0]} == {0, 1}
    assert "domain" not in benchmark[0].train.extras


def test_a_number_of_tasks_that_the_user_gives_is_no_default(root):
    benchmark = DomainFolder(str(root), size=8, tasks=5)
    benchmark.stream = DomainIncremental()
    with pytest.raises(ConfigurationError, match=r"benchmark\.tasks is 5, but .* each of 2 domains"):
        len(benchmark)


def test_a_class_that_a_domain_lacks_is_named(root):
    (root / "photo" / "cat").mkdir()
    with pytest.raises(DataError, match=r"1 class is in only one of .*'cat'"):
        DomainFolder(str(root)).num_classes  # noqa: B018


@pytest.mark.parametrize("domains", [["photo", "photo"], ["sketch"], []])
def test_domains_that_are_not_there_are_refused(root, domains):
    with pytest.raises(ConfigurationError, match=r"must name folders in .* once each: art, photo"):
        DomainFolder(str(root), domains=domains).domain_names  # noqa: B018
