"""Omniglot in small: alphabets, characters and drawings in folders."""

import pytest
from PIL import Image

from cl_ac.datasets.omniglot import Omniglot
from cl_ac.errors import DataError

CHARACTERS = ("Greek/character01", "Greek/character02", "Latin/character01")


def _written(root, drawings=10):
    for label, character in enumerate(CHARACTERS):
        folder = root / "omniglot-py" / "images_background" / character
        folder.mkdir(parents=True)
        for number in range(drawings):
            Image.new("L", (105, 105), 80 * label + number).convert("1" if label == 2 else "L").save(
                folder / f"{label}_{number:02}.png"
            )


def test_a_fifth_of_the_drawings_of_each_character_is_for_testing(tmp_path):
    _written(tmp_path)
    benchmark = Omniglot(str(tmp_path), classes_per_task=[2, 1])
    assert benchmark.class_names == list(CHARACTERS)
    assert benchmark.image_shape == (1, 28, 28)
    train, test = benchmark.load()
    assert train.targets.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert test.targets.tolist() == [0, 0, 1, 1, 2, 2]
    shades = [part.images[part.targets == 1][:, 0, 14, 14].tolist() for part in (train, test)]
    assert sorted(shades[0] + shades[1]) == list(range(80, 90))
    assert [len(task.test) for task in benchmark] == [4, 2]


def test_where_it_must_lie_is_said(tmp_path):
    with pytest.raises(DataError, match=r"no Omniglot at '.*images_evaluation', with .*download true, or say with"):
        Omniglot(str(tmp_path), part="evaluation").check()


def test_one_drawing_cannot_be_for_both(tmp_path):
    _written(tmp_path, drawings=1)
    with pytest.raises(DataError, match="one drawing of 'Greek/character01'"):
        Omniglot(str(tmp_path)).load()
