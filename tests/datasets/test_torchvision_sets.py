"""torchvision's data sets, read from small files in their real formats."""

import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import scipy.io
import torch
from jsonargparse import ArgumentParser

from cl_ac.benchmark import Benchmark
from cl_ac.datasets.torchvision_sets import (
    CIFAR10,
    CIFAR100,
    EMNIST,
    KMNIST,
    MNIST,
    SVHN,
    FashionMNIST,
    PermutedMNIST,
    RotatedMNIST,
)
from cl_ac.errors import ConfigurationError, DataError

ROOT = Path(__file__).parents[2]


def _pixels(count: int, *shape: int) -> numpy.ndarray:
    return numpy.random.default_rng(0).integers(0, 256, (count, *shape), dtype=numpy.uint8)


def _write_cifar(folder: Path, train: list[str], test: str, meta: str, labels: str) -> tuple[numpy.ndarray, list[int]]:
    """CIFAR's pickles, ten images per file; returns all images [N, 3, 32, 32] and labels, test images last."""
    folder.mkdir(parents=True)
    images = _pixels(10 * (len(train) + 1), 3, 32, 32)
    targets = [int(target) for target in numpy.random.default_rng(1).integers(0, 10, len(images))]
    for index, name in enumerate([*train, test]):
        part = slice(10 * index, 10 * index + 10)
        with open(folder / name, "wb") as file:
            pickle.dump({"data": images[part].reshape(10, -1), labels: targets[part]}, file)
    with open(folder / meta, "wb") as file:
        pickle.dump({"label_names": ["name"] * 10, "fine_label_names": ["name"] * 100}, file)
    return images, targets


def _write_idx(path: Path, values: numpy.ndarray) -> None:
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.tobytes())


