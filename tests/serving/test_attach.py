"""ACs on the frozen network of a finished run."""

from dataclasses import replace

import pytest
import torch
import yaml
from rich.console import Console

from cl_ac.cli.main import main
from cl_ac.errors import ConfigurationError
from cl_ac.network import ExitNetwork, Exits
from cl_ac.recording.rundir import RunDirectory
from cl_ac.recording.summary import summarise
from cl_ac.report.exits import analyse
from cl_ac.run import assemble, run
from cl_ac.serving.attach import Attachment, attach, bytes_of_one, fit, reduced, with_fresh_heads
from cl_ac.serving.finished import finished
from cl_ac.settings.configured import configured
from cl_ac.training import Trainer

CASCADE = Exits(["block0", "block1"], [1.0, 1.0], cascade=True)
APPROACHES = {
    "LwF": ["--exits", "sdn"],
    "BiC": ["--memory.size", "40", "--approach.bias_epochs", "2"],
    "LUCIR": ["--memory.size", "40"],
    "ICaRL": ["--memory.size", "40"],
}
UNTRAINED = {"SCR": ["--memory.size", "40", "--approach.replay", "16"], "FeTrIL": []}


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """Makes a finished run of digits, one for each approach."""
    made = {}

    def make(approach: str) -> RunDirectory:
        if approach not in made:
            out = tmp_path_factory.mktemp("runs")
            given = ["--approach", approach, "--benchmark", "Digits", "--backbone", "SmallConvNet", "--name", "run"]
            given += ["--benchmark.tasks", "2", "--benchmark.samples_per_class", "20", "--training.epochs", "1"]
            given += ["--training.batch_size", "32", "--device", "cpu", "--out", str(out)]
            assert main(["run", *given, *{**APPROACHES, **UNTRAINED}[approach]]) == 0
            made[approach] = RunDirectory(out / "run")
        return made[approach]

    return make


@pytest.mark.parametrize("approach", APPROACHES)
@pytest.mark.parametrize("exits", ["sdn", CASCADE], ids=["preset", "cascade"])
def test_attached_acs_learn_and_the_final_exit_stays(run_of, tmp_path, approach, exits):
    source, directory = run_of(approach), RunDirectory(tmp_path / "attached")
    attach(source, directory, exits, Attachment(epochs=3, lr=0.01), "cpu")
    before, after = source.outputs(1), directory.outputs(1)
    if approach != "ICaRL":  # its class means answer, and no linear head
        torch.testing.assert_close(after.logits[-1], before.logits[-1])
    assert torch.equal(after.targets, before.targets)
    assert after.sizes == before.sizes == (5, 5)
    assert after.correct.double().mean(1)[:-1].max() > 0.25, "chance is a tenth"
    # It is a run like others: it can be rebuilt, analysed and compared.
    rebuilt = finished(directory, "cpu")
    samples, _ = rebuilt.objects.benchmark.seen(rebuilt.objects.benchmark[1])
    trainer = Trainer(rebuilt.objects.training, rebuilt.objects.benchmark.augmentation, rebuilt.device)
    logits = trainer.predict(
        rebuilt.network, samples, lambda images: rebuilt.objects.approach.answer(rebuilt.network, images)
    )
    torch.testing.assert_close(logits, after.logits)
    assert analyse(directory).outputs.cost.relative == after.cost.relative
    assert summarise(directory).accuracy > 0.1
    written = yaml.safe_load((directory.path / "config.yaml").read_text())
    assert written["attached"]["run"] == str(source.path.resolve())
    assert written["attached"]["epochs"] == 3


def test_nothing_but_acs_learns_and_caching_changes_nothing(run_of):
    run = finished(run_of("LwF"), "cpu")
    task = run.objects.benchmark[1]
    networks = []
    for cache in (0.0, 1.0):
        network, _ = with_fresh_heads(run, CASCADE, seed=0)
        frozen = {name: value.clone() for name, value in network.named_parameters()}
        augmentation = replace(run.objects.benchmark.augmentation, crop="none", flip=False)
        trainer = Trainer(Attachment(epochs=2, batch_size=32).training, augmentation, run.device)
        buffers = {name: value.clone() for name, value in network.named_buffers()}
        fit(network, trainer, task.train, task, cache)
        assert all(torch.equal(value, buffers[name]) for name, value in network.named_buffers())
        for name, value in frozen.items():
            learned = name.startswith(("heads.0.", "heads.1.")) and ".new_" in name
            assert torch.equal(network.get_parameter(name), value) is not learned, name
        networks.append(network)
    images = torch.randn(5, *run.objects.backbone.image_shape)
    torch.testing.assert_close(networks[0](images), networks[1](images), rtol=1e-4, atol=1e-5)


