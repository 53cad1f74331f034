"""Splits, orders and held-out data of a benchmark."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cl_ac.benchmark import Benchmark
from cl_ac.data.augmentation import Augmentation
from cl_ac.data.samples import Samples
from cl_ac.data.tasks import task_slices
from cl_ac.errors import ConfigurationError, DataError
from cl_ac.streams.domain_incremental import DomainIncremental, PermutedPixels
from cl_ac.streams.stream import Arrival, Stream


class Numbered(Benchmark):
    """Images of one pixel whose value is the index of the sample; `counts` training images and two tests per class."""

    image_shape = (1, 1, 1)

    def __init__(self, counts: list[int], published: list[int] | None = None, **splitting):
        super().__init__(**splitting)
        self.counts, self.num_classes, self.published_order = counts, len(counts), published

    def load(self):
        return _numbered(self.counts), _numbered([2] * self.num_classes)


def _numbered(counts: list[int]) -> Samples:
    targets = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    # Classes are interleaved, as in real files.
    targets = targets[torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))]
    return Samples(torch.arange(len(targets), dtype=torch.uint8)[:, None, None, None], targets)


def _indices(samples: Samples) -> list[int]:
    return samples.images.flatten().tolist()


counts = st.lists(st.integers(1, 12), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), counts=counts, order=st.integers(0, 5), validation=st.floats(0, 0.99), seed=st.integers(0, 3))
def test_tasks_share_classes_and_samples_without_loss(data, counts, order, validation, seed):
    tasks = data.draw(st.integers(1, len(counts)))
    benchmark = Numbered(counts, tasks=tasks, order=order, validation=validation)
    benchmark.seed = seed
    train, test = benchmark.load()
    assert sorted(benchmark.class_order) == list(range(len(counts)))
    for name, whole in (("train", train), ("test", test)):
        found = [
            (index, benchmark.class_order[target])
            for task in benchmark
            for part in ([task.train, task.validation] if name == "train" else [task.test])
            for index, target in zip(_indices(part), part.targets.tolist(), strict=True)
        ]
        assert sorted(found) == list(enumerate(whole.targets.tolist()))
    for task, columns in zip(benchmark, task_slices(benchmark.sizes), strict=True):
        assert task.classes == columns
        own = set(range(columns.start, columns.stop))
        assert set(task.train.targets.tolist()) == own, "each class keeps a training sample"
        assert set(task.validation.targets.tolist()) <= own
        assert set(task.test.targets.tolist()) == own


@settings(max_examples=30, deadline=None)
@given(counts=counts, cap=st.integers(1, 8), validation=st.sampled_from([0.0, 0.1, 0.5, "test"]))
def test_cap_is_exact_per_class(counts, cap, validation):
    benchmark = Numbered(counts, tasks=1, samples_per_class=cap, validation=validation)
    (task,) = benchmark
    used = task.train.targets.bincount(minlength=len(counts))
    if validation == "test":
        assert _indices(task.validation) == _indices(task.test)
    else:
        used += task.validation.targets.bincount(minlength=len(counts))
    assert used.tolist() == [min(count, cap) for count in counts]


def test_held_out_share_is_met_in_every_class():
    (task,) = Numbered([10, 20, 40], tasks=1, validation=0.1)
    assert task.validation.targets.bincount().tolist() == [1, 2, 4]
    (task,) = Numbered([4, 4], tasks=1, validation=0.1)
    assert task.validation.targets.bincount().tolist() == [1, 1], "a small share is rounded up to one"
    (task,) = Numbered([4, 4], tasks=1, validation=0)
    assert not len(task.validation)


def test_held_out_samples_depend_on_the_seed_alone():
    def held_out(seed: int, **splitting) -> list[int]:
        benchmark = Numbered([30] * 4, validation=0.5, **splitting)
        benchmark.seed = seed
        return sorted(index for task in benchmark for index in _indices(task.validation))

    assert held_out(1, tasks=2) == held_out(1, tasks=2) == held_out(1, tasks=4)
    assert held_out(1, tasks=2) != held_out(2, tasks=2)


def test_classes_hold_out_samples_independently():
    """Members of a class are drawn by their rank within it; equal ranks in all classes would be no random split."""
    benchmark = Numbered([30] * 2, tasks=1, validation=0.5)
    targets = benchmark.load()[0].targets
    held_out = torch.zeros(60, dtype=torch.bool)
    held_out[_indices(benchmark[0].validation)] = True
    assert held_out[targets == 0].tolist() != held_out[targets == 1].tolist()


def test_order_by_seed():
    orders = [Numbered([1] * 20, order=seed).class_order for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != list(range(20))


def test_given_and_published_orders_renumber_targets():
    for benchmark in (
        Numbered([3, 4, 5], tasks=3, order=[2, 0, 1], validation=0),
        Numbered([3, 4, 5], tasks=3, order="published", published=[2, 0, 1], validation=0),
    ):
        assert [len(task.train) for task in benchmark] == [5, 3, 4]
        assert [task.train.targets.unique().tolist() for task in benchmark] == [[0], [1], [2]]


def test_classes_per_task_are_taken_as_they_are():
    assert Numbered([1] * 6, classes_per_task=[3, 1]).sizes == [3, 1]


def test_classes_left_out_of_an_explicit_split_do_not_appear():
    benchmark = Numbered([2] * 6, classes_per_task=[3, 1], order=[5, 4, 3, 2, 1, 0], validation=0)
    assert [task.train.targets.unique().tolist() for task in benchmark] == [[0, 1, 2], [3]]
    assert [len(task.test) for task in benchmark] == [6, 2]


def test_task_knows_its_place():
    first, second, third = Numbered([1] * 7, classes_per_task=[3, 2, 2])
    assert first.is_first
    assert not third.is_first
    assert (third.classes, third.old_classes, third.seen_classes) == (slice(5, 7), slice(0, 5), slice(0, 7))
    assert third.old_tasks == [slice(0, 3), slice(3, 5)]
    assert third.history() == [first, second, third]


def test_seen_tests_in_order_with_their_task():
    benchmark = Numbered([1] * 4, tasks=2)
    samples, tasks = benchmark.seen(benchmark[1])
    assert _indices(samples) == _indices(benchmark[0].test) + _indices(benchmark[1].test)
    assert tasks.tolist() == [0] * 4 + [1] * 4
    assert len(benchmark.seen(benchmark[0])[0]) == 4


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tasks": 5}, ["benchmark.tasks is 5", "only 4 classes"]),
        ({"tasks": 0}, ["benchmark.tasks is 0", "at least 1"]),
        ({"tasks": 2, "first_task": 4}, ["benchmark.first_task is 4", "0 of 4 classes for 1 tasks"]),
        ({"tasks": 1, "first_task": 3}, ["benchmark.first_task is 3"]),
        ({"tasks": 2, "first_task": 0}, ["benchmark.first_task is 0"]),
        ({"classes_per_task": [3, 2]}, ["benchmark.classes_per_task is [3, 2]", "at most 4"]),
        ({"classes_per_task": [3, 0]}, ["benchmark.classes_per_task is [3, 0]", "at least one class"]),
        ({"classes_per_task": []}, ["benchmark.classes_per_task is []"]),
        ({"order": "published"}, ["benchmark.order", "Numbered has no such order"]),
        ({"order": [0, 1, 2]}, ["benchmark.order", "0 to 3 exactly once"]),
        ({"order": [0, 1, 2, 2]}, ["benchmark.order", "exactly once"]),
        ({"validation": 1.0}, ["benchmark.validation is 1.0", "below 1"]),
        ({"validation": -0.1}, ["benchmark.validation is -0.1"]),
        ({"validation": 0, "evaluate_on": "validation"}, ["benchmark.evaluate_on", "benchmark.validation is 0"]),
        ({"validation": "test", "evaluate_on": "validation"}, ["benchmark.evaluate_on", "hold out a share"]),
        ({"samples_per_class": 0}, ["benchmark.samples_per_class is 0", "at least 1"]),
        ({"test_samples_per_class": 0}, ["benchmark.test_samples_per_class is 0", "at least 1"]),
        ({"augmentation": Augmentation((0.5,) * 2, (0.5,) * 2)}, ["augmentation.mean has 2 values", "1 channels"]),
    ],
)
def test_impossible_settings_are_one_sentence_before_data_load(settings, words):
    with pytest.raises(ConfigurationError) as caught:
        Numbered([1] * 4, **{"tasks": 2, **settings}).check()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_input_shape_is_what_the_augmentation_gives():
    assert Numbered([1]).input_shape == (1, 1, 1)
    assert Numbered([1], augmentation=Augmentation(size=7)).input_shape == (1, 7, 7)


def test_a_benchmark_without_data_cannot_be_made():
    with pytest.raises(TypeError, match="load"):
        Benchmark()


def test_capped_test_samples_are_the_same_for_every_seed():
    def tests(seed: int, cap: int | None) -> list[int]:
        benchmark = Numbered([3] * 2, tasks=1, test_samples_per_class=cap)
        benchmark.load = lambda: (_numbered([3] * 2), _numbered([9] * 2))
        benchmark.seed = seed
        return _indices(benchmark[0].test)

    assert len(tests(0, None)) == 18
    assert len(tests(0, 4)) == 8
    assert tests(0, 4) == tests(1, 4) == sorted(tests(0, 4))


@pytest.mark.parametrize(
    ("loaded", "words"),
    [
        (None, "must give two Samples"),
        ((_numbered([1]),), "must give two Samples"),
        ((_numbered([1, 1]), Samples(torch.zeros(2, 1, 1, 1), torch.arange(2))), "test samples whose images are"),
        ((_numbered([1, 1, 1]), _numbered([1, 1])), "training samples whose targets go from 0 to 2"),
    ],
)
def test_what_load_gives_is_looked_at(loaded, words):
    benchmark = Numbered([1, 1], tasks=2)
    benchmark.load = lambda: loaded
    with pytest.raises(DataError, match=words):
        benchmark.tasks  # noqa: B018


class Told(Stream):
    """Brings what it is told to."""

    def __init__(self, *arrivals: Arrival):
        super().__init__()
        self.told = list(arrivals)

    def arrivals(self, labels, seed):
        return self.told


def told(benchmark: Benchmark, *arrivals: Arrival) -> Benchmark:
    benchmark.stream = Told(*arrivals)
    return benchmark


def _of_class(benchmark: Benchmark, *labels: int) -> torch.Tensor:
    targets = benchmark.load()[0].targets
    return torch.cat([(targets == label).nonzero()[:, 0] for label in labels])


def test_classes_are_numbered_in_the_order_in_which_a_stream_brings_them():
    benchmark = Numbered([4] * 4, tasks=3, validation=0)
    samples = {label: _of_class(benchmark, label) for label in range(4)}
    told(
        benchmark,
        Arrival(torch.cat([samples[3][:2], samples[1]])),
        Arrival(samples[3][2:]),
        Arrival(torch.cat([samples[0], samples[2]])),
    )
    assert benchmark.arrival_order == [1, 3, 0, 2]
    assert [task.num_classes for task in benchmark] == [2, 0, 2]
    assert [task.repeats for task in benchmark] == [False, True, False]
    assert benchmark[1].train.targets.tolist() == [1, 1]
    assert [task.test.targets.unique().tolist() for task in benchmark] == [[0, 1], [], [2, 3]]
    assert [task.is_tested for task in benchmark] == [True, False, True]
    truth = benchmark.load()[0].targets
    for task in benchmark:
        labels = [benchmark.arrival_order[target] for target in task.train.targets.tolist()]
        assert labels == truth[_indices(task.train)].tolist()


def test_test_samples_come_once_whatever_the_stream_does():
    benchmark = Numbered([6] * 3, tasks=3, validation=0.3)
    every = torch.arange(12)
    told(benchmark, Arrival(every[:5]), Arrival(every[3:]), Arrival(every))
    tests, tasks = benchmark.seen(benchmark[2])
    assert sorted(_indices(tests)) == list(range(6))
    assert len(tasks) == 6
    trained = {index for task in benchmark for index in _indices(task.train)}
    assert not trained & {index for task in benchmark for index in _indices(task.validation)}


def test_changed_labels_go_with_the_true_ones():
    benchmark = Numbered([3, 3], tasks=1, order=[1, 0], validation=0)
    wrong = torch.tensor([0, 0, 1, 1, 1, 0])
    told(benchmark, Arrival(torch.arange(6), labels=wrong))
    (task,) = benchmark
    assert task.train.targets.tolist() == wrong.tolist()
    truth = benchmark.load()[0].targets
    assert [benchmark.class_order[target] for target in task.train.extras["true_targets"]] == truth.tolist()
    assert "true_targets" not in task.test.extras


@pytest.mark.parametrize("lacking", [1, 2])
def test_a_domain_without_training_samples_is_named(lacking, toy_benchmark, monkeypatch):
    benchmark = toy_benchmark()
    train, test = benchmark.load()
    domains = (torch.arange(len(train)) % 2) * (3 - lacking)
    monkeypatch.setattr(benchmark, "load", lambda: (replace(train, extras={"domain": domains}), test))
    benchmark.domain_names, benchmark.stream = ("morning", "noon", "night"), DomainIncremental()
    assert len(benchmark) == 3
    name = benchmark.domain_names[lacking]
    with pytest.raises(DataError, match=f"gives no training samples of the domain '{name}'"):
        _ = benchmark.tasks


def test_made_domains_change_all_parts_of_a_task_alike(toy_benchmark):
    benchmark = toy_benchmark(tasks=2, validation=0.25)
    benchmark.stream = PermutedPixels(first=False)
    first, second = benchmark
    assert (first.num_classes, second.num_classes) == (6, 0)
    assert (first.domain, second.domain) == (0, 1)
    for name in ("train", "validation", "test"):
        before, after = getattr(first, name), getattr(second, name)
        assert torch.equal(before.targets, after.targets)
        assert torch.equal(PermutedPixels().images(before.images, 1, 2, benchmark.seed), after.images)
        assert before.extras["domain"].unique().tolist() == [0]
        assert after.extras["domain"].unique().tolist() == [1]


def test_what_is_evaluated_on_held_out_images_touches_nothing_of_the_test_samples():
    class Untouched(Samples):
        def __getattribute__(self, name):
            raise AssertionError(f"{name} of the test samples was asked for")

    benchmark = Numbered([8] * 4, tasks=2, validation=0.25, evaluate_on="validation")
    benchmark.load = lambda: (_numbered([8] * 4), Untouched.__new__(Untouched))
    assert [len(task.train) for task in benchmark] == [12, 12]
    assert all(task.test is task.validation and len(task.test) == 4 for task in benchmark)
    assert benchmark.seen(benchmark[1])[1].tolist() == [0] * 4 + [1] * 4
