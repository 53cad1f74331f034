"""Avalanche's benchmarks as ours, with Avalanche as the oracle for tasks and their data."""

import importlib.util
from urllib.error import URLError

import numpy
import pytest
import torch
from PIL import Image

from cl_ac.datasets.avalanche import AvalancheBenchmark
from cl_ac.errors import ConfigurationError, DataError
from cl_ac.streams.stream import split_sizes

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("avalanche") is None, reason="Avalanche is not installed: pip install avalanche-lib"
)

NC = "avalanche.benchmarks.nc_benchmark"


class Stored(torch.utils.data.Dataset):
    """A labelled data set as Avalanche takes it: items and `targets`."""

    def __init__(self, images, targets: list[int]):
        self.images, self.targets = images, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int):
        return self.images[index], self.targets[index]


def _bytes(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, 4, 4), dtype=torch.uint8, generator=generator)


def _sets(classes: int = 10, convert=lambda images: images) -> dict:
    """The first two arguments of `nc_benchmark`: six training and three test images per class."""
    return {
        name: Stored(convert(_bytes(count * classes, seed)), [index % classes for index in range(count * classes)])
        for name, count, seed in (("train_dataset", 6, 0), ("test_dataset", 3, 1))
    }


def _arguments(**changes) -> dict:
    return {**_sets(), "n_experiences": 5, "task_labels": False, "seed": 3, **changes}


def _sorted(images: torch.Tensor) -> list:
    return sorted(images.flatten(1).tolist())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"task_labels": True},
        {"n_experiences": 3, "per_exp_classes": {0: 4, 2: 1}},
        {"n_experiences": 2, "fixed_class_order": [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]},
        {"class_ids_from_zero_from_first_exp": True},
    ],
)
def test_tasks_hold_what_avalanches_experiences_hold(changes):
    from avalanche.benchmarks import nc_benchmark

    theirs = nc_benchmark(**_arguments(**changes))
    ours = AvalancheBenchmark(NC, _arguments(**changes), validation=0)
    ours.check()
    assert len(ours) == len(theirs.train_stream)
    assert ours.sizes == [len(experience.classes_in_this_experience) for experience in theirs.train_stream]
    assert ours.num_classes == 10
    for task, train, test in zip(ours, theirs.train_stream, theirs.test_stream, strict=True):
        labels = {ours.class_order[target] for target in task.train.targets.tolist()}
        assert labels == set(train.classes_in_this_experience)
        for samples, experience in ((task.train, train), (task.test, test)):
            for label in labels:
                items = [item[0] for item in experience.dataset if int(item[1]) == label]
                assert len(items) in (3, 6)
                own = samples.images[samples.targets == ours.class_order.index(label)]
                assert _sorted(own) == _sorted(torch.stack(items))


@pytest.mark.parametrize(("classes", "experiences"), [(10, 5), (12, 4), (10, 10)])
def test_equal_splits_are_ours_too(classes, experiences):
    arguments = _arguments(n_experiences=experiences, **_sets(classes))
    assert AvalancheBenchmark(NC, arguments).sizes == split_sizes(classes, experiences)


def test_transforms_of_avalanche_are_left_out():
    plain = AvalancheBenchmark(NC, _arguments()).load()
    changed = _arguments(train_transform=lambda image: image.float() - 5, eval_transform=lambda image: image * 0)
    for expected, samples in zip(plain, AvalancheBenchmark(NC, changed).load(), strict=True):
        assert torch.equal(samples.images, expected.images)


def _floats(images: torch.Tensor) -> torch.Tensor:
    """Floats a little below those of the bytes, which only rounding brings back."""
    return (images - 0.3).clamp(min=0) / 255


def _pictures(images: torch.Tensor) -> list[Image.Image]:
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]


@pytest.mark.parametrize("convert", [_floats, _pictures])
def test_floats_and_pictures_become_the_same_bytes(convert):
    expected, _ = AvalancheBenchmark(NC, _arguments()).load()
    samples, _ = AvalancheBenchmark(NC, _arguments(**_sets(convert=convert))).load()
    assert samples.images.dtype == torch.uint8
    assert torch.equal(samples.images, expected.images)


