"""Whatever the stream: no image is trained on that is held out or tested, and each is tested once."""

from itertools import combinations

import pytest
import torch

from cl_ac.benchmark import Benchmark
from cl_ac.data.samples import Samples
from cl_ac.streams.blurry import IBlurry, LinearDecay, SiBlurry
from cl_ac.streams.imbalance import LongTailed
from cl_ac.streams.noise import NoisyLabels
from cl_ac.streams.repetition import SampledRepetition, SlotRepetition

STREAMS = [
    *(IBlurry(), SiBlurry(), LinearDecay(), SlotRepetition(classes=3), SampledRepetition(samples=20)),
    *(LongTailed(0.1), NoisyLabels()),
]


class Numbered(Benchmark):
    """Six classes of 30 + 5 images, each of a value of its own."""

    num_classes, image_shape = 6, (1, 1, 1)

    def load(self):
        targets = torch.arange(6).repeat(35)
        images = torch.arange(210, dtype=torch.uint8)[:, None, None, None]
        return Samples(images[:180], targets[:180]), Samples(images[180:], targets[180:])


def _numbers(samples):
    return samples.images.flatten().tolist()


@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: type(stream).__name__)
@pytest.mark.parametrize("seed", [0, 1])
def test_no_image_is_in_two_parts(stream, seed):
    benchmark = Numbered(tasks=4, order=1)
    benchmark.stream, benchmark.seed = stream, seed
    tasks = list(benchmark)
    assert len(tasks) == len(benchmark)
    tests = [number for task in tasks for number in _numbers(task.test)]
    held_out = [number for task in tasks for number in _numbers(task.validation)]
    trained = [set(_numbers(task.train)) for task in tasks]
    assert sorted(tests) == list(range(180, 210)), "each is tested once"
    assert len(held_out) == len(set(held_out)) == 18
    assert not set.union(*trained) & {*tests, *held_out}
    if not isinstance(stream, SampledRepetition):
        assert not any(first & second for first, second in combinations(trained, 2))
    if not isinstance(stream, SampledRepetition | LongTailed):
        assert set.union(*trained) == set(range(180)) - set(held_out)


@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: type(stream).__name__)
def test_tests_are_of_classes_that_have_come(stream):
    benchmark = Numbered(tasks=4)
    benchmark.stream = stream
    for task in benchmark:
        new = set(range(task.classes.start, task.classes.stop))
        assert set(task.test.targets.tolist()) == new
        assert new <= set(task.train.targets.tolist()) <= set(range(task.classes.stop))
