"""Mixtures of one, of several experts, over seeds: trained in folders that can be gone on with, and measured."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from cl_ac.errors import ConfigurationError, ResumeError
from cl_ac.recording.files import damage_of_zip, reading, save_state, writable_folder, write_atomically
from cl_ac.recording.lock import exclusive
from cl_ac.simulation.calorimeter import Calorimeter
from cl_ac.simulation.expert_sim import Experts, ExpertSim
from cl_ac.simulation.measuring import Measured, measure
from cl_ac.simulation.training import Adversarial, Learner, Weights

# Seconds of training that a kill may cost.
SAVE_AFTER = 5.0
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Cell:
    """One mixture of an experiment.

    Args:
        experts: how many it has.
        widened: how many times wider than set the networks of each are.
        seed: of the showers and the training.
    """

    experts: int
    widened: int
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        wide = f"_wide-{self.widened}" if self.widened > 1 else ""
        return f"experts-{self.experts}{wide}_seed-{self.seed}"


@dataclass(frozen=True)
class Experiment:
    """Which mixtures are trained, and on what.

    Args:
        experts: numbers of experts, each at least 1.
        seeds: each makes showers and mixtures of its own.
        wide: whether a single expert is trained too whose networks are as wide as those of the most experts together.
        calorimeter: what the showers are of.
        model: how experts are built.
        weights: what each term of the losses counts.
        training: how long and how fast.
    """

    experts: Sequence[int] = (1, 3)
    seeds: Sequence[int] = (0,)
    wide: bool = False
    calorimeter: Calorimeter = field(default_factory=Calorimeter)
    model: Experts = field(default_factory=Experts)
    weights: Weights = field(default_factory=Weights)
    training: Adversarial = field(default_factory=Adversarial)

    def __post_init__(self) -> None:
        for name, values, low in (("experts", self.experts, 1), ("seeds", self.seeds, 0)):
            if not values or min(values) < low:
                raise ConfigurationError(
                    f"{name} is {', '.join(map(str, values)) or 'empty'}; it must be numbers of at least {low}"
                )
            if len(set(values)) < len(values):
                raise ConfigurationError(f"{name} is {', '.join(map(str, values))}; no number may be there twice")
        if max(self.experts) > 1000:
            raise ConfigurationError(f"experts is {max(self.experts)}; it must be at most 1000")

    @property
    def shared(self) -> dict[str, Any]:
        """The settings that all mixtures in a folder share, as plain values."""
        groups = {name: asdict(getattr(self, name)) for name in ("calorimeter", "model", "weights", "training")}
        return json.loads(json.dumps(groups))

    def cells(self) -> Iterator[Cell]:
        """Its mixtures, seed after seed."""
        for seed in self.seeds:
            yield from (Cell(count, 1, seed) for count in self.experts)
            if self.wide and max(self.experts) > 1:
                yield Cell(1, max(self.experts), seed)

    def built(self, cell: Cell) -> tuple[ExpertSim, Learner]:
        """A mixture before its training, and what trains it."""
        train, _ = self.calorimeter.data(cell.seed)
        model, wide = self.model, cell.widened
        first, second = model.generator
        model = replace(model, generator=(wide * first, wide * second), discriminator=wide * model.discriminator)
        shape = self.calorimeter.height, self.calorimeter.width
        mixture = ExpertSim(cell.experts, model, train.conditions, shape, cell.seed)
        return mixture, Learner(mixture, train, self.training, self.weights, cell.seed)


@dataclass(frozen=True)
class Finished:
    """A mixture that is trained.

    Args:
        cell: which it is.
        measured: what it came to on held-out showers.
        history: means over each epoch.
    """

    cell: Cell
    measured: Measured
    history: list[dict[str, float]]


def run_all(experiment: Experiment, folder: Path, progress: Progress) -> list[Finished]:
    """Trains and measures every mixture that is not finished in `folder` yet, and goes on with one that is begun.

    Raises:
        ConfigurationError: if the folder holds mixtures of other settings.
        UserError: if training fails, or the folder is damaged or cannot be written.
    """
    writable_folder(folder)
    with exclusive(folder / ".lock"):
        keep_settings(experiment, folder)
        return [finish(experiment, cell, folder / cell.name, progress) for cell in experiment.cells()]


def keep_settings(experiment: Experiment, folder: Path) -> None:
    """Writes what all mixtures in a folder share, or compares it with what is there."""
    path = folder / "settings.yaml"
    if not path.exists():
        text = yaml.safe_dump(experiment.shared, sort_keys=False)
        write_atomically(path, lambda file: file.write_text(text))
        return
    with reading(path, "give another --out"):
        stored = yaml.safe_load(path.read_text())
        flat = {f"{group}.{name}": value for group, values in stored.items() for name, value in values.items()}
    for group, values in experiment.shared.items():
        for name, value in values.items():
            if (other := flat.get(f"{group}.{name}")) != value:
                raise ConfigurationError(
                    f"{group}.{name} is {value}, but '{folder}' holds mixtures with {other}; give the same, or another "
                    "--out"
                )


def finish(experiment: Experiment, cell: Cell, folder: Path, progress: Progress) -> Finished:
    """A trained mixture: what `folder` holds of it, or from where that ends on."""
    result, checkpoint = folder / "result.json", folder / "checkpoint.pt"
    if result.exists():
        with reading(result, "remove it to measure the mixture again"):
            content = json.loads(result.read_text())
            return Finished(cell, Measured(**content["measured"]), content["history"])
    mixture, learner = experiment.built(cell)
    history: list[dict[str, float]] = []
    seconds = restore(learner, history, checkpoint) if checkpoint.exists() else 0.0
    epochs = experiment.training.epochs
    saved = begun = time.monotonic()
    begun -= seconds
    while learner.epoch < epochs:
        history.append(learner.train_epoch())
        progress(cell.name, learner.epoch, epochs)
        if (now := time.monotonic()) - saved > SAVE_AFTER or learner.epoch == epochs:
            seconds = now - begun
            content = {"learner": learner.state_dict(), "history": history, "seconds": seconds}
            write_atomically(checkpoint, lambda path, content=content: save_state(content, path))
            saved = now
    _, test = experiment.calorimeter.data(cell.seed)
    measured = measure(mixture, experiment.calorimeter, test, cell.seed, cell.widened, seconds)
    text = json.dumps({"measured": asdict(measured), "history": history}, indent=1)
    write_atomically(result, lambda path: path.write_text(text))
    return Finished(cell, measured, history)


def restore(learner: Learner, history: list[dict[str, float]], checkpoint: Path) -> float:
    """Puts a learner into the state of a checkpoint, and the epochs so far into `history`; seconds of them.

    Raises:
        ResumeError: if the file is damaged, or not of this mixture.
    """
    way_out = "remove it to train the mixture again"
    if damage := damage_of_zip(checkpoint):
        raise ResumeError(f"'{checkpoint}' is no readable checkpoint: {damage}; {way_out}")
    try:
        content = torch.load(checkpoint, weights_only=True)
        learner.load_state_dict(content["learner"])
        history.extend(content["history"])
        return float(content["seconds"])
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        raise ResumeError(f"'{checkpoint}' is of another mixture; {way_out}") from error


def trained(experiment: Experiment, cell: Cell, folder: Path) -> ExpertSim:
    """The model of a finished mixture, to simulate with.

    Args:
        folder: of the experiment.
    Raises:
        ConfigurationError: if it is not trained there to its end.
    """
    mixture, learner = experiment.built(cell)
    path = folder / cell.name / "checkpoint.pt"
    if path.exists():
        restore(learner, [], path)
    if learner.epoch < experiment.training.epochs:
        raise ConfigurationError(f"'{path.parent}' holds no mixture that is trained to its end")
    return mixture
