"""CUB-200-2011 in small, in the layout of its archive."""

import pytest
import torch
from PIL import Image

from cl_ac.datasets.cub import CUB200
from cl_ac.errors import DataError

NAMES = ["001.Black_footed_Albatross", "002.Laysan_Albatross"]


def _written(root, **options):
    """Two classes of three images, of sizes that differ, of which the second is a test image."""
    place = root / "CUB_200_2011"
    rows = {name: [] for name in ("images.txt", "image_class_labels.txt", "train_test_split.txt")}
    for number in range(1, 7):
        label, index = divmod(number - 1, 3)
        picture = f"{NAMES[label]}/{number:04}.jpg"
        (place / "images" / NAMES[label]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20 + number, 30), (10 * number,) * 3).save(place / "images" / picture)
        for name, value in zip(rows, (picture, label + 1, int(index != 1)), strict=True):
            rows[name].append(f"{number} {value}\n")
    for name, written in rows.items():
        (place / name).write_text("".join(written))
    (place / "classes.txt").write_text("".join(f"{label + 1} {name}\n" for label, name in enumerate(NAMES)))
    return CUB200(str(root), tasks=2, size=16, **options)


@pytest.mark.parametrize("in_memory", [True, False])
def test_the_official_split(tmp_path, in_memory):
    benchmark = _written(tmp_path, in_memory=in_memory)
    assert benchmark.class_names == NAMES
    train, test = benchmark.load()
    assert train.resident == test.resident == in_memory
    assert train.images[torch.arange(4)][:, 0, 0, 0].tolist() == [10, 30, 40, 60]
    assert train.targets.tolist() == [0, 0, 1, 1]
    assert test.images[torch.arange(2)][:, 0, 0, 0].tolist() == [20, 50]
    assert test.targets.tolist() == [0, 1]
    assert [len(task.test) for task in benchmark] == [1, 1]


def test_the_network_sees_the_usual_size():
    assert CUB200("x").input_shape == (3, 224, 224)


def test_where_it_must_lie_is_said(tmp_path):
    with pytest.raises(DataError, match=r"no CUB200 at '.*CUB_200_2011', which lacks classes\.txt, .*; unpack") as told:
        CUB200(str(tmp_path)).check()
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("train_test_split.txt", "image 1 .* has the class 1 and the part None"),
        ("image_class_labels.txt", "image 1 .* has the class None and the part 1"),
    ],
)
def test_lists_that_do_not_fit_each_other(tmp_path, name, said):
    benchmark = _written(tmp_path)
    path = tmp_path / "CUB_200_2011" / name
    path.write_text(path.read_text().partition("\n")[2])
    with pytest.raises(DataError, match=said):
        benchmark.load()