def test_stages_that_the_run_had_frozen_run_once_on_each_image(tmp_path, monkeypatch):
    given = {"approach": "FineTuning", "benchmark": "Digits", "benchmark.tasks": 2, "benchmark.samples_per_class": 4}
    given |= {
        "backbone": "SmallConvNet",
        "backbone.frozen": "all",
        "training.epochs": 1,
        "loggers": [],
        "device": "cpu",
    }
    given |= {"benchmark.augmentation.crop": "none", "benchmark.augmentation.padding": 0, "out": str(tmp_path)}
    experiment = configured({**given, "training.schedule": "constant"})
    run(**vars(experiment), console=Console(quiet=True))
    passed: list[int] = []

    def counted(*arguments, **options) -> ExitNetwork:
        network = assemble(*arguments, **options)
        network.backbone.stages[0].register_forward_hook(lambda module, inputs, output: passed.append(len(output)))
        return network

    monkeypatch.setattr("cl_ac.serving.attach.assemble", counted)
    records = [
        attach(experiment.directory, RunDirectory(tmp_path / name), "sdn", Attachment(epochs=5, cache=cache), "cpu")
        for name, cache in (("kept", 2.0), ("not_kept", 0.0))
    ]
    tasks = finished(experiment.directory, "cpu").objects.benchmark.tasks
    distinct = sum(len(task.train) + len(task.test) for task in tasks)
    # What shapes and costs are measured with comes on top.
    assert 2 * distinct <= sum(passed) <= 2 * distinct + 20
    assert records[0].exits == records[1].exits


def test_size_of_the_cache(run_of):
    network, _ = with_fresh_heads(finished(run_of("LwF"), "cpu"), "sdn", seed=0)
    image = torch.zeros(1, *network.backbone.image_shape)
    assert bytes_of_one(network) == sum(part.nbytes for part in reduced(network, image))


def test_command(run_of, capsys):
    source = run_of("BiC")
    for data in ("memory", "last"):
        given = ["--exits", "sdn", "--data", data, "--epochs", "1", "--device", "cpu", "--name", data]
        assert main(["attach", str(source.path), *given]) == 0
        assert str(source.path.parent / data) in capsys.readouterr().out
    assert main(["attach", str(source.path), *given]) == 2
    message = capsys.readouterr().err
    assert "already holds a run; give another --name or --out" in message
    assert "--resume" not in message
    assert main(["report", str(source.path.parent / "last"), "--out", str(source.path.parent / "report")]) == 0


def test_mistakes_are_one_sentence(run_of, tmp_path):
    source, target = run_of("LwF"), RunDirectory(tmp_path / "attached")
    with pytest.raises(ConfigurationError, match="the run has no exemplars"):
        attach(source, target, "sdn", Attachment("memory"), "cpu")
    with pytest.raises(ConfigurationError, match="exits names no stage"):
        attach(source, target, Exits([], []), device="cpu")
    with pytest.raises(ConfigurationError, match="unknown exits preset 'sdm'"):
        attach(source, target, "sdm", device="cpu")
    with pytest.raises(ConfigurationError, match="cache is -1 GiB"):
        Attachment(cache=-1)
    with pytest.raises(ConfigurationError, match=r"^epochs is 0"):
        Attachment(epochs=0)
    with pytest.raises(ConfigurationError, match="did you mean 'all'"):
        Attachment("al")
    assert not target.path.exists(), "no half-made run is left behind"


@pytest.mark.parametrize("approach", UNTRAINED)
def test_a_final_head_that_never_learned_gets_no_company(run_of, tmp_path, approach):
    target = RunDirectory(tmp_path / "attached")
    with pytest.raises(ConfigurationError, match=f"^{approach} left the linear heads untrained"):
        attach(run_of(approach), target, "sdn", device="cpu")
    assert not target.path.exists()
