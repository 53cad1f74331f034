"""A finished run of a small transformer, and its conversion, for the tests of what is reported of them."""

from collections.abc import Callable

import pytest

from cl_ac.cli import main
from cl_ac.efficiency.convert import Conversion
from cl_ac.efficiency.finetune import FineTuning
from cl_ac.efficiency.routers import RouterTraining
from cl_ac.efficiency.sparsify import Sparsify
from cl_ac.report.conversion import Converted, Settings, convert_run
from cl_ac.rundir import RunDirectory

RUN = ["--benchmark", "Digits", "--benchmark.tasks", "2", "--benchmark.samples_per_class", "12", "--device", "cpu"]
RUN += ["--training.epochs", "2", "--training.batch_size", "16", "--training.optimizer", "adamw"]
RUN += ["--training.lr", "0.002", "--training.schedule", "constant", "--loggers", "[]"]
VIT = ["--backbone", "ViT", "--backbone.width", "16", "--backbone.depth", "3", "--backbone.patch", "4"]


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory) -> Callable[..., RunDirectory]:
    """Makes a finished run on a few digits; arguments are options of `cl-ac run`."""

    def make(*options: str) -> RunDirectory:
        out = tmp_path_factory.mktemp("runs")
        assert main(["run", *RUN, *options, "--out", str(out), "--name", "run"]) == 0
        return RunDirectory(out / "run")

    return make


@pytest.fixture(scope="session")
def vit_run(digits_run) -> RunDirectory:
    """A ViT with two ACs and exemplars; nothing is held out."""
    return digits_run(*VIT, "--approach", "ER", "--memory.size", "20", "--exits", "ln", "--benchmark.validation", "0")


@pytest.fixture(scope="session")
def held_out_run(digits_run) -> RunDirectory:
    """A ViT without ACs; a quarter of the training samples is held out."""
    return digits_run(*VIT, "--approach", "FineTuning", "--benchmark.validation", "0.25")


@pytest.fixture(scope="session")
def quick_conversion() -> Conversion:
    """Small experts, and routers that hardly learn."""
    return Conversion(8, router_width=4, tokens=200, router_training=RouterTraining(1))


@pytest.fixture(scope="session")
def converted(vit_run, quick_conversion) -> Converted:
    """The conversion of `vit_run`; tests may change the gates of its dynamic network."""
    settings = Settings(taus=(0.01, 0.4, 1.0), tolerance=0.5)
    return convert_run(vit_run, settings, quick_conversion, FineTuning(1), Sparsify("hoyer"), "cpu")
