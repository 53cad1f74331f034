"""What a study comes to: a row for each combination of settings, over its seeds."""

import errno
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.table import Table

from cl_ac.errors import ConfigurationError
from cl_ac.recording.files import write_atomically
from cl_ac.recording.provenance import provenance
from cl_ac.recording.rundir import RunDirectory
from cl_ac.recording.summary import percent, summarise
from cl_ac.serving.held_out import held_out_accuracy
from cl_ac.studies.study import Study, run_name


@dataclass(frozen=True)
class Row:
    """One combination of settings over its seeds; accuracies in [0, 1].

    Args:
        settings: the combination, without the seed.
        seeds: runs that finished.
        accuracy, accuracy_std: final accuracy, mean over tasks: mean and sample deviation over seeds.
        incremental: average incremental accuracy.
        forgetting, forgetting_std: mean over the earlier tasks.
        seconds: mean time of a run.
        held_out: accuracy on held-out training samples after the last task, by which settings are chosen, mean over
            tasks; None if the runs held none out.
    """

    settings: dict[str, Any]
    seeds: int
    accuracy: float
    accuracy_std: float
    incremental: float
    forgetting: float
    forgetting_std: float
    seconds: float
    held_out: float | None


def rows(study: Study, finished: Mapping[str, RunDirectory]) -> list[Row]:
    """The study's results, one row for each combination."""
    groups: dict[str, tuple[dict[str, Any], list[RunDirectory]]] = {}
    for cell in study.cells():
        if (name := run_name(cell)) in finished:
            settings = {key: value for key, value in cell.items() if key != "seed"}
            groups.setdefault(run_name(settings), (settings, []))[1].append(finished[name])
    return [row(settings, directories) for settings, directories in groups.values()]


def row(settings: dict[str, Any], directories: Sequence[RunDirectory]) -> Row:
    """Mean and deviation over the seeds of one combination."""
    summaries = [summarise(directory) for directory in directories]
    held_out = [held_out_accuracy(directory) for directory in directories]
    accuracies = [summary.accuracy for summary in summaries]
    lost = [summary.forgetting for summary in summaries]
    return Row(
        settings,
        len(summaries),
        mean(accuracies),
        stdev(accuracies) if len(accuracies) > 1 else 0.0,
        mean(summary.incremental for summary in summaries),
        mean(lost),
        stdev(lost) if len(lost) > 1 else 0.0,
        mean(sum(record.seconds for record in directory.records) for directory in directories),
        mean(known) if len(known := [value for value in held_out if value is not None]) == len(held_out) else None,
    )


def table(study: Study, results: Sequence[Row]) -> Table:
    """The rows, in per cent, for people."""
    names = study.varied
    shown = Table(title="accuracy after the last task, %, mean ± deviation over seeds")
    shown.caption = (
        "runs with ACs answer with their most confident exit; incremental: mean of the accuracies after each task"
    )
    held_out = ["held out"] if any(result.held_out is not None for result in results) else []
    for name in (*names, "seeds", *held_out, "accuracy", "incremental", "forgetting", "seconds"):
        shown.add_column(name, justify="left" if name in names else "right")
    for result in results:
        shown.add_row(
            *("–" if (value := result.settings.get(name)) is None else str(value) for name in names),
            str(result.seeds),
            *("–" if result.held_out is None else percent(result.held_out) for _ in held_out),
            f"{percent(result.accuracy)} ± {percent(result.accuracy_std)}",
            percent(result.incremental),
            f"{percent(result.forgetting)} ± {percent(result.forgetting_std)}",
            f"{result.seconds:.0f}",
        )
    return shown


def check_writable(path: Path) -> None:
    """Finds out before hours of runs whether `write_results` can write to `path`.

    Raises:
        ConfigurationError: if it cannot.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent):
            pass
        if path.exists():
            path.open("a").close()
    except OSError as error:
        raise ConfigurationError(f"cannot write to '{path}' (--results): {error.strerror}") from error


def write_results(path: Path, study: Study, results: Sequence[Row]) -> None:
    """Writes the rows with what is needed to understand them later."""
    content = {"study": asdict(study), "provenance": provenance(), "rows": [asdict(result) for result in results]}
    write_atomically(path, lambda file: file.write_text(json.dumps(content, indent=1) + "\n"))
