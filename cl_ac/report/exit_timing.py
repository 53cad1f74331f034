"""The table of executed early exits."""

from rich.table import Table

from cl_ac.recording.summary import percent
from cl_ac.serving.exit_timing import Measurement


def timing_table(measurement: Measurement) -> Table:
    """Counted and measured cost within each budget, in per cent of the network without ACs."""
    where = (
        "held-out training samples" if measurement.held_out is not None else "the test samples: the run held none out"
    )
    table = Table(title=f"executed early exits, confidence rule; thresholds chosen on {where}")
    for name in ("budget", "threshold", "accuracy", "agreement"):
        table.add_column(name, justify="right")
    for batch in measurement.timings:
        table.add_column(f"counted, batch {batch}", justify="right")
        table.add_column("measured", justify="right")
        table.add_column("same form", justify="right")
        table.add_column("images/s", justify="right")
    for budget, rule in measurement.rules.items():
        cells = [percent(budget, 0), f"{rule.threshold:.4f}", percent(measurement.accuracy[budget])]
        cells.append(percent(measurement.agreement[budget], 2))
        for timings in measurement.timings.values():
            found = timings[budget]
            cells += [percent(share, 0) for share in (found.counted, found.measured, found.same_form)]
            cells.append(f"{found.images_per_second:.0f}")
        table.add_row(*cells)
    return table
