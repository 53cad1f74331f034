"""Deep generative replay: a generator draws samples of old classes, which are learned together with new images."""

import math
from typing import Literal, cast

import torch
from torch import Tensor

from cl_ac.approach import Approach, Batch, ExitNetwork
from cl_ac.data.seeding import global_stream
from cl_ac.errors import ConfigurationError
from cl_ac.generators import VAE, Generator
from cl_ac.generators.cost import macs_of_step
from cl_ac.generators.frequencies import split
from cl_ac.generators.rehearsing import Rehearsing
from cl_ac.generators.replay import Replay, draw_replay, losses_of_exits, weighed
from cl_ac.losses import cross_entropy
from cl_ac.network import Backbone
from cl_ac.network.entering import answers_of, run_places
from cl_ac.teacher import Teacher

Labels = Literal["solver", "distilled", "sampled"]


class GenerativeReplay(Approach):
    """Deep generative replay (Shin et al., 2017, DGR), with a variational autoencoder in place of a GAN.

    Each step mixes new images with samples of the generator as it was after the previous task, weighted by `1 / t` and
    `1 − 1 / t` in task t. The generator learns from both too, with an Adam of its own; its loss is added to that of
    the final exit. New images and samples pass the network as one batch. With ACs every exit learns from the samples.
    Several devices do not share the passes of a batch: each runs all.

    Args:
        generator: what draws samples; None is a `VAE`, which knows classes unless `labels` is `solver`.
        replay: samples in each step; None draws as many as the batch has new images.
        labels: what samples teach: the class that the previous network takes them for (`solver`), all that it says at
            a temperature, each exit by itself (`distilled`), or the class that was `sampled`.
        temperature: of `distilled`.
        new_weight: weight of new images, the rest is that of samples; None for `1 / t`.
        generator_lr: learning rate of the generator.
    """

    family = "generative replay"
    memory_use = "none"
    sees_old_classes = True
    needs_images = "draws samples of one shape"
    rehearsal, taught_at = 1.0, "own"

    def __init__(
        self,
        generator: Generator | None = None,
        replay: int | None = None,
        labels: Labels = "solver",
        temperature: float = 2.0,
        new_weight: float | None = None,
        generator_lr: float = 3e-3,
    ):
        super().__init__()
        if new_weight is not None and not 0 < new_weight < 1:
            raise ConfigurationError(f"approach.new_weight is {new_weight:g}; it must be above 0 and below 1")
        chosen = VAE(conditional=labels != "solver") if generator is None else generator
        self.replay, self.labels, self.temperature, self.new_weight = replay, labels, temperature, new_weight
        self.teacher, self.rehearsing = Teacher(), Rehearsing(chosen, generator_lr)

    def places(self, backbone: Backbone) -> list[int]:
        """After how many stages features are replayed, at each of the generator's levels."""
        return [0]

    def shares(self, network: ExitNetwork) -> list[float]:
        """Which share of the samples enters at each level."""
        return [1.0]

    def encoded(self, network: ExitNetwork, outputs: list[Tensor | None]) -> Tensor | None:
        """What the generator reads of all rows in place of its own encoding, if anything."""
        return None

    def build(self, network: ExitNetwork) -> None:
        """Makes the layers of the generator."""
        shapes = [network.backbone.image_shape, *network.stage_shapes]
        self.rehearsing.build([shapes[place] for place in self.places(network.backbone)])

    def begin_task(self, task, network, trainer) -> None:
        if network.exits.cascade:
            raise ConfigurationError(
                "exits.cascade is true, but samples may enter above an AC that the next one reads; leave it out"
            )
        if task.is_first:
            with global_stream(trainer.seed, "generator"):
                self.build(network)
        self.rehearsing.begin_task(task.num_classes, trainer.seed, task.index, network.device)

    def draw(self, network: ExitNetwork, batch: Batch) -> Replay:
        """The samples of one step."""
        number, old = self.replay or len(batch), batch.task.old_classes.stop
        counts, rehearsed = split(self.shares(network), number), math.ceil(self.rehearsal * number)
        where = self.places(network.backbone), counts, rehearsed, old, batch.stream, batch.images.device
        previous = cast(Generator, self.rehearsing.previous)
        return draw_replay(previous, *where, whole=self.taught_at == "first")

    def taught(self, replay: Replay) -> list[Tensor | None]:
        """The logits of the previous network for the samples that reach each exit; None where labels need none."""
        if self.labels == "sampled":
            return [None]
        return self.teacher(replay.taught, lambda network, given: answers_of(network, run_places(network, None, given)))

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        task, count, places = batch.task, len(batch), self.places(network.backbone)
        replay = None if task.is_first else self.draw(network, batch)
        outputs = run_places(network, batch.images, replay.entering if replay else {}, places)
        answers, read = cast(list[Tensor], answers_of(network, outputs)), self.encoded(network, outputs)
        new = torch.stack([logits[:count] for logits in answers])
        loss = cross_entropy(new, batch.targets, task.seen_classes)
        features = [cast(Tensor, outputs[place])[:count] for place in places]
        fitted = self.rehearsing.loss(features, batch.targets, batch.stream(0), read, slice(count))
        if replay is not None:
            weight = 1 / (task.index + 1) if self.new_weight is None else self.new_weight
            temperature = self.temperature if self.labels == "distilled" else None
            kept = losses_of_exits([rows[count:] for rows in answers], replay.classes, self.taught(replay), temperature)
            # An exit that no sample reaches would only learn that old classes are gone.
            alone = cross_entropy(new, batch.targets, task.classes)
            loss = weighed(loss, kept, alone, weight)
            given = replay.rehearsed, replay.rehearsed_classes, batch.stream(1), read, slice(count, None)
            fitted = weight * fitted + (1 - weight) * self.rehearsing.loss(*given)
        return torch.cat([loss[:-1], loss[-1:] + self.rehearsing.watched(fitted)])

    def end_step(self, network) -> None:
        self.rehearsing.step()

    def end_task(self, task, network, trainer) -> None:
        self.training_macs = macs_of_step(self, network, task, trainer.training.batch_size_of(task.index))
        if self.labels != "sampled":
            self.teacher.update(network)
        self.rehearsing.end_task()

    def restore(self, state, network: ExitNetwork) -> None:
        self.build(network)
        self.rehearsing.expect(key.removeprefix("rehearsing.") for key in state)
        super().restore(state, network)
