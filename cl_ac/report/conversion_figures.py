"""Figures of a converted run: dynamic experts and early exits on one plot, measured time, and where experts work."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from cl_ac.efficiency.dynamic import usage_map
from cl_ac.exits.curves import Curve
from cl_ac.recording.figures import DEPTHS, LINES, STYLE, legend, panel
from cl_ac.serving.conversion_timing import Seconds
from cl_ac.serving.operating_points import Choice

# Mean cost or time, and accuracy, where every sample runs through the whole network.
Whole = tuple[float, float]


def cost_figure(
    original: Curve,
    curves: Mapping[float, Curve],
    whole: Mapping[float, Whole],
    baseline: Sequence[Whole],
    choice: Choice | None,
) -> Figure:
    """Accuracy against relative cost: early exits alone, dynamic experts alone, both together, and MoEfication.

    Of the curves with both, that of the smallest tau is the darkest.

    Args:
        original: early exits of the original network as their threshold moves.
        curves: early exits of the dynamic network by tau.
        whole: the dynamic network by tau.
        baseline: MoEfication for each number of experts.
        choice: marked by a star.
    """
    with panel(6.4, 4.2) as (figure, axes):
        for place, (tau, curve) in enumerate(sorted(curves.items())):
            ends = place in (0, len(curves) - 1)
            label = f"τ {tau:.3g}, early exits" if ends else None
            style: dict[str, Any] = {
                "color": _shade(place, len(curves)),
                "linewidth": 0.9,
                "alpha": 0.8,
                "label": label,
            }
            axes.plot(curve.cost.numpy(), 100 * curve.accuracy.numpy(), **style)
        axes.plot(original.cost.numpy(), 100 * original.accuracy.numpy(), "k-", label="original, early exits")
        _line(axes, [whole[tau] for tau in sorted(whole)], "o--", "C3", "D2DMoE, whole")
        _line(axes, baseline, "s:", "0.4", "MoEfication, whole")
        _star(axes, choice)
        axes.set_xlabel("cost relative to the original network without ACs")
        axes.set_ylabel("accuracy (%)")
        axes.set_xlim(left=0)
        legend(figure, axes)
    return figure


def time_figure(whole: Mapping[float, Whole], measured: Mapping[int, Seconds], choice: Choice | None) -> Figure:
    """Accuracy against measured seconds, a line for each batch size, and against counted cost.

    Args:
        whole: counted cost and accuracy of the dynamic network by tau.
        measured: by batch size.
        choice: its times are marked by stars.
    """
    with panel(6.4, 4.2) as (figure, axes):
        taus = sorted(whole)
        _line(axes, [whole[tau] for tau in taus], "o--", "0.5", "counted cost")
        for place, (batch, seconds) in enumerate(measured.items()):
            points = [(seconds.whole[tau], whole[tau][1]) for tau in taus]
            _line(axes, points, "o-", LINES[place], f"time, batch {batch}")
            if choice is not None and seconds.chosen is not None:
                axes.plot(seconds.chosen, 100 * choice.accuracy, "*", markersize=11, color=LINES[place])
        axes.axvline(1, color="0.8", linewidth=0.9, zorder=0)
        axes.set_xlabel("relative to the original network without ACs (stars: chosen, with early exits)")
        axes.set_ylabel("accuracy (%)")
        axes.set_xlim(left=0)
        legend(figure, axes)
    return figure


def _line(axes: Axes, points: Sequence[Whole], style: str, colour: object, label: str) -> None:
    if points:
        across, accuracies = zip(*points, strict=True)
        axes.plot(across, [100 * accuracy for accuracy in accuracies], style, color=colour, label=label, zorder=4)


def _star(axes: Axes, choice: Choice | None) -> None:
    if choice is not None:
        label = f"chosen, τ {choice.tau:.3g}"
        place = [choice.cost], [100 * choice.accuracy]
        axes.plot(*place, "*", markersize=12, color="C1", markeredgecolor="k", label=label, zorder=5)


def _shade(place: int, count: int) -> tuple[float, ...]:
    return DEPTHS(0.9 * place / max(count - 1, 1))


def load_figure(load: Mapping[str, Tensor]) -> Figure:
    """Share of tokens that ask for each expert, most used first, one line for each feed-forward network.

    Args:
        load: [E] each, in [0, 1].
    """
    with panel() as (figure, axes):
        for place, shares in enumerate(load.values()):
            ordered = shares.sort(descending=True).values
            ranks = torch.linspace(0, 100, len(ordered))
            axes.plot(ranks.numpy(), 100 * ordered.numpy(), color=_shade(place, len(load)), label=f"FFN {place + 1}")
        axes.set_xlabel("experts, most used first (%)")
        axes.set_ylabel("tokens (%)")
        axes.set_ylim(0, 103)
        legend(figure, axes, 4)
    return figure


def map_figure(images: Tensor, masks: Mapping[str, Tensor]) -> Figure | None:
    """Images, how much of the FFNs their tokens execute, and where a typical expert runs in each of three FFNs.

    Args:
        images: [images, channels, height, width].
        masks: experts or bundles that each token executes, by FFN, bool [images, tokens, B].

    Returns:
        None if the tokens of an FFN are no square grid.
    """
    try:
        maps = {name: usage_map(mask) for name, mask in masks.items()}
        work = torch.stack([each.double().mean(-1) for each in maps.values()]).mean(0)
    except (ValueError, RuntimeError):
        return None
    shown = sorted({0, len(maps) // 2, len(maps) - 1})
    rows: dict[str, Tensor] = {"image": _grey_or_colour(images), "executed": work}
    for place in shown:
        executed = list(maps.values())[place]
        # An expert that runs for about half of the tokens shows best what it looks for.
        expert = int((executed.double().mean((0, 1, 2)) - 0.5).abs().argmin())
        rows[f"FFN {place + 1},\nexpert {expert + 1}"] = executed[..., expert].double()
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(0.95 * len(images) + 1.7, 0.98 * len(rows)), layout="constrained")
        panels = figure.subplots(len(rows), len(images), squeeze=False)
        for row, (label, values) in zip(panels, rows.items(), strict=True):
            row[0].set_ylabel(label, rotation=0, ha="right", va="center")
            for axes, value in zip(row, values, strict=True):
                colours, most = ("gray", 1) if label == "image" else ("viridis", values.max().item())
                drawn = axes.imshow(value.numpy(), cmap=colours, vmin=0, vmax=most or 1)
                axes.set(xticks=[], yticks=[])
            if label == "executed":
                # Beside all rows, so that they stay aligned.
                figure.colorbar(drawn, ax=panels, label="share of the FFNs", fraction=0.02, pad=0.01, aspect=40)
    return figure


def _grey_or_colour(images: Tensor) -> Tensor:
    """Images in [0, 1], each over its own range: [images, height, width] or [images, height, width, 3]."""
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    shown = ((images - low) / (high - low).clamp(min=1e-12)).permute(0, 2, 3, 1)
    return shown if shown.shape[-1] == 3 else shown[..., 0]
