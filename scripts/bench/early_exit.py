"""What early exits save: counted multiply-accumulates against measured seconds, on a ResNet32 with six ACs.

At batch 1, 32 and 256, as medians of runs that take turns. `measured` is relative to the same network without ACs as
PyTorch runs it, layer by layer and a batch at once; `same form` to that network in the form in which early exits are
served: batch norm folded into convolutions and, on CPUs, these packed with the sums and ReLUs that follow them (neither
with --keep-batch-norm), and large batches in parts that stay in the caches. So early exits save what `same form` says,
and changing to them saves what `measured` says. In the first table all samples leave at one exit; in the second, by
the confidence threshold whose counted cost is closest to a budget.

    python scripts/bench/early_exit.py                        random weights and images
    python scripts/bench/early_exit.py --root ~/data/set      a short training: train/<class>/*, test/<class>/*
    python scripts/bench/early_exit.py --run runs/mine        a finished run
"""

import argparse
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from cl_ac.approach import Approach
from cl_ac.backbones.resnet import ResNet32
from cl_ac.cli.main import main
from cl_ac.evaluation import Outputs
from cl_ac.exits.cost import exit_costs
from cl_ac.exits.curves import cost_accuracy
from cl_ac.exits.rules import Confidence, ExitRule
from cl_ac.network import ExitNetwork
from cl_ac.recording.rundir import RunDirectory
from cl_ac.run import choose_device
from cl_ac.serving.exit_timing import BATCHES, TIMED_BUDGETS, Timing, time_rules
from cl_ac.serving.finished import finished
from cl_ac.watching.stability import exit_names


@dataclass(frozen=True)
class Subject:
    """A network, images as it takes them [N, channels, height, width], and what it says of them."""

    network: ExitNetwork
    approach: Approach | None
    images: Tensor
    outputs: Outputs


def untrained(device: torch.device, count: int) -> Subject:
    """Random weights and images. Samples leave by random confidences, so accuracies mean nothing."""
    torch.manual_seed(0)
    body = ResNet32((3, 32, 32))
    network = ExitNetwork(body, body.exits("sdn"))
    for _ in range(10):
        network.grow(10, seed=0)
    network.to(device, memory_format=torch.channels_last).eval()
    images = torch.randn(count, 3, 32, 32).to(device, memory_format=torch.channels_last)
    with torch.inference_mode():
        logits = torch.cat([network(part).cpu() for part in images.split(256)], 1)
    nothing = torch.zeros(count, dtype=torch.int64)
    return Subject(network, None, images, Outputs(logits, nothing, nothing, (10,) * 10, exit_costs(network)))


def train(root: str, epochs: int, samples_per_class: int, device: str) -> RunDirectory:
    """A short run of fine-tuning on one task with all classes of an image folder."""
    folder = Path(tempfile.mkdtemp())
    settings = {
        "approach": "FineTuning",
        "benchmark": "ImageFolder",
        "benchmark.root": str(Path(root).expanduser()),
        "benchmark.tasks": 1,
        "benchmark.samples_per_class": samples_per_class,
        "backbone": "ResNet32",
        "exits": "sdn",
        "training.epochs": epochs,
        "training.lr": 0.05,
        "training.momentum": 0.9,
        "training.schedule": "cosine",
        "device": device,
        "out": folder,
        "name": "run",
    }
    if main(["run", *(part for name, value in settings.items() for part in (f"--{name}", str(value)))]):
        raise SystemExit(2)
    return RunDirectory(folder / "run")


def of_run(directory: RunDirectory, device: str, count: int) -> Subject:
    """A finished run and `count` of its test samples."""
    run = finished(directory, device)
    network = run.network.to(memory_format=torch.channels_last)
    stored = directory.outputs(directory.records[-1].task)
    samples, _ = run.objects.benchmark.seen(run.objects.benchmark[len(stored.sizes) - 1])
    chosen = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))[:count]
    trainer = run.trainer
    images = torch.cat(list(trainer.loader(samples.select(chosen)).in_order(256)))
    images = images.to(memory_format=torch.channels_last)
    return Subject(network, run.objects.approach, images, stored.select(chosen))


def rules_at(outputs: Outputs) -> dict[float, ExitRule]:
    """The confidence threshold whose counted cost is closest to each budget."""
    curve = cost_accuracy(outputs)
    return {b: Confidence(curve.thresholds[(curve.cost - b).abs().argmin()].item()) for b in TIMED_BUDGETS}


def rules_of_exits(exits: int) -> dict[int, ExitRule]:
    """For each exit a rule that lets all samples leave there."""
    return {i: Confidence(tuple(0.0 if j == i else math.inf for j in range(exits))) for i in range(exits)}


def table(title: str, first: str, batches: Sequence[int]) -> Table:
    """An empty table with columns for each batch size."""
    made = Table(title=title)
    made.add_column(first)
    for batch in batches:
        for name in ("counted", "measured", "same form"):
            made.add_column(f"{name}\nbatch {batch}", justify="right")
    return made


def cells(timings: Sequence[Timing]) -> list[str]:
    """Those of one row, of the timings at each batch size."""
    return [f"{100 * share:.0f}" for one in timings for share in (one.counted, one.measured, one.same_form)]


def main_bench() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="image folder to train on")
    parser.add_argument("--run", help="folder of a finished run")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--samples-per-class", type=int, default=100)
    parser.add_argument("--images", type=int, default=512, help="images timed; a quarter of them at batch 1")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="if others than 1, 32 and 256")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--keep-batch-norm", action="store_true", help="do not fold and pack convolutions")
    options = parser.parse_args()
    if options.root:
        options.run = train(options.root, options.epochs, options.samples_per_class, options.device).path
    if options.run:
        subject = of_run(RunDirectory(Path(options.run)), options.device, options.images)
    else:
        subject = untrained(choose_device(options.device), options.images)

    network, outputs = subject.network, subject.outputs
    exits, budgets = rules_of_exits(len(network)), rules_at(outputs)
    by_exit, by_budget = {}, {}
    for batch in options.batches:
        images = subject.images[: max(1, options.images // 4)] if batch == 1 else subject.images
        timed = partial(time_rules, network, subject.approach, images=images, batch=batch, cost=outputs.cost)
        timed = partial(timed, fold=not options.keep_batch_norm)
        found = timed(rules={**exits, **{f"budget {b}": rule for b, rule in budgets.items()}}, repeats=options.repeats)
        by_exit[batch] = [found[index] for index in exits]
        by_budget[batch] = {b: found[f"budget {b}"] for b in budgets}

    console = Console(width=160)
    device = torch.cuda.get_device_name() if subject.images.is_cuda else f"CPU, {torch.get_num_threads()} threads"
    console.print(f"{device}; torch {torch.__version__}; cost in % of the network without ACs")
    each = table("all samples leave at one exit", "exit", options.batches)
    for index, name in enumerate(exit_names(len(network))):
        each.add_row(name, *cells([by_exit[batch][index] for batch in options.batches]))
    console.print(each)
    within = table("confidence rule", "budget", options.batches)
    for budget in budgets:
        within.add_row(f"{100 * budget:.0f}", *cells([by_budget[batch][budget] for batch in options.batches]))
    console.print(within)


if __name__ == "__main__":
    main_bench()
