"""Classes that come again: quotas of slots, and the distributions of sampled tasks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cl_ac.errors import ConfigurationError
from cl_ac.streams.repetition import SampledRepetition, SlotRepetition, sampled, slots
from cl_ac.streams.stream import Labels, Split

seeds = st.integers(0, 99)


@settings(max_examples=80)
@given(st.data(), st.integers(1, 8), st.integers(1, 7), seeds)
def test_slots_are_met_exactly(data, classes, tasks, seed):
    each = data.draw(st.integers(1, classes))
    if tasks * each < classes:
        return
    most = -(-tasks * each // classes)
    counts = data.draw(st.lists(st.integers(most, 12), min_size=classes, max_size=classes))
    targets = torch.arange(classes).repeat_interleave(torch.tensor(counts))
    targets = targets[torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))]
    found = slots(targets, tasks, each, seed)
    assert torch.cat(found).sort().values.tolist() == list(range(len(targets))), "every sample once"
    assert [len(targets[indices].unique()) for indices in found] == [each] * tasks, "K different classes"
    for label, count in enumerate(counts):
        sizes = [number for indices in found if (number := int((targets[indices] == label).sum()))]
        assert len(sizes) in (tasks * each // classes, most)
        assert max(sizes) - min(sizes) <= 1, "equal parts"
        assert sum(sizes) == count
    assert all(map(torch.equal, found, slots(targets, tasks, each, seed)))


def test_slots_differ_by_the_seed():
    targets = torch.arange(6).repeat(10)
    present = {
        tuple(tuple(targets[part].unique().tolist()) for part in slots(targets, 4, 3, seed)) for seed in range(5)
    }
    assert len(present) > 1


@pytest.mark.parametrize(
    ("tasks", "classes", "words"),
    [
        (2, 4, r"stream\.classes is 4, but there are only 3 classes"),
        (1, 2, "makes 2 slots; 3 classes need at least as many"),
        (5, 2, "makes 4 slots for a class that has only 3 training images"),
    ],
)
def test_slots_that_cannot_be_filled(tasks, classes, words):
    with pytest.raises(ConfigurationError, match=words):
        slots(torch.arange(3).repeat(3), tasks, classes, 0)


@settings(max_examples=60)
@given(
    st.integers(1, 6), st.integers(1, 8), st.floats(0, 0.9), st.floats(0, 1), st.floats(0, 2), st.integers(6, 30), seeds
)
def test_sampled_tasks_have_equal_parts_of_their_classes(classes, tasks, first, recurrence, exponent, samples, seed):
    targets = torch.arange(classes).repeat(30)
    found = sampled(targets, tasks, samples, first, recurrence, exponent, seed)
    assert len(found) == tasks
    for indices in found:
        assert len(indices) == len(indices.unique()) == samples, "no sample twice in a task"
        counts = targets[indices].bincount(minlength=classes)
        counts = counts[counts > 0]
        assert counts.max() - counts.min() <= 1
    assert len(targets[torch.cat(found)].unique()) == classes, "every class comes"
    assert all(map(torch.equal, found, sampled(targets, tasks, samples, first, recurrence, exponent, seed)))


def _starts_and_presence(first, recurrence, exponent, tasks=4, classes=3000):
    targets = torch.arange(classes)
    found = sampled(targets, tasks, classes, first, recurrence, exponent, 0)
    present = torch.zeros(tasks, classes, dtype=torch.bool)
    for task, indices in enumerate(found):
        present[task, targets[indices]] = True
    return present.int().argmax(0), present


def test_first_tasks_are_geometric():
    starts, _ = _starts_and_presence(0.5, 0, 0)
    expected = torch.tensor([8.0, 4, 2, 1]) / 15
    assert torch.allclose(starts.bincount(minlength=4) / 3000, expected, atol=0.03)


def test_classes_come_again_as_often_as_told():
    starts, present = _starts_and_presence(0, 0.3, 0)
    later = torch.arange(4)[:, None] > starts
    assert float((present & later).sum() / later.sum()) == pytest.approx(0.3, abs=0.03)
    assert _starts_and_presence(0, 1, 0)[1][3].all()


def test_ranks_let_some_classes_come_again_more_often():
    starts, present = _starts_and_presence(0.9, 1, 1)
    again = present[1:, starts == 0].sum(0)
    assert (again == 3).sum() < 10
    assert again.double().mean() < 0.02


def test_classes_with_few_samples_give_all():
    targets = torch.tensor([0] * 3 + [1] * 50)
    (indices,) = sampled(targets, 1, 20, 0, 0, 0, 0)
    assert targets[indices].bincount().tolist() == [3, 10]


def test_more_classes_than_samples():
    with pytest.raises(ConfigurationError, match=r"stream\.samples is 2, but a task has 3 classes"):
        sampled(torch.arange(3).repeat(5), 1, 2, 0, 0, 0, 0)


LABELS = Labels(torch.arange(10).repeat(20), Split(10, 6))


@pytest.mark.parametrize("stream", [SlotRepetition(classes=3), SampledRepetition(samples=40)])
def test_streams_hand_on_their_options(stream):
    arrivals = stream.arrivals(LABELS, 0)
    assert len(arrivals) == stream.length(LABELS.split) == 6
    if isinstance(stream, SlotRepetition):
        assert [len(LABELS.targets[arrival.train].unique()) for arrival in arrivals] == [3] * 6
    else:
        assert [len(arrival.train) for arrival in arrivals] == [40] * 6
    assert not stream.disjoint


def test_too_many_slots_are_found_before_data_are_read():
    with pytest.raises(ConfigurationError, match=r"stream\.classes is 11, but there are only 10 classes"):
        SlotRepetition(classes=11).length(LABELS.split)
    with pytest.raises(ConfigurationError, match="makes 6 slots"):
        SlotRepetition(classes=1).length(LABELS.split)


@pytest.mark.parametrize(("option", "value"), [("samples", 0), ("first", 1.0), ("recurrence", 1.5), ("exponent", -1.0)])
def test_options_out_of_range(option, value):
    with pytest.raises(ConfigurationError, match=rf"^stream\.{option} is {value:g}; it must be"):
        SampledRepetition(**{option: value})
    with pytest.raises(ConfigurationError, match=r"^stream\.classes is 0; it must be at least 1"):
        SlotRepetition(classes=0)