def test_grey_pictures_keep_one_channel():
    def grey(images):
        return [Image.fromarray(image[0].numpy()) for image in images]

    benchmark = AvalancheBenchmark(NC, _arguments(**_sets(convert=grey)))
    assert benchmark.input_shape == (1, 4, 4)
    colour, _ = AvalancheBenchmark(NC, _arguments()).load()
    assert torch.equal(benchmark.load()[0].images, colour.images[:, :1])


def test_labels_with_gaps_are_ranked():
    sets = _sets(4)
    for part in sets.values():
        part.targets = [[3, 7, 20, 90][target] for target in part.targets]
    arguments = {**sets, "n_experiences": 2, "task_labels": False, "fixed_class_order": [90, 7, 20, 3]}
    benchmark = AvalancheBenchmark("avalanche.benchmarks.nc_benchmark", arguments)
    assert sorted(benchmark.class_order) == [0, 1, 2, 3]
    assert [set(benchmark.class_order[:2]), set(benchmark.class_order[2:])] == [{3, 1}, {2, 0}]
    assert [len(task.test) for task in benchmark] == [6, 6]


def test_unseeded_order_is_the_same_each_time_and_disturbs_no_other_draw():
    arguments = _arguments(seed=None)
    before = torch.random.get_rng_state()
    orders = []
    for _ in range(2):
        orders.append(AvalancheBenchmark(NC, arguments).class_order)
        assert torch.equal(torch.random.get_rng_state(), before)
        torch.rand(1)
        before = torch.random.get_rng_state()
    assert orders[0] == orders[1]


def test_own_options_apply():
    benchmark = AvalancheBenchmark(NC, _arguments(), validation="test", samples_per_class=4)
    for task in benchmark:
        assert task.train.targets.bincount(minlength=1)[task.classes].tolist() == [4, 4]
        assert torch.equal(task.validation.images, task.test.images)


@pytest.mark.parametrize(
    ("factory", "changes"),
    [(NC, {"class_ids_from_zero_in_each_exp": True, "task_labels": True}), ("avalanche.benchmarks.ni_benchmark", None)],
)
def test_classes_in_several_tasks_are_refused(factory, changes):
    arguments = {**_sets(), "n_experiences": 5} if changes is None else _arguments(**changes)
    with pytest.raises(ConfigurationError, match="classes in more than one task"):
        AvalancheBenchmark(factory, arguments).check()


@pytest.mark.parametrize(
    ("convert", "words"),
    [
        (lambda images: images.float() / 100, "they must be bytes, or floats from 0 to 1"),
        (lambda images: images.int(), "they must be bytes"),
        (lambda images: images.flatten(1), r"shape \[48\], which are no images"),
        (lambda images: [numpy.zeros(3)] * len(images), "gives a ndarray where an image was expected"),
        (lambda images: [image[:, :1] if i == 7 else image for i, image in enumerate(images)], "images of 2 shapes"),
    ],
)
def test_what_is_no_image_is_refused(convert, words):
    with pytest.raises(DataError, match=words):
        AvalancheBenchmark(NC, _arguments(**_sets(convert=convert))).load()


@pytest.mark.parametrize(
    ("factory", "arguments", "words"),
    [
        ("avalanche.benchmarks.nothing", {}, "cannot be imported"),
        ("no_such_package.benchmark", {}, "No module named 'no_such_package'"),
        ("benchmark", {}, "cannot be imported"),
        (NC, {"experiences": 5}, "cannot build a benchmark from benchmark.arguments"),
    ],
)
def test_wrong_factory_or_arguments(factory, arguments, words):
    with pytest.raises(ConfigurationError, match=words):
        AvalancheBenchmark(factory, arguments).check()


@pytest.mark.parametrize("error", [URLError("no route"), ConnectionResetError(104, "reset"), TimeoutError("too late")])
def test_without_network_the_sentence_says_so(monkeypatch, error):
    def download(**_):
        raise error

    monkeypatch.setattr("avalanche.benchmarks.classic.SplitCIFAR100", download)
    benchmark = AvalancheBenchmark("avalanche.benchmarks.classic.SplitCIFAR100")
    with pytest.raises(DataError, match=r"cannot download its data .*without network"):
        _ = benchmark.source
