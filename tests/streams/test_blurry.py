"""Streams without sharp boundaries, against their definitions and Avalanche's linear decay."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cl_ac.errors import ConfigurationError
from cl_ac.streams.blurry import IBlurry, LinearDecay, SiBlurry, decay_shares, i_blurry, linear_decay, si_blurry
from cl_ac.streams.stream import Labels, Split

TARGETS = torch.arange(10).repeat(40)
seeds, shares = st.integers(0, 99), st.floats(0, 1)
labels = st.lists(st.integers(0, 9), min_size=1, max_size=80).map(torch.tensor)


def _tasks_of(found: list[torch.Tensor], targets: torch.Tensor) -> dict[int, list[int]]:
    """How many samples of each class come in each task."""
    counts = torch.stack([targets[indices].bincount(minlength=10) for indices in found])
    return dict(enumerate(counts.T.tolist()))


@settings(max_examples=60)
@given(labels, st.integers(1, 6), shares, shares, seeds)
@pytest.mark.parametrize("make", [i_blurry, si_blurry])
def test_every_sample_comes_once_and_by_the_seed_alone(make, targets, tasks, disjoint, blurry, seed):
    found = make(targets, tasks, disjoint, blurry, seed)
    assert len(found) == tasks
    assert torch.cat(found).sort().values.tolist() == list(range(len(targets)))
    again = make(targets, tasks, disjoint, blurry, seed)
    assert all(map(torch.equal, found, again))


@pytest.mark.parametrize("make", [i_blurry, si_blurry])
@pytest.mark.parametrize("seed", [0, 1])
def test_disjoint_classes_are_in_one_task(make, seed):
    of_class = _tasks_of(make(TARGETS, 5, 0.5, 0.3, seed), TARGETS)
    assert sum(sum(count > 0 for count in counts) == 1 for counts in of_class.values()) == 5


@pytest.mark.parametrize("seed", [0, 1])
def test_quotas_of_i_blurry(seed):
    found = i_blurry(TARGETS, 5, 0.5, 0.1, seed)
    # One disjoint class, 90 % of a blurry one, and a fifth of five times 10 % of one.
    assert [len(indices) for indices in found] == [40 + 36 + 4] * 5
    largest = [max(counts) for counts in _tasks_of(found, TARGETS).values()]
    assert sorted(largest)[5:] == [40] * 5
    assert all(36 <= count <= 40 for count in largest)


def test_without_a_blurry_share_classes_are_disjoint():
    for make in (i_blurry, si_blurry):
        of_class = _tasks_of(make(TARGETS, 5, 0.5, 0, 3), TARGETS)
        assert all(sum(count > 0 for count in counts) == 1 for counts in of_class.values())


def test_tasks_of_si_blurry_differ_in_size():
    sizes = [[len(indices) for indices in si_blurry(TARGETS, 5, 0.5, 0.1, seed)] for seed in range(5)]
    assert all(len(set(each)) > 1 for each in sizes)
    assert len({tuple(each) for each in sizes}) == 5


def test_blurry_samples_are_drawn_and_not_the_first():
    """In the authors' code those that go to other tasks are the first of the files."""
    found = i_blurry(TARGETS, 2, 0, 0.25, 0)
    main = [max(range(2), key=counts.__getitem__) for counts in _tasks_of(found, TARGETS).values()]
    away = torch.cat([indices[torch.tensor(main)[TARGETS[indices]] != task] for task, indices in enumerate(found)])
    assert away.max() > 300


@settings(max_examples=40)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=60).map(torch.tensor), shares, seeds)
def test_every_sample_of_a_linear_decay_comes_once(groups, overlap, seed):
    found = linear_decay(groups, 4, overlap, seed)
    assert torch.cat(found).sort().values.tolist() == list(range(len(groups)))
    assert all(map(torch.equal, found, linear_decay(groups, 4, overlap, seed)))


def test_no_overlap_is_a_sharp_boundary():
    groups = torch.tensor([2, 0, 1, 1, 0, 2, 2])
    found = linear_decay(groups, 3, 0, 5)
    assert [indices.sort().values.tolist() for indices in found] == [[1, 4], [2, 3], [0, 5, 6]]


