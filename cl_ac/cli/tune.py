"""`cl-ac tune`: chooses settings by accuracy on held-out images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser, Namespace
from matplotlib.figure import Figure
from rich.console import Console

from cl_ac.cli import engine
from cl_ac.cli.show import show
from cl_ac.errors import ConfigurationError
from cl_ac.recording.summary import percent
from cl_ac.report.formats import ResultTable
from cl_ac.report.page import write_page
from cl_ac.report.sections import Section
from cl_ac.settings.parser import parse
from cl_ac.studies.blind import Sight, best_settings
from cl_ac.studies.chosen import for_people, trial_table, write_settings
from cl_ac.studies.continual import Continual, choice_table, choose, one_for_all
from cl_ac.studies.runs import Engine, make
from cl_ac.studies.search import Search

if TYPE_CHECKING:
    from cl_ac.studies.cluster import Cluster

TRIALS = 30
Protocol = Literal["held_out", "first_tasks", "continual"]
# What each protocol sees beside the training images of a task.
SEES = {
    "held_out": "Chosen by held-out images of all tasks: this looks ahead, at tasks that come after those that the "
    "settings are used for.",
    "first_tasks": "Chosen by held-out images of the first {tasks} tasks, and of no later one.",
    "continual": "Chosen task by task, by held-out images of the task being learned.",
}


def command(arguments: Sequence[str]) -> None:
    """`cl-ac tune`: searches ranges of settings, and writes the best ones."""
    parser = ArgumentParser(
        prog="cl-ac tune",
        description="Chooses settings by accuracy on held-out training images; no test image is looked at. The same "
        "command in another terminal, or on another machine with the same disk, takes part in the search.",
        exit_on_error=False,
    )
    parser.add_argument("search", type=str, help="YAML file with 'config', 'grid' of ranges and lists, perhaps 'set'")
    parser.add_argument("--out", type=str, default="runs/tune", help="the folder of the search, which goes on with it")
    parser.add_argument(
        "--protocol",
        type=Protocol,
        default="held_out",
        help="what chooses: held-out images of all tasks, or of the first ones, or of each task as it is learned",
    )
    parser.add_argument("--tasks", type=int | None, default=None, help="of first_tasks: how many")
    parser.add_argument("--trials", type=int | None, default=None, help=f"choices to try; {TRIALS} if absent")
    parser.add_argument(
        "--strength", type=str | None, default=None, help="of continual: the setting that is lowered, such as "
        "approach.strength; 0 must mean fine-tuning",
    )  # fmt: skip
    parser.add_argument(
        "--tolerance", type=float | None, default=None, help="of continual: share of fine-tuning's accuracy that may "
        "be lost; 0.2 if absent",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    engine.add_options(parser)
    settings = parse(parser, arguments)

    check(settings)
    engine.check(settings)
    search = Search.read(settings.search)
    sight, out = Sight.of(search, settings.tasks), Path(settings.out)
    if settings.engine == "ray":
        out = out.absolute()  # workers may stand elsewhere
    look = by_task if settings.protocol == "continual" else by_trials
    words = SEES[settings.protocol].format(tasks=settings.tasks)
    with engine.engine_of(settings, True, partial(on_ray, out=out)) as chosen_engine:
        found = look(settings, search, sight, out, chosen_engine)
    show(for_people(found.table, words))
    write_settings(out / "best.yaml", best_settings(search, found.chosen), f"{words}\n{found.told}.")
    section = Section("Choices", f"{words} best.yaml holds {found.told}.", [found.table], found.figures)
    page = write_page(f"Search of {Path(settings.search).stem}", "No test image was looked at.", [section], out)
    print(f"the best settings, for cl-ac run --config: {out / 'best.yaml'}; {found.told}")
    print(page)


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Args:
        chosen: the best settings.
        told: where they come from.
        table: of all that was tried.
        figures: of it.
    """

    chosen: Mapping[str, Any]
    told: str
    table: ResultTable
    figures: Mapping[str, Figure] = field(default_factory=dict)


def by_task(settings: Namespace, search: Search, sight: Sight, out: Path, chosen_engine: Engine) -> Found:
    """Chooses for each task as it is learned."""
    tolerance = 0.2 if settings.tolerance is None else settings.tolerance
    plan = Continual(search, sight, out, settings.strength, tolerance)
    make(out)
    choices = choose(plan, chosen_engine, Console(stderr=True))
    told = "the lowest strength chosen for any task, with the other settings chosen most often"
    return Found(one_for_all(plan, choices), told, choice_table(choices, list(search.space)))


def by_trials(settings: Namespace, search: Search, sight: Sight, out: Path, chosen_engine: Engine) -> Found:
    """Chooses once for all tasks, with Optuna."""
    from cl_ac.studies.tuning import Tuning, best_of, trials_of, tune
    from cl_ac.studies.tuning_figures import tuning_figures

    tuning = Tuning(search, sight, out, settings.trials or TRIALS, settings.seed)
    make(out)
    study = tune(tuning, chosen_engine, Console(stderr=True))
    trials = trials_of(study)
    best = best_of(trials)
    told = f"trial {best.number}, {percent(best.accuracy or 0)} % on held-out images"
    return Found(best.chosen, told, trial_table(trials, list(search.space)), tuning_figures(study))


def on_ray(cluster: "Cluster", out: Path) -> Engine:
    """Ray, on machines that share the search's folder."""
    from cl_ac.studies.cluster_search import ClusterSearch

    return ClusterSearch(cluster, out)


def check(settings: Namespace) -> None:
    """Raises a `ConfigurationError` for options that do not belong together."""
    protocol = settings.protocol
    for name, owner in {"tasks": "first_tasks", "strength": "continual", "tolerance": "continual"}.items():
        if settings[name] is not None and protocol != owner:
            raise ConfigurationError(f"--{name} belongs to the protocol {owner}, but --protocol is {protocol}")
        if settings[name] is None and protocol == owner and name != "tolerance":
            raise ConfigurationError(f"the protocol {owner} needs --{name}")
    if settings.trials is not None and protocol == "continual":
        raise ConfigurationError("--trials is no option of the protocol continual, which tries every value of lists")
    if settings.trials is not None and settings.trials < 1:
        raise ConfigurationError(f"--trials is {settings.trials}; it must be at least 1")
    if protocol != "continual" and find_spec("optuna") is None:
        raise ConfigurationError("cl-ac tune needs the package optuna; install it with pip install 'cl_ac[tune]'")
