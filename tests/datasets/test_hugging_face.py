"""Tables of the library `datasets`: saved ones, folders of images and of parquet files, nothing from the network."""

import sys

import pytest
import torch
from PIL import Image

from cl_ac.datasets.hugging_face import HuggingFace
from cl_ac.errors import ConfigurationError, DataError

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def _table(labels, first=0, names=None, mode="RGB", **columns):
    """A row for each label; the shade of its picture says which it is."""
    pictures = [
        Image.new(mode, (6, 4), (first + 10 * row,) * 3 if mode == "RGB" else first + 10 * row)
        for row in range(len(labels))
    ]
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=names) if names else None}
    table = datasets.Dataset.from_dict({"image": pictures, "label": labels, **columns})
    for name, kind in features.items():
        table = table.cast_column(name, kind) if kind else table
    return table


def _saved(path, train, test=None, **options):
    tables = {"train": train} if test is None else {"train": train, "test": test}
    datasets.DatasetDict(tables).save_to_disk(str(path / "set"))
    return HuggingFace(str(path / "set"), **options)


def _shades(samples):
    return samples.images[torch.arange(len(samples))][:, 0, 0, 0].tolist()


@pytest.mark.parametrize("in_memory", [True, False])
def test_saved_tables_with_class_labels(tmp_path, in_memory):
    names = ["cat", "dog", "emu"]
    tables = _table([1, 0, 2, 1], names=names), _table([2, 1, 0], 100, names=names)
    benchmark = _saved(tmp_path, *tables, tasks=3, in_memory=in_memory, validation=0)
    assert benchmark.num_classes == 3
    assert benchmark.class_names == names
    assert benchmark.image_shape == (3, 4, 6)
    train, test = benchmark.load()
    assert train.resident == test.resident == in_memory
    assert (_shades(train), train.targets.tolist()) == ([0, 10, 20, 30], [1, 0, 2, 1])
    assert (_shades(test), test.targets.tolist()) == ([100, 110, 120], [2, 1, 0])
    assert [_shades(task.train) for task in benchmark] == [[10], [0, 30], [20]]


@pytest.mark.parametrize(("labels", "names"), [(["b", "a", "b"], ["a", "b"]), ([7, 3, 7], ["3", "7"])])
def test_labels_of_other_kinds_are_numbered_in_their_order(tmp_path, labels, names):
    benchmark = _saved(tmp_path, _table(labels), _table(labels), size=5)
    assert benchmark.class_names == names
    assert benchmark.load()[0].targets.tolist() == [1, 0, 1]
    assert benchmark.image_shape == (3, 5, 5)


def test_grey_images_stay_grey(tmp_path):
    train, _ = _saved(tmp_path, *(_table([0, 1], mode="L"),) * 2).load()
    assert train.images.shape == (2, 1, 4, 6)


@pytest.mark.parametrize("kind", ["images", "parquet"])
def test_folders(tmp_path, kind):
    for part, first in (("train", 0), ("test", 100)):
        if kind == "parquet":
            _table([0, 1], first, names=["cat", "dog"]).to_parquet(tmp_path / "set" / f"{part}-0.parquet")
            continue
        for label, name in enumerate(("cat", "dog")):
            path = tmp_path / "set" / part / name / "1.png"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (6, 4), (first + 10 * label,) * 3).save(path)
    benchmark = HuggingFace(str(tmp_path / "set"))
    assert benchmark.class_names == ["cat", "dog"]
    assert [_shades(part) for part in benchmark.load()] == [[0, 10], [100, 110]]


def test_without_a_test_split_a_fifth_is_taken(tmp_path):
    _table([0] * 5 + [1] * 10).save_to_disk(str(tmp_path / "set"))
    benchmarks = [HuggingFace(str(tmp_path / "set"), test=None) for _ in range(2)]
    (train, test), (_, again) = (benchmark.load() for benchmark in benchmarks)
    assert train.targets.tolist() == [0] * 4 + [1] * 8
    assert test.targets.tolist() == [0] + [1] * 2
    assert torch.equal(test.images, again.images)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"label": "colour"}, "benchmark.label is 'colour', which is no column of labels"),
        ({"image": "label"}, "benchmark.image is 'label', which is no column of images"),
        ({"image": None, "label": None}, "benchmark.label must be given: .* columns image, one, two, and none of them"),
    ],
)
def test_columns_that_are_not_clear(tmp_path, options, said):
    table = _table([0, 1], one=[1, 2], two=[1, 2])
    table = table.remove_columns("label") if None in options.values() else table
    with pytest.raises(ConfigurationError, match=said):
        _saved(tmp_path, table, table, **options).check()


@pytest.mark.parametrize(
    ("test", "options", "said"),
    [
        (None, {}, "benchmark.test: .* has no such split: unknown split 'test'; known: train"),
        (_table([0, -1]), {}, "row 1 of the split 'test' .* has the label '-1', .* not public: take another"),
        (_table([0]).rename_column("image", "x"), {}, "has no columns 'image' and 'label' in the split 'test'"),
    ],
)
def test_splits_that_do_not_fit(tmp_path, test, options, said):
    with pytest.raises(DataError, match=said) as caught:
        _saved(tmp_path, _table([0, 1]), test, **options).load()
    assert "\n" not in str(caught.value)


def test_damaged_pictures_are_named(tmp_path):
    whole = _table([0, 1])
    broken = datasets.Dataset.from_dict({"image": [{"bytes": b"no picture", "path": None}] * 2, "label": [0, 1]})
    broken = broken.cast_column("image", datasets.Image())
    with pytest.raises(DataError, match="cannot read picture 0 of the column 'image'"):
        _saved(tmp_path, whole, broken).load()


def test_a_missing_library_is_named(monkeypatch):
    """In a checkout without it, a folder is found under its name."""
    for missing in (None, type(datasets)("datasets")):
        monkeypatch.setitem(sys.modules, "datasets", missing)
        with pytest.raises(DataError, match="HuggingFace needs `pip install datasets`"):
            HuggingFace("someone/something").check()


def test_nothing_is_downloaded_unasked(monkeypatch):
    seen = []

    def load_dataset(name, config):
        seen.append(datasets.config.HF_HUB_OFFLINE)
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    as_set = datasets.config.HF_HUB_OFFLINE
    for download, words in ((False, "cannot load .* get it with --benchmark.download true, or"), (True, "cannot down")):
        with pytest.raises(DataError, match=f"{words}.*") as caught:
            HuggingFace("someone/something", download=download).check()
        assert "\n" not in str(caught.value)
    seen.append(datasets.config.HF_HUB_OFFLINE)
    assert seen == [True, as_set, as_set]
