"""What was measured of executed early exits: a table, and all numbers in a file."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table
from torch import Tensor

from cl_ac.evaluation import average, exit_accuracy
from cl_ac.recording.checkpoint import write_atomically
from cl_ac.recording.rundir import RunDirectory
from cl_ac.recording.summary import percent
from cl_ac.report.held_out import FittedRule, advice
from cl_ac.serving.exit_timing import Measurement


def timing_table(measurement: Measurement) -> Table:
    """Counted and measured cost within each budget, in per cent of the network without ACs."""
    table = Table(title=f"executed early exits, confidence rule, %; thresholds chosen on {_chosen_on(measurement)}")
    for name in ("budget", "threshold", "accuracy", "agreement"):
        table.add_column(name, justify="right")
    for batch in measurement.timings:
        for name in ("counted", "measured", "same form", "images/s"):
            table.add_column(f"{name}, batch {batch}", justify="right")
    for budget, rule in measurement.rules.items():
        cells = [percent(budget, 0), f"{rule.threshold:.4f}", percent(measurement.accuracy[budget])]
        cells.append(percent(measurement.agreement[budget], 2))
        for timings in measurement.timings.values():
            found = timings[budget]
            cells += [percent(share, 0) for share in (found.counted, found.measured, found.same_form)]
            cells.append(f"{found.images_per_second:.0f}")
        table.add_row(*cells)
    caption = [
        "counted: multiply-accumulates, measured: seconds, both as shares of the network without ACs; same form: "
        "seconds as a share of that network with its layers joined as those of the early exits are",
        f"agreement: share of {measurement.images:,} test samples that leave at the same exit with the same answer as "
        "in the stored outputs",
    ]
    if slower := slower_at(measurement):
        sizes = ", ".join(map(str, slower))
        caption.append(f"Early exits take longer than the network without ACs at most budgets (batch {sizes}).")
    table.caption = "\n".join(caption)
    return table


def slower_at(measurement: Measurement) -> list[int]:
    """The batch sizes at which early exits take longer than the network without ACs at most budgets."""
    return [
        batch
        for batch, timings in measurement.timings.items()
        if 2 * sum(timing.measured > 1 for timing in timings.values()) > len(timings)
    ]


def _chosen_on(measurement: Measurement) -> str:
    if measurement.held_out is None:
        return "the test samples: the run held none out"
    return f"{len(measurement.held_out.targets):,} held-out training samples"


def write(measurement: Measurement, fitted: Mapping[str, FittedRule], directory: RunDirectory) -> Path:
    """Writes all numbers to `exits/measured.json` in the run's folder."""
    folder = directory.path / "exits"
    folder.mkdir(exist_ok=True)
    path = folder / "measured.json"
    content = json.dumps(numbers(measurement, fitted), indent=1)
    write_atomically(path, lambda file: file.write_text(content + "\n"))
    return path


def numbers(measurement: Measurement, fitted: Mapping[str, FittedRule]) -> dict[str, Any]:
    """All numbers of a measurement as plain values; null where one is undefined."""
    correction = measurement.correction
    held_out = measurement.held_out
    return _plain(
        {
            "thresholds_chosen_on": "test samples" if held_out is None else "held-out training samples",
            "held_out_samples": None if held_out is None else len(held_out.targets),
            "images": measurement.images,
            "budgets": {
                budget: {
                    "threshold": rule.threshold,
                    "accuracy": measurement.accuracy[budget],
                    "agreement": measurement.agreement[budget],
                    "timings": {batch: asdict(timings[budget]) for batch, timings in measurement.timings.items()},
                }
                for budget, rule in measurement.rules.items()
            },
            "fitted_rules": {name: asdict(rule) for name, rule in fitted.items()},
            "task_wise_logits_correction": {
                "slope": correction.slope,
                "offset": correction.offset,
                "exits_before": average(exit_accuracy(correction.before)),
                "exits_after": average(exit_accuracy(correction.after)),
                "advice": advice(correction, held_out),
            },
        }
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {f"{key:g}" if isinstance(key, float) else str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
