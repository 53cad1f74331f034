"""Exemplar memories: shares, selections, and what is stored."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cl_ac.data.batches import Batch
from cl_ac.data.samples import ImageFiles, Samples
from cl_ac.data.seeding import generator
from cl_ac.errors import ConfigurationError
from cl_ac.memory import KEYS, Memory, herd, rank_in_class, spread_over_domains

SELECTIONS = ["random", "herding", "entropy", "distance", "reservoir", "class_balanced"]


class ReadingTrainer:
    """Reads images as features [N, 4] and as logits [E = 2, N, C = 12]; only the final exit's are of any use."""

    def predict(self, network, samples, read=None):
        indices = torch.arange(len(samples))
        images = samples.images[indices].float().flatten(1)
        if read is not None:
            return [images[:, :4]]
        return torch.stack([torch.full((len(images), 12), torch.nan), images[:, :12] / 64])


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def samples_of(counts: dict[int, int], seed: int = 0) -> Samples:
    """Random 1 × 4 × 4 images, `counts[target]` of each class, in mixed order; `number` tells them apart."""
    targets = torch.tensor([target for target, count in counts.items() for _ in range(count)])
    targets = targets[torch.randperm(len(targets), generator=stream(seed))]
    images = torch.randint(256, (len(targets), 1, 4, 4), dtype=torch.uint8, generator=stream(seed + 1))
    number = 1000 * seed + torch.arange(len(targets))
    return Samples(images, targets, {"number": number})


def fill(memory: Memory, tasks: list[dict[int, int]], seed: int = 0) -> Memory:
    for index, counts in enumerate(tasks):
        memory.update(samples_of(counts, 10 * index + 1), stream(seed + index), object(), ReadingTrainer())
    return memory


def counts_of(memory: Memory, classes: int) -> list[int]:
    return memory.targets.bincount(minlength=classes).tolist()


@st.composite
def class_streams(draw):
    """Tasks of one to three new classes with 1 to 12 images each."""
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    tasks, first = [], 0
    for size in sizes:
        tasks.append({target: draw(st.integers(1, 12)) for target in range(first, first + size)})
        first += size
    return tasks


@settings(max_examples=60, deadline=None)
@given(class_streams(), st.integers(1, 40), st.sampled_from(["random", "herding", "entropy", "distance"]))
def test_each_class_has_exactly_its_share(tasks, size, selection):
    memory = Memory(size, selection=selection)
    available, past_shares = {}, {}
    for index, task in enumerate(tasks):
        memory.update(samples_of(task, index), stream(index), object(), ReadingTrainer())
        available |= task
        classes = len(available)
        shares = [size // classes + (target < size % classes) for target in range(classes)]
        past_shares = {target: min(past_shares.get(target, size), shares[target]) for target in available}
        assert counts_of(memory, classes) == [min(available[t], past_shares[t]) for t in range(classes)]
        assert len(memory) <= size
        assert memory.images.dtype == torch.uint8


@settings(max_examples=60, deadline=None)
@given(class_streams(), st.integers(1, 40), st.sampled_from(SELECTIONS), st.booleans())
def test_never_more_than_the_limit(tasks, limit, selection, grows):
    memory = Memory(per_class=limit, selection=selection) if grows else Memory(limit, selection=selection)
    classes = images = 0
    for index, task in enumerate(tasks):
        memory.update(samples_of(task, index), stream(index), object(), ReadingTrainer())
        classes, images = classes + len(task), images + sum(task.values())
        assert len(memory) <= (limit * classes if grows else limit)
        if grows and selection != "reservoir":
            assert max(counts_of(memory, classes)) <= limit
        if selection == "reservoir" and not grows:
            assert len(memory) == min(limit, images)


@settings(max_examples=40, deadline=None)
@given(class_streams(), st.integers(1, 40), st.sampled_from(SELECTIONS))
def test_the_seed_decides_and_exemplars_keep_what_belongs_to_them(tasks, size, selection):
    first, second = (fill(Memory(size, selection=selection), tasks) for _ in range(2))
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.targets, second.targets)
    everything = [samples_of(task, 10 * index + 1) for index, task in enumerate(tasks)]
    whole = {
        int(n): (i, t) for s in everything for n, i, t in zip(s.extras["number"], s.images, s.targets, strict=True)
    }
    numbers = first.extras.number.tolist()
    assert len(set(numbers)) == len(numbers)
    for number, image, target in zip(numbers, first.images, first.targets, strict=True):
        assert torch.equal(image, whole[number][0])
        assert target == whole[number][1]


