"""Tables of pairs out of data sets with names: images with captions of their classes, queries with their intents.

    python scripts/retrieval/tables.py images --root ~/data/images --out tables/images
    python scripts/retrieval/tables.py queries --root ~/data/clinc150 --out tables/queries

Writes `train.csv` and `test.csv` for the benchmark `PairTable`. Images are those of an image folder with
`train/CLASS/`, `test/CLASS/` and `classes.tsv`, which has the names of each class; a caption is made of a class's first
name, and domains are kinds of things. Queries are those of CLINC-150; what answers them is the name of their intent as
words.
"""

import argparse
import csv
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

DOMAINS = {
    "small animals": "trilobite, black widow, centipede, slug, American lobster, ladybug, bee, walking stick, mantis, "
    "monarch",
    "mammals": "Chihuahua, golden retriever, German shepherd, tabby, Egyptian cat, lion, hog, bison, gazelle, "
    "orangutan",
    "clothing": "academic gown, apron, bikini, kimono, miniskirt, poncho, sandal, sombrero, sunglasses, "
    "swimming trunks",
    "vehicles": "beach wagon, convertible, gondola, lawn mower, limousine, tractor, trolleybus, cannon",
    "food": "guacamole, ice lolly, mashed potato, bell pepper, orange, banana, meat loaf, potpie",
    "buildings": "barn, bannister, butcher shop, dam, fountain, obelisk, steel arch bridge, thatch, viaduct, birdhouse",
}
CAPTIONS = {"train": ("a photo of a {}",), "test": ("a small picture of the {}",)}
Row = Mapping[str, str]


def images(root: Path, each: Mapping[str, int]) -> Iterator[tuple[str, Row]]:
    """Rows of images with each caption of their class, and the part that they are of."""
    words = [line.split("\t") for line in (root / "classes.tsv").read_text().splitlines()]
    names = {folder: text.split(",")[0].strip() for folder, text in words}
    domain_of = {name.strip(): domain for domain, members in DOMAINS.items() for name in members.split(",")}
    for part, captions in CAPTIONS.items():
        for folder, name in names.items():
            for path in sorted((root / part / folder).iterdir())[: each[part]]:
                for caption in captions:
                    where = {"image": str(path.relative_to(root)), "domain": domain_of.get(name, "base")}
                    yield part, {**where, "text": caption.format(name)}


def queries(root: Path, each: Mapping[str, int]) -> Iterator[tuple[str, Row]]:
    """Rows of queries with the name of their intent, and the part that they are of."""
    with (root / "domains.csv").open() as file:
        domain_of = {row["label"]: row["domain"].replace("_", " ") for row in csv.DictReader(file)}
    for part, most in each.items():
        counts: dict[str, int] = {}
        with (root / f"{part}.csv").open() as file:
            for row in csv.DictReader(file):
                label = row["label"]
                counts[label] = counts.get(label, 0) + 1
                if counts[label] <= most:
                    yield part, {"query": row["text"], "intent": label.replace("_", " "), "domain": domain_of[label]}


def write(rows: Iterable[tuple[str, Row]], out: Path) -> None:
    """Writes the rows of each part to a file of its own."""
    parts: dict[str, list[Row]] = {}
    for part, row in rows:
        parts.setdefault(part, []).append(row)
    out.mkdir(parents=True, exist_ok=True)
    for part, found in parts.items():
        with (out / f"{part}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(found[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("images", "queries"))
    parser.add_argument("--root", type=Path, required=True, help="the folder of the data set")
    parser.add_argument("--out", type=Path, required=True, help="the folder of the tables")
    parser.add_argument("--train", type=int, default=20, help="at most so many of each class or intent to train on")
    parser.add_argument("--test", type=int, default=10, help="at most so many to test on")
    arguments = parser.parse_args()
    each = {"train": arguments.train, "test": arguments.test}
    make = images if arguments.kind == "images" else queries
    write(make(arguments.root.expanduser(), each), arguments.out)


if __name__ == "__main__":
    main()
