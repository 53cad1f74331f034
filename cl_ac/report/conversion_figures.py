"""Figures of a converted run: dynamic experts and early exits on one plot, and where experts work."""

from collections.abc import Mapping, Sequence

import matplotlib
import torch
from matplotlib.figure import Figure
from torch import Tensor

from cl_ac.early_exit import Curve
from cl_ac.efficiency.dynamic import usage_map
from cl_ac.report.figures import legend, panel


def cost_figure(
    original: Curve, dynamic: Mapping[float, tuple[Curve, float, float]], baseline: Sequence[tuple[float, float]]
) -> Figure:
    """Accuracy against relative cost: early exits alone, dynamic experts alone, both together, and MoEfication.

    Args:
        original: early exits of the original network as their threshold moves.
        dynamic: by tau, the curve of early exits, and cost and accuracy of the whole network.
        baseline: cost and accuracy of the whole network for each number of experts.
    """
    colours = matplotlib.colormaps["viridis"]
    with panel(6.4, 4.2) as (figure, axes):
        axes.plot(original.cost.numpy(), 100 * original.accuracy.numpy(), "k-", label="original, early exits")
        for place, (tau, (curve, _, _)) in enumerate(sorted(dynamic.items())):
            colour = colours(place / max(len(dynamic) - 1, 1))
            label = f"D2DMoE τ {tau:g}, early exits"
            axes.plot(curve.cost.numpy(), 100 * curve.accuracy.numpy(), color=colour, linewidth=1, label=label)
        whole = [(cost, 100 * accuracy) for _, (_, cost, accuracy) in sorted(dynamic.items())]
        axes.plot(*zip(*whole, strict=True), "o--", color="C3", label="D2DMoE, whole network")
        if baseline:
            others = [(cost, 100 * accuracy) for cost, accuracy in baseline]
            axes.plot(*zip(*others, strict=True), "s:", color="0.4", label="MoEfication, whole network")
        axes.set_xlabel("cost relative to the original network without ACs")
        axes.set_ylabel("accuracy (%)")
        axes.set_xlim(left=0)
        legend(figure, axes)
    return figure


def load_figure(load: Mapping[str, Tensor]) -> Figure:
    """Share of tokens that ask for each expert, most used first, one line for each feed-forward network.

    Args:
        load: [E] each, in [0, 1].
    """
    colours = matplotlib.colormaps["viridis"]
    with panel() as (figure, axes):
        for place, shares in enumerate(load.values()):
            ordered = shares.sort(descending=True).values
            ranks = torch.linspace(0, 100, len(ordered))
            colour = colours(place / max(len(load) - 1, 1))
            axes.plot(ranks.numpy(), 100 * ordered.numpy(), color=colour, label=f"FFN {place + 1}")
        axes.set_xlabel("experts, most used first (%)")
        axes.set_ylabel("tokens (%)")
        axes.set_ylim(0, 100)
        legend(figure, axes, 4)
    return figure


def map_figure(images: Tensor, counts: Tensor) -> Figure | None:
    """Images above the work that their tokens cause; None if the tokens are no square grid.

    Args:
        images: [images, channels, height, width].
        counts: executed experts for each token [images, tokens].
    """
    try:
        maps = usage_map(counts)
    except ValueError:
        return None
    figure = Figure(figsize=(1.3 * len(images) + 0.8, 2.8), layout="constrained")
    panels = figure.subplots(2, len(images), squeeze=False)
    for column, (image, work) in enumerate(zip(images, maps, strict=True)):
        low, high = image.min(), image.max()
        shown = ((image - low) / (high - low).clamp(min=1e-12)).permute(1, 2, 0)
        panels[0, column].imshow((shown if shown.shape[-1] == 3 else shown[..., 0]).numpy(), cmap="gray")
        drawn = panels[1, column].imshow(work.numpy(), cmap="viridis", vmin=0, vmax=int(maps.max()))
    for axes in panels.flat:
        axes.set_axis_off()
    figure.colorbar(drawn, ax=panels[1], label="experts per token")
    return figure
