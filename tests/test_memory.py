"""Exemplar memories: shares, selections, and what is stored."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cl_ac.data.samples import ImageFiles, Samples
from cl_ac.errors import ConfigurationError
from cl_ac.memory import Memory, herd, rank_in_class

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
