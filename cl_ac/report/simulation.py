"""Mixtures of experts that simulate showers: tables, figures and one page."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from rich.table import Table
from torch import Tensor

from cl_ac.data.seeding import generator, key
from cl_ac.recording.figures import STYLE, Line, line_figure
from cl_ac.recording.files import write_atomically
from cl_ac.recording.provenance import provenance
from cl_ac.report.formats import Cell, ResultTable, Spread
from cl_ac.report.page import write_page
from cl_ac.report.sections import Section
from cl_ac.simulation.calorimeter import REGIMES, Showers, regimes_of
from cl_ac.simulation.experiment import Experiment, Finished, trained
from cl_ac.simulation.measuring import Measured
from cl_ac.simulation.readout import CHANNELS, channel_sums

SUMMARY_TEXT = (
    "Distances are 1-Wasserstein distances in photons between held-out and simulated showers, mean over five readout "
    "channels: every other cell, and the other cells by quadrant; of all showers together, and of each regime alone. "
    "The Monte-Carlo that runs again at the same conditions is the least that can be expected. Error: absolute "
    "difference of a shower's channel from the held-out one. Used experts: how many there would be if all were used "
    "evenly (exponential of the entropy of their shares). Weights, in thousands: of generators and router. Mean ± "
    "sample deviation over seeds. Time is of one batch of all held-out showers; this Monte-Carlo draws photons and no "
    "secondary particles, so that it is far cheaper than a detector's."
)
USAGE_TEXT = (
    "Which share of the held-out showers of each regime each expert makes, and how far its showers are from those of "
    "the detector at the same conditions."
)
PICTURES = 4


def label(measured: Measured) -> str:
    """What a mixture is called in tables."""
    wide = f", {measured.widened} × as wide" if measured.widened > 1 else ""
    return f"{measured.experts} expert{'s' if measured.experts > 1 else ''}{wide}"


def groups(found: Sequence[Finished]) -> dict[str, list[Finished]]:
    """Mixtures that differ in their seed alone, by label."""
    made: dict[str, list[Finished]] = {}
    for each in found:
        made.setdefault(label(each.measured), []).append(each)
    return made


def summary(found: Sequence[Finished]) -> ResultTable:
    """One row for each kind of mixture, and one for the Monte-Carlo."""
    names = [regime.name for regime in REGIMES]
    columns = ["simulated by", "distance", *names, "error", "used experts", "weights, k", "µs per image"]
    rows: list[list[Cell]] = []
    for name, group in groups(found).items():
        of = [each.measured for each in group]
        rows.append(
            [
                name,
                _spread(each.distance for each in of),
                *(_spread(each.regimes.get(regime, float("nan")) for each in of) for regime in names),
                _spread(each.error for each in of),
                _spread(each.effective_experts for each in of),
                of[0].parameters / 1000,
                _spread(each.microseconds for each in of),
            ]
        )
    once = list({each.measured.seed: each.measured for each in found}.values())
    again: list[Cell] = ["Monte-Carlo again", _spread(each.again for each in once), *[""] * len(names)]
    error, slow = (
        _spread(getattr(each, name) for each in once) for name in ("error_again", "monte_carlo_microseconds")
    )
    rows.append([*again, error, "", "", slow])
    return ResultTable("simulation", "held-out conditions, in photons", columns, rows)


def usage(found: Sequence[Finished]) -> ResultTable:
    """One row for each expert of each mixture that has several."""
    columns = ["mixture", "seed", "expert", "share, %", *(f"of {each.name}, %" for each in REGIMES), "distance"]
    rows: list[list[Cell]] = []
    for each in found:
        measured = each.measured
        for expert in range(measured.experts if measured.experts > 1 else 0):
            shares = [100 * row[expert] for row in measured.usage_of_regimes]
            distance = measured.of_experts[expert]
            whose: list[Cell] = [label(measured), str(measured.seed), str(expert + 1)]
            rows.append([*whose, 100 * measured.usage[expert], *shares, "" if distance is None else distance])
    return ResultTable("experts", "held-out conditions", columns, rows)


def screen_table(table: ResultTable) -> Table:
    """A table for the screen."""
    made = Table(title=table.title)
    for place, column in enumerate(table.columns):
        made.add_column(column, justify="right" if place else "left")
    for row in table.rows:
        made.add_row(*(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row))
    return made


def write(experiment: Experiment, found: Sequence[Finished], folder: Path) -> Path:
    """Writes `report.html`, `figures/` and `tables/` to the folder of an experiment, and returns the page."""
    text = (
        f"{len(found)} mixtures of generative experts in place of the Monte-Carlo of a synthetic calorimeter, "
        f"{experiment.calorimeter.height} × {experiment.calorimeter.width} cells, gate {experiment.model.gate}."
    )
    return write_page("Fast simulation", text, list(sections(experiment, found, folder)), folder)


def sections(experiment: Experiment, found: Sequence[Finished], folder: Path) -> Iterator[Section]:
    """All that a page shows; pictures are of the first seed."""
    yield Section("How good and how fast", SUMMARY_TEXT, [summary(found)])
    several = [each for each in found if each.measured.experts > 1]
    if several:
        lines = {f"usage-{each.cell.name}": usage_figure(each) for each in several}
        yield Section("Who makes what", USAGE_TEXT, [usage(found)], lines)
    first = [each for each in found if each.measured.seed == found[0].measured.seed]
    test, simulated = _simulated(experiment, first, folder)
    pictures = {"showers": showers_figure(test, simulated), "channels": channels_figure(test, simulated)}
    text = (
        "Showers at held-out conditions, those of one condition below each other and on one logarithmic scale; and how "
        "often channels hold how many photons, over all held-out showers."
    )
    yield Section("What they look like", text, [], pictures)


def usage_figure(finished: Finished) -> Figure:
    """Share of the training showers that each expert is given, over epochs."""
    epochs = range(1, len(finished.history) + 1)
    lines = [
        Line(
            f"expert {expert + 1}",
            list(epochs),
            torch.tensor([[epoch[f"usage {expert}"] for epoch in finished.history]]),
            expert,
        )
        for expert in range(finished.measured.experts)
    ]
    title = f"{label(finished.measured)}, seed {finished.measured.seed}"
    return line_figure(lines, title, "epoch", "training showers (%)")


def showers_figure(test: Showers, simulated: dict[str, Tensor]) -> Figure:
    """The first showers of each regime: what the detector saw, and what each simulation makes of the same conditions.

    Args:
        simulated: images [N, H, W] at the conditions of `test`, by name.
    """
    regimes = regimes_of(test.conditions)
    sources = {"held out": test.images, **simulated}
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(1.25 + 0.62 * PICTURES * len(REGIMES), 1.05 * len(sources)), layout="constrained")
        panels = figure.subplots(len(sources), PICTURES * len(REGIMES), squeeze=False)
        for place, regime in enumerate(REGIMES):
            # One shower of each condition.
            rows = torch.where(regimes == place)[0]
            distinct = [int(row) for row in rows if row == rows[0] or not _same(test.conditions, int(row))][:PICTURES]
            for line, (name, images) in enumerate(sources.items()):
                for column in range(PICTURES):
                    axes = panels[line][place * PICTURES + column]
                    axes.set(xticks=[], yticks=[])
                    axes.spines[:].set_visible(False)
                    if column < len(distinct):
                        most = max(float(each[distinct[column]].max()) for each in sources.values())
                        axes.imshow(images[distinct[column]].log1p().numpy(), vmin=0, vmax=float(np.log1p(most)) or 1)
                    if line == 0 and column == 0:
                        axes.set_title(regime.name, loc="left")
                    if place == column == 0:
                        axes.set_ylabel(name, rotation=0, ha="right", va="center")
    return figure


def channels_figure(test: Showers, simulated: dict[str, Tensor]) -> Figure:
    """How often each channel holds how many photons, on logarithmic axes.

    Args:
        simulated: images [N, H, W] at the conditions of `test`, by name.
    """
    sums = {name: channel_sums(images) for name, images in {"held out": test.images, **simulated}.items()}
    most = max(float(values.max()) for values in sums.values())
    edges = np.concatenate([[0.0], np.geomspace(1, max(most, 2) * 1.01, 25)])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 2.7), layout="constrained")
        panels = figure.subplots(1, len(CHANNELS), sharey=True)
        for channel, axes in enumerate(panels):
            for colour, (name, values) in enumerate(sums.items()):
                counts, _ = np.histogram(values[:, channel].clamp(min=0).numpy(), edges)
                style = {"color": "0.25", "linewidth": 2.2} if colour == 0 else {"color": f"C{colour - 1}"}
                axes.stairs(counts, edges, label=name if channel == 0 else None, **style)
            axes.set_xscale("symlog", linthresh=1)
            axes.set_title(CHANNELS[channel])
            axes.set_xlabel("photons")
        panels[0].set_ylabel("showers")
        figure.legend(loc="outside lower center", ncols=len(sums))
    return figure


def write_results(path: Path, experiment: Experiment, found: Sequence[Finished]) -> None:
    """Writes all numbers to a JSON file, with the settings and what made them."""
    rows = [asdict(each.measured) for each in found]
    content = {"settings": experiment.shared, "rows": rows, "provenance": provenance()}
    text = json.dumps(content, indent=1) + "\n"
    write_atomically(path, lambda file: file.write_text(text))


def _simulated(experiment: Experiment, found: Sequence[Finished], folder: Path) -> tuple[Showers, dict[str, Tensor]]:
    """Held-out showers of a seed, and what the Monte-Carlo and each of its mixtures make at their conditions."""
    seed = found[0].cell.seed
    _, test = experiment.calorimeter.data(seed)
    draws = np.random.default_rng(key(seed, "calorimeter again"))
    made = {"Monte-Carlo again": experiment.calorimeter.simulate(test.conditions, draws)}
    for each in found:
        model = trained(experiment, each.cell, folder)
        made[label(each.measured)], _ = model.simulate(test.conditions, generator(seed, "simulate"))
    return test, made


def _same(conditions: Tensor, row: int) -> bool:
    """Whether a shower's condition is that of the one before it."""
    return row > 0 and bool((conditions[row] == conditions[row - 1]).all())


def _spread(values: "Iterator[float] | Sequence[float]") -> Spread:
    return Spread(tuple(values), percent=False)