@pytest.fixture
def any_checksum(monkeypatch):
    """torchvision accepts files with checksums other than those of the real data."""
    for module in ("cifar", "svhn"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", lambda path, md5: Path(path).is_file())


def _assert_holds(benchmark: Benchmark, images: numpy.ndarray, targets: list[int], num_train: int) -> None:
    """The benchmark's samples are `images` [N, C, H, W], of which the first `num_train` are for training."""
    train, test = benchmark.load()
    for samples, part in ((train, slice(num_train)), (test, slice(num_train, None))):
        assert samples.images.dtype == torch.uint8
        assert samples.targets.dtype == torch.int64
        assert samples.images.is_contiguous()
        assert torch.equal(samples.images, torch.from_numpy(images[part]))
        assert samples.targets.tolist() == targets[part]
    assert tuple(train.images.shape[1:]) == benchmark.image_shape


def test_cifar10(tmp_path, any_checksum):
    names = [f"data_batch_{index}" for index in range(1, 6)]
    held = _write_cifar(tmp_path / "cifar-10-batches-py", names, "test_batch", "batches.meta", "labels")
    _assert_holds(CIFAR10(root=str(tmp_path)), *held, num_train=50)


def test_cifar100(tmp_path, any_checksum):
    held = _write_cifar(tmp_path / "cifar-100-python", ["train"], "test", "meta", "fine_labels")
    _assert_holds(CIFAR100(root=str(tmp_path)), *held, num_train=10)


@pytest.mark.parametrize("kind", [MNIST, FashionMNIST, KMNIST])
def test_mnist_and_its_like(tmp_path, kind):
    images = _pixels(14, 28, 28)
    targets = [index % 10 for index in range(14)]
    folder = tmp_path / kind.__name__ / "raw"
    folder.mkdir(parents=True)
    for name, part in (("train", slice(8)), ("t10k", slice(8, None))):
        _write_idx(folder / f"{name}-images-idx3-ubyte", images[part])
        _write_idx(folder / f"{name}-labels-idx1-ubyte", numpy.array(targets[part], dtype=numpy.uint8))
    _assert_holds(kind(root=str(tmp_path)), images[:, None], targets, num_train=8)


@pytest.mark.parametrize("kind", [PermutedMNIST, RotatedMNIST])
def test_domains_made_of_mnist(tmp_path, kind):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    images, targets = _pixels(20, 28, 28), numpy.arange(20, dtype=numpy.uint8) % 10
    for name in ("train", "t10k"):
        _write_idx(folder / f"{name}-images-idx3-ubyte", images)
        _write_idx(folder / f"{name}-labels-idx1-ubyte", targets)
    benchmark = kind(root=str(tmp_path), tasks=3, validation=0)
    assert [task.num_classes for task in benchmark] == [10, 0, 0]
    shown = [task.train.images for task in benchmark]
    assert not torch.equal(shown[0], shown[1])
    assert not torch.equal(shown[1], shown[2])
    if kind is PermutedMNIST:
        assert all(torch.equal(part.flatten(1).sort(1).values, shown[0].flatten(1).sort(1).values) for part in shown)
    assert torch.equal(benchmark[2].test.images, shown[2])


@pytest.mark.parametrize(("split", "first", "classes"), [("balanced", 0, 47), ("letters", 1, 26)])
def test_emnist(tmp_path, split, first, classes):
    images = _pixels(14, 28, 28)
    targets = [index % 10 for index in range(14)]
    folder = tmp_path / "EMNIST" / "raw"
    folder.mkdir(parents=True)
    for name, part in (("train", slice(8)), ("test", slice(8, None))):
        _write_idx(folder / f"emnist-{split}-{name}-images-idx3-ubyte", images[part].transpose(0, 2, 1))
        labels = numpy.array(targets[part], dtype=numpy.uint8) + first
        _write_idx(folder / f"emnist-{split}-{name}-labels-idx1-ubyte", labels)
    benchmark = EMNIST(root=str(tmp_path), split=split)
    assert benchmark.num_classes == classes
    _assert_holds(benchmark, images[:, None], targets, num_train=8)


def test_svhn(tmp_path, any_checksum):
    images = _pixels(14, 3, 32, 32)
    targets = [(index + 7) % 10 for index in range(14)]
    for name, part in (("train", slice(8)), ("test", slice(8, None))):
        labels = numpy.array([target or 10 for target in targets[part]], dtype=numpy.uint8)
        content = {"X": images[part].transpose(2, 3, 1, 0), "y": labels[:, None]}
        scipy.io.savemat(tmp_path / f"{name}_32x32.mat", content)
    _assert_holds(SVHN(root=str(tmp_path)), images, targets, num_train=8)


@pytest.mark.parametrize("kind", [CIFAR10, CIFAR100, MNIST, FashionMNIST, KMNIST, EMNIST, SVHN])
def test_missing_data_say_where_and_how(tmp_path, kind):
    benchmark = kind(root=str(tmp_path))
    benchmark.check()
    with pytest.raises(DataError) as caught:
        benchmark.load()
    message = str(caught.value)
    assert "\n" not in message
    assert kind.__name__ in message
    assert str(tmp_path / kind.stored_as) in message
    assert "--benchmark.download true" in message


def test_damaged_data_are_not_read(tmp_path):
    """Without the relaxed checksum, torchvision refuses these files, and so do we."""
    _write_cifar(tmp_path / "cifar-100-python", ["train"], "test", "meta", "fine_labels")
    with pytest.raises(DataError, match="no intact CIFAR100"):
        CIFAR100(root=str(tmp_path)).load()


def test_failed_download_is_one_error_of_ours(tmp_path, monkeypatch):
    def offline(*arguments, **settings):
        raise OSError("network is unreachable")

    monkeypatch.setattr("torchvision.datasets.svhn.download_url", offline)
    with pytest.raises(DataError, match=r"cannot download SVHN to '.*': network is unreachable"):
        SVHN(root=str(tmp_path), download=True).load()


def test_published_order_of_cifar100_is_icarls():
    order = numpy.arange(100)
    numpy.random.RandomState(1993).shuffle(order)
    assert CIFAR100(order="published", tasks=10).class_order == order.tolist()
    with pytest.raises(ConfigurationError, match="CIFAR10 has no such order"):
        CIFAR10(order="published").check()


def test_digits_are_not_flipped():
    assert not any(kind().augmentation.flip for kind in (MNIST, KMNIST, EMNIST, SVHN))
    assert all(kind().augmentation.flip for kind in (CIFAR10, CIFAR100, FashionMNIST))


def _from_command_line(*arguments: str) -> Benchmark:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Benchmark, "benchmark")
    return parser.instantiate(parser.parse_args(arguments)).benchmark


def test_command_line_reaches_every_option():
    benchmark = _from_command_line(
        *("--benchmark", "CIFAR100", "--benchmark.tasks", "10", "--benchmark.root", "x"),
        *("--benchmark.order", "published", "--benchmark.validation", "test"),
    )
    assert isinstance(benchmark, CIFAR100)
    assert benchmark.sizes == [10] * 10
    assert benchmark.root == Path("x")
    assert benchmark.class_order[0] == 68
    assert benchmark.augmentation == CIFAR100().augmentation


def test_one_field_of_the_augmentation_can_be_overridden():
    benchmark = _from_command_line("--benchmark", "CIFAR100", "--benchmark.augmentation.flip", "false")
    assert not benchmark.augmentation.flip
    assert benchmark.augmentation.mean == CIFAR100().augmentation.mean
    assert benchmark.augmentation.crop == "resized"


def test_importing_data_sets_imports_no_reader():
    names = sorted(path.stem for path in (ROOT / "datasets").glob("*.py"))
    assert "torchvision_sets" in names
    imports = "\n".join(f"import cl_ac.datasets.{name}" for name in names)
    readers = {"torchvision", "avalanche", "sklearn", "PIL", "scipy"}
    code = f"{imports}\nimport sys\nassert not {readers} & set(sys.modules), {readers} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
