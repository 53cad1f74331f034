"""Tiny ImageNet in small, in the layout of its archive."""

import pytest
import torch
from PIL import Image

from cl_ac.datasets.tiny_imagenet import TinyImageNet
from cl_ac.errors import DataError
from cl_ac.settings.ranges import range_of

NAMES = ["n02124075", "n01443537"]


def _written(root, **options):
    """Two classes of three training and one test image; the shade tells which image it is."""
    place = root / "tiny-imagenet-200"
    for label, name in enumerate(NAMES):
        folder = place / "train" / name / "images"
        folder.mkdir(parents=True)
        (folder.parent / f"{name}_boxes.txt").write_text(f"{name}_0.JPEG\t0\t0\t63\t63\n")
        for index in range(3):
            Image.new("RGB", (64, 64), (100 * label + index,) * 3).save(folder / f"{name}_{index}.JPEG")
    (place / "val" / "images").mkdir(parents=True)
    for label in range(len(NAMES)):
        Image.new("L", (64, 64), 200 + label).save(place / "val" / "images" / f"val_{label}.JPEG")
    rows = [f"val_{label}.JPEG\t{name}\t0\t32\t44\t62\n" for label, name in enumerate(NAMES)]
    (place / "val" / "val_annotations.txt").write_text("".join(rows))
    (place / "test" / "images").mkdir(parents=True)
    return TinyImageNet(str(root), tasks=2, **options)


@pytest.mark.parametrize("in_memory", [True, False])
def test_images_and_labels(tmp_path, in_memory):
    benchmark = _written(tmp_path, in_memory=in_memory)
    assert benchmark.class_names == sorted(NAMES)
    assert benchmark.num_classes == 2
    assert benchmark.input_shape == (3, 64, 64)
    train, test = benchmark.load()
    assert train.resident == test.resident == in_memory
    assert train.images[torch.arange(6)][:, 0, 0, 0].tolist() == [100, 101, 102, 0, 1, 2]
    assert train.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert test.images[torch.arange(2)][:, 0, 0, 0].tolist() == [200, 201]
    assert test.targets.tolist() == [1, 0]
    assert [len(task.test) for task in benchmark] == [1, 1]


def test_where_it_must_lie_is_said(tmp_path):
    with pytest.raises(
        DataError, match=r"no TinyImageNet at '.*tiny-imagenet-200'.*val_annotations.*\.zip there"
    ) as told:
        TinyImageNet(str(tmp_path)).check()
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("val_0.JPEG n00000001 0 0 1 1", "line 1 of .* class 'n00000001', which has no"),
        ("val_0.JPEG", "at least 2 words"),
    ],
)
def test_annotations_that_do_not_fit(tmp_path, row, said):
    benchmark = _written(tmp_path)
    (tmp_path / "tiny-imagenet-200/val/val_annotations.txt").write_text(row)
    with pytest.raises(DataError, match=said):
        benchmark.load()


def test_missing_pictures_are_named(tmp_path):
    benchmark = _written(tmp_path)
    (tmp_path / "tiny-imagenet-200/val/images/val_1.JPEG").unlink()
    with pytest.raises(DataError, match=r"val_1\.JPEG"):
        benchmark.load()


def test_sizes_out_of_range_are_refused_for_every_set_of_files():
    allowed = range_of(TinyImageNet, "size")
    assert allowed.holds(4096)
    assert not allowed.holds(0)
