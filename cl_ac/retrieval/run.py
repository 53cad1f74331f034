"""A retrieval run: domains feed a method, which teaches a dual encoder, and everything is searched after each."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from cl_ac.data.pairs import Domain, Domains, PairBenchmark, joined
from cl_ac.errors import ConfigurationError
from cl_ac.recording.checkpoint import Checkpoint, frozen_path
from cl_ac.recording.frozen import FrozenWeights
from cl_ac.retrieval.answering import TestItems
from cl_ac.retrieval.contrast import symmetric_contrast
from cl_ac.retrieval.encoder import DualEncoder, PairBatch
from cl_ac.retrieval.folder import RecallRecord, RetrievalFolder
from cl_ac.retrieval.learning import ContrastiveTraining, PairFit, fit
from cl_ac.retrieval.measuring import measured
from cl_ac.retrieval.method import Method


@dataclass
class Standing:
    """Where a run is: what a checkpoint is made of.

    Args:
        folder: of the run.
        checkpoint: the newest.
        encoder: that learns.
        method: that teaches it.
    """

    folder: RetrievalFolder
    checkpoint: Checkpoint
    encoder: DualEncoder
    method: Method

    def save(self, stage: int, unfinished: dict[str, Any] | None, seconds: float) -> None:
        """Keeps the state after an epoch of a stage, or after the stage before it."""
        states = self.encoder.state_dict(), self.method.state_dict()
        before = self.checkpoint
        self.checkpoint = Checkpoint(stage, unfinished, 0, seconds, *states, run=before.run, frozen=before.frozen)
        self.checkpoint.save(self.folder.checkpoint_path)


def run(
    method: Method,
    benchmark: PairBenchmark,
    encoder: DualEncoder,
    folder: RetrievalFolder,
    training: ContrastiveTraining = ContrastiveTraining(),
    gallery: str = "domain",
    device: torch.device | str = "cpu",
    seed: int = 0,
    resume: bool = False,
    config: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> list[RecallRecord]:
    """Aligns the projections on the base domains, if there are any, and learns the others one after the other.

    Args:
        folder: where the results go.
        gallery: what a query is searched in: the test items of its own `domain`, or those of `all` tested domains.
        device: `cpu`, `cuda`, ….
        seed: of every random stream.
        resume: go on after the last finished epoch that `folder` holds.
        config: all settings as plain values, kept in `folder`.
    Returns:
        What was found before the first domain and after each.
    Raises:
        UserError: for settings that do not fit together, before any training.
    """
    if gallery not in ("domain", "all"):
        raise ConfigurationError(f"gallery is '{gallery}'; expected 'domain' or 'all'")
    domains = benchmark.domains
    if domains.base and not encoder.projections:
        raise ConfigurationError(
            "pairs.base names domains to align projections on, but width is null, so that there are none; set width, "
            "or leave base out"
        )
    console = Console(stderr=True) if console is None else console
    method.prepare(encoder)
    encoder.to(device)
    method.to(device)
    frozen = [name for name, parameter in encoder.named_parameters() if not parameter.requires_grad]
    base = sum(parameter.numel() for name, parameter in encoder.named_parameters() if ".entries." not in name)
    data = {each.name: each.train.digest + each.test.digest for each in [*domains.base, *domains.tested]}
    with folder.opened({"seed": seed} if config is None else config, data, resume) as checkpoint:
        checkpoint.restore(encoder, method, folder.path, "the towers and the method")
        standing = Standing(folder, checkpoint, encoder, method)
        if not checkpoint.frozen.tensors:
            own = dict(encoder.named_parameters())
            kept = FrozenWeights.of({name: own[name] for name in frozen if ".projection." not in name})
            kept.save(frozen_path(folder.checkpoint_path))
            checkpoint.frozen = kept
        items = TestItems(encoder, domains.tested)
        for stage in range(checkpoint.task, len(domains.learned) + 1):
            unfinished = checkpoint.fit if stage == checkpoint.task else None
            earlier = checkpoint.seconds if unfinished else 0.0
            began = time.perf_counter() - earlier
            name = domains.learned[stage - 1].name if stage else "base"
            learn(standing, domains, stage, training, seed, unfinished, began, partial(_tell, console, name))
            if not method.keeps_embeddings or not stage:
                items.forget()
            found = measured(method, items, domains, benchmark.sides, gallery, stage)
            seconds = time.perf_counter() - began
            folder.finish(RecallRecord(learned=stage, base=base, added=method.added(encoder), seconds=seconds, **found))
            standing.save(stage + 1, None, 0.0)
    return folder.records


def _tell(console: Console, name: str, epoch: int, loss: float) -> None:
    console.print(f"{name}, epoch {epoch}: loss {loss:.3f}", highlight=False)


def learn(
    standing: Standing,
    domains: Domains,
    stage: int,
    training: ContrastiveTraining,
    seed: int,
    unfinished: dict[str, Any] | None,
    began: float,
    tell,
) -> None:
    """One stage: the alignment of projections, which is number 0, or a domain."""
    encoder, method = standing.encoder, standing.method

    def after_epoch(state: dict[str, Any], loss: float) -> None:
        standing.save(stage, state, time.perf_counter() - began)
        tell(state["epoch"], loss)

    if not stage:
        if domains.base:
            align(encoder, domains.base, training, seed, unfinished, after_epoch)
        return
    domain = domains.learned[stage - 1]
    if unfinished is None:
        method.begin(stage - 1, encoder, seed)
    if learns := method.learns(encoder):
        scales = {key: value for backbone in encoder.backbones for key, value in backbone.lr_scales().items()}
        loss = partial(batch_loss, method, encoder, domain, stage - 1)
        wanted = PairFit(stage, len(domain.train), loss, encoder, learns, scales, training.of_domains, seed)
        fit(wanted, unfinished, after_epoch)
    encoder.eval()
    method.end(stage - 1, domain, encoder, seed)


def batch_loss(
    method: Method, encoder: DualEncoder, domain: Domain, index: int, chosen: Tensor, stream: torch.Generator
) -> Tensor:
    """The loss of the pairs at some indices [B] of a domain."""
    pairs = domain.train
    places = pairs.matches[chosen]
    first, second = (items[places[:, side]].to(encoder.device) for side, items in enumerate(pairs.sides))
    matches = pairs.matching(places[:, 0], places[:, 1]).to(encoder.device)
    batch = PairBatch(first, second, matches, index, encoder.windows(first, second, stream))
    return method.loss(encoder, batch, stream)


def align(encoder: DualEncoder, base, training: ContrastiveTraining, seed: int, unfinished, after_epoch) -> None:
    """Trains the projections on the base domains, on what both towers, as they are, give once."""
    pairs = joined([domain.train for domain in base])
    features = [encoder.read(side, items) for side, items in enumerate(pairs.sides)]
    learned = [(parameter, parameter.requires_grad) for parameter in encoder.projections]
    for parameter in encoder.projections:
        parameter.requires_grad_(True)

    def loss(chosen: Tensor, stream: torch.Generator) -> Tensor:
        places = pairs.matches[chosen]
        matches = pairs.matching(places[:, 0], places[:, 1]).to(encoder.device)
        first, second = (
            torch.nn.functional.normalize(tower.projection(values[places[:, side].to(values.device)]), dim=1)
            for side, (tower, values) in enumerate(zip(encoder.towers, features, strict=True))
        )
        return symmetric_contrast(first @ second.T / encoder.temperature, matches)

    fit(
        PairFit(0, len(pairs), loss, encoder, encoder.projections, {}, training.of_alignment, seed),
        unfinished,
        after_epoch,
    )
    for parameter, was in learned:
        parameter.requires_grad_(was)