def test_samples_arrive_at_the_shares():
    """Of many samples, those that arrive around each time are mixed as `decay_shares` says."""
    tasks, count, overlap, bins = 3, 40_000, 0.5, 12
    groups = torch.arange(tasks).repeat_interleave(count)
    arrived = groups[torch.cat(linear_decay(groups, tasks, overlap, 0))]
    found = torch.stack([part.bincount(minlength=tasks) / len(part) for part in arrived.tensor_split(bins)])
    fine = (torch.arange(bins * 100, dtype=torch.float64) + 0.5) / (bins * 100) * tasks
    expected = decay_shares(fine, tasks, overlap).view(bins, 100, tasks).mean(1)
    assert torch.allclose(found.double(), expected, atol=0.015)


def test_shares_by_hand():
    times = torch.tensor([0.0, 0.75, 0.875, 1.0, 1.25, 1.5, 2.0], dtype=torch.float64)
    expected = [[1, 0], [1, 0], [0.75, 0.25], [0.5, 0.5], [0, 1], [0, 1], [0, 1]]
    assert torch.allclose(decay_shares(times, 2, 0.5), torch.tensor(expected).double())


@pytest.mark.parametrize("beta", [2, 4, 8])
def test_shares_are_those_of_avalanche(beta, monkeypatch):
    """Avalanche's categorical draws are recorded; its probabilities are those of 2/β at the start of each step."""
    online = pytest.importorskip("avalanche.benchmarks.scenarios.online")
    recorded, tasks, steps = [], 4, 16

    class Recorder:
        def __init__(self, probs):
            recorded.append(probs)

        def sample(self, size):
            return torch.zeros(size)

    monkeypatch.setattr(online, "Categorical", Recorder)
    monkeypatch.setattr(online, "create_sub_exp_from_multi_exps", lambda *arguments: None)
    monkeypatch.setattr(online, "CLStream", lambda name, exps_iter, set_stream_info: list(exps_iter))
    experiences = [type("Experience", (), {"dataset": [0]}) for _ in range(tasks)]
    online.split_continuous_linear_decay_stream(experiences, 1, steps, beta, True)
    times = torch.arange(tasks * steps, dtype=torch.float64) / steps
    assert torch.allclose(torch.stack(recorded).double(), decay_shares(times, tasks, 2 / beta), atol=1e-6)


LABELS = Labels(TARGETS, Split(10, 5))


@pytest.mark.parametrize("stream", [IBlurry(), SiBlurry(), LinearDecay()], ids=lambda each: type(each).__name__)
def test_streams_hand_on_their_options(stream):
    arrivals = stream.arrivals(LABELS, 1)
    assert len(arrivals) == stream.length(LABELS.split) == 5
    assert torch.cat([arrival.train for arrival in arrivals]).sort().values.tolist() == list(range(400))
    assert all(arrival.labels is None and arrival.domain is None for arrival in arrivals)
    again, other = stream.arrivals(LABELS, 1), stream.arrivals(LABELS, 2)
    assert [arrival.train.tolist() for arrival in arrivals] == [arrival.train.tolist() for arrival in again]
    assert [arrival.train.tolist() for arrival in arrivals] != [arrival.train.tolist() for arrival in other]
    assert not stream.disjoint


def test_i_blurry_without_blur_is_class_incremental():
    arrivals = IBlurry(disjoint=0, blurry=0).arrivals(LABELS, 0)
    assert [len(TARGETS[arrival.train].unique()) for arrival in arrivals] == [2] * 5


def test_linear_decay_follows_classes_per_task():
    split = Split(10, 2, classes_per_task=[3, 1])
    labels = Labels(TARGETS[TARGETS < 4], split)
    first, second = LinearDecay(overlap=0).arrivals(labels, 0)
    assert labels.targets[first.train].unique().tolist() == [0, 1, 2]
    assert labels.targets[second.train].unique().tolist() == [3]
    assert LinearDecay().num_classes(split) == 4


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: IBlurry(blurry=1.2), r"stream\.blurry is 1\.2; it must be from 0 to 1"),
        (lambda: SiBlurry(disjoint=-0.1), r"stream\.disjoint is -0\.1"),
        (lambda: LinearDecay(overlap=2), r"stream\.overlap is 2"),
        (
            lambda: IBlurry().arrivals(Labels(torch.arange(2), Split(2, 5)), 0),
            r"leaves task \d without training images; set fewer benchmark\.tasks or a larger stream\.blurry",
        ),
        (lambda: IBlurry().length(Split(10, 5, first_task=2)), r"benchmark\.first_task is 2, but IBlurry"),
    ],
)
def test_what_cannot_be_is_one_sentence(make, words):
    with pytest.raises(ConfigurationError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)
