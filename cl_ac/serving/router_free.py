"""How sparse a finished run's activations may be made without training: accuracy against induced sparsity."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from torch import nn

from cl_ac.backbones.feed_forward import find_feed_forwards
from cl_ac.efficiency.critical_sparsity import LEVELS, SparsityCurve, critical_sparsity
from cl_ac.efficiency.effective_rank import effective_ranks
from cl_ac.efficiency.router_free import InducedSparsity, Place, masked
from cl_ac.efficiency.sparsity_rules import MaxP, TopK, TopP
from cl_ac.efficiency.teal import calibrate, thresholds
from cl_ac.errors import ConfigurationError
from cl_ac.network import ExitNetwork
from cl_ac.recording.rundir import RunDirectory
from cl_ac.serving.conversion import training_data
from cl_ac.serving.finished import Finished, finished
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

    def pass_through(network: ExitNetwork) -> None:
        trainer.predict(network, samples)

    ranks = effective_ranks(run.network, pass_through)
    levels, masked_at = masks(run.network, rule, pass_through)
    curves = {}
    for tensors in tensors_to_mask(run.network):
        name, done = " + ".join(tensors), 0

        def at(level: float, tensors: tuple[Place, ...] = tensors) -> AbstractContextManager[InducedSparsity]:
            return masked_at(level, tensors)

        def accuracy(network: ExitNetwork, name: str = name) -> float:
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
    network: nn.Module, rule: RuleName, calibrate_on: Callable[[ExitNetwork], None]
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


def final_accuracy(run: Finished, trainer: Trainer, network: ExitNetwork) -> float:
    """Accuracy of the final exit on the test samples of all tasks learned."""
    samples, _ = run.objects.benchmark.seen(run.last_task)
    logits = trainer.predict(network, samples, partial(run.objects.approach.answer, network))
    return (logits[-1].argmax(-1) == samples.targets).double().mean().item()
