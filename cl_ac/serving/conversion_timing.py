"""Measured seconds of a converted run, beside its counted cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from cl_ac.efficiency.dynamic import measure_usage, set_gate
from cl_ac.exits.model import EarlyExitModel, PlainModel
from cl_ac.exits.rules import Confidence
from cl_ac.serving.conversion import Converted
from cl_ac.serving.exit_timing import BATCHES, interleaved_medians
from cl_ac.serving.operating_points import Gates


@dataclass(frozen=True)
class Seconds:
    """Seconds relative to the original network without ACs.

    Args:
        whole: of the dynamic network without ACs, by tau.
        chosen: of the chosen model with early exits, if there is one.
    """

    whole: Mapping[float, float]
    chosen: float | None


@torch.inference_mode()
def measure(converted: Converted, batches: Sequence[int] = BATCHES, repeats: int = 5) -> dict[int, Seconds]:
    """Runs the converted network at each tau, and the chosen model: seconds by batch size.

    4 images are timed for each image of a batch, 64 to 1,024 in all.
    """
    run, dynamic = converted.run, converted.dynamic
    trainer = run.trainer
    test, _ = run.objects.benchmark.seen(run.last_task)
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
    plain, whole, choice = PlainModel(run.network), PlainModel(dynamic), converted.choice
    found = {}
    for batch in batches:
        some = test.select(order[: min(max(4 * batch, 64), 1024)])
        images = torch.cat(list(trainer.loader(some).in_order(256)))

        def relative(model: nn.Module, gates: Gates, parts: Sequence[Tensor] = images.split(batch)) -> float:
            set_gate(dynamic, gates)
            measure_usage(dynamic, parts[0])
            # In pairs, so that the two turns of a pair are close in time.
            runs = {"plain": partial(_all, plain, parts), "dynamic": partial(_all, model, parts)}
            seconds = interleaved_medians(runs, repeats, run.device)
            return seconds["dynamic"] / seconds["plain"]

        by_tau = {point.gate.threshold: relative(whole, point.gates) for point in converted.points if point.gates}
        early = None
        if choice is not None:
            rule = Confidence(choice.confidence)
            early = relative(EarlyExitModel(dynamic, run.objects.approach, rule), converted.chosen_gates)
        found[batch] = Seconds(by_tau, early)
    return found


def _all(model: nn.Module, batches: Sequence[Tensor]) -> None:
    for batch in batches:
        model(batch)