@pytest.mark.parametrize("selection", ["random", "herding", "entropy", "distance", "class_balanced"])
def test_a_shrinking_share_keeps_what_was_chosen_first(selection):
    memory = fill(Memory(12, selection=selection), [{0: 20, 1: 20}])
    before = {target: memory.extras.number[memory.targets == target].tolist() for target in (0, 1)}
    memory.update(samples_of({2: 20, 3: 20}, 5), stream(9), object(), ReadingTrainer())
    for target in (0, 1):
        assert memory.extras.number[memory.targets == target].tolist() == before[target][:3]


def test_another_seed_draws_other_exemplars():
    draws = [fill(Memory(6), [{0: 30}], seed).extras.number.tolist() for seed in range(2)]
    assert draws[0] != draws[1]


def test_rounding_up_gives_every_class_the_larger_share():
    assert Memory(10, rounding="up").quotas(3) == [4, 4, 4]
    assert Memory(10).quotas(3) == [4, 3, 3]
    assert counts_of(fill(Memory(10, rounding="up"), [{0: 9, 1: 9, 2: 9}]), 3) == [4, 4, 4]


def test_herding_is_the_greedy_choice_of_icarl():
    features = torch.rand(9, 3, generator=stream(), dtype=torch.float64)
    rows = [[value / math.sqrt(sum(v * v for v in row)) for value in row] for row in features.tolist()]
    mean = [sum(column) / 9 for column in zip(*rows, strict=True)]
    chosen: list[int] = []
    for step in range(1, 6):
        distances = {}
        for index in set(range(9)) - set(chosen):
            group = [rows[member] for member in [*chosen, index]]
            center = [sum(column) / step for column in zip(*group, strict=True)]
            distances[index] = math.dist(mean, center)
        chosen.append(min(distances, key=distances.get))
    assert herd(features, 5).tolist() == chosen
    assert sorted(herd(features, 20).tolist()) == list(range(9))


def test_distance_takes_the_smallest_own_logits_and_entropy_the_most_uncertain():
    samples = samples_of({0: 10, 1: 10})
    logits = [[value / 64 for value in row] for row in samples.images.flatten(1)[:, :12].tolist()]

    def entropy(index: int) -> float:
        shares = [math.exp(value) for value in logits[index]]
        return -sum(s / sum(shares) * math.log(s / sum(shares)) for s in shares)

    for selection, score in (("distance", lambda i: logits[i][samples.targets[i]]), ("entropy", lambda i: -entropy(i))):
        memory = Memory(6, selection=selection)
        memory.update(samples, stream(), object(), ReadingTrainer())
        for target in (0, 1):
            members = [index for index in range(20) if samples.targets[index] == target]
            best = sorted(members, key=score)[:3]
            assert memory.extras.number[memory.targets == target].tolist() == best


def test_a_reservoir_is_uniform_over_the_whole_stream():
    tasks, runs, size = [{0: 40}, {1: 20}, {2: 20}], 400, 20
    kept = torch.zeros(3)
    for seed in range(runs):
        kept += fill(Memory(size, selection="reservoir"), tasks, 100 * seed).targets.bincount(minlength=3)
    # Hypergeometric: mean 20 · n / 80 per run; four standard errors of the mean over runs.
    for count, images in zip((kept / runs).tolist(), (40, 20, 20), strict=True):
        share = images / 80
        spread = math.sqrt(size * share * (1 - share) * (80 - size) / 79 / runs)
        assert abs(count - size * share) < 4 * spread


def test_class_balanced_passes_on_what_small_classes_leave():
    memory = fill(Memory(20, selection="class_balanced"), [{0: 2, 1: 30, 2: 30}])
    assert counts_of(memory, 3) == [2, 9, 9]
    assert counts_of(fill(Memory(20), [{0: 2, 1: 30, 2: 30}]), 3) == [2, 7, 6]
    assert counts_of(fill(Memory(11, selection="class_balanced"), [{0: 30, 1: 30, 2: 30}]), 3) == [4, 4, 3]


@pytest.mark.parametrize("selection", SELECTIONS)
def test_its_state_goes_on_where_it_was_saved(selection):
    tasks = [{0: 9, 1: 9}, {2: 9, 3: 9}]
    memory = fill(Memory(7, selection=selection), tasks)
    state = {name: value.clone() for name, value in memory.state_dict().items()}
    restored = Memory(7, selection=selection)
    restored.load_state_dict(state)
    assert set(restored.samples.extras) == set(memory.samples.extras) >= {"number"}
    for each in (memory, restored):
        each.update(samples_of({4: 9}, 3), stream(5), object(), ReadingTrainer())
    assert {name: value.tolist() for name, value in restored.state_dict().items()} == {
        name: value.tolist() for name, value in memory.state_dict().items()
    }


