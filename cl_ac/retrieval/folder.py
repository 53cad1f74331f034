"""What a retrieval run leaves on disk.

config.yaml        all settings; `cl-ac retrieve --config config.yaml` repeats the run
data.json          what the pairs of each domain are recognised by when the run goes on
provenance.json    versions, commit, hardware and start time
recall.jsonl       one line before the first domain, and one after each
checkpoint.pt      the state after the last finished epoch
frozen.pt          the weights that never learn, which the checkpoint leaves out
lock               held by the process at work here
report/            the page, its figures and tables
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from cl_ac.errors import ConfigurationError, ResumeError
from cl_ac.recording.checkpoint import Checkpoint
from cl_ac.recording.files import reading, writable_folder, write_atomically
from cl_ac.recording.lock import exclusive
from cl_ac.recording.provenance import provenance
from cl_ac.recording.records import unknown_as
from cl_ac.recording.same_run import changed_settings, other_settings, settings_digest
from cl_ac.retrieval.recall import DEPTHS

RECALLS = "recall.jsonl"


@dataclass(frozen=True)
class RecallRecord:
    """What is found after a domain, a line of `recall.jsonl`.

    Args:
        learned: how many domains have been learned.
        domains: names of those that are tested, the learned and those to come first, the unseen ones last.
        unseen: how many of them are never learned.
        sides: names of both sides.
        recall: of each rule, by direction (queries of the first, then of the second side), domain and depth
            [2][domains][len(DEPTHS)].
        routed: of each direction, the share of queries of each domain [2][domains] that are routed to it; NaN, null in
            the file, for a domain that no adapter is of; None without routing.
        unknown: of each direction, the share of queries of each domain [2][domains] left to the base model; None
            without routing.
        base: parameters of the base model.
        added: numbers kept beside it.
        seconds: that learning and answering took.
    """

    learned: int
    domains: list[str]
    unseen: int
    sides: list[str]
    recall: dict[str, list[list[list[float]]]]
    routed: list[list[float]] | None
    unknown: list[list[float]] | None
    base: int
    added: int
    seconds: float

    def line(self) -> str:
        """What `parse` reads."""
        return json.dumps(unknown_as(asdict(self), math.nan, None)) + "\n"

    @staticmethod
    def parse(line: str) -> "RecallRecord":
        """A record out of its line.

        Raises:
            ValueError: if the line is none that a run wrote.
        """
        content = json.loads(line)
        if not isinstance(content, dict) or set(content) != {each.name for each in fields(RecallRecord)}:
            raise ValueError(line)
        for name in ("routed", "recall"):
            content[name] = unknown_as(content[name], None, math.nan) if content[name] is not None else None
        record = RecallRecord(**content)
        shape = 2, len(record.domains), len(DEPTHS)
        if any(tuple(torch.tensor(values).shape) != shape for values in record.recall.values()):
            raise ValueError(line)
        return record


class RetrievalFolder:
    """The folder of one run.

    Args:
        path: of it.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self.config_path, self.recall_path = self.path / "config.yaml", self.path / RECALLS
        self.checkpoint_path, self.data_path = self.path / "checkpoint.pt", self.path / "data.json"

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def config(self) -> dict[str, Any]:
        """The run's settings.

        Raises:
            DamagedRun: if they cannot be read.
        """
        with reading(self.config_path, "the recalls in recall.jsonl are plain text"):
            return dict(yaml.safe_load(self.config_path.read_text()))

    @property
    def records(self) -> list[RecallRecord]:
        """What was found before the first domain and after each; none before.

        Raises:
            DamagedRun: if a line is none that a run wrote.
        """
        if not self.recall_path.exists():
            return []
        with reading(self.recall_path, "remove the folder to start the run again"):
            return [RecallRecord.parse(line) for line in self.recall_path.read_text().splitlines() if line.strip()]

    def recalls(self, rule: str) -> Tensor:
        """Recall of a rule by direction, domains learned, domain tested and depth: float64 [2, 1 + T, domains, K]."""
        rows = [torch.tensor(record.recall[rule], dtype=torch.float64) for record in self.records]
        return torch.stack(rows, 1)

    @contextmanager
    def opened(self, config: Mapping[str, Any], data: Mapping[str, str], resume: bool) -> Iterator[Checkpoint]:
        """Makes the folder, keeps other processes out, and says where the run goes on.

        Args:
            data: what the pairs of each domain are recognised by.
        Raises:
            ConfigurationError: if it holds a run already and `resume` is off.
            ResumeError: if the run in it had other settings or other data.
        """
        writable_folder(self.path)
        with exclusive(self.path / "lock"):
            digest = settings_digest(config)
            if not (self.checkpoint_path.exists() or self.recall_path.exists()):
                texts = {
                    self.path / "provenance.json": json.dumps(provenance(), indent=2),
                    self.data_path: json.dumps(dict(data), indent=1),
                    self.config_path: yaml.safe_dump(dict(config), sort_keys=False),
                }
                for path, text in texts.items():
                    write_atomically(path, partial(Path.write_text, data=text))
                yield Checkpoint(run=digest)
                return
            if not resume:
                raise ConfigurationError(
                    f"'{self.path}' already holds a run; give --resume to go on with it, or another --name or --out"
                )
            if changed := changed_settings(self.config, config, {}):
                raise ResumeError(other_settings(self.path, changed))
            with reading(self.data_path, "remove the folder to start the run again"):
                before = json.loads(self.data_path.read_text())
            if differ := sorted(name for name in {*before, *data} if before.get(name) != data.get(name)):
                raise ResumeError(f"the pairs of the domain '{differ[0]}' have changed since '{self.path}' began")
            yield Checkpoint.load(self.checkpoint_path) if self.checkpoint_path.exists() else Checkpoint(run=digest)

    def finish(self, record: RecallRecord) -> None:
        """Keeps what was found, and forgets what an earlier attempt found later.

        Raises:
            StorageError: if the disk refuses it; what was there is whole.
        """
        kept = [*(each for each in self.records if each.learned < record.learned), record]
        write_atomically(self.recall_path, lambda path: path.write_text("".join(each.line() for each in kept)))


def retrieval_runs(path: Path) -> list[RetrievalFolder]:
    """The retrieval run in a folder, or those in its subfolders by name; none in other folders."""
    if (path / RECALLS).exists():
        return [RetrievalFolder(path)]
    return [RetrievalFolder(file.parent) for file in sorted(path.glob(f"*/{RECALLS}"))]
