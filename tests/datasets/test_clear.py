"""CLEAR in small: metadata that name metadata that name images."""

import json

import pytest
import torch
from PIL import Image

from cl_ac.datasets.clear import CLEAR
from cl_ac.errors import DataError

NAMES = ("BACKGROUND", "bus")


def _written(root, buckets=("10", "9")):
    """One image of each class, bucket and part; its shade says which."""
    for part in ("train", "test"):
        place = root / "clear10" / part
        index = {}
        for number, bucket in enumerate(buckets):
            index[bucket] = {}
            for label, name in enumerate(NAMES):
                image = f"labeled_images/{bucket}/{name}/1.jpg"
                (place / image).parent.mkdir(parents=True)
                shade = 100 * (part == "test") + 40 * number + 20 * label
                Image.new("RGB", (20, 30), (shade,) * 3).save(place / image)
                metadata = place / f"labeled_metadata/{bucket}/{name}.json"
                metadata.parent.mkdir(parents=True, exist_ok=True)
                metadata.write_text(json.dumps({"1": {"IMG_PATH": image, "ID": "1"}}))
                index[bucket][name] = f"labeled_metadata/{bucket}/{name}.json"
        (place / "labeled_metadata.json").write_text(json.dumps(index))
        (place / "class_names.txt").write_text("\n".join(NAMES) + "\n")
    return root / "clear10"


@pytest.mark.parametrize("in_memory", [True, False])
def test_images_labels_and_buckets_in_the_order_of_time(tmp_path, in_memory):
    _written(tmp_path)
    benchmark = CLEAR(str(tmp_path), size=16, in_memory=in_memory)
    assert benchmark.class_names == list(NAMES)
    assert benchmark.domain_names == ("9", "10")
    for samples, first in zip(benchmark.load(), (0, 100), strict=True):
        shades = samples.images[torch.arange(4)][:, 0, 0, 0].tolist()
        assert shades == [first + shade for shade in (40, 60, 0, 20)]
        assert samples.targets.tolist() == [0, 1, 0, 1]
        assert samples.extras["domain"].tolist() == [0, 0, 1, 1]


def test_where_it_must_lie_is_said(tmp_path):
    with pytest.raises(
        DataError, match=r"no clear100 at '.*clear100/train', which lacks labeled_metadata\.json, class"
    ):
        CLEAR(str(tmp_path), version="clear100").check()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("labeled_metadata.json", '{"9": {"bus": "x.json"}}', "names no file of the class 'BACKGROUND' in bucket 9"),
        ("labeled_metadata.json", "[1]", "holds a list; it must be an object"),
        ("labeled_metadata.json", "{", "cannot read"),
        ("labeled_metadata/9/bus.json", '{"1": {"ID": "1"}}', "has an image without its IMG_PATH"),
    ],
)
def test_metadata_that_do_not_fit(tmp_path, name, content, said):
    (_written(tmp_path) / "train" / name).write_text(content)
    with pytest.raises(DataError, match=said) as caught:
        CLEAR(str(tmp_path)).load()
    assert "\n" not in str(caught.value)
