"""The report of retrieval runs: recall after each domain, where queries are routed, and what is kept for it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from cl_ac.errors import ConfigurationError
from cl_ac.recording.figures import Line, heat_map, line_figure
from cl_ac.recording.same_run import FREE_SETTINGS
from cl_ac.recording.stored_settings import flatten
from cl_ac.report.formats import Cell, ResultTable, Spread
from cl_ac.report.page import write_page
from cl_ac.report.sections import Section
from cl_ac.retrieval.folder import RecallRecord, RetrievalFolder
from cl_ac.retrieval.recall import DEPTHS, average_recall, lost_recall, transferred_recall, unseen_recall

TEXT = (
    "Recall@k: the share of queries that have a match among their k nearest items. Average: over the domains learned; "
    "forgetting: how far domains but the last are below their best; transfer: what earlier domains change on a domain "
    "just before it is learned; unseen: on domains that are never learned. Per cent, mean ± deviation over seeds."
)


@dataclass(frozen=True)
class Answers:
    """Runs that differ in their seed alone, by one of the rules in which their method answers.

    Args:
        label: of them.
        rule: which.
        runs: one for each seed.
        recalls: of each run, see `RetrievalFolder.recalls` [2, 1 + T, domains, K].
    """

    label: str
    rule: str
    runs: Sequence[RetrievalFolder]
    recalls: Sequence[Tensor]

    @cached_property
    def last(self) -> list[RecallRecord]:
        """What each run found at the end."""
        return [run.records[-1] for run in self.runs]

    @property
    def directions(self) -> list[str]:
        """Such as `image → text`."""
        first, second = self.last[0].sides
        return [f"{first} → {second}", f"{second} → {first}"]

    def spread(self, direction: int, depth: int, measure: Any) -> Cell:
        """A number of all seeds; an empty text where there is none."""
        learned = min(record.learned for record in self.last)
        if not learned and measure is not unseen_recall:
            return ""
        found = [measure(recalls[direction], learned) for recalls in self.recalls]
        return "" if found[0] is None else Spread(tuple(each[depth].item() for each in found))


def answers(folders: Sequence[RetrievalFolder]) -> list[Answers]:
    """All ways of answering of all runs, in their order; runs without a result are left out.

    Raises:
        ConfigurationError: if none has a result, or they were tested on other domains.
    """
    groups: dict[str, list[RetrievalFolder]] = {}
    for folder in folders:
        if folder.records:
            left_out = {*FREE_SETTINGS, "seed"}
            settings = {name: value for name, value in flatten(folder.config).items() if name not in left_out}
            groups.setdefault(json.dumps(settings, sort_keys=True, default=str), []).append(folder)
    tested = {tuple(runs[0].records[0].domains): runs[0] for runs in groups.values()}
    if not tested:
        raise ConfigurationError("none of the runs has a result; there is nothing to report")
    if len(tested) > 1:
        first, second, *_ = tested.values()
        raise ConfigurationError(f"'{first.path}' and '{second.path}' were tested on other domains; report them apart")
    names = [method_name(runs[0].config) for runs in groups.values()]
    found = []
    for name, runs in zip(names, groups.values(), strict=True):
        label = name if names.count(name) == 1 else runs[0].name
        length = min(len(run.records) for run in runs)
        for rule in runs[0].records[0].recall:
            recalls = [run.recalls(rule)[:, :length] for run in runs]
            found.append(Answers(f"{label}, {rule}" if rule else label, rule, runs, recalls))
    return found


def method_name(config: Mapping[str, Any]) -> str:
    """The bare name of a run's method, as far as its settings tell it."""
    return str((config.get("method") or {}).get("class_path", "run")).rpartition(".")[2]


def recall_tables(found: Sequence[Answers]) -> Iterator[ResultTable]:
    """A table for each depth, and for each direction its average, forgetting, transfer and that of unseen domains."""
    measures = {
        "average": average_recall,
        "forgetting": lost_recall,
        "transfer": transferred_recall,
        "unseen": unseen_recall,
    }
    for depth, k in enumerate(DEPTHS):
        columns = ["answers", *(f"{way}: {name}" for way in found[0].directions for name in measures)]
        rows: list[list[Cell]] = [
            [each.label, *(each.spread(way, depth, measure) for way in range(2) for measure in measures.values())]
            for each in found
        ]
        yield ResultTable(f"recall_at_{k}", f"recall@{k}, %", columns, rows)


