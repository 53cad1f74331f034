"""Training HyperSound on recordings, epoch by epoch, so that a killed training goes on with the same numbers."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cl_ac.data.seeding import generator
from cl_ac.errors import ConfigurationError, ResumeError, UserError
from cl_ac.recording.files import damage_of_zip, save_state, write_atomically
from cl_ac.sound.clips import random_clip
from cl_ac.sound.model import HyperSound
from cl_ac.sound.phases import mangled
from cl_ac.sound.spectral import MelDistance

VERSION = 2


@dataclass(frozen=True)
class SoundTraining:
    """How HyperSound is trained: AdamW, the rate rising over a twentieth of the steps and falling towards 0.

    Args:
        epochs: over all recordings, of each of which a random clip is taken.
        batch_size: clips in a step.
        lr: the highest rate.
        wave: weight of the mean absolute difference of samples.
        square: weight of their mean squared difference.
        mel: weight of the distance in mel spectra.
        bands: of pitch in the spectra, at most.
        clip: largest norm of the gradient.
        mangled: share of the clips whose phases are changed at random; 0.8 as published.
        seed: of the first weights and all draws.
    """

    epochs: int = 50
    batch_size: int = 16
    lr: float = 1e-3
    wave: float = 1.0
    square: float = 0.0
    mel: float = 1.0
    bands: int = 128
    clip: float = 1.0
    mangled: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "lr", "clip", "bands"):
            if getattr(self, name) <= 0:
                raise ConfigurationError(f"training.{name} is {getattr(self, name):g}; it must be above 0")
        if min(self.wave, self.square, self.mel) < 0 or self.wave + self.square + self.mel == 0:
            raise ConfigurationError(
                f"training.wave is {self.wave:g}, square {self.square:g} and mel {self.mel:g}; none may be below 0, "
                "and not all can be 0"
            )

    def rate_at(self, done: float) -> float:
        """The learning rate when a share of the steps is done, from 0 to 1."""
        return self.lr * min(1.0, done / 0.05) * 0.5 * (1 + math.cos(math.pi * done))


@dataclass
class State:
    """How far a training is.

    Args:
        model: the options of the model.
        training: those of the training.
        weights: of the model.
        optimizer: its state.
        losses: mean loss of each finished epoch.
        recordings: what the recordings are recognised by.
    """

    model: dict[str, Any]
    training: dict[str, Any]
    weights: dict[str, Any]
    optimizer: dict[str, Any]
    losses: list[float]
    recordings: str

    def save(self, path: Path) -> None:
        """Replaces the file at `path` in one step."""
        content = {"version": VERSION, **vars(self)}
        write_atomically(path, lambda file: save_state(content, file))

    @staticmethod
    def load(path: Path) -> "State":
        """Reads what `save` wrote; runs no code from the file.

        Raises:
            ResumeError: if there is none, or something else.
        """
        if not path.is_file():
            raise ResumeError(f"there is no model at '{path}'; name the folder of a finished `cl-ac sound fit`")
        if damage := damage_of_zip(path):
            raise ResumeError(f"'{path}' is no readable model: {damage}; train it again")
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            version = content.pop("version")
            state = State(**content)
        except Exception as error:
            raise ResumeError(f"'{path}' holds something else than a model of `cl-ac sound fit`") from error
        if version != VERSION:
            raise ResumeError(f"'{path}' has version {version}; this program reads version {VERSION}")
        return state

    def build(self) -> HyperSound:
        """The model with its weights, in evaluation mode."""
        model = HyperSound(**self.model)
        model.load_state_dict(self.weights)
        return model.eval()


def fit(
    model: HyperSound,
    waves: Sequence[Tensor],
    training: SoundTraining,
    options: Mapping[str, Any],
    path: Path,
    on_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
) -> State:
    """Trains `model` on recordings, and keeps its state at `path` after each epoch; goes on from there if there is one.

    Args:
        waves: of any length, loudest value 1.
        options: of the model, to build it again.
        on_epoch: is told the number of epochs that are done, and the mean loss of the last.

    Returns:
        The state after the last epoch.

    Raises:
        ResumeError: if the state at `path` is of other settings or recordings.
        UserError: if the loss is no number.
    """
    optimizer = torch.optim.AdamW(model.parameters(), training.lr)
    state = State(dict(options), asdict(training), model.state_dict(), optimizer.state_dict(), [], digest(waves))
    if path.exists():
        found = State.load(path)
        if (found.model, found.training) != (state.model, state.training):
            raise ResumeError(f"'{path}' was trained with other settings; give those, or another --out")
        if found.recordings != state.recordings:
            raise ResumeError(f"'{path}' was trained on other recordings; give those, or another --out")
        model.load_state_dict(found.weights)
        optimizer.load_state_dict(found.optimizer)
        state.losses = found.losses
    device = next(model.parameters()).device
    distance = MelDistance(model.rate, bands=training.bands).to(device)
    steps = -(-len(waves) // training.batch_size)
    model.train()
    for epoch in range(len(state.losses), training.epochs):
        stream = generator(training.seed, "clips", epoch)
        order, total = torch.randperm(len(waves), generator=stream), torch.zeros((), device=device)
        for step, batch in enumerate(order.split(training.batch_size)):
            clips = torch.stack([random_clip(waves[place], model.samples, stream) for place in batch.tolist()])
            if training.mangled:
                clips = mangled(clips, model.rate, training.mangled, stream)
            for group in optimizer.param_groups:
                # In the middle of the step, so that neither the first nor the last has a rate of 0.
                group["lr"] = training.rate_at((epoch + (step + 0.5) / steps) / training.epochs)
            optimizer.zero_grad()
            loss = loss_of(model(clips.to(device)), clips.to(device), training, distance)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), training.clip)
            optimizer.step()
            total += loss.detach()
        if not total.isfinite():
            raise UserError(f"the loss is no number in epoch {epoch + 1}; lower training.lr (now {training.lr:g})")
        state.losses.append(total.item() / steps)
        state.weights, state.optimizer = model.state_dict(), optimizer.state_dict()
        state.save(path)
        on_epoch(epoch + 1, state.losses[-1])
    model.eval()
    return state


def digest(waves: Sequence[Tensor]) -> str:
    """What recordings are recognised by: their number, lengths, order and samples."""
    found = hashlib.blake2b(digest_size=16)
    for wave in waves:
        found.update(len(wave).to_bytes(8, "big"))
        found.update(wave.contiguous().numpy().tobytes())
    return found.hexdigest()


def loss_of(found: Tensor, clips: Tensor, training: SoundTraining, distance: MelDistance) -> Tensor:
    """The loss [] of reconstructions of clips, both [B, N]."""
    apart = found - clips
    loss = training.wave * apart.abs().mean() + training.square * apart.square().mean()
    return loss + training.mel * distance(found, clips).mean() if training.mel else loss
