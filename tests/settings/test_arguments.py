import pytest

from cl_ac.approach import Approach
from cl_ac.approaches.lwf import LwF
from cl_ac.backbones.wrapped import TorchvisionModel
from cl_ac.errors import ConfigurationError
from cl_ac.network import Backbone
from cl_ac.settings.arguments import checked_arguments
from cl_ac.settings.plugins import classes, dotted


@pytest.fixture(scope="module")
def known():
    return {"approach": classes("approach", Approach), "backbone": classes("backbone", Backbone)}


def test_options_are_completed(known):
    assert checked_arguments(["--loggers", "csv"], known) == ["--loggers", "[csv]"]
    assert checked_arguments(["--loggers=csv,wandb"], known) == ["--loggers", "[csv,wandb]"]
    assert checked_arguments(["--loggers", "[]"], known) == ["--loggers", "[]"]
    assert checked_arguments(["--approach", "LwF"], known) == ["--approach", dotted(LwF)]
    helped = checked_arguments(["--approach", "LwF", "--approach.help"], known)
    assert helped == ["--approach", dotted(LwF), "--approach.help=LwF"]
    assert checked_arguments(["--approach", "mine.LwF", "--approach.strength=2"], known) == [
        "--approach", "mine.LwF", "--approach.strength", "2"
    ]  # fmt: skip
    assert checked_arguments(["--backbone=torchvision:resnet18"], known) == [
        "--backbone", dotted(TorchvisionModel), "--backbone.model", "resnet18"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("--approach.strength 2 --approach LwF", "give --approach before --approach.strength"),
        ("--approach.help", "--approach.help needs a class; known: A"),
        ("--exits.detach true --exits sdn", "'sdn' is a preset, which takes no --exits.detach"),
        ("--exits sdn --exits.pool=3", "'sdn' is a preset, which takes no --exits.pool"),
        (f"--seed {'[' * 5000}", "nested more than"),
        (f"--name {'x' * 30_000}", "has 30000 characters"),
    ],
)
def test_slips_are_named(line, sentence, known):
    with pytest.raises(ConfigurationError) as refused:
        checked_arguments(line.split(), known)
    assert sentence in str(refused.value)


def test_no_options_are_given_to_a_preset_that_a_settings_file_names(known, tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("exits: sdn\n")
    with pytest.raises(ConfigurationError, match=r"'sdn' is a preset, which takes no --exits\.pool"):
        checked_arguments(["--config", str(path), "--exits.pool", "4"], known)
    path.write_text("exits: {at: [block1], weights: [0.3]}\n")
    assert "--exits.pool" in checked_arguments(["--config", str(path), "--exits.pool", "4"], known)


def test_options_after_a_settings_file_are_those_of_its_class(known):
    arguments = ["--config", "file.yaml", "--approach.strength", "2"]
    assert checked_arguments(arguments, known) == arguments
