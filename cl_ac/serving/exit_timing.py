"""Measured beside counted cost of early exits: the executed model against the network without ACs."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from cl_ac.approach import Approach
from cl_ac.errors import ConfigurationError, UserError
from cl_ac.evaluation import ExitCosts, Outputs
from cl_ac.exits.curves import rule_within_budget
from cl_ac.exits.heads import inference_head
from cl_ac.exits.model import Answers, EarlyExitModel, PlainModel
from cl_ac.exits.rules import Confidence, ExitRule, decide
from cl_ac.network import ExitNetwork
from cl_ac.recording.rundir import RunDirectory
from cl_ac.serving.finished import finished
from cl_ac.serving.held_out import Correction, held_out_outputs, task_correction

TIMED_BUDGETS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
BATCHES = (1, 32, 256)
IMAGES = 2000
Name = TypeVar("Name")


@dataclass(frozen=True)
class Timing:
    """What answering some images cost.

    Args:
        counted: multiply-accumulates relative to the network without ACs.
        measured: seconds relative to the network without ACs, layer by layer and all images of a batch at once.
        same_form: seconds relative to the network without ACs in the form that the early-exit model has: stages as
            `InferenceStages`, large batches in parts that stay in a CPU's caches.
        images_per_second: of the early-exit model.
        shares: of the images that left at each exit; the last found no sure exit [E + 1].
    """

    counted: float
    measured: float
    same_form: float
    images_per_second: float
    shares: Tensor


def interleaved_medians(
    runs: Mapping[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, float]:
    """Median seconds of each run; the runs take turns, so that a slow moment of the machine meets all of them."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            wait()
            began = time.perf_counter()
            run()
            wait()
            # The first turn warms up caches and allocators.
            if repeat:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


