"""Texts of a data set of the library `datasets`, saved in a folder."""

import pytest

from cl_ac.datasets.hugging_face_texts import HuggingFaceTexts
from cl_ac.errors import DataError

datasets = pytest.importorskip("datasets")


@pytest.fixture
def folder(tmp_path):
    labels = datasets.Features(
        {"query": datasets.Value("string"), "intent": datasets.ClassLabel(names=["weather", "alarm"])}
    )
    parts = {"train": (["red sea", "cat", "dog two"], [0, 1, 0]), "held": (["sun"], [1])}
    tables = {
        name: datasets.Dataset.from_dict({"query": texts, "intent": targets}, labels)
        for name, (texts, targets) in parts.items()
    }
    datasets.DatasetDict(tables).save_to_disk(str(tmp_path / "set"))
    return tmp_path / "set"


def test_names_of_labels_are_classes(folder, language_model):
    options = {"test": "held", "text": "query", "label": "intent", "tokenizer": str(language_model)}
    benchmark = HuggingFaceTexts(str(folder), **options, tasks=1)
    train, test = benchmark.load()
    assert benchmark.class_names == ["alarm", "weather"]
    assert (train.targets.tolist(), test.targets.tolist()) == ([1, 0, 1], [0])
    assert train.images[:, 0, 0].tolist() == [[2, 4, 13, 3], [2, 7, 3, -1], [2, 8, 11, 3]]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"text": "query", "label": "intent"}, "unknown split 'test'; known: held, train"),
        ({"test": None}, "unknown column 'text'; .*known: intent, query"),
    ],
)
def test_what_is_not_there_is_one_sentence(folder, language_model, options, sentence):
    with pytest.raises(DataError, match=sentence):
        HuggingFaceTexts(str(folder), tokenizer=str(language_model), **options).load()


@pytest.mark.parametrize("label", [None, ["a", "b"]])
def test_a_text_without_one_label_is_told(tmp_path, language_model, label):
    labels = ["c", label] if label is None else [["c"], label]
    datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": ["red", "sea"], "label": labels})}).save_to_disk(
        str(tmp_path / "set")
    )
    with pytest.raises(DataError, match=r"text [12] of the split 'train' of .* has not one label; remove it"):
        HuggingFaceTexts(str(tmp_path / "set"), test=None, tokenizer=str(language_model)).load()
