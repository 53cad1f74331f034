"""Folders without a split: drawn here, or told by a list."""

import pytest
import torch
from PIL import Image

from cl_ac.datasets.unsplit_folder import RESISC45, ImageNetA, ImageNetR, UnsplitFolder
from cl_ac.errors import ConfigurationError, DataError

NAMES = ["n01443537", "n01484850"]


def _written(place, count=10):
    """Two classes of `count` images, whose shades tell which they are, and a file beside the folders."""
    for label, name in enumerate(NAMES):
        (place / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (20, 12 + index), (100 * label + index,) * 3).save(place / name / f"art_{index}.png")
    (place / "README.txt").write_text("renditions")


def _shades(samples):
    return samples.images[torch.arange(len(samples))][:, 0, 0, 0].tolist()


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_share_of_each_class_is_for_testing(tmp_path, in_memory):
    _written(tmp_path)
    train, test = UnsplitFolder(str(tmp_path), size=8, test_share=0.3, in_memory=in_memory).load()
    assert train.resident == test.resident == in_memory
    assert train.targets.tolist() == [0] * 7 + [1] * 7
    assert test.targets.tolist() == [0] * 3 + [1] * 3
    assert sorted(_shades(train) + _shades(test)) == [100 * label + index for label in (0, 1) for index in range(10)]


def test_the_split_is_the_same_for_every_seed(tmp_path):
    _written(tmp_path)
    benchmarks = [UnsplitFolder(str(tmp_path), size=8, tasks=1) for _ in range(2)]
    benchmarks[1].seed = 1
    first, second = (_shades(benchmark[0].test) for benchmark in benchmarks)
    assert first == second


@pytest.mark.parametrize("row", ["{}", "imagenet-r/{}", "./data/imagenet-r/{} 17"])
def test_published_splits_are_lists(tmp_path, row):
    _written(tmp_path / "imagenet-r")
    chosen = [f"{NAMES[0]}/art_4.png", f"{NAMES[1]}/art_0.png", f"{NAMES[1]}/art_9.png"]
    (tmp_path / "test.txt").write_text("\n".join(map(row.format, chosen)) + "\n\n")
    train, test = ImageNetR(str(tmp_path), test_list=str(tmp_path / "test.txt")).load()
    assert _shades(test) == [4, 100, 109]
    assert test.targets.tolist() == [0, 1, 1]
    assert len(train) == 17


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        (
            f"{NAMES[0]}/art_1.png\n{NAMES[1]}/art_77.png",
            f"1 of 2 images of .*'{NAMES[1]}/art_77.png' on line 2",
        ),
        (f"{NAMES[0]}/art_1.png", f"{NAMES[1]}' has 10 training and 0 test images"),
    ],
)
def test_lists_that_do_not_fit(tmp_path, listed, said):
    _written(tmp_path / "set")
    (tmp_path / "test.txt").write_text(listed)
    with pytest.raises(DataError, match=said):
        UnsplitFolder(str(tmp_path / "set"), test_list=str(tmp_path / "test.txt")).load()


def test_lists_that_are_missing_are_named(tmp_path):
    _written(tmp_path / "set")
    with pytest.raises(DataError, match=r"cannot read '.*test\.txt'"):
        UnsplitFolder(str(tmp_path / "set"), test_list=str(tmp_path / "test.txt")).load()


def test_one_image_cannot_be_for_both(tmp_path):
    _written(tmp_path, count=1)
    with pytest.raises(DataError, match="0 training and 1 test images"):
        UnsplitFolder(str(tmp_path)).load()


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_shares_out_of_range(share):
    with pytest.raises(ConfigurationError, match=r"benchmark\.test_share is .; it must be above 0"):
        UnsplitFolder("x", test_share=share)


@pytest.mark.parametrize("kind", [ImageNetR, ImageNetA, RESISC45])
def test_where_it_must_lie_is_said(tmp_path, kind):
    with pytest.raises(
        DataError, match=rf"no {kind.__name__} at '.*{kind.stored_as}'; unpack .*{kind.stored_as}\.[rt]ar"
    ):
        kind(str(tmp_path)).check()
    with pytest.raises(DataError, match="is no folder of images"):
        UnsplitFolder(str(tmp_path)).check()
