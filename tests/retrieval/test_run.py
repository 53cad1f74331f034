"""Whole runs: what is learned and found, and that a run which goes on gives the same bits."""

from collections.abc import Callable

import pytest
import torch
from rich.console import Console

from cl_ac.data.pairs import Domains, Pairs
from cl_ac.errors import ConfigurationError, DataError, ResumeError
from cl_ac.retrieval.dar import DAR, OneAdapter
from cl_ac.retrieval.encoder import PairBatch
from cl_ac.retrieval.folder import RetrievalFolder
from cl_ac.retrieval.learning import ContrastiveTraining
from cl_ac.retrieval.method import EWC, LwF, Method, Replay, Sequential, ZeroShot
from cl_ac.retrieval.recall import average_recall
from cl_ac.retrieval.run import Standing, run

SHORT = ContrastiveTraining(epochs=2, batch_size=20, lr=5e-3, align_epochs=2)


class Stopped(Exception):
    pass


@pytest.fixture
def start(arrays, make_encoder, tmp_path) -> Callable:
    """Runs a method on two domains and an unseen one, after a base domain."""

    def begin(method: Method, name: str = "run", training: ContrastiveTraining = SHORT, **options):
        encoder = make_encoder(width=8)
        folder = RetrievalFolder(tmp_path / name)
        records = run(method, arrays(2, True), encoder, folder, training, console=Console(quiet=True), **options)
        return records, encoder

    return begin


# States are saved after both epochs of the alignment, after it, after both epochs of a domain, and after that.
@pytest.mark.parametrize(
    ("method", "saves"),
    [(Sequential, 1), (LwF, 7), (EWC, 7), (Replay, 7), (OneAdapter, 7), (DAR, 7), (DAR, 6)],
)
def test_a_run_that_goes_on_gives_the_same_bits(start, monkeypatch, method, saves):
    expected, whole = start(method(), "whole")
    save, count = Standing.save, 0

    def save_or_stop(*arguments) -> None:
        nonlocal count
        save(*arguments)
        count += 1
        if count == saves:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(Standing, "save", save_or_stop)
        with pytest.raises(Stopped):
            start(method(), "parts")
    found, parts = start(method(), "parts", resume=True)
    assert [each.recall for each in found] == [each.recall for each in expected]
    names = dict(whole.named_parameters()).keys()
    assert all(torch.equal(whole.get_parameter(name), parts.get_parameter(name)) for name in names)


def test_base_domains_teach_the_projections_alone(start, make_encoder):
    _, encoder = start(ZeroShot())
    before = make_encoder(width=8)
    changed = {name for name, value in encoder.named_parameters() if not torch.equal(value, before.get_parameter(name))}
    assert changed == {"towers.0.projection.weight", "towers.1.projection.weight"}


def test_what_is_learned_is_found_and_forgotten_by_plain_fine_tuning(start, tmp_path):
    longer = ContrastiveTraining(epochs=20, batch_size=20, lr=5e-3)
    records, _ = start(Sequential(), training=longer)
    assert [record.learned for record in records] == [0, 1, 2]
    recalls = RetrievalFolder(tmp_path / "run").recalls("")
    first = recalls[0, :, 0, 0]
    assert recalls.shape == (2, 3, 3, 3)
    assert first[1] > 0.5 > first[0]
    assert first[2] < first[1] - 0.2


def test_adapters_of_each_domain_keep_what_was_learned(start, tmp_path):
    longer = ContrastiveTraining(epochs=10, batch_size=20, lr=1e-2)
    records, _ = start(DAR(), training=longer)
    oracle = RetrievalFolder(tmp_path / "run").recalls("oracle")
    assert torch.equal(oracle[:, 1, 0], oracle[:, 2, 0])
    assert average_recall(oracle[0], 2)[2] > oracle[0, 0, :2].mean(0)[2]
    assert records[-1].added - records[1].added == records[1].added
    assert min(records[-1].routed[0][:2]) > 0.9
    assert records[-1].unknown[0][2] > 0.9


def test_queries_may_be_searched_among_all_domains(start, tmp_path):
    start(Sequential(), "domain")
    start(Sequential(), "all", gallery="all")
    domain, whole = (RetrievalFolder(tmp_path / name).recalls("") for name in ("domain", "all"))
    assert (whole <= domain).all()
    assert (whole < domain).any()


def test_replayed_pairs_count_as_pairs_of_another_domain(arrays, make_encoder):
    encoder, method, (one, other, *_) = make_encoder(), Replay(per_domain=4, drawn=4), arrays(2).domains.tested
    method.end(0, one, encoder, 0)
    first, second = (items[:3] for items in other.train.sides)
    batch = PairBatch(first, second, torch.eye(3, dtype=torch.bool), 1)
    found = method.loss(encoder, batch, torch.Generator().manual_seed(0))
    order = torch.randperm(4, generator=torch.Generator().manual_seed(0))
    left = torch.cat([encoder.towers[0](part) for part in (first, method.first[order])])
    right = torch.cat([encoder.towers[1](part) for part in (second, method.second[order])])
    logits = left @ right.T / 0.1
    both = (logits, logits.T)
    expected = sum(torch.nn.functional.cross_entropy(each, torch.arange(7)) for each in both) / 2
    torch.testing.assert_close(found, expected)


def test_importance_holds_weights_back(start, make_encoder):
    far = [start(EWC(strength), f"run{strength}", SHORT)[1] for strength in (0.0, 1e6)]
    after_first = make_encoder(width=8)
    moved = [
        sum((a - b).square().sum() for a, b in zip(each.parameters(), after_first.parameters(), strict=True))
        for each in far
    ]
    assert moved[1] < moved[0]


def test_runs_that_cannot_be_are_refused(start, arrays, make_encoder, tmp_path):
    with pytest.raises(
        ConfigurationError, match="the towers give 16 and 12 values, which cannot be compared; set width"
    ):
        make_encoder(outputs=(16, 12))
    with pytest.raises(ConfigurationError, match="width is null, so that there are none"):
        run(ZeroShot(), arrays(2, True), make_encoder(), RetrievalFolder(tmp_path / "none"))
    start(ZeroShot())
    with pytest.raises(ConfigurationError, match="already holds a run; give --resume"):
        start(ZeroShot())
    with pytest.raises(ResumeError, match=r"holds a run with other settings: seed was 0 and is 1"):
        start(ZeroShot(), seed=1, resume=True)
    with pytest.raises(ResumeError, match="the pairs of the domain 'domain 4' have changed since"):
        run(ZeroShot(), arrays(3, True), make_encoder(width=8), RetrievalFolder(tmp_path / "run"), resume=True)


def test_a_domain_without_pairs_is_named(arrays):
    class Empty(arrays):
        def load(self) -> Domains:
            domains = super().load()
            train = domains.learned[0].train
            none = Pairs(train.first, train.second, train.matches[:0])
            object.__setattr__(domains.learned[1], "train", none)
            return domains

    told = r"the domain 'domain 1' has training pairs whose number is 0; there must be at least one"
    with pytest.raises(DataError, match=told):
        _ = Empty(2).domains
