"""What a step of training costs: without and with ACs, as it is and compiled.

All variants take turns, a step each, in one process on the same images: forward, loss, backward, clipping and the
optimiser. Beside the seconds stand the ratio to the plain network, what the counted multiply-accumulates say that it
should be, and, of a compiled step, the ratio to the same step as it is and the seconds that compiling took. Ratios are
medians over rounds. One CPU thread (OMP_NUM_THREADS=1) is timed in CPU seconds, everything else by the wall clock.

    python scripts/bench/steps.py --results results/steps-cpu.json
    python scripts/bench/steps.py --compile             also compiled, which takes minutes
"""

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from timing import seconds

from cl_ac.approach import Batch, Task, TrainingSet
from cl_ac.approaches.finetuning import FineTuning
from cl_ac.backbones.resnet import ResNet32
from cl_ac.data.samples import Samples
from cl_ac.exits.cost import exit_costs
from cl_ac.network import NO_EXITS, ExitNetwork
from cl_ac.recording.provenance import cpu_name, provenance
from cl_ac.training import Fit, Training
from cl_ac.training.compiling import CompiledLoss
from cl_ac.training.fitting import Fitting

CLASSES, BATCH = 20, 128


@dataclass(frozen=True)
class Variant:
    """One way to train: a step, and what its network costs in multiply-accumulates of one image."""

    step: Callable[[], object]
    macs: float


def variant(exits: str, compiled: bool, device: torch.device) -> Variant:
    torch.manual_seed(0)
    body = ResNet32((3, 32, 32))
    network = ExitNetwork(body, NO_EXITS if exits == "none" else body.exits(exits))
    network.grow(CLASSES, seed=0)
    network.to(device, memory_format=torch.channels_last).train()
    images = torch.randn(BATCH, 3, 32, 32).to(device, memory_format=torch.channels_last)
    targets = torch.arange(BATCH, device=device) % CLASSES
    samples = Samples(torch.zeros(BATCH, 3, 32, 32, dtype=torch.uint8), targets.cpu())
    task = Task(0, (CLASSES,), samples, samples, samples)
    approach = FineTuning()
    fit = Fit(network, approach.loss, TrainingSet(samples, task))
    fitting = Fitting(fit, Training(1, BATCH, lr=0.01, schedule="constant"), device, None)
    loss = CompiledLoss(fit.loss) if compiled else fit.loss
    weights = torch.tensor([*network.exits.weights, 1.0], device=device)
    batch = Batch(images, targets, task)
    return Variant(lambda: fitting.step((loss(network, batch) * weights).sum()), exit_costs(network).exits[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--exits", nargs="+", default=["none", "sdn", "dense"], help="presets of ResNet32, or none")
    parser.add_argument("--compile", action="store_true", help="compile each as well")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--results", type=Path, help="a JSON file for the numbers")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    names = [(exits, way) for exits in arguments.exits for way in ((False, True) if arguments.compile else (False,))]
    variants = {name: variant(*name, device) for name in names}
    # The first step compiles; the second is the first with warm caches.
    first = {name: seconds(device, each.step, wall=True) for name, each in variants.items()}
    for each in variants.values():
        each.step()
    rounds = [{name: seconds(device, each.step) for name, each in variants.items()} for _ in range(arguments.rounds)]
    base = names[0]
    rows = []
    for name in names:
        exits, compiled = name
        ratio = statistics.median(each[name] / each[base] for each in rounds)
        row = {
            "exits": exits,
            "compiled": compiled,
            "step, ms": 1000 * statistics.median(each[name] for each in rounds),
            "ratio to the plain network": ratio,
            "counted": variants[name].macs / variants[base].macs,
        }
        if compiled:
            gain = statistics.median(each[exits, False] / each[name] for each in rounds)
            row |= {"gain of compiling": gain, "compiling, s": first[name]}
        rows.append(row)
    setting = f"ResNet32, batches of {BATCH}, {torch.get_num_threads()} threads, {device}"
    table = Table(title=f"a step of training; {setting}")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for column in columns:
        table.add_column(column)
    for row in rows:
        values = (row.get(column, "") for column in columns)
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in values))
    Console(width=120).print(table)
    if arguments.results:
        settings = {key: value for key, value in vars(arguments).items() if key != "results"}
        hardware = {"threads": torch.get_num_threads(), "cpu": cpu_name()}
        content = {"settings": settings | hardware, "rows": rows, "provenance": provenance()}
        arguments.results.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
