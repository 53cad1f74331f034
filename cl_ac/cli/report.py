"""`cl-ac report`: compares finished runs."""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser
from rich.console import Console

from cl_ac.cli.show import show
from cl_ac.errors import ConfigurationError
from cl_ac.recording.soundness import runs_in, sound
from cl_ac.report.page import write_report
from cl_ac.report.retrieval import answers, recall_tables, write_retrieval_report
from cl_ac.report.tables import summary_table
from cl_ac.retrieval.folder import RetrievalFolder, retrieval_runs
from cl_ac.settings.parser import parse
from cl_ac.studies.chosen import for_people


def command(arguments: Sequence[str]) -> None:
    """`cl-ac report`: compares finished runs in a table, on a page, and in files."""
    parser = ArgumentParser(
        prog="cl-ac report",
        description="Compares runs: prints a table, and writes report.html (one page that needs no network), figures/ "
        "(SVG, PNG, PDF) and tables/ (CSV, Markdown, LaTeX). Runs that differ in their seed alone are averaged.",
        exit_on_error=False,
    )
    parser.add_argument("runs", type=str, nargs="+", help="run folders, or folders of them")
    parser.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="the folder to write; absent means 'report' inside a single run, or beside the first of several",
    )
    settings = parse(parser, arguments)

    if retrieval := [run for path in settings.runs for run in retrieval_runs(Path(path))]:
        report_retrieval(retrieval, settings.runs, settings.out)
        return
    directories = [directory for path in settings.runs for directory in runs_in(Path(path))]
    if not directories:
        raise ConfigurationError(f"{', '.join(settings.runs)} holds a report and no run")
    first = directories[0].path
    folder = Path(settings.out) if settings.out else (first if len(directories) == 1 else first.parent) / "report"
    directories = sound(directories, Console(stderr=True, soft_wrap=True, highlight=False).print)
    if finished := [directory for directory in directories if directory.records]:
        show(summary_table(finished))
    print(write_report(directories, folder))


def report_retrieval(runs: Sequence[RetrievalFolder], paths: Sequence[str], out: str | None) -> None:
    """Compares runs of `cl-ac retrieve`.

    Raises:
        ConfigurationError: if there are others among them, or they searched other domains.
    """
    folders = {run.path for run in runs}
    for path in paths:
        if others := [each for each in runs_in(Path(path)) if each.path not in folders]:
            raise ConfigurationError(
                f"'{others[0].path}' is no run of cl-ac retrieve, but '{runs[0].path}' is; report them apart"
            )
    found = answers(runs)
    for table in recall_tables(found):
        show(for_people(table))
    folder = Path(out) if out else (runs[0].path if len(runs) == 1 else runs[0].path.parent) / "report"
    print(write_retrieval_report(runs, folder))
