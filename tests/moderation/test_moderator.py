"""Moderators on a tiny language model: what they choose, what they say, and what is left of them in a file."""

import json

import numpy
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from cl_ac.cli.main import main
from cl_ac.errors import DataError
from cl_ac.moderation.artefact import encoder_of, load
from cl_ac.moderation.encoder import Encoder
from cl_ac.moderation.measures import measures
from cl_ac.moderation.moderator import Settings, fit

pytest.importorskip("transformers")

LAYERS = ["a", "b", "c", "d"]


def told_apart_at(layer: int, count: int = 200) -> tuple[torch.Tensor, list[str]]:
    """Features [4, N, 6] that tell unsafe texts from safe ones at one layer only, and their labels."""
    features = torch.randn(4, count, 6, generator=torch.Generator().manual_seed(1))
    features[layer, ::2] += 1.5
    return features, ["bad", "safe"] * (count // 2)


def test_the_layer_that_knows_is_chosen():
    features, labels = told_apart_at(2)
    found = fit(features, labels, "safe", LAYERS, Settings(strength=0.3, scale="unit"))
    assert max(found.chosen, key=found.chosen.__getitem__) == "c"
    assert found.shares[2] > 0.7
    scores = numpy.array([each.score for each in found.judge(features)])
    assert roc_auc_score([label == "bad" for label in labels], scores) > 0.95
    last = fit(features, labels, "safe", LAYERS, Settings(aggregation="last"))
    assert last.chosen == {"d": 1.0}


def test_without_held_out_texts_it_is_the_published_method():
    features, labels = told_apart_at(1)
    found = fit(features, labels, "safe", LAYERS, Settings(held_out=0))
    values = found.prototypes.log_posteriors(features)[:, :, 0, 1].exp().T.numpy()
    unsafe = [label == "bad" for label in labels]
    expected = LogisticRegression(l1_ratio=1.0, solver="liblinear", random_state=0, max_iter=1000).fit(values, unsafe)
    scores = [each.score for each in found.judge(features)]
    assert numpy.allclose(scores, expected.predict_proba(values)[:, 1], atol=1e-9)


def test_categories_and_sources_have_features_of_their_own():
    features, labels = told_apart_at(2)
    kinds = [f"bad {place % 4 // 2}" if label == "bad" else label for place, label in enumerate(labels)]
    sources = ["web", "web", "chat", "chat"] * 50
    found = fit(features, kinds, "safe", LAYERS, Settings(aggregation="uniform", scale="unit"))
    assert list(found.labels) == ["safe", "bad 0", "bad 1"]
    posteriors = found.prototypes.log_posteriors(features)
    expected = 1 - posteriors[:, :, 0, 0].exp().mean(0)
    assert numpy.allclose([each.score for each in found.judge(features)], expected)
    apart = fit(features, labels, "safe", LAYERS, Settings(), sources)
    assert apart.weights.shape == (4 * 2,)


def test_moderators_that_are_merged_know_all_texts():
    features, labels = told_apart_at(2)
    settings = Settings(aggregation="uniform")
    halves = [fit(features[:, part], labels[part], "safe", LAYERS, settings) for part in (slice(90), slice(90, None))]
    merged, whole = halves[0].merge(halves[1]), fit(features, labels, "safe", LAYERS, settings)
    for one, other in zip(merged.judge(features), whole.judge(features), strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-9)


def test_measures_are_those_of_the_field():
    found = measures([0.9, 0.8, 0.3, 0.1], [True, False, True, False])
    assert found == pytest.approx({"AUROC": 0.75, "AP": (1 + 2 / 3) / 2, "F1": 0.5, "accuracy": 0.5})


def fitted(tmp_path, language_model, text_tables, *more: str):
    out = tmp_path / "moderator.safetensors"
    options = ("--model", str(language_model), "--safe", "class 0", "--out", str(out), "--tokens", "8", *more)
    assert main(["moderate", "fit", str(text_tables[0]), *options]) == 0
    return out


def test_the_command_line_fits_and_scores(tmp_path, language_model, text_tables, capsys):
    out = fitted(tmp_path, language_model, text_tables, "--aggregation", "uniform", "--scale", "unit")
    assert "encoder.layer.2" in capsys.readouterr().out
    assert main(["moderate", "score", str(out), str(text_tables[1]), "--label", "label"]) == 0
    said = capsys.readouterr()
    verdicts = [json.loads(line) for line in said.out.splitlines()]
    assert len(verdicts) == 16
    assert "AUROC" in said.err
    assert "red" not in said.out
    # The same from Python.
    moderator, described = load(out)
    texts = [line.partition(",")[0] for line in text_tables[1].read_text().splitlines()[1:]]
    found = moderator(encoder_of(described), texts)
    assert [each.score for each in found] == pytest.approx([each["score"] for each in verdicts], abs=1e-6)


def test_texts_leave_at_the_first_layer_that_is_sure(tmp_path, language_model, text_tables):
    out = fitted(tmp_path, language_model, text_tables, "--aggregation", "uniform", "--scale", "unit")
    moderator, described = load(out)
    encoder = encoder_of(described)
    texts = ["red sea", "blue one sun", "green", "cat six ice"]
    posteriors = moderator.prototypes.log_posteriors(encoder(texts))[:, :, 0, 0].exp()
    sure = torch.maximum(posteriors, 1 - posteriors)
    threshold = float(sure[0].median()) + 1e-4
    expected = [next((i + 1 for i, each in enumerate(row) if each >= threshold), 3) for row in sure.T.tolist()]
    found = moderator(encoder, texts, threshold)
    assert [each.layer for each in found] == expected
    assert len(set(expected)) > 1
    for place, each in enumerate(found):
        if expected[place] < 3:
            assert each.score == pytest.approx(1 - float(posteriors[expected[place] - 1, place]), abs=1e-5)


def test_padding_and_company_change_nothing(language_model):
    encoder = Encoder(str(language_model), tokens=8)
    texts = ["red", "blue sea one two", "cat dog"]
    together = encoder(texts)
    for place, text in enumerate(texts):
        assert torch.allclose(together[:, place], encoder([text])[:, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["fit", "gone.csv", "--model", "m", "--out", "o"], "there is no file 'gone.csv'"),
        (["score", "gone.safetensors", "-"], "there is no file 'gone.safetensors'; make it with `cl-ac moderate fit`"),
        (["judge"], "unknown step of moderate 'judge'"),
    ],
)
def test_what_is_not_there_is_one_sentence(given, sentence, capsys):
    assert main(["moderate", *given]) == 2
    assert sentence in capsys.readouterr().err


