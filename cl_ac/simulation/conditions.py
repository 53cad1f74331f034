"""Conditions that a user brings, and the showers that are simulated there."""

import csv
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cl_ac.data.seeding import generator
from cl_ac.errors import DataError
from cl_ac.recording.files import write_atomically
from cl_ac.simulation.calorimeter import CONDITIONS, Calorimeter
from cl_ac.simulation.expert_sim import ExpertSim


def read_conditions(path: Path, calorimeter: Calorimeter) -> Tensor:
    """The conditions [N, C] in a CSV file whose first line names its columns, in any order.

    Raises:
        DataError: if it cannot be read, lacks a column, holds something else than numbers, or a condition of which the
            calorimeter has no showers.
    """
    try:
        # Spreadsheets put a mark of the encoding before the first name.
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [name for name in CONDITIONS if name not in (reader.fieldnames or ())]
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"conditions is '{path}', which is no CSV file that can be read") from error
    if missing:
        raise DataError(f"conditions is '{path}', which has no column {', '.join(missing)}")
    if not rows:
        raise DataError(f"conditions is '{path}', which has no line but the first")
    try:
        values = [[float(row[name]) for name in CONDITIONS] for row in rows]
    except (TypeError, ValueError) as error:
        raise DataError(f"conditions is '{path}', which holds something else than numbers: {error}") from error
    conditions = torch.tensor(values)
    calorimeter.check(conditions)
    return conditions


def write_showers(model: ExpertSim, conditions: Tensor, seed: int, path: Path) -> Path:
    """Simulates a shower at each condition [N, C]; writes conditions, images and the experts that made them (npz)."""
    images, experts = model.simulate(conditions, generator(seed, "showers"))

    def save(unfinished: Path) -> None:
        with unfinished.open("wb") as file:
            np.savez_compressed(file, conditions=conditions.numpy(), images=images.numpy(), experts=experts.numpy())

    write_atomically(path, save)
    return path