def test_what_is_stored_is_a_copy():
    samples = samples_of({0: 3})
    memory = Memory(3)
    memory.store(samples)
    before = memory.images.clone()
    samples.images.zero_()
    samples.extras["number"].zero_()
    assert torch.equal(memory.images, before)
    assert memory.extras.number.tolist() == [0, 1, 2]


@pytest.mark.parametrize("selection", SELECTIONS)
def test_files_become_stored_images(selection, tmp_path):
    colours = torch.randint(256, (12, 3), generator=stream()).tolist()
    for index, colour in enumerate(colours):
        Image.new("RGB", (4, 4), tuple(colour)).save(tmp_path / f"{index:02}.png")
    files = ImageFiles(sorted(tmp_path.iterdir()), 4)
    memory = Memory(6, selection=selection)
    for task in (0, 1):
        part = torch.arange(6) + 6 * task
        targets = torch.full((6,), task)
        memory.update(Samples(files.select(part), targets, {"number": part}), stream(task), object(), ReadingTrainer())
    assert memory.images.shape == (6, 3, 4, 4)
    assert memory.images.dtype == torch.uint8
    assert memory.images[:, :, 0, 0].tolist() == [colours[number] for number in memory.extras.number]


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("exits", [(), "sdn"])
def test_every_selection_works_with_any_number_of_exits(selection, exits, toy_benchmark, toy_network, toy_trainer):
    network = toy_network(*([exits] if exits else []), sizes=(2,))
    memory = Memory(7, selection=selection)
    memory.update(toy_benchmark()[0].train, stream(), network, toy_trainer)
    assert len(memory) == 7


def test_a_share_given_in_passing_replaces_its_own():
    memory = Memory(20)
    memory.update(samples_of({0: 30, 1: 30}), stream(), per_class=4)
    assert counts_of(memory, 2) == [4, 4]


def test_without_size_it_stays_empty():
    memory = fill(Memory(), [{0: 5}])
    assert len(memory) == 0
    assert not memory.enabled


def test_ranks_count_samples_of_the_same_class():
    assert rank_in_class(torch.tensor([3, 0, 3, 3, 0])).tolist() == [0, 0, 1, 2, 1]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": -1}, "memory.size is -1"),
        ({"size": 5, "per_class": 5}, "set one of them"),
        ({"size": 5, "selection": "herd"}, "did you mean 'herding'"),
        ({"size": 5, "rounding": "down"}, "unknown memory.rounding 'down'"),
    ],
)
def test_wrong_settings_are_named(settings, words):
    with pytest.raises(ConfigurationError, match=words):
        Memory(**settings)


def passing(numbers: list[int], step: int, seed: int = 0, **extras) -> Batch:
    """A step's batch of new images, each of one number as value, class and the extra `number`."""
    targets = torch.tensor(numbers)
    images = targets.to(torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4).contiguous()
    incoming = Samples(images, targets, {"number": targets})
    return Batch(images.float(), targets, None, incoming=incoming, stream=partial(generator, seed, "passing", step))


def let_pass(memory: Memory, sizes: list[int], seed: int = 0) -> int:
    """Batches of these sizes pass; each image has a number of its own, which come to the number returned."""
    first = 0
    for step, size in enumerate(sizes):
        memory.take_up(passing(list(range(first, first + size)), step, seed), {})
        first += size
    return first


@settings(max_examples=30)
@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=8), size=st.integers(1, 20))
def test_a_live_memory_is_as_full_as_it_can_be_and_holds_whole_images(sizes, size):
    memory = Memory(size, selection="live")
    count = let_pass(memory, sizes)
    assert len(memory) == min(count, size)
    numbers = memory.samples.extras["number"]
    assert len(numbers.unique()) == len(memory), "no image twice"
    assert torch.equal(memory.targets, numbers)
    assert torch.equal(memory.images[:, 0, 0, 0], numbers.to(torch.uint8))


def test_a_live_memory_keeps_the_smallest_keys_of_all_that_passed():
    memory, sizes = Memory(7, selection="live"), [5, 4, 9, 1, 6]
    let_pass(memory, sizes)
    keys = torch.cat(
        [
            torch.rand(size, generator=generator(0, "passing", step, KEYS), dtype=torch.float64)
            for step, size in enumerate(sizes)
        ]
    )
    assert sorted(memory.samples.extras["number"].tolist()) == sorted(keys.argsort()[:7].tolist())


def test_a_live_memory_is_a_uniform_sample():
    kept = torch.zeros(30)
    for seed in range(400):
        memory = Memory(6, selection="live")
        let_pass(memory, [10, 10, 10], seed)
        kept[memory.targets] += 1
    # 400 · 6 / 30 = 80 each, with a deviation of 8.
    assert kept.sum() == 2400
    assert (kept - 80).abs().max() < 32


