"""Batches: each sample once, the same ones for the same seed, from memory or from files."""

import itertools
from functools import partial

import pytest
import torch
from PIL import Image

from cl_ac.benchmark import Task
from cl_ac.data.augmentation import Augmentation
from cl_ac.data.batches import TrainingSet
from cl_ac.data.loading import EpochBatches, Loader
from cl_ac.data.samples import ImageFiles, Samples, concatenate
from cl_ac.data.seeding import generator
from cl_ac.errors import DataError

CPU = torch.device("cpu")
RAW = Augmentation(mean=(0.0,), std=(1 / 255,))
RANDOM = Augmentation(crop="resized", flip=True)


def _samples(count: int) -> Samples:
    """Images whose pixels all hold the index of the sample, which is also its extra; the target is index mod 3."""
    images = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, 3, 6, 6).clone()
    return Samples(images, torch.arange(count) % 3, {"index": torch.arange(count)})


def _files(tmp_path, count: int) -> tuple[Samples, Samples]:
    """The same random samples as a tensor and as PNG files."""
    stream = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, 6, 6), dtype=torch.uint8, generator=stream)
    paths = [tmp_path / f"{index}.png" for index in range(count)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return Samples(images, torch.arange(count)), Samples(ImageFiles(paths, 6), torch.arange(count))


def _task(samples: Samples) -> Task:
    return Task(0, (3,), samples, samples, samples)


def _batches(loader: Loader, count: int, seed: int = 0, batch_size: int = 4):
    stream = torch.Generator().manual_seed(seed)
    return list(loader.shuffled(batch_size, count, stream, _task(loader.samples)))


def test_each_sample_once_per_epoch_with_its_own_target_and_extras():
    batches = _batches(Loader(_samples(22), RAW, CPU), 22)
    assert [len(batch) for batch in batches] == [4] * 5 + [2]
    indices = torch.cat([batch.extras["index"] for batch in batches])
    assert sorted(indices.tolist()) == list(range(22))
    assert indices.tolist() != list(range(22))
    assert torch.equal(torch.cat([batch.images for batch in batches])[:, 0, 0, 0], indices.float())
    assert torch.equal(torch.cat([batch.targets for batch in batches]), indices % 3)


def test_more_than_one_epoch_uses_each_sample_equally_often():
    batches = _batches(Loader(_samples(5), RAW, CPU), 17)
    counts = torch.cat([batch.extras["index"] for batch in batches]).bincount()
    assert sum(counts) == 17
    assert set(counts.tolist()) == {3, 4}


def test_same_seed_same_batches():
    loader = Loader(_samples(30), RANDOM, CPU)
    first, same, other = (torch.cat([b.images for b in _batches(loader, 30, seed)]) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_every_image_of_every_batch_has_its_own_window():
    image = torch.randint(256, (1, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    loader = Loader(Samples(image.repeat(8, 1, 1, 1), torch.arange(8)), RANDOM, CPU)
    images = torch.cat([batch.images for batch in _batches(loader, 16)])
    assert len(images.unique(dim=0)) == 16


@pytest.mark.parametrize("workers", [0, 2])
def test_streaming_gives_the_batches_of_the_resident_set(tmp_path, workers):
    resident, streamed = _files(tmp_path, 14)
    loaders = Loader(resident, RANDOM, CPU), Loader(streamed, RANDOM, CPU, workers)
    for expected, batch in zip(*(_batches(loader, 20) for loader in loaders), strict=True):
        assert torch.equal(batch.targets, expected.targets)
        assert torch.equal(batch.images, expected.images)
    for expected, images in zip(*(loader.in_order(4) for loader in loaders), strict=True):
        assert torch.equal(images, expected)


def test_files_together_with_exemplars_in_memory(tmp_path):
    resident, streamed = _files(tmp_path, 6)
    expected = torch.cat(list(Loader(concatenate(resident, resident), RAW, CPU).in_order(5)))
    images = torch.cat(list(Loader(concatenate(streamed, resident), RAW, CPU, workers=1).in_order(5)))
    assert torch.equal(images, expected)


def test_streaming_leaves_the_global_random_state_alone(tmp_path):
    _, streamed = _files(tmp_path, 4)
    before = torch.random.get_rng_state()
    _batches(Loader(streamed, RANDOM, CPU), 4)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_file_stops_streaming_with_one_sentence(tmp_path, workers):
    _, streamed = _files(tmp_path, 4)
    streamed.images.paths[2].write_bytes(b"damaged")
    with pytest.raises(DataError) as caught:
        _batches(Loader(streamed, RAW, CPU, workers), 4)
    assert str(caught.value).startswith(f"cannot read the image '{streamed.images.paths[2]}'")
    assert "\n" not in str(caught.value)


def test_in_order_is_every_sample_in_order_without_randomness():
    images = list(Loader(_samples(10), Augmentation((0.0,), (1 / 255,), crop="shift", padding=2), CPU).in_order(4))
    assert [len(batch) for batch in images] == [4, 4, 2]
    assert torch.cat(images)[:, 1, 3, 3].tolist() == list(range(10))


@pytest.mark.parametrize("files", [False, True])
def test_empty_set_yields_empty_batches_without_end(files):
    images = ImageFiles([], 6) if files else torch.empty(0, 3, 6, 6, dtype=torch.uint8)
    loader = Loader(Samples(images, torch.arange(0)), RANDOM, CPU)
    endless = loader.shuffled(4, 12, torch.Generator(), _task(loader.samples))
    batches = list(itertools.islice(endless, 5))
    assert [batch.images.shape for batch in batches] == [(0, 3, 6, 6)] * 5
    assert [len(batch) for batch in batches] == [0] * 5
    assert list(loader.in_order(4)) == []


def test_views_are_of_the_same_images_with_draws_of_their_own():
    samples = Samples(
        torch.arange(7, dtype=torch.uint8).view(7, 1, 1, 1).expand(7, 1, 4, 4).contiguous(), torch.arange(7)
    )
    loader = Loader(samples, Augmentation(mean=(0.0,), std=(1.0,), flip=True), torch.device("cpu"))
    task, stream = _task(samples), torch.Generator
    plain = list(loader.shuffled(3, 7, stream().manual_seed(1), task))
    viewed = list(loader.shuffled(3, 7, stream().manual_seed(1), task, ({"mean": (0.5,)}, {"std": (0.5,)})))
    for batch, same in zip(viewed, plain, strict=True):
        assert torch.equal(batch.images, same.images)
        torch.testing.assert_close(batch.views[0], same.images - 0.5)
        torch.testing.assert_close(batch.views[1], same.images * 2)


def test_a_batch_knows_where_in_training_it_is():
    loader = Loader(_samples(10), Augmentation(), torch.device("cpu"))
    data = TrainingSet(loader.samples, _task(loader.samples))
    stream = partial(generator, 0)
    batches = EpochBatches(data, 4, lambda _: loader, partial(stream, "order"), partial(stream, "loss"))
    epochs = [list(batches(epoch, 2)) for epoch in range(2)]
    assert [(b.epoch, b.epochs, b.step, b.steps) for b in epochs[1]] == [(1, 2, 0, 3), (1, 2, 1, 3), (1, 2, 2, 3)]
    draws = [torch.rand(1, generator=b.stream(depth)).item() for b in itertools.chain(*epochs) for depth in (0, 1)]
    assert len(set(draws)) == len(draws)
    assert torch.rand(1, generator=epochs[0][0].stream(0)).item() == draws[0]


class Changing:
    """Exemplars that a test changes between steps."""

    live = True

    def __init__(self):
        self.samples = Samples(torch.empty(0, 3, 6, 6, dtype=torch.uint8), torch.arange(0))


def _epoch_batches(data: TrainingSet, iterations: int = 1) -> EpochBatches:
    def loader(samples: Samples) -> Loader:
        return Loader(samples, Augmentation(), torch.device("cpu"))

    streams = partial(generator, 0, "order"), partial(generator, 0, "loss")
    return EpochBatches(data, 4, loader, *streams, iterations=iterations)


def test_several_steps_learn_from_each_batch_with_other_exemplars():
    samples, memory = _samples(8), _samples(30)
    data = TrainingSet(samples, _task(samples), memory, replay=(3,))
    batches = list(_epoch_batches(data, iterations=3)(0, 1))
    assert [(batch.step, batch.steps) for batch in batches] == [(step, 6) for step in range(6)]
    for first in (0, 3):
        same = [batch.extras["index"].tolist() for batch in batches[first : first + 3]]
        assert same[0] == same[1] == same[2]
    drawn = [tuple(batch.replay[0].extras["index"].tolist()) for batch in batches]
    assert len(set(drawn)) == 6
    assert batches[0].incoming is None, "only a memory that changes takes images up"


def test_exemplars_that_change_are_drawn_as_they_are_at_each_step():
    samples, memory = _samples(12), Changing()
    data = TrainingSet(samples, _task(samples), memory, replay=(3,))
    batches = _epoch_batches(data, iterations=2)
    taken, seen = [], []
    for batch in batches(0, 2):
        seen.append(len(batch.replay[0]))
        assert set(batch.replay[0].extras.get("index", torch.empty(0)).tolist()) <= set(taken)
        if batch.incoming is not None:
            index = batch.extras["index"]
            assert torch.equal(batch.incoming.targets, batch.targets)
            assert torch.equal(batch.incoming.images, samples.images[index])
            taken += index.tolist()
            memory.samples = samples.select(torch.tensor(taken))
    assert seen == [0, 0, 3, 3, 3, 3]
    assert sorted(taken) == list(range(12)), "each image passes once"
    assert all(batch.incoming is None for batch in batches(1, 2)), "images have passed in the first epoch"


def test_all_exemplars_are_drawn_where_there_are_few():
    samples, memory = _samples(4), Changing()
    memory.samples = samples.select(torch.tensor([1, 2]))
    (batch,) = _epoch_batches(TrainingSet(samples, _task(samples), memory, replay=(3,)))(0, 1)
    assert sorted(batch.replay[0].extras["index"].tolist()) == [1, 2]