def test_bad_tables_are_one_sentence(tmp_path, language_model, text_tables, capsys):
    out = fitted(tmp_path, language_model, text_tables, "--aggregation", "last")
    (tmp_path / "empty.csv").write_text("text,label\nred,class 0\n ,class 1\n")
    (tmp_path / "null.jsonl").write_text('{"text": null}\n')
    (tmp_path / "half.jsonl").write_text('{"text": "\\ud800"}\n')
    (tmp_path / "strange.csv").write_text("text,label\nred,class 9\n")
    strangers = ("fit", str(text_tables[0]), "--model", str(language_model), "--out", "x", "--tokens", "8")
    cases = {
        ("score", str(out), str(tmp_path / "empty.csv")): "has an empty 'text'; fill it in, or remove the row",
        ("score", str(out), str(tmp_path / "null.jsonl")): "row 1 of",
        ("score", str(out), str(tmp_path / "half.jsonl")): "text 1 is no valid Unicode",
        (*strangers, "--tokens", "0"): "tokens is 0; it must be at least 1",
        (*strangers, "--tokens", "1"): "tokens is 1, but the tokenizer puts 2 around each text",
        (*strangers, "--reading", "middle"): "'middle'",
        ("serve", str(out), "--sure", "0.9"): "sure needs posteriors of unit scale",
        ("score", str(out), str(text_tables[1]), "--text", "query"): "unknown column 'query'",
        ("score", str(out), str(tmp_path / "strange.csv"), "--label", "label"): "unknown label 'class 9'",
        ("score", str(out), str(text_tables[1]), "--sure", "0.9"): "sure needs posteriors of unit scale",
        strangers: "texts with the label 'safe'",
    }
    for given, sentence in cases.items():
        assert main(["moderate", *given]) == 2
        assert sentence in " ".join(capsys.readouterr().err.split())


def test_a_file_that_was_changed_is_refused(tmp_path, language_model, text_tables):
    out = fitted(tmp_path, language_model, text_tables, "--aggregation", "last")
    _, described = load(out)
    with pytest.raises(DataError, match="has other weights than that which the moderator was fitted with"):
        encoder_of({**described, "digest": "0"})
    state = load_file(out)
    save_file({**state, "means": state["means"][:, :-1].contiguous()}, out, {"moderator": "{}"})
    with pytest.raises(DataError, match="is no moderator that this program wrote"):
        load(out)


def test_a_file_with_numbers_of_another_kind_is_refused(tmp_path, language_model, text_tables):
    out = fitted(tmp_path, language_model, text_tables, "--aggregation", "last")
    with safe_open(out, "pt") as file:
        meaning = json.loads(file.metadata()["moderator"])
    state = load_file(out)
    many = {**meaning, "encoder": {**meaning["encoder"], "tokens": "many"}}
    single = {**state, "weights": state["weights"].float()}
    for tensors, content in ((state, many), (single, meaning)):
        save_file(tensors, out, {"moderator": json.dumps(content)})
        with pytest.raises(DataError, match="is no moderator that this program wrote"):
            load(out)


def test_labels_are_compared_as_they_stand_in_tables(tmp_path, language_model, text_tables, capsys):
    for table in text_tables:
        table.write_text(table.read_text().replace("class ", "0"))
    options = ("--model", str(language_model), "--safe", "00", "--out", str(tmp_path / "m"), "--aggregation", "last")
    assert main(["moderate", "fit", str(text_tables[0]), *options, "--tokens", "8"]) == 0
    assert main(["moderate", "score", str(tmp_path / "m"), str(text_tables[1]), "--label", "label"]) == 0
    assert "AUROC" in capsys.readouterr().err
