"""Texts in files: what becomes of them, whole runs on them, and what is wrong with them in one sentence."""

import json

import pytest
import torch

from cl_ac.cli.main import main
from cl_ac.datasets.text_table import TextTable
from cl_ac.errors import DataError
from cl_ac.recording.rundir import RunDirectory
from cl_ac.serving.finished import finished

pytest.importorskip("transformers")


def arguments(folder, tables, out, *more: str) -> list[str]:
    train, test = tables
    return [
        *("run", "--benchmark", "TextTable", "--benchmark.train", str(train), "--benchmark.test", str(test)),
        *("--benchmark.tasks", "2", "--backbone", f"hf:{folder}", "--backbone.weights", "true", "--exits", "sdn"),
        *("--training.batch_size", "8", "--loggers", "[]", "--device", "cpu", "--out", str(out), "--name", "run"),
        *more,
    ]


def test_texts_become_token_numbers_and_labels_classes(tmp_path, language_model):
    table = tmp_path / "table.jsonl"
    rows = [
        {"query": "red sea", "class": "b"},
        {"query": "what cat, two", "class": "a"},
        {"query": "red", "class": "b"},
    ]
    table.write_text("\n".join(map(json.dumps, rows)))
    benchmark = TextTable(str(table), str(table), "query", "class", str(language_model), tokens=4, tasks=2)
    train, test = benchmark.load()
    assert benchmark.class_names == ["a", "b"]
    assert train.targets.tolist() == [1, 0, 1]
    # [CLS] red sea [SEP]; [CLS] ? cat [SEP], cut to four; [CLS] red [SEP].
    assert train.images[:, 0, 0].tolist() == [[2, 4, 13, 3], [2, 1, 7, 3], [2, 4, 3, -1]]
    assert torch.equal(train.images, test.images)


def test_labels_that_are_numbers_keep_their_order(tmp_path, language_model):
    (tmp_path / "table.csv").write_text("text,label\nred,10\nsea,9\n")
    benchmark = TextTable(str(tmp_path / "table.csv"), tokenizer=str(language_model))
    assert benchmark.class_names == ["9", "10"]


def test_replay_trains_on_texts_with_the_tokenizer_of_the_model(tmp_path, language_model, text_tables):
    learned = ("--training.epochs", "1", "--approach", "ER", "--memory.size", "24")
    assert main(arguments(language_model, text_tables, tmp_path, *learned)) == 0
    config = (tmp_path / "run" / "config.yaml").read_text()
    assert str(language_model) in config.partition("tokenizer:")[2].splitlines()[0]
    # The finished run answers texts as it answered those of its test.
    run = finished(RunDirectory(tmp_path / "run"), "cpu")
    texts = [line.partition(",")[0] for line in text_tables[1].read_text().splitlines()[1:]]
    with torch.no_grad():
        logits = run.network(run.inputs(texts))
    assert torch.allclose(logits, RunDirectory(tmp_path / "run").outputs(1).logits, atol=1e-5)


def test_what_frozen_layers_give_is_kept_and_changes_nothing(tmp_path, language_model, text_tables):
    fixed = ("--backbone.frozen", "all", "--training.epochs", "0", "--classifier", "NearestMean")
    found = []
    for keep in ("true", "false"):
        options = (*fixed, "--approach", "FineTuning", "--training.frozen_outputs.keep", keep)
        assert main(arguments(language_model, text_tables, tmp_path / keep, *options)) == 0
        found.append(RunDirectory(tmp_path / keep / "run").outputs(1))
    kept, anew = (outputs.logits for outputs in found)
    assert torch.allclose(kept, anew, atol=1e-3)
    assert (kept[0].argmax(-1) == found[0].targets).double().mean() > 0.25


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ("text,label\nred,a\n  ,b\n", "text 2 of .* is empty; remove it"),
        ("text,class\nred,a\n", "unknown column 'label'; known: class, text"),
        ("text,label\nred,\n", "text 1 of .* has no label; remove it"),
        ("text,label\n", "there are no texts in"),
    ],
)
def test_a_table_that_lacks_something_is_one_sentence(tmp_path, language_model, rows, sentence):
    (tmp_path / "table.csv").write_text(rows)
    with pytest.raises(DataError, match=sentence):
        TextTable(str(tmp_path / "table.csv"), tokenizer=str(language_model)).load()


def test_a_label_that_no_text_to_train_on_has_is_refused(tmp_path, language_model):
    (tmp_path / "train.csv").write_text("text,label\nred,a\nsea,b\n")
    (tmp_path / "test.csv").write_text("text,label\nred,a\nsea,c\n")
    benchmark = TextTable(*(str(tmp_path / f"{name}.csv") for name in ("train", "test")), tokenizer=str(language_model))
    with pytest.raises(DataError, match=r"text 2 of .*test\.csv' has the label 'c', which no text to train on has"):
        benchmark.load()


def test_a_strange_label_among_numbers_is_the_one_that_is_named(tmp_path, language_model):
    (tmp_path / "train.csv").write_text("text,label\nred,0\nsea,1\n")
    (tmp_path / "test.csv").write_text("text,label\nred,0\nsea,other\n")
    benchmark = TextTable(*(str(tmp_path / f"{name}.csv") for name in ("train", "test")), tokenizer=str(language_model))
    with pytest.raises(DataError, match=r"text 2 of .*test\.csv' has the label 'other'"):
        benchmark.load()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--approach", "PASS"), "the approach PASS turns images, which cannot be done to texts"),
        (("--approach", "LwF", "--backbone", "SmallConvNet"), "reads images, but the benchmark TextTable holds texts"),
        (("--approach", "LwF", "--exits.tokens", "map"), "which texts have not; take class, mean, last"),
        (("--approach", "LwF", "--benchmark.train", "gone.csv"), "there is no file 'gone.csv'"),
    ],
)
def test_settings_that_do_not_fit_texts_are_one_sentence(tmp_path, language_model, text_tables, more, sentence, capsys):
    given = arguments(language_model, text_tables, tmp_path)
    if "SmallConvNet" in more:
        given = [each for each in given if not each.startswith(("hf:", "--backbone", "--exits", "true", "sdn"))]
    if "--exits.tokens" in more:
        given[given.index("sdn")] = '{"at": [1], "weights": [1.0]}'
    assert main([*given, *more]) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
