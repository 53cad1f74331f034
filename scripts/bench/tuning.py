"""What tuning gives: settings chosen on the first tasks of split digits, beside the defaults, on test images.

For each search file: `cl-ac tune` by held-out images of the first tasks, then runs of all tasks with the default and
with the choice, over seeds that the search has not seen. Goes on where it was stopped.

    python scripts/bench/tuning.py --out runs/tuning --results results/tuning_digits-cpu.json
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from cl_ac.cli.run import command as start
from cl_ac.cli.tune import command as tune
from cl_ac.recording.files import write_atomically
from cl_ac.recording.hyperparameters import hyperparameters
from cl_ac.recording.provenance import provenance
from cl_ac.settings.reading import read
from cl_ac.studies.local import Local
from cl_ac.studies.results import rows, table
from cl_ac.studies.runs import run_all
from cl_ac.studies.search import Search
from cl_ac.studies.study import Study

SEARCHES = ("scripts/studies/digits_tune_lwf.yaml", "scripts/studies/digits_tune_er.yaml")


def chosen(file: str, out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The settings that the search in `file` finds best, in the folder `out`."""
    sight = ["--protocol", options.protocol] + (["--tasks", "2"] if options.protocol == "first_tasks" else [])
    tune([file, "--out", str(out), *sight, "--trials", str(options.trials), "--workers", str(options.workers)])
    best = hyperparameters(read(str(out / "best.yaml")))
    return {name: best[name] for name in Search.read(file).space}


def beside_default(search: Search, choice: Mapping[str, Any], seeds: int) -> Study:
    """Runs of all tasks with the default (null) and the choice; a tenth is held out, as in the benchmark's own file."""
    assert not {*range(seeds)} & {*search.seeds}
    grid = {name: [None, value] for name, value in choice.items()}
    shared = {name: value for name, value in search.set.items() if not name.startswith("benchmark.")}
    return Study(search.config, [{**grid, "seed": list(range(seeds))}], shared)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", nargs="+", default=SEARCHES)
    parser.add_argument("--out", type=Path, default=Path("runs/tuning"))
    parser.add_argument("--protocol", choices=("first_tasks", "held_out"), default="first_tasks")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3, help="runs of each setting on test images")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--results", type=Path, help="write the tables to this JSON file")
    options = parser.parse_args()
    found = []
    for file in options.searches:
        out = options.out / f"{Path(file).stem}_{options.protocol}"
        search, choice = Search.read(file), chosen(file, out, options)
        study = beside_default(search, choice, options.seeds)
        finished = run_all(study, out / "tested", Local(options.workers), Console(stderr=True), start)
        results = rows(study, finished)
        Console().print(table(study, results))
        tested = [asdict(result) for result in results]
        found.append({"search": asdict(search), "chosen": choice, "rows": tested})
    if options.results:
        content = {
            "protocol": options.protocol,
            "trials": options.trials,
            "searches": found,
            "provenance": provenance(),
        }
        write_atomically(options.results, lambda path: path.write_text(json.dumps(content, indent=1) + "\n"))


if __name__ == "__main__":
    main()