def matrix_table(found: Sequence[Answers]) -> ResultTable:
    """Recall on each domain, before the first was learned and after each."""
    names = found[0].last[0].domains
    rows: list[list[Cell]] = []
    for each in found:
        mean = torch.stack([*each.recalls])
        for way, direction in enumerate(each.directions):
            for depth, k in enumerate(DEPTHS):
                for learned in range(mean.shape[2]):
                    cells = [Spread(tuple(mean[:, way, learned, place, depth].tolist())) for place in range(len(names))]
                    rows.append([each.label, direction, k, learned, *cells])
    columns = ["answers", "direction", "k", "domains learned", *names]
    return ResultTable("recall_matrix", "recall on each domain, %", columns, rows)


def routing_table(found: Sequence[Answers]) -> ResultTable | None:
    """Where the queries of each domain are routed at the end; None where no run routes."""
    rows: list[list[Cell]] = []
    for each in {id(each.runs): each for each in found}.values():
        if each.last[0].routed is None:
            continue
        label = each.label.removesuffix(f", {each.rule}")
        for way, direction in enumerate(each.directions):
            for place, name in enumerate(each.last[0].domains):
                shares = [
                    Spread(tuple((getattr(record, what) or [])[way][place] for record in each.last))
                    for what in ("routed", "unknown")
                ]
                rows.append([label, direction, name, *shares])
    columns = ["run", "queries", "of domain", "routed to it", "left to the base model"]
    return ResultTable("routing", "where queries are routed after the last domain, %", columns, rows) if rows else None


def size_table(found: Sequence[Answers]) -> ResultTable:
    """What each method keeps beside the base model, and the time that it took."""
    rows: list[list[Cell]] = []
    for each in {id(each.runs): each for each in found}.values():
        last = each.last[0]
        seconds = [sum(record.seconds for record in run.records) for run in each.runs]
        rows.append([
            each.label.removesuffix(f", {each.rule}"),
            last.base,
            last.added,
            100 * last.added / last.base,
            last.added / max(last.learned, 1),
            Spread(tuple(seconds), percent=False),
        ])  # fmt: skip
    columns = ["run", "base model", "added", "added, %", "added per domain", "seconds"]
    return ResultTable("size", "numbers that are kept after the last domain, and time", columns, rows)


def figures(found: Sequence[Answers]) -> Iterator[tuple[str, Figure]]:
    """Average recall@1 while domains are learned, in both directions, and each run's matrices of recall@1."""
    for way, direction in enumerate(found[0].directions):
        lines = []
        for colour, each in enumerate(found):
            curves = [
                torch.stack([row[:learned].mean() for learned, row in enumerate(recalls[way, ..., 0]) if learned])
                for recalls in each.recalls
                if recalls.shape[1] > 1
            ]
            if curves:
                counts = range(1, 1 + len(curves[0]))
                lines.append(Line(each.label, counts, torch.stack(curves), colour, each.rule not in ("", "routed")))
        yield (
            f"average_recall-{way}",
            line_figure(lines, f"recall@1, {direction}", "domains learned", "average recall@1 (%)"),
        )
    for each in {id(each.runs): each for each in reversed(found)}.values():
        for way, direction in enumerate(each.directions):
            mean = torch.stack([*each.recalls]).mean(0)[way, ..., 0]
            rows, names = list(map(str, range(len(mean)))), each.last[0].domains
            title = f"{each.label}, {direction}"
            places = [str(place + 1) for place in range(len(names))]
            yield f"recall-{each.label}-{way}", heat_map(mean, title, "on domain", "domains learned", rows, places)


def retrieval_sections(found: Sequence[Answers]) -> list[Section]:
    """All sections of the page."""
    drawn = dict(figures(found))
    curves = {name: figure for name, figure in drawn.items() if name.startswith("average")}
    matrices = {name: figure for name, figure in drawn.items() if name not in curves}
    names = ", ".join(f"{place + 1} {name}" for place, name in enumerate(found[0].last[0].domains))
    told = (
        f"Recall on each domain before the first was learned and after each; drawn: recall@1 of each run by the first "
        f"of its rules. Domains: {names}."
    )
    parts = [
        Section("Recall", TEXT, list(recall_tables(found)), curves),
        Section("Recall matrices", told, [matrix_table(found)], matrices),
        Section("Size and time", "The base model counts both towers and projections.", [size_table(found)]),
    ]
    if (routed := routing_table(found)) is not None:
        parts.insert(2, Section("Routing", "Shares of the test queries of each domain.", [routed]))
    return parts


def write_retrieval_report(folders: Sequence[RetrievalFolder], folder: Path) -> Path:
    """Writes `report.html`, `figures/` and `tables/` to `folder`, and returns the page."""
    found = answers(folders)
    return write_page("Continual retrieval", f"{len(folders)} runs.", retrieval_sections(found), folder)
