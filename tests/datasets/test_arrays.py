"""NumPy archives in every layout, and what is said about those that do not fit."""

import numpy
import pytest
import torch

from cl_ac.datasets.arrays import Arrays
from cl_ac.errors import DataError


def _arrays(channels=3):
    """Two classes of 5 × 4 pixels, channels first."""
    random = numpy.random.default_rng(0)
    return {
        "x_train": random.integers(0, 256, (6, channels, 5, 4), dtype=numpy.uint8),
        "y_train": numpy.array([0, 1, 0, 1, 0, 1]),
        "x_test": random.integers(0, 256, (2, channels, 5, 4), dtype=numpy.uint8),
        "y_test": numpy.array([1, 0]),
    }


def _written(path, **changed):
    numpy.savez_compressed(path / "images.npz", **{**_arrays(), **changed})
    return Arrays(str(path / "images.npz"), tasks=2)


@pytest.mark.parametrize("layout", ["first", "last", "grey", "grey fortran"])
def test_images_of_every_layout(tmp_path, layout):
    arrays = expected = _arrays(1 if "grey" in layout else 3)
    if layout == "last":
        arrays = {name: value.transpose(0, 2, 3, 1) if value.ndim == 4 else value for name, value in arrays.items()}
    if "grey" in layout:
        arrays = {name: value[:, 0] if value.ndim == 4 else value for name, value in arrays.items()}
    if "fortran" in layout:
        arrays = {name: numpy.asfortranarray(value) for name, value in arrays.items()}
    benchmark = _written(tmp_path, **arrays)
    assert benchmark.image_shape == expected["x_train"].shape[1:]
    assert benchmark.num_classes == 2
    for samples, part in zip(benchmark.load(), ("train", "test"), strict=True):
        assert samples.images.is_contiguous()
        assert torch.equal(samples.images, torch.from_numpy(expected[f"x_{part}"]))
        assert torch.equal(samples.targets, torch.from_numpy(expected[f"y_{part}"]))
    assert [len(task.test) for task in benchmark] == [1, 1]


def test_other_names_and_labels_in_a_column(tmp_path):
    arrays = _arrays()
    numpy.savez(
        tmp_path / "medical.npz",
        train_images=arrays["x_train"],
        train_labels=arrays["y_train"][:, None].astype(numpy.uint8),
        test_images=arrays["x_test"],
        test_labels=arrays["y_test"][:, None].astype(numpy.uint8),
    )
    names = {name: name for name in ("train_images", "train_labels", "test_images", "test_labels")}
    train, test = Arrays(str(tmp_path / "medical.npz"), **names).load()
    assert train.targets.tolist() == [0, 1, 0, 1, 0, 1]
    assert test.targets.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"x_train": numpy.zeros((6, 3, 5, 4))}, r"'x_train' .* is float64; images must be bytes"),
        ({"x_test": numpy.zeros((2, 5), numpy.uint8)}, r"'x_test' .* has the shape \[2, 5\]; images must be"),
        ({"x_test": numpy.zeros((2, 2, 5, 4), numpy.uint8)}, "with 1 or 3 channels"),
        ({"x_test": numpy.zeros((2, 3, 4, 5), numpy.uint8)}, "5 × 4 pixels and 3 channels, but test images of 4 × 5"),
        ({"y_test": numpy.array([0, 1, 1])}, "2 images in 'x_test' and 3 labels in 'y_test'"),
        ({"x_test": numpy.zeros((0, 3, 5, 4), numpy.uint8), "y_test": numpy.zeros(0, int)}, "at least one image"),
        ({"y_test": numpy.array([0.0, 1.0])}, r"'y_test' .* is float64 \[2\]; labels must be integers"),
        ({"y_test": numpy.eye(2, dtype=int)}, r"is int64 \[2, 2\]; labels must be integers of shape"),
        ({"y_test": numpy.array([-1, 1])}, "'y_test' .* holds the label -1"),
        ({"y_test": numpy.array([0, 2])}, r"labels from 0 to 1, 'y_test' .* \(1, 2\)"),
        ({"y_train": numpy.array([1, 2, 1, 2, 1, 2])}, r"labels from 0 to 2, 'y_train' .* \(0\)"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, changed, said):
    benchmark = _written(tmp_path, **changed)
    with pytest.raises(DataError, match=said) as caught:
        benchmark.check()
    assert "\n" not in str(caught.value)


def test_labels_of_objects_are_not_unpickled(tmp_path):
    with pytest.raises(DataError, match=r"'y_test' .* is object"):
        _written(tmp_path, y_test=numpy.array([0, None], dtype=object)).load()


def test_names_that_are_not_there_have_near_ones(tmp_path):
    _written(tmp_path)
    with pytest.raises(DataError, match="unknown array 'x_trian'; did you mean 'x_train'"):
        Arrays(str(tmp_path / "images.npz"), train_images="x_trian").check()


def test_files_that_are_no_archives(tmp_path):
    with pytest.raises(DataError, match=r"benchmark\.file is .*missing\.npz', which cannot be read"):
        Arrays(str(tmp_path / "missing.npz")).check()
    numpy.save(tmp_path / "one.npy", numpy.zeros(3))
    with pytest.raises(DataError, match=r"must be an \.npz archive"):
        Arrays(str(tmp_path / "one.npy")).check()


def test_damaged_values_are_found(tmp_path):
    benchmark = _written(tmp_path)
    content = bytearray(benchmark.file.read_bytes())
    start = content.index(b"x_train.npy") + 300
    content[start : start + 20] = bytes(20)
    benchmark.file.write_bytes(content)
    with pytest.raises(DataError, match="cannot read the array 'x_train'"):
        benchmark.load()
