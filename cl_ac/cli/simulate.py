"""`cl-ac simulate`: mixtures of generative experts in place of a calorimeter's Monte-Carlo."""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser
from rich.console import Console

from cl_ac.cli.show import show
from cl_ac.recording.progress import phases
from cl_ac.report import simulation as report
from cl_ac.settings.parser import instantiate, parse
from cl_ac.simulation.calorimeter import Calorimeter
from cl_ac.simulation.conditions import read_conditions, write_showers
from cl_ac.simulation.experiment import Experiment, run_all, trained
from cl_ac.simulation.expert_sim import Experts
from cl_ac.simulation.training import Adversarial, Weights
from cl_ac.studies.results import check_writable


def command(arguments: Sequence[str]) -> None:
    """`cl-ac simulate`: trains mixtures, measures them on held-out conditions, and writes a page."""
    parser = ArgumentParser(
        prog="cl-ac simulate",
        description="Trains mixtures of generative experts (ExpertSim) on showers of a synthetic calorimeter, and "
        "compares them on held-out conditions. Prints a table, and writes report.html, figures/ and tables/. Repeat "
        "the command to go on after a stop: finished mixtures are kept, one that is begun goes on.",
        exit_on_error=False,
    )
    parser.add_argument("--experts", type=int, nargs="+", default=[1, 3], help="numbers of experts to compare")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of showers and training, to average over")
    parser.add_argument(
        "--wide", action="store_true", help="also train one expert that is as wide as the most experts together"
    )
    parser.add_argument("--out", type=str, default="runs/simulation", help="the folder to write")
    parser.add_argument("--results", type=str | None, default=None, help="write all numbers to this JSON file")
    parser.add_argument(
        "--conditions",
        type=str | None,
        default=None,
        help="CSV file with columns energy, row, column, mass, charge: simulate showers there with the last of "
        "--experts and the first of --seeds, to showers.npz in --out",
    )
    parser.add_class_arguments(Calorimeter, "calorimeter")
    parser.add_class_arguments(Experts, "model")
    parser.add_class_arguments(Weights, "weights")
    parser.add_class_arguments(Adversarial, "training")
    settings = parse(parser, arguments)
    given = instantiate(parser, settings)
    groups = given.calorimeter, given.model, given.weights, given.training
    experiment = Experiment(tuple(settings.experts), tuple(settings.seeds), settings.wide, *groups)
    # Read first: mistakes should show before training.
    conditions = read_conditions(Path(settings.conditions), given.calorimeter) if settings.conditions else None
    if settings.results:
        check_writable(Path(settings.results))
    folder = Path(settings.out)
    with phases(Console(stderr=True)) as progress:
        found = run_all(experiment, folder, progress)
    show(report.screen_table(report.summary(found)))
    if max(experiment.experts) > 1:
        show(report.screen_table(report.usage(found)))
    print(report.write(experiment, found, folder))
    if settings.results:
        report.write_results(Path(settings.results), experiment, found)
    if conditions is not None:
        # Wide ones come last; of the others the last is meant.
        cell = next(each for each in experiment.cells() if each.experts == experiment.experts[-1])
        print(write_showers(trained(experiment, cell, folder), conditions, cell.seed, folder / "showers.npz"))
