"""How classes are shared among tasks, and what every stream may be asked before data are read."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cl_ac.data.tasks import task_slices
from cl_ac.errors import ConfigurationError
from cl_ac.streams.class_incremental import ClassIncremental
from cl_ac.streams.domain_incremental import RotatedImages
from cl_ac.streams.stream import Labels, Split, split_sizes


def test_split_sizes():
    assert split_sizes(10, 5) == [2, 2, 2, 2, 2]
    assert split_sizes(10, 4) == [3, 3, 2, 2]
    assert split_sizes(100, 6, first_task=50) == [50, 10, 10, 10, 10, 10]
    assert split_sizes(7, 1, first_task=7) == [7]


@given(st.data(), st.lists(st.integers(0, 6), min_size=1, max_size=40))
def test_class_incremental_brings_each_sample_once_with_its_class(data, targets):
    split = Split(7, data.draw(st.integers(1, 7)))
    labels = Labels(torch.tensor(targets), split)
    arrivals = ClassIncremental().arrivals(labels, seed=0)
    assert len(arrivals) == ClassIncremental().length(split) == split.tasks
    assert sorted(torch.cat([each.train for each in arrivals]).tolist()) == list(range(len(targets)))
    for arrival, classes in zip(arrivals, task_slices(split.sizes), strict=True):
        assert set(labels.targets[arrival.train].tolist()) <= set(range(classes.start, classes.stop))
        assert arrival.labels is None
        assert arrival.domain is None


def test_streams_that_share_no_classes_refuse_what_says_how():
    with pytest.raises(ConfigurationError, match=r"benchmark.first_task is 3, but RotatedImages does not share"):
        RotatedImages().length(Split(10, 3, first_task=3))
    with pytest.raises(ConfigurationError, match=r"benchmark.tasks is 0; it must be at least 1"):
        RotatedImages().length(Split(10, 0))
    assert RotatedImages().length(Split(2, 20)) == 20, "more tasks than classes"
