"""How sparse a finished run's activations may be made without training: accuracy against induced sparsity."""

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import torch
from matplotlib.figure import Figure
from rich.table import Table
from torch import nn

from cl_ac.checkpoint import write_atomically
from cl_ac.efficiency.critical_sparsity import LEVELS, SparsityCurve, critical_sparsity
from cl_ac.efficiency.effective_rank import effective_ranks
from cl_ac.efficiency.feed_forward import find_feed_forwards
from cl_ac.efficiency.router_free import InducedSparsity, Place, masked
from cl_ac.efficiency.sparsity_rules import MaxP, TopK, TopP
from cl_ac.efficiency.teal import calibrate, thresholds
from cl_ac.errors import ConfigurationError
from cl_ac.report.conversion import training_data
from cl_ac.report.figures import Line, line_figure
from cl_ac.report.tables import percent
from cl_ac.rundir import RunDirectory, provenance
from cl_ac.serving import Finished, finished
from cl_ac.training import Trainer

RuleName = Literal["top_p", "top_k", "max_p", "teal"]
# Shares of the largest magnitude, dense around those at which networks break.
MAX_SHARES = (0, 0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
# TEAL is given the sparsity itself.
SPARSITIES = tuple(step / 20 for step in range(20))
# Training images on which TEAL's thresholds are calibrated and ranks are measured.
CALIBRATION = 1024


@dataclass(frozen=True)
class Sweep:
    """A rule at all its levels, on one or several tensors of every feed-forward network (FFN) at once.

    Args:
        rule: its name.
        wanted: share of the dense accuracy up to which sparsity is not yet critical.
        curves: by tensors; accuracy is that of the final exit on the test samples.
        ranks: effective rank of each tensor, mean over FFNs, and its width.
    """

    rule: RuleName
    wanted: float
    curves: dict[str, SparsityCurve]
    ranks: dict[str, tuple[float, int]]


def sweep(
    directory: RunDirectory,
    rule: RuleName,
    wanted: float = 0.99,
    device: str = "auto",
    progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
) -> Sweep:
    """Masks the FFNs of a finished run's network by a rule, level by level (arXiv 2509.00454).

    Args:
        wanted: share of the dense accuracy.

    Raises:
        UserError: if the run is not finished, has no transformer, or answers nothing right.
    """
    if rule not in get_args(RuleName):
        raise ConfigurationError(f"router_free is '{rule}'; it must be one of {', '.join(get_args(RuleName))}")
    run = finished(directory, device)
    trainer = run.trainer
    data = training_data(run, "all")
    samples = data.select(torch.randperm(len(data), generator=trainer.generator("calibration"))[:CALIBRATION])

    def pass_through(network: nn.Module) -> None:
        trainer.predict(network, samples)

    ranks = effective_ranks(run.network, pass_through)
    levels, masked_at = masks(run.network, rule, pass_through)
    curves = {}
    for tensors in tensors_to_mask(run.network):
        name, done = " + ".join(tensors), 0

        def at(level: float, tensors: tuple[Place, ...] = tensors) -> AbstractContextManager[InducedSparsity]:
            return masked_at(level, tensors)

        def accuracy(network: nn.Module, name: str = name) -> float:
            nonlocal done
            done += 1
            progress(f"masking {name}", done, len(levels) + 1)
            return final_accuracy(run, trainer, network)

        curves[name] = critical_sparsity(run.network, accuracy, at, levels, wanted)
    first = next(iter(find_feed_forwards(run.network).values()))
    widths = {name: first.width if name == "input" else first.hidden for name in curves}
    means = {name: sum(each[name] for each in ranks.values()) / len(ranks) for name in next(iter(ranks.values()))}
    return Sweep(rule, wanted, curves, {name: (means[name], widths[name]) for name in curves if name in means})


def masks(
    network: nn.Module, rule: RuleName, calibrate_on: Callable[[nn.Module], None]
) -> tuple[tuple[float, ...], Callable[[float, tuple[Place, ...]], AbstractContextManager[InducedSparsity]]]:
    """Levels of a rule, and what masks tensors of every FFN of `network` at one of them."""
    if rule == "teal":
        calibration = calibrate(network, calibrate_on)
        return SPARSITIES, lambda level, tensors: masked(network, thresholds(calibration, level, tensors))
    levels, kind = {"top_p": (LEVELS, TopP), "top_k": (LEVELS, TopK), "max_p": (MAX_SHARES, MaxP)}[rule]
    return levels, lambda level, tensors: masked(network, dict.fromkeys(tensors, kind(level)))


def tensors_to_mask(network: nn.Module) -> list[tuple[Place, ...]]:
    """What is masked together: each tensor of the FFNs alone, and input with intermediate, which save all matrices."""
    gated = all(each.gate is not None for each in find_feed_forwards(network).values())
    alone: list[Place] = ["input", "up", "gate", "intermediate"] if gated else ["input", "intermediate"]
    return [*((each,) for each in alone), ("input", "intermediate")]


def final_accuracy(run: Finished, trainer: Trainer, network: nn.Module) -> float:
    """Accuracy of the final exit on the test samples of all tasks learned."""
    samples, _ = run.objects.benchmark.seen(run.last_task)
    logits = trainer.predict(network, samples, partial(run.objects.approach.answer, network))
    return (logits[-1].argmax(-1) == samples.targets).double().mean().item()


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
    folder = directory.path / "convert"
    folder.mkdir(exist_ok=True)
    stem = folder / f"router_free_{swept.rule}"
    text = json.dumps({**numbers(swept), "provenance": provenance()}, indent=1)
    paths = [stem.with_suffix(".json"), stem.with_suffix(".png")]
    write_atomically(paths[0], lambda path: path.write_text(text))
    figure(swept).savefig(paths[1], dpi=150)
    return paths
