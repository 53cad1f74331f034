"""Training: its settings, one fit, and the trainer that every approach uses."""

from cl_ac.training.fitting import EpochReport, Fit, Learning, Loss
from cl_ac.training.settings import FrozenOutputs, HeadWarmup, ParameterGroup, Training
from cl_ac.training.trainer import Trainer

__all__ = [
    "EpochReport",
    "Fit",
    "FrozenOutputs",
    "HeadWarmup",
    "Learning",
    "Loss",
    "ParameterGroup",
    "Trainer",
    "Training",
]
