"""The command `retrieve`: a whole run out of tables with its report, and each mistake as one sentence."""

import csv
import json

import pytest
import yaml

from cl_ac.cli.main import main

pytest.importorskip("transformers")

ROWS = [("red sea", "cat", "a"), ("what two", "sea", "a"), ("two cat", "red", "b"), ("sea", "two two", "b")]


@pytest.fixture
def arguments(tmp_path, language_model):
    """The arguments of a short run on two domains of texts."""
    lines = ["query,answer,domain", *(",".join(row) for row in [*ROWS, ("cat", "sea", "c")])]
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    pairs = {"columns": ["query", "answer"], "kinds": ["text", "text"], "tokens": 6, "unseen": ["c"]}
    pairs |= {part: str(tmp_path / "pairs.csv") for part in ("train", "test")}
    tower = {"class_path": "HuggingFaceModel", "init_args": {"model": str(language_model), "weights": True}}
    settings = {"pairs": {"class_path": "PairTable", "init_args": pairs}, "first": tower, "training": {"epochs": 1}}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    return [
        *("retrieve", "--config", str(tmp_path / "settings.yaml"), "--second", f"hf:{language_model}"),
        *("--second.weights", "true", "--device", "cpu", "--out", str(tmp_path / "runs")),
    ]


def test_a_run_leaves_its_report_and_runs_are_compared(arguments, tmp_path, capsys):
    assert main([*arguments, "--method", "DAR", "--method.rank", "2", "--name", "dar"]) == 0
    assert "DAR, routed" in capsys.readouterr().out
    runs = tmp_path / "runs"
    page = (runs / "dar" / "report" / "report.html").read_text()
    assert all(word in page for word in ("query → answer", "Routing", "recall@10", "left to the base model"))
    assert main([*arguments, "--method", "ZeroShot", "--name", "plain"]) == 0
    assert main([*arguments, "--method", "ZeroShot", "--name", "plain"]) == 2
    assert "already holds a run; give --resume" in capsys.readouterr().err
    assert main(["report", str(runs)]) == 0
    with (runs / "report" / "tables" / "recall_at_1.csv").open() as file:
        rows = {row["answers"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["DAR, routed", "DAR, nearest", "DAR, uniform", "DAR, oracle", "ZeroShot"]
    last = [json.loads(line) for line in (runs / "plain" / "recall.jsonl").read_text().splitlines()][-1]
    learned = [each[0] for each in last["recall"][""][0][:2]]
    assert float(rows["ZeroShot"]["query → answer: average"]) == pytest.approx(sum(learned) / 2)
    assert float(rows["ZeroShot"]["query → answer: unseen"]) == last["recall"][""][0][2][0]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--method", "DAR", "--method.top", "0"], "method.top is 0; it must be at least 1"),
        (["--method", "Dar"], "unknown method 'Dar'; did you mean 'DAR'?"),
        (["--method", "DAR", "--method.merge", "mean"], "method.merge is 'mean'; expected one of 'outputs'"),
        (["--method", "DAR", "--method.first_layers", "[quary]"], "unknown layer in the backbone HuggingFaceModel"),
        (["--method", "ZeroShot", "--temperature", "0"], "temperature is 0"),
        (["--method", "ZeroShot", "--gallery", "none"], "gallery is 'none'; expected one of 'domain'"),
        (["--method", "ZeroShot", "--training.align_lr", "0"], "training.align_lr is 0.0; it must be above 0"),
        (["--method", "ZeroShot", "--pairs.base", "[b]"], "width is null, so that there are none"),
        (["--method", "ZeroShot", "--second", "SmallConvNet"], "pairs.tokenizers names none for 'answer'"),
        ([], "missing: --method"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, capsys, more, told):
    assert main([*arguments, *more]) == 2
    printed = capsys.readouterr().err.strip().splitlines()
    assert len(printed) == 1
    assert told in printed[0]
