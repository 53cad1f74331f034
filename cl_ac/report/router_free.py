"""What router-free sparsity of a finished run comes to: a table, a figure and numbers."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from matplotlib.figure import Figure
from rich.table import Table

from cl_ac.recording.figures import Line, line_figure
from cl_ac.recording.files import storing, write_atomically
from cl_ac.recording.provenance import provenance
from cl_ac.recording.rundir import RunDirectory
from cl_ac.recording.summary import percent
from cl_ac.serving.router_free import Sweep


def table(swept: Sweep) -> Table:
    """The critical sparsity of each tensor and its effective rank."""
    made = Table(
        title=f"{swept.rule}: sparsity up to which {percent(swept.wanted, 0)} % of the dense accuracy "
        f"({percent(next(iter(swept.curves.values())).dense)} %) is kept"
    )
    made.add_column("masked in every FFN")
    for name in ("critical sparsity, %", "effective rank", "of width"):
        made.add_column(name, justify="right")
    for name, curve in swept.curves.items():
        rank, width = swept.ranks.get(name, (None, None))
        critical = percent(curve.critical) if curve.bounded else f"≥ {percent(curve.critical)}"
        made.add_row(name, critical, "–" if rank is None else f"{rank:.1f}", "–" if width is None else str(width))
    return made


def figure(swept: Sweep) -> Figure:
    """Accuracy against induced sparsity, and the accuracy at which sparsity becomes critical."""
    lines = []
    for place, (name, curve) in enumerate(swept.curves.items()):
        sparsities = [0.0, *(point.sparsity for point in curve.points)]
        scores = torch.tensor([[curve.dense, *(point.score for point in curve.points)]])
        lines.append(Line(name, [100 * sparsity for sparsity in sparsities], scores, place))
    dense = next(iter(swept.curves.values())).dense
    level = torch.full((1, 2), swept.wanted * dense)
    lines.append(Line(f"{percent(swept.wanted, 0)} % of dense", [0, 100], level, len(lines), dashed=True))
    return line_figure(lines, f"router-free sparsity: {swept.rule}", "induced sparsity (%)", "accuracy (%)", False)


def numbers(swept: Sweep) -> Mapping[str, object]:
    """All results as plain values."""
    ranks = {name: {"effective_rank": rank, "width": width} for name, (rank, width) in swept.ranks.items()}
    curves = {name: asdict(curve) for name, curve in swept.curves.items()}
    return {"rule": swept.rule, "wanted": swept.wanted, "curves": curves, "ranks": ranks}


def write(swept: Sweep, directory: RunDirectory) -> list[Path]:
    """Writes numbers and a figure to `convert/` in the run's folder, and returns their paths."""
    folder = directory.folder("convert")
    stem = folder / f"router_free_{swept.rule}"
    text = json.dumps({**numbers(swept), "provenance": provenance()}, indent=1)
    paths = [stem.with_suffix(".json"), stem.with_suffix(".png")]
    write_atomically(paths[0], lambda path: path.write_text(text))
    with storing(paths[1]):
        figure(swept).savefig(paths[1], dpi=150)
    return paths
