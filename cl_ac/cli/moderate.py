"""`cl-ac moderate`: texts are judged as safe or unsafe by the layers of a language model."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser

from cl_ac.data.tables import labelled, read_table
from cl_ac.errors import ConfigurationError, DataError, unknown
from cl_ac.moderation.artefact import encoder_of, load, save
from cl_ac.moderation.encoder import Encoder
from cl_ac.moderation.measures import measures
from cl_ac.moderation.moderator import Moderator, Settings, Verdict, fit
from cl_ac.moderation.server import Serving, serve
from cl_ac.recording.files import write_atomically
from cl_ac.run import choose_device
from cl_ac.settings.parser import parse

STEPS = {"fit": "learn from a table of texts", "score": "judge the texts of a file", "serve": "answer HTTP requests"}
USAGE = "\n".join(
    [
        "usage: cl-ac moderate STEP [options]",
        "",
        *(f"  {name:6} {text}" for name, text in STEPS.items()),
        "",
        "`cl-ac moderate STEP --help` lists all options.",
    ]
)


def command(arguments: Sequence[str]) -> None:
    """`cl-ac moderate fit | score | serve`."""
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if name in ("-h", "--help"):
        print(USAGE)
        raise SystemExit(0)
    if name not in STEPS:
        raise ConfigurationError(unknown("step of moderate", name, STEPS))
    {"fit": fit_command, "score": score_command, "serve": serve_command}[name](rest)


def fit_command(arguments: Sequence[str]) -> None:
    """Fits a moderator on a table, and says which layers it chose."""
    parser = _parser("fit", "Fits prototypes at every layer of a language model.")
    parser.add_argument("table", type=str, help="a .csv or .jsonl file with texts and labels")
    parser.add_argument("--model", type=str, required=True, help="a folder or a name of the hub, with weights")
    parser.add_argument("--out", type=str, required=True, help="the file that is written")
    parser.add_argument("--safe", type=str, default="safe", help="the label of safe texts; all others are unsafe")
    parser.add_argument("--text", type=str, default="text", help="the column of texts")
    parser.add_argument("--label", type=str, default="label", help="the column of labels")
    parser.add_argument("--source", type=str | None, default=None, help="the column that says where a text is from")
    parser.add_argument("--tokens", type=int, default=128, help="tokens of a text that are read at most")
    parser.add_argument(
        "--reading",
        type=Literal["auto", "class", "mean", "last"],
        default="auto",
        help="what speaks for a text at each layer",
    )
    parser.add_argument("--device", type=str, default="auto", help="where the model runs: cpu, cuda, cuda:1, …")
    parser.add_argument("--seed", type=int, default=0, help="of what is held out")
    parser.add_class_arguments(Settings, as_group=False)
    given = parse(parser, arguments)
    texts = labelled(given.table, given.text, given.label)
    # As they stand there: `score` compares them with those of another table, where 01 is not 1 either.
    labels = _column(given.table, given.label)
    sources = _column(given.table, given.source) if given.source else None
    names = ("scale", "prototypes", "aggregation", "strength", "held_out", "balanced")
    settings = Settings(**{name: given[name] for name in names})
    encoder = Encoder(given.model, given.tokens, given.reading, choose_device(given.device))
    found = fit(encoder(texts.texts), labels, given.safe, encoder.layers, settings, sources, given.seed)
    save(found, encoder, Path(given.out))
    print(f"{len(labels)} texts, {len(found.labels)} labels, {len(found.layers)} layers; of these count:")
    for layer, share in found.chosen.items():
        print(f"  {layer:30} {100 * share:5.1f} %")
    print(f"written: {given.out}")


def score_command(arguments: Sequence[str]) -> None:
    """Judges the texts of a table, or each line of the standard input: a JSON object a line, without the text."""
    parser = _parser("score", "Judges texts: a JSON object a line, in their order.")
    _add_moderator(parser)
    parser.add_argument("table", type=str, help="a .csv or .jsonl file with texts, or - for lines of standard input")
    parser.add_argument("--text", type=str, default="text", help="the column of texts")
    parser.add_argument("--label", type=str | None, default=None, help="a column of labels, to measure by")
    parser.add_argument("--out", type=str | None, default=None, help="the file for verdicts; else standard output")
    given = parse(parser, arguments)
    judge, found = _judge(given)
    labels: list[str] = []
    if given.table == "-":
        texts = [line.rstrip("\n") for line in sys.stdin if line.strip()]
    else:
        texts = _column(given.table, given.text)
        labels = _column(given.table, given.label) if given.label else []
    if labels and not set(labels) <= set(found.labels):
        strange = next(iter(set(labels) - set(found.labels)))
        raise DataError(f"'{given.table}': {unknown('label', strange, found.labels)}")
    verdicts = judge(texts)
    lines = "".join(f"{json.dumps(asdict(each))}\n" for each in verdicts)
    if given.out:
        write_atomically(Path(given.out), lambda file: file.write_text(lines))
    else:
        sys.stdout.write(lines)
    if labels:
        found_measures = measures([each.score for each in verdicts], [each != found.labels[0] for each in labels])
        print(", ".join(f"{name} {value:.3f}" for name, value in found_measures.items()), file=sys.stderr)


def serve_command(arguments: Sequence[str]) -> None:
    """Answers `POST /score` on the loopback address."""
    parser = _parser("serve", 'Answers POST /score with {"texts": [...]} on 127.0.0.1; texts are not logged.')
    _add_moderator(parser)
    parser.add_argument("--port", type=int, default=8080, help="0 takes any that is free")
    parser.add_class_arguments(Serving, as_group=False)
    given = parse(parser, arguments)
    serving = Serving(given.batch, given.queue, given.wait)
    if not 0 <= given.port < 2**16:
        raise ConfigurationError(f"port is {given.port}; it must be from 0 to {2**16 - 1}")
    serve(_judge(given)[0], given.port, serving)


def _parser(step: str, description: str) -> ArgumentParser:
    return ArgumentParser(prog=f"cl-ac moderate {step}", description=description, exit_on_error=False)


def _add_moderator(parser: ArgumentParser) -> None:
    parser.add_argument("moderator", type=str, help="the file that `cl-ac moderate fit` wrote")
    parser.add_argument("--model", type=str | None, default=None, help="where its model is now, if it was moved")
    parser.add_argument("--sure", type=float | None, default=None, help="read no deeper than a layer that is so sure")
    parser.add_argument("--device", type=str, default="auto", help="where the model runs: cpu, cuda, cuda:1, …")


def _judge(given: Any) -> tuple[Any, Moderator]:
    """What judges texts, and the moderator in it."""
    moderator, described = load(Path(given.moderator))
    moderator.check_sure(given.sure)
    encoder = encoder_of(described, given.model, choose_device(given.device))

    def judge(texts: Sequence[str]) -> list[Verdict]:
        return moderator(encoder, texts, given.sure)

    return judge, moderator


def _column(path: str, name: str) -> list[str]:
    rows: list[Mapping[str, Any]] = list(read_table(path, (name,)))
    if not rows:
        raise DataError(f"there are no rows in '{path}'")
    empty = [number for number, row in enumerate(rows, 1) if row[name] is None or not str(row[name]).strip()]
    if empty:
        raise DataError(f"row {empty[0]} of '{path}' has an empty '{name}'; fill it in, or remove the row")
    return [str(row[name]) for row in rows]
