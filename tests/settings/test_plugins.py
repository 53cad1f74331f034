import textwrap

import pytest
import torch
import yaml

from cl_ac.approach import Approach
from cl_ac.approaches.lwf import LwF
from cl_ac.backbones.wrapped import WrappedModel
from cl_ac.classifiers.classifier import Classifier
from cl_ac.classifiers.ensemble import Ensemble
from cl_ac.cli.main import main
from cl_ac.datasets.avalanche import AvalancheBenchmark
from cl_ac.errors import ConfigurationError
from cl_ac.recording.rundir import RunDirectory
from cl_ac.serving.finished import finished
from cl_ac.serving.model_file import load, save
from cl_ac.settings.objects import rebuild
from cl_ac.settings.parser import parse, run_parser
from cl_ac.settings.plugins import check_code, resolve

PLAIN = ["--approach", "LwF", "--benchmark", "Digits", "--backbone", "SmallConvNet"]
SHORT = ["--benchmark.tasks", "2", "--benchmark.samples_per_class", "8", "--training.epochs", "1", "--loggers", "[]"]


class Mine(LwF):
    """A caller's own approach."""


def plain(*arguments: str) -> dict:
    """Settings as a config.yaml holds them."""
    parser = run_parser()
    settings = parse(parser, [*PLAIN, *arguments])
    settings.pop("config", None)
    return yaml.safe_load(parser.dump(settings, skip_unset=False))


def test_our_classes_go_by_any_path_that_they_had():
    assert resolve("approach", Approach, "LwF", trusted=False) is LwF
    assert resolve("approach", Approach, "cl_ac.old.place.LwF", trusted=False) is LwF
    assert resolve("classifier", Classifier, "cl_ac.ensemble.Ensemble", trusted=False) is Ensemble
    for name in ("Attached", "cl_ac.attach.Attached", "cl_ac.serving.attach.Attached"):
        assert resolve("approach", Approach, name, trusted=False).__name__ == "Attached"


def test_settings_of_others_name_only_ours_and_what_the_caller_gives():
    for path in ("os.system", "nowhere.Mine", f"{__name__}.Mine"):
        with pytest.raises(ConfigurationError, match="if you trust"):
            resolve("approach", Approach, path, trusted=False)
    assert resolve("approach", Approach, f"{Mine.__module__}.Mine", trusted=False, given=[Mine]) is Mine
    with pytest.raises(ConfigurationError, match="is no approach"):
        resolve("approach", Approach, "cl_ac.cli.main.main", trusted=False)


def test_settings_of_ones_own_name_what_they_claim():
    for path in ("os.system", "collections.OrderedDict", "cl_ac.datasets.digits.Digits"):
        with pytest.raises(ConfigurationError, match="is no approach"):
            resolve("approach", Approach, path, trusted=True)


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("path", ["os.system", "subprocess.run", "torch.hub.load", "builtins.exec"])
@pytest.mark.parametrize(("cls", "option"), [(WrappedModel, "model"), (AvalancheBenchmark, "factory")])
def test_functions_of_python_build_nothing(cls, option, path, trusted):
    with pytest.raises(ConfigurationError, match=f"{option} of {cls.__name__} is '{path}'"):
        check_code(cls, option, path, trusted)


def test_a_callers_own_function_may_build():
    def net() -> torch.nn.Module:
        raise AssertionError("is only named")

    check_code(WrappedModel, "model", f"{net.__module__}.{net.__qualname__}", False, [net])
    check_code(WrappedModel, "model", "torchvision.models.resnet18", True)
    with pytest.raises(ConfigurationError, match="if you trust"):
        check_code(WrappedModel, "model", "torchvision.models.resnet18", False)


EVIL = {
    "approach": {"class_path": "os.system", "init_args": {"command": "touch PWNED"}},
    "benchmark": {
        "class_path": "AvalancheBenchmark",
        "init_args": {"factory": "os.system", "arguments": {"command": "touch PWNED"}},
    },
    "backbone": {
        "class_path": "WrappedModel",
        "init_args": {"model": "os.system", "stages": ["a"], "options": {"command": "touch PWNED"}},
    },
    "classifier": {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "PWNED"]}},
    "training": {"class_path": "os.system", "init_args": {"command": "touch PWNED"}},
    "exits": {"class_path": "os.system", "init_args": {"command": "touch PWNED"}},
}


@pytest.mark.parametrize("part", EVIL)
def test_no_crafted_settings_run_a_command(part, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError):
        rebuild({**plain(), part: EVIL[part]})
    with pytest.raises(ConfigurationError):
        rebuild({**plain(), part: EVIL[part]}, trusted=True)
    assert not list(tmp_path.iterdir())


def test_a_file_whose_own_import_fails_is_told_from_one_that_is_not_there(tmp_path, monkeypatch):
    (tmp_path / "needs_more.py").write_text("import not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigurationError, match="'needs_more' itself fails with: No module named 'not_installed'"):
        resolve("approach", Approach, "needs_more.Mine", trusted=True)
    for path in ("not_there.Mine", "needs_less.part.Mine"):
        with pytest.raises(ConfigurationError, match=r"No module named .*; give a class name or a dotted path"):
            resolve("approach", Approach, path, trusted=True)


def test_a_module_in_somebody_elses_settings_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "evil_module.py").write_text("open('RAN', 'w')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    nested = {"class_path": "Digits", "init_args": {"augmentation": {"class_path": "evil_module.X"}}}
    for part, value in {
        "approach": "evil_module.X",
        "benchmark": nested,
        "exits": {"class_path": "evil_module.X"},
    }.items():
        with pytest.raises(ConfigurationError):
            rebuild({**plain(), part: value})
    assert not (tmp_path / "RAN").exists()


@pytest.fixture
def plugin_run(tmp_path, monkeypatch):
    """A finished run of an approach in a file of the user's own."""
    code = '''
        from cl_ac.approaches.lwf import LwF


        class LwF(LwF):
            """A plugin with a name that we have too."""
    '''
    (tmp_path / "own_plugin.py").write_text(textwrap.dedent(code))
    monkeypatch.chdir(tmp_path)
    given = ["--approach", "own_plugin.LwF", *PLAIN[2:], *SHORT, "--exits", "sdn", "--name", "first"]
    assert main(["run", *given]) == 0
    return RunDirectory(tmp_path / "runs" / "first")


def test_a_run_of_a_plugin_repeats_from_its_file_and_is_read_where_it_is_trusted(plugin_run, capsys):
    assert plugin_run.config["approach"]["class_path"] == "own_plugin.LwF"
    assert plugin_run.config["backbone"]["class_path"] == "SmallConvNet"
    assert main(["run", "--config", str(plugin_run.path / "config.yaml"), "--name", "again"]) == 0
    again = RunDirectory(plugin_run.path.parent / "again")
    assert again.config["approach"] == plugin_run.config["approach"]
    capsys.readouterr()
    assert main(["exits", str(plugin_run.path), "--measure", "--device", "cpu"]) == 2
    assert "give --trust_plugins" in capsys.readouterr().err

    run = finished(RunDirectory(plugin_run.path, trusted=True), "cpu")
    own = type(run.objects.approach)
    assert own.__module__ == "own_plugin"
    from cl_ac.exits.model import EarlyExitModel
    from cl_ac.exits.rules import Confidence

    path = plugin_run.path / "model.pt"
    save(EarlyExitModel(run.network, run.objects.approach, Confidence(0.5)), path, plugin_run.config)
    with pytest.raises(ConfigurationError, match="if you trust"):
        load(path, "cpu")
    assert isinstance(load(path, "cpu", given=[own]), EarlyExitModel)
