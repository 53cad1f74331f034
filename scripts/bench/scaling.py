"""What Ray costs: a study of 24 short runs on digits by two local workers and by two workers of Ray on this machine.

Rounds alternate, and medians are reported: of the seconds before the first run can begin (Ray starts processes), and of
those after, from which the cost of Ray for one run follows. Every round makes all runs anew.

    python scripts/bench/scaling.py --results results/scaling-cpu.json
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from cl_ac.cli.run import command as start
from cl_ac.recording.files import write_atomically
from cl_ac.recording.provenance import provenance
from cl_ac.studies.cluster import cluster
from cl_ac.studies.cluster_runs import ClusterRuns
from cl_ac.studies.local import Local
from cl_ac.studies.runs import run_all
from cl_ac.studies.study import Study

WORKERS = 2
SETTINGS = {
    "approach": "LwF",
    "benchmark": {"class_path": "Digits", "init_args": {"tasks": 5}},
    "backbone": "SmallConvNet",
    "training": {"batch_size": 32, "lr": 0.05, "momentum": 0.9},
    "device": "cpu",
    "loggers": [],
}


def timed(engine: str, study: Study, out: Path) -> tuple[float, float]:
    """Seconds before the first run can begin, and from then to the end."""
    console, began = Console(quiet=True), time.perf_counter()
    if engine == "local":
        ready = began
        finished = run_all(study, out, Local(WORKERS), console, start)
    else:
        with cluster(None, (os.cpu_count() or 1) / WORKERS, 0.0, WORKERS) as ray:
            ready = time.perf_counter()
            finished = run_all(study, out, ClusterRuns(ray, console), console, start)
    assert len(finished) == sum(1 for _ in study.cells())
    return ready - began, time.perf_counter() - ready


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--runs", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--results", type=Path, help="write all measurements to this JSON file")
    options = parser.parse_args()

    seconds: dict[str, list[tuple[float, float]]] = {"local": [], "ray": []}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as place:
        config = Path(place) / "settings.yaml"
        config.write_text(yaml.safe_dump(SETTINGS))
        study = Study(str(config), [{"seed": list(range(options.runs))}], {"training.epochs": options.epochs})
        for number in range(options.rounds):
            for engine, measured in seconds.items():
                measured.append(timed(engine, study, Path(place) / f"{engine}_{number}"))
                print(f"round {number + 1}  {engine}: {measured[-1][0]:.1f} s to start, {measured[-1][1]:.1f} s after")

    medians = {name: [statistics.median(each) for each in zip(*found, strict=True)] for name, found in seconds.items()}
    ratios = [ray[1] / local[1] for local, ray in zip(seconds["local"], seconds["ray"], strict=True)]
    ratio = statistics.median(ratios)
    each = WORKERS * (medians["ray"][1] - medians["local"][1]) / options.runs
    table = Table("engine", "start-up, s", "after it, s", title=f"{options.runs} runs, {WORKERS} at a time, medians")
    for name, (before, after) in medians.items():
        table.add_row(name, f"{before:.1f}", f"{after:.1f}")
    Console().print(table)
    print(f"ratio after start-up {ratio:.2f}, median of rounds; Ray costs {each:.2f} s of a worker for each run")
    if options.results:
        content = {
            "settings": {**SETTINGS, "runs": options.runs, "epochs": options.epochs, "workers": WORKERS},
            "provenance": {**provenance(), "load_before": load},
            "seconds": seconds,
            "ratio": ratio,
        }
        write_atomically(options.results, lambda path: path.write_text(json.dumps(content, indent=1) + "\n"))


if __name__ == "__main__":
    main()