def test_stored_logits_are_widened_for_newer_classes():
    memory = Memory(3, selection="live")
    memory.take_up(passing([0, 1], 0), {"logits": torch.ones(2, 1, 2)})
    memory.take_up(passing([2, 3, 4, 5], 1), {"logits": torch.full((4, 1, 5), 2.0)})
    logits, old = memory.samples.extras["logits"], memory.targets < 2
    assert logits.shape == (3, 1, 5)
    assert torch.equal(logits[old], torch.tensor([1.0, 1, 0, 0, 0]).expand(int(old.sum()), 1, 5))
    assert (logits[~old] == 2).all()


def test_a_live_memory_goes_on_from_its_state():
    whole, stopped, resumed = (Memory(5, selection="live") for _ in range(3))
    let_pass(whole, [4, 6])
    stopped.take_up(passing([0, 1, 2, 3], 0), {})
    resumed.load_state_dict({name: value.clone() for name, value in stopped.state_dict().items()})
    resumed.take_up(passing([4, 5, 6, 7, 8, 9], 1), {})
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_live_memory_chooses_nothing_at_the_end_of_a_task():
    memory = Memory(5, selection="live")
    memory.update(samples_of({0: 4}), stream())
    assert not len(memory)
    with pytest.raises(ConfigurationError, match=r"memory\.per_class 3; a memory that images pass"):
        Memory(per_class=3, selection="live")


@settings(max_examples=30)
@given(
    size=st.integers(1, 40),
    domains=st.lists(st.dictionaries(st.integers(0, 3), st.integers(1, 8), min_size=1), min_size=1, max_size=4),
    selection=st.sampled_from(["random", "herding", "class_balanced"]),
)
def test_each_class_has_a_share_in_each_domain(size, domains, selection):
    memory, available = Memory(size, selection=selection), {}
    for domain, counts in enumerate(domains):
        samples = samples_of(counts, domain + 1)
        samples = replace(samples, extras={**samples.extras, "domain": torch.full((len(samples),), domain)})
        memory.update(samples, stream(domain), object(), ReadingTrainer())
        available |= {(domain, target): count for target, count in counts.items()}
    found = Counter(zip(memory.samples.extras["domain"].tolist(), memory.targets.tolist(), strict=True))
    groups, quotas = _in_order(available), memory.quotas(len(available))
    if selection == "class_balanced":
        assert len(memory) <= size
    else:
        assert [found[group] for group in groups] == [
            # A share that was smaller before has no more exemplars to give.
            min(available[group], quota, *_earlier(memory, domains, group))
            for group, quota in zip(groups, quotas, strict=True)
        ]


def _in_order(groups: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Pairs of domain and class in the order in which they are given what is left over."""
    listed = sorted(groups)
    return [listed[place] for place in spread_over_domains(*torch.tensor(listed).T).tolist()]


@pytest.mark.parametrize("selection", ["random", "class_balanced"])
def test_exemplars_fewer_than_classes_in_domains_are_of_all_classes_and_many_domains(selection):
    memory = Memory(50, selection=selection)
    for domain in range(12):
        samples = samples_of(dict.fromkeys(range(10), 8), domain + 1)
        samples = replace(samples, extras={**samples.extras, "domain": torch.full((len(samples),), domain)})
        memory.update(samples, stream(domain))
    assert counts_of(memory, 10) == [5] * 10
    of_domains = memory.samples.extras["domain"].bincount(minlength=12)
    assert len(memory) == 50
    assert of_domains.min() >= 3
    assert of_domains.max() <= 5


def test_a_number_per_class_is_one_in_each_domain():
    memory = Memory(per_class=4)
    for domain in range(3):
        samples = samples_of({0: 8}, domain + 1)
        memory.update(replace(samples, extras={"domain": torch.full((8,), domain)}), stream(domain))
    assert memory.samples.extras["domain"].bincount().tolist() == [4, 4, 4]


def _earlier(memory: Memory, domains: list[dict[int, int]], group: tuple[int, int]) -> list[int]:
    """The shares that a group had when later domains came."""
    shares = []
    for last in range(group[0], len(domains)):
        known = _in_order((domain, target) for domain in range(last + 1) for target in domains[domain])
        shares.append(memory.quotas(len(known))[known.index(group)])
    return shares


def test_token_numbers_of_texts_come_back_as_they_were():
    numbers = torch.tensor([[2, 4000, -1], [2, 70_000, 3]], dtype=torch.int32)[:, None, None]
    memory, restored = Memory(size=2), Memory(size=2)
    memory.store(Samples(numbers, torch.tensor([0, 1])))
    restored.load_state_dict(memory.state_dict())
    assert restored.images.dtype == torch.int32
    assert torch.equal(restored.images, numbers)
