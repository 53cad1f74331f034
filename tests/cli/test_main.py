import re
import subprocess
import sys

import pytest
import yaml

from cl_ac.cli.main import main

DIGITS = ["--benchmark", "Digits", "--backbone", "SmallConvNet"]


def fails_with(capsys, *arguments: str) -> str:
    """The one sentence that a wrong command prints."""
    assert main(["run", *arguments]) == 2
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    lines = printed.err.strip().splitlines()
    assert len(lines) == 1, printed.err
    return lines[0].removeprefix("cl-ac: ")


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        (["--approach", "lfw", *DIGITS], r"unknown approach 'lfw'; did you mean 'LwF'\? known: .*FineTuning"),
        (
            ["--approach", "LwF", "--approach.strenth", "2", *DIGITS],
            r"approach\.strenth'; did you mean 'approach\.strength'",
        ),
        (
            ["--approach", "LwF", "--approach.strength", "much", *DIGITS],
            r"approach\.strength is 'much'; expected float",
        ),
        (
            ["--approach", "LwF", "--training.schedule", "no", *DIGITS],
            r"training\.schedule is 'no'; expected one of 'multistep'",
        ),
        (
            ["--approach", "ProgressiveLatentReplay", "--approach.frequencies", "foo", *DIGITS],
            r"approach\.frequencies is 'foo'; expected one of 'basic', .*, 'layer_index' or list\[float\]$",
        ),
        (["--approach", "LwF", "--training.epochs", "x", *DIGITS], r"training\.epochs is 'x'; expected int or list"),
        (["--approach", "LwF", "--training.milestons", "[2]", *DIGITS], r"did you mean '--training\.milestones'"),
        (["--approach", "nowhere.Mine", *DIGITS], r"cannot import the approach: No module named 'nowhere'"),
        (["--approach", "cl_ac.datasets.digits.Digits", *DIGITS], r"is no approach; known"),
        ([*DIGITS], r"missing: --approach"),
        (["--approach", "LwF", *DIGITS, "--benchmark", "ImageFolder"], r"missing: --benchmark\.root \("),
        (["--approach", "LwF", *DIGITS, "--exits.at", "[block1]"], r"missing: --exits\.weights \("),
        (
            ["--approach", "LwF", *DIGITS, "--backbone.stages", "[a]"],
            r"unknown option of \w+ 'backbone\.stages'; (?!.*(mean 'backbone\.stages|known: .*(stages|image_shape)))",
        ),
        (["--approach", "LwF", "--benchmark.tasks", "3", *DIGITS], r"give --benchmark before --benchmark\.tasks"),
        (["--approach", "LwF", *DIGITS, "--benchmark.tasks", "11"], r"benchmark\.tasks is 11, but .* 10 classes"),
        (["--approach", "LwF", *DIGITS, "--benchmark.validation", "2"], r"benchmark\.validation is 2"),
        (["--approach", "LwF", *DIGITS, "--exits", "sdm"], r"unknown exits preset 'sdm'; did you mean 'sdn'\?"),
        (
            ["--approach", "LwF", *DIGITS, "--exits.at", "[block0,block1]", "--exits.weights", "[0.5]"],
            r"exits\.weights has 1 values for 2 ACs",
        ),
        (
            ["--approach", "LwF", *DIGITS, "--exits.at", "[blok0]", "--exits.weights", "[0.5]"],
            r"unknown stage in exits\.at 'blok0'; did you mean 'block0'",
        ),
        (
            ["--approach", "LwF", *DIGITS, "--training.epochs", "5", "--training.milestones", "[7]"],
            r"training\.milestones has 7; with 5 epochs",
        ),
        (["--approach", "ER", *DIGITS], r"ER needs exemplars: set memory\.size or memory\.per_class above 0"),
        (["--approach", "Joint", *DIGITS, "--memory.size", "20"], r"Joint uses no exemplars"),
        (
            ["--approach", "ER", *DIGITS, "--memory.size", "5"],
            r"memory\.size is 5, but ER needs at least 1 for each of 10 classes",
        ),
        (["--approach", "LwF", *DIGITS, "--device", "cuda:99"], r"device is 'cuda:99'"),
        (
            ["--approach", "LwF", "--benchmark", "CIFAR100", "--benchmark.root", "/nowhere", "--backbone", "ResNet32"],
            r"/nowhere.*--benchmark\.download true",
        ),
        (["--config", "/nowhere/x.yaml"], r"cannot read the settings file '/nowhere/x\.yaml'"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_every_mistake_is_one_sentence(capsys, tmp_path, arguments, pattern):
    sentence = fails_with(capsys, *arguments, "--out", str(tmp_path))
    assert re.search(pattern, sentence), sentence
    assert not list(tmp_path.iterdir()), "a run that cannot start leaves nothing behind"


def test_a_wrong_option_in_a_file_is_named(capsys, tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("approach: LwF\nbackbone: SmallConvNet\nbenchmark: {class_path: Digits, init_args: {taks: 4}}\n")
    assert "did you mean 'benchmark.tasks'" in fails_with(capsys, "--config", str(path))
    path.write_text("- 1\n")
    assert "holds no settings" in fails_with(capsys, "--config", str(path))
    path.write_text("a: [1")
    assert "is no YAML" in fails_with(capsys, "--config", str(path))


def test_unknown_command(capsys):
    assert main(["rum"]) == 2
    assert "did you mean 'run'" in capsys.readouterr().err


def test_help_shows_the_options_of_a_class(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["run", "--approach.help", "LwF"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert "temperature" in printed
    assert "softmax temperature of teacher and student" in " ".join(printed.split())


@pytest.mark.parametrize("arguments", [("--approach.help", "HAT"), ("--approach", "HAT", "--approach.help")])
def test_help_of_a_class_explains_the_words_of_its_options(capsys, monkeypatch, arguments):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["run", *arguments])
    description, _, options = capsys.readouterr().out.partition("usage:")
    assert "s_max" in options
    assert "s rises over each epoch from 1/s_max to s_max" in " ".join(description.split())
    assert max(map(len, description.splitlines())) <= 80
    assert "Args:" not in description


def test_print_config_is_a_file_that_can_be_run(capsys, tmp_path):
    arguments = ["--approach", "LwF", "--approach.strength", "3", *DIGITS, "--training.epochs", "1"]
    with pytest.raises(SystemExit):
        main(["run", *arguments, "--print_config"])
    settings = yaml.safe_load(capsys.readouterr().out)
    assert settings["approach"]["init_args"]["strength"] == 3.0
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(settings))
    assert main(["run", "--config", str(path), "--out", str(tmp_path / "runs"), "--name", "again"]) == 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short run on digits with ACs."""
    out = tmp_path_factory.mktemp("runs")
    options = ["--training.epochs", "1", "--seed", "3", "--out", str(out), "--name", "first"]
    assert main(["run", "--approach", "LwF", *DIGITS, "--exits", "sdn", *options]) == 0
    return out / "first"


def test_a_run_leaves_what_the_readme_says(finished):
    names = {path.name for path in finished.iterdir()}
    assert {"config.yaml", "provenance.json", "metrics.jsonl", "outputs", "checkpoint.pt"} <= names
    assert any(name.startswith("events.out") for name in names)
    assert len(list((finished / "outputs").iterdir())) == 5


def test_config_of_a_run_repeats_it(finished, tmp_path, capsys):
    options = ["--out", str(tmp_path), "--name", "again"]
    assert main(["run", "--config", str(finished / "config.yaml"), *options]) == 0
    first, again = (list((path / "metrics.jsonl").read_text().splitlines()) for path in (finished, tmp_path / "again"))
    without_time = [re.sub(r'"seconds": [\d.e-]+', "", line) for line in first]
    assert without_time == [re.sub(r'"seconds": [\d.e-]+', "", line) for line in again]


def test_an_existing_run_is_not_overwritten(finished, capsys):
    options = ["--approach", "LwF", *DIGITS, "--out", str(finished.parent), "--name", "first"]
    sentence = fails_with(capsys, *options)
    assert "already holds a run; give --resume" in sentence


def test_resume_refuses_other_settings(finished, capsys):
    options = ["--approach", "LwF", *DIGITS, "--out", str(finished.parent), "--name", "first", "--resume"]
    sentence = fails_with(capsys, *options)
    assert "other settings" in sentence
    assert "training.epochs was 1 and is 200" in sentence


def test_report_compares_runs_on_a_page(finished, tmp_path, capsys):
    assert main(["report", str(finished), "--out", str(tmp_path)]) == 0
    assert "first" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "figures", "tables"}
    assert "cost_accuracy.svg" in {path.name for path in (tmp_path / "figures").iterdir()}
    assert main(["report", str(tmp_path)]) == 2
    assert "holds a report and no run" in capsys.readouterr().err
    assert main(["report", str(tmp_path), str(finished), "--out", str(tmp_path)]) == 0
    assert main(["report", str(tmp_path / "tables"), "--out", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_tuned_values_follow_approach_and_exits(tmp_path, capsys):
    path = tmp_path / "settings.yaml"
    path.write_text(
        "approach: {class_path: LwF, init_args: {temperature: 3}}\nbenchmark: Digits\nbackbone: SmallConvNet\n"
        "training: {epochs: 7, lr: 0.5}\n"
        "tuned:\n"
        "  LwF: {approach: {strength: 4}, exits: {approach: {strength: 5}, training: {lr: 0.25},"
        "    presets: {sparse: {approach: {strength: 6}}}}}\n"
        "  ER: {memory: {size: 60}}\n"
    )

    def settings(*arguments: str) -> dict:
        with pytest.raises(SystemExit):
            main(["run", "--config", str(path), *arguments, "--print_config"])
        return yaml.safe_load(capsys.readouterr().out)

    plain, with_exits = settings(), settings("--exits", "sdn")
    assert plain["approach"]["init_args"]["strength"] == 4
    assert plain["approach"]["init_args"]["temperature"] == 3
    assert plain["training"]["lr"] == 0.5
    assert with_exits["approach"]["init_args"]["strength"] == 5
    assert (with_exits["training"]["lr"], with_exits["training"]["epochs"]) == (0.25, 7)
    assert settings("--exits", "sparse")["approach"]["init_args"]["strength"] == 6
    replay = settings("--approach", "ER")
    assert replay["memory"]["size"] == 60
    assert replay["approach"]["class_path"].endswith("ER")
    assert settings("--approach", "LwF", "--approach.strength", "9")["approach"]["init_args"]["strength"] == 9
    assert settings("--approach=ER", "--memory.size", "80")["memory"]["size"] == 80


def test_help_imports_no_library_that_takes_long():
    # Importing torch alone takes about two seconds.
    script = "import sys; from cl_ac.cli.main import main; main([sys.argv[1]]); print(*sys.modules, file=sys.stderr)"
    heavy = {"torch", "torchvision", "numpy", "scipy", "sklearn", "pandas", "matplotlib", "rich", "jsonargparse"}
    for option in ("--help", "--version"):
        run = subprocess.run([sys.executable, "-c", script, option], capture_output=True, text=True, check=True)
        assert not heavy & set(run.stderr.split()), option