@torch.inference_mode()
def time_rules(
    network: ExitNetwork,
    approach: Approach | None,
    rules: Mapping[Name, ExitRule],
    images: Tensor,
    batch: int,
    cost: ExitCosts,
    repeats: int = 5,
    fold: bool = True,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> dict[Name, Timing]:
    """The cost of answering `images` in batches, for each rule.

    Args:
        images: as the network takes them, on its device [N, channels, height, width].
        fold: whether stages are `InferenceStages` in the early-exit model and in the network of its form.
        told: is called with how many rules are timed, and how many there are.
    """
    network.eval()
    batches = images.split(batch)
    model = EarlyExitModel(network, approach, next(iter(rules.values())), fold)
    models = {name: model.with_rule(rule) for name, rule in rules.items()}
    relative = torch.tensor([*cost.relative, cost.relative[-1]])
    shares = {}
    for name, model in models.items():
        exits = torch.cat([model(each).exits for each in batches])
        shares[name] = exits.bincount(minlength=len(relative)).cpu() / len(images)

    def all_batches(answer: Callable[[Tensor], object]) -> None:
        for each in batches:
            answer(each)

    plain = nn.Sequential(*network.backbone.stages, inference_head(network.heads[-1]))
    same_form, found = PlainModel(network, fold), {}
    for name, model in models.items():
        # Anew for each rule, so that turns that are compared are close in time.
        runs = {"plain": plain, "same form": same_form, "early exit": model}
        turns = {kind: partial(all_batches, run) for kind, run in runs.items()}
        seconds = interleaved_medians(turns, repeats, images.device)
        to_plain, to_same_form = (seconds["early exit"] / seconds[kind] for kind in ("plain", "same form"))
        speed = len(images) / seconds["early exit"]
        found[name] = Timing((shares[name] @ relative).item(), to_plain, to_same_form, speed, shares[name])
        told(len(found), len(models))
    return found


def affordable_rules(
    outputs: Outputs, budgets: Sequence[float] = TIMED_BUDGETS, rule: ExitRule = Confidence()
) -> dict[float, ExitRule]:
    """`rule` with the best threshold within each budget on `outputs`; budgets below the first exit are left out."""
    rules = {}
    for budget in budgets:
        try:
            rules[budget] = rule_within_budget(rule, outputs, budget)
        except UserError:
            continue
    return rules


@dataclass(frozen=True)
class Measurement:
    """A run's executed early exits.

    Args:
        held_out: the outputs on held-out training samples, which thresholds were chosen on; None if the run held none
            out, then they were chosen on the test samples.
        images: of the test samples that were run.
        stored: the outputs on the test samples.
        correction: what task-wise logits correction makes of them.
        rules: by budget.
        accuracy: on the test samples, by budget.
        agreement: share of `images` that the executed model lets leave at the same exit with the same answer as
            the rule does on the stored outputs, by budget.
        timings: by batch size and budget.
    """

    held_out: Outputs | None
    images: int
    stored: Outputs
    correction: Correction
    rules: dict[float, ExitRule]
    accuracy: dict[float, float]
    agreement: dict[float, float]
    timings: dict[int, dict[float, Timing]]


def measure(
    directory: RunDirectory,
    device: str = "auto",
    batches: Sequence[int] = BATCHES,
    images: int = IMAGES,
    progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
) -> Measurement:
    """Rebuilds a finished run's network and runs its early exits.

    Thresholds are chosen on the held-out samples of all tasks, if the run held any out. 16 images are timed for each
    image of a batch, 64 to 1,024 in all.

    Args:
        images: at most so many test samples are run, and so many of the training samples that things are fitted to.
        progress: is told a phase, how much of it is done, and how much there is.
    Raises:
        UserError: if the run is not finished, or its approach cannot exit early.
    """
    if images < 1:
        raise ConfigurationError(f"images is {images}; it must be at least 1")
    run = finished(directory, device)
    # The faster layout for convolutions, on CPUs as on GPUs, for the early exits and the plain network alike.
    network, approach = run.network.to(memory_format=torch.channels_last), run.objects.approach
    EarlyExitModel(network, approach, Confidence())  # what cannot exit early is refused before anything runs
    trainer = run.trainer
    stored = directory.outputs(directory.records[-1].task)
    progress("held-out samples", 0, 1)
    held_out = held_out_outputs(run, trainer, stored.cost, images)
    progress("held-out samples", 1, 1)
    rules = affordable_rules(stored if held_out is None else held_out)
    samples, _ = run.objects.benchmark.seen(run.last_task)
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))
    some = order[:images].sort().values
    loader = trainer.loader(samples.select(some))
    accuracy, agreement = {}, {}
    executed = EarlyExitModel(network, approach, Confidence(), fold=True)
    for count, (budget, rule) in enumerate(rules.items(), start=1):
        decision = decide(rule, stored)
        accuracy[budget] = (decision.predictions == stored.targets).double().mean().item()
        model = executed.with_rule(rule)
        answers = [model(each) for each in loader.in_order(256)]
        agreement[budget] = _agreement(answers, decision.exits[some], decision.predictions[some])
        progress("early exits at each budget", count, len(rules))
    timings = {}
    for batch in batches:
        timed = samples.select(order[: min(max(16 * batch, 64), 1024, images)])
        inputs = torch.cat(list(trainer.loader(timed).in_order(256))).to(memory_format=torch.channels_last)
        told = partial(progress, f"seconds at batch {batch}")
        timings[batch] = time_rules(network, approach, rules, inputs, batch, stored.cost, told=told)
    progress("task-wise logits correction", 0, 1)
    correction = task_correction(run, trainer, stored, images)
    progress("task-wise logits correction", 1, 1)
    return Measurement(held_out, len(some), stored, correction, rules, accuracy, agreement, timings)


def _agreement(answers: Sequence[Answers], exits: Tensor, predictions: Tensor) -> float:
    same_exit = torch.cat([each.exits for each in answers]).cpu() == exits
    same_answer = torch.cat([each.predictions for each in answers]).cpu() == predictions
    return (same_exit & same_answer).double().mean().item()
