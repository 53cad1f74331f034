"""Folders of runs that something has damaged: every command says one sentence or does its work, never a traceback."""

import random
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from cl_ac.cli.main import main
from cl_ac.errors import UserError
from cl_ac.evaluation import Outputs
from cl_ac.recording.checkpoint import Checkpoint
from cl_ac.recording.rundir import RunDirectory
from cl_ac.recording.soundness import sound
from cl_ac.report.exits import analyse, numbers

RUN = [
    "run", "--approach", "LwF", "--benchmark", "Digits", "--benchmark.tasks", "2", "--benchmark.samples_per_class", "4",
    "--backbone", "SmallConvNet", "--backbone.width", "4", "--training.epochs", "1", "--training.schedule", "constant",
    "--watch.every", "2", "--watch.drift", "true", "--loggers", "[csv]", "--device", "cpu", "--name", "run",
    "--exits", "sdn",
]  # fmt: skip
FILES = [
    "config.yaml", "provenance.json", "data.json", "metrics.jsonl", "scalars.csv", "checkpoint.pt",
    "outputs/task_0.safetensors", "outputs/task_1.safetensors", "watch/task_0.safetensors", "watch/task_1.safetensors",
    "drift/task_0.safetensors", "drift/task_1.safetensors", "drift/grams_1.safetensors",
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The folder of a small run, finished and never damaged."""
    out = tmp_path_factory.mktemp("whole")
    assert main([*RUN, "--out", str(out)]) == 0
    return out / "run"


def damage(path: Path, stream: random.Random) -> str:
    """Does to a file what happens to files, and says what."""
    content = bytearray(path.read_bytes())
    kind = stream.choice(["lost", "cut", "emptied", "zeros", "flipped", "blank line", "line lost"])
    place = stream.randrange(len(content))
    if kind == "lost":
        path.unlink()
        return kind
    if kind == "cut":
        content = content[:place]
    elif kind == "emptied":
        content.clear()
    elif kind == "zeros":
        content[place : place + 64] = bytes(len(content[place : place + 64]))
    elif kind == "flipped":
        content[place] ^= 1 << stream.randrange(8)
    else:
        lines = bytes(content).split(b"\n")
        number = stream.randrange(len(lines))
        lines[number : number + (kind == "line lost")] = [] if kind == "line lost" else [b""]
        content = bytearray(b"\n".join(lines))
    path.write_bytes(content)
    return f"{kind} at {place}"


@pytest.mark.parametrize("seed", range(36))
def test_a_damaged_folder_is_one_sentence_or_no_hindrance(whole, tmp_path, capsys, seed):
    stream = random.Random(seed)
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    file = FILES[seed % len(FILES)]
    told = f"{file}: {damage(run / file, stream)}"
    for read in (lambda: sound([RunDirectory(run)], print), lambda: numbers(analyse(RunDirectory(run)))):
        with suppress(UserError):
            read()
    # A page of figures takes seconds.
    page = [["report", str(run)]] if seed == 3 else []
    for command in (*page, [*RUN, "--out", str(tmp_path), "--resume"]):
        capsys.readouterr()
        code = main(command)
        assert code in (0, 2), told
        if code == 2:
            sentence = capsys.readouterr().err.strip().splitlines()[-1]
            assert sentence.startswith("cl-ac: "), told
            assert "()" not in sentence, told


def test_a_damaged_run_does_not_hide_the_others(whole, tmp_path, capsys):
    for name in ("good", "bad"):
        shutil.copytree(whole, tmp_path / name)
    metrics = tmp_path / "bad" / "metrics.jsonl"
    metrics.write_text(metrics.read_text()[:-40])
    assert main(["report", str(tmp_path)]) == 0
    assert "left out: the run is damaged" in " ".join(capsys.readouterr().err.split())
    page = (tmp_path / "report" / "report.html").read_text()
    assert "good: seed 0" in page
    assert "bad: seed 0" not in page


def test_lost_results_are_made_again_where_that_can_be(whole, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    expected = RunDirectory(whole)
    shutil.rmtree(run / "outputs")
    for _ in range(2):
        assert main([*RUN, "--out", str(tmp_path), "--resume"]) == 0
    assert torch.equal(RunDirectory(run).outputs(1).logits, expected.outputs(1).logits)
    metrics = run / "metrics.jsonl"
    metrics.write_text(f"\n{metrics.read_text().splitlines()[0]}\nhalf a li")
    assert main([*RUN, "--out", str(tmp_path), "--resume"]) == 0
    assert "lacked task 2, which is read again from outputs/" in " ".join(capsys.readouterr().err.split())
    assert [record.exits for record in RunDirectory(run).records] == [record.exits for record in expected.records]


def test_the_checkpoint_of_another_run_is_refused(whole, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    state = Checkpoint.load(run / "checkpoint.pt")
    Checkpoint(2, None, 4, 0.0, state.network, state.approach, "another").save(run / "checkpoint.pt")
    assert main([*RUN, "--out", str(tmp_path), "--resume"]) == 2
    assert "is the checkpoint of a run with other settings" in capsys.readouterr().err
    other = {name: value for name, value in state.network.items() if "weight" not in name}
    Checkpoint(2, None, 4, 0.0, other, state.approach).save(run / "checkpoint.pt")
    for command in ([*RUN, "--out", str(tmp_path), "--resume"], ["exits", str(run), "--measure"]):
        assert main(command) == 2
        assert "does not fit the network and the approach of this run's settings" in capsys.readouterr().err


def test_outputs_of_another_shape_are_noticed(whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    directory = RunDirectory(run)
    assert directory.has_outputs(1)
    outputs = directory.outputs(1)
    Outputs(outputs.logits[:, 1:], outputs.targets, outputs.tasks, outputs.sizes, outputs.cost).save(
        run / "outputs" / "task_1.safetensors"
    )
    assert not directory.has_outputs(1)
