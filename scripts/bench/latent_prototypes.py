"""What the layers of a frozen sentence encoder know of intents: CLINC-150 in tasks, and queries that are none of them.

Needs the folder of CLINC-150 as CSV files (`train.csv`, `validation.csv`, `test.csv`, `out_of_scope_*.csv`, each with
`text` and `label`) and the folder of an encoder. Features of each layer are computed once and kept in `--features`.

    python scripts/bench/latent_prototypes.py --data ~/data/clinc150 --model FOLDER --out latent_prototypes.json
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from cl_ac.classifiers.fitting import fit_weights
from cl_ac.data.seeding import generator
from cl_ac.data.tables import Texts, labelled
from cl_ac.moderation.encoder import Encoder
from cl_ac.moderation.measures import measures
from cl_ac.moderation.moderator import Settings, fit
from cl_ac.moderation.prototypes import LayerPrototypes, LayerStatistics
from cl_ac.recording.provenance import provenance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=str, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--features", type=Path, default=Path("latent_prototypes.safetensors"))
    parser.add_argument("--train", type=int, default=100, help="texts of each intent to train on")
    parser.add_argument("--test", type=int, default=30, help="texts of each intent to test on")
    parser.add_argument("--validation", type=int, default=20, help="texts of each intent to weigh layers by")
    parser.add_argument("--tasks", type=int, default=15)
    parser.add_argument("--picture", type=Path, help="a .png or .svg of the results")
    given = parser.parse_args()
    origin = provenance()
    encoder = Encoder(given.model, tokens=64)
    counts = {"train": given.train, "validation": given.validation, "test": given.test}
    tables = {name: few(labelled(given.data / f"{name}.csv", "text", "label"), most) for name, most in counts.items()}
    for part in ("train", "test"):
        tables[f"out_of_scope_{part}"] = labelled(given.data / f"out_of_scope_{part}.csv", "text", "label")
    features = known(encoder, tables, given.features)
    names = sorted(set(tables["train"].labels))
    order = torch.randperm(len(names), generator=generator(0, "class order")).tolist()
    places = {names[label]: place for place, label in enumerate(order)}
    targets = {name: torch.tensor([places[each] for each in tables[name].labels]) for name in counts}
    found = {
        "provenance": origin,
        "texts": {name: len(table.texts) for name, table in tables.items()},
        "layers": encoder.layers,
        "tasks": in_tasks(features, targets, given.tasks),
        "samples_per_class": by_samples(features, targets),
        "out_of_scope": out_of_scope(features) | far_from_intents(features, targets),
        "seconds": seconds(encoder, tables["test"].texts[:64]),
    }
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    if given.picture:
        draw(found, given.picture)
    print(json.dumps({name: value for name, value in found.items() if name != "provenance"}, indent=1))


def few(table: Texts, most: int) -> Texts:
    """The first `most` texts of each label."""
    seen: dict[object, int] = {}
    kept = []
    for place, label in enumerate(table.labels):
        seen[label] = seen.get(label, 0) + 1
        if seen[label] <= most:
            kept.append(place)
    return Texts(table.source, [table.texts[place] for place in kept], [str(table.labels[place]) for place in kept])


def known(encoder: Encoder, tables: dict[str, Texts], path: Path) -> dict[str, Tensor]:
    """Features [L, N, D] of each table, from the file at `path` or computed and kept there."""
    found = load_file(path) if path.exists() else {}
    for name, table in tables.items():
        if name not in found or found[name].shape[1] != len(table.texts):
            began = time.perf_counter()
            found[name] = encoder(table.texts)
            print(f"{name}: {len(table.texts)} texts in {time.perf_counter() - began:.0f} s", flush=True)
            save_file(found, path)
    return found


def accuracy(scores: Tensor, targets: Tensor) -> float:
    return 100 * (scores.argmax(-1) == targets).double().mean().item()


def nearest_mean(train: Tensor, targets: Tensor, test: Tensor, classes: int) -> Tensor:
    """Cosines [N, C] with the means of normalised features."""
    members = F.one_hot(targets, classes).double().T
    return F.normalize(test.double()) @ F.normalize(members @ F.normalize(train.double())).T


def in_tasks(features: dict[str, Tensor], targets: dict[str, Tensor], tasks: int) -> dict[str, list[float]]:
    """Accuracy in % over all classes so far, after each task; statistics of each task are merged and forgotten."""
    classes = int(targets["train"].max()) + 1
    rows: dict[str, list[float]] = {}
    statistics = None
    for task in range(tasks):
        upto = classes * (task + 1) // tasks
        first = classes * task // tasks
        new = (targets["train"] >= first) & (targets["train"] < upto)
        part = LayerStatistics.of(features["train"][:, new], targets["train"][new], upto)
        statistics = part if statistics is None else statistics.merge(part)
        labels = torch.arange(upto)
        gaussian = LayerPrototypes(statistics, torch.zeros_like(labels), labels, "unit")
        seen = {name: targets[name] < upto for name in targets}
        scores = {
            name: gaussian.log_posteriors(features[name][:, seen[name]])[:, :, 0] for name in ("validation", "test")
        }
        wanted = targets["test"][seen["test"]]
        train = seen["train"]
        means = nearest_mean(
            features["train"][-1, train], targets["train"][train], features["test"][-1, seen["test"]], upto
        )
        weights = fit_weights(scores["validation"], targets["validation"][seen["validation"]], 0.01)[-1].double()
        answers = {
            "nearest mean, last layer": means,
            "Gaussian, last layer": scores["test"][-1],
            "Gaussian, uniform layers": scores["test"].mean(0),
            "Gaussian, learned layers": torch.tensordot(weights, scores["test"], 1),
            **{f"Gaussian, layer {index + 1}": each for index, each in enumerate(scores["test"])},
        }
        for name, each in answers.items():
            rows.setdefault(name, []).append(accuracy(each, wanted))
        if upto == classes:
            rows["weights of learned layers"] = weights.tolist()
    return rows


def by_samples(features: dict[str, Tensor], targets: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """Accuracy in % over all classes, with the first so many texts of each."""
    classes = int(targets["train"].max()) + 1
    order = torch.arange(len(targets["train"]))
    rank = torch.zeros_like(order)
    for label in range(classes):
        members = (targets["train"] == label).nonzero()[:, 0]
        rank[members] = torch.arange(len(members))
    rows = {}
    labels = torch.arange(classes)
    for count in (1, 2, 5, 10, 20, 50, 100):
        if count > int(rank.max()) + 1:
            break
        kept = rank < count
        statistics = LayerStatistics.of(features["train"][:, kept], targets["train"][kept], classes)
        gaussian = LayerPrototypes(statistics, torch.zeros_like(labels), labels, "unit")
        scores = gaussian.log_posteriors(features["test"])[:, :, 0]
        means = nearest_mean(features["train"][-1, kept], targets["train"][kept], features["test"][-1], classes)
        rows[str(count)] = {
            "nearest mean, last layer": accuracy(means, targets["test"]),
            "Gaussian, last layer": accuracy(scores[-1], targets["test"]),
            "Gaussian, uniform layers": accuracy(scores.mean(0), targets["test"]),
        }
    return rows


def out_of_scope(features: dict[str, Tensor]) -> dict[str, dict[str, object]]:
    """How well queries of no intent are told from the others."""
    from sklearn.linear_model import LogisticRegression

    train = torch.cat([features["train"], features["out_of_scope_train"]], 1)
    test = torch.cat([features["test"], features["out_of_scope_test"]], 1)
    labels = ["safe"] * features["train"].shape[1] + ["unsafe"] * features["out_of_scope_train"].shape[1]
    unsafe = [False] * features["test"].shape[1] + [True] * features["out_of_scope_test"].shape[1]
    layers = [f"layer {index + 1}" for index in range(len(train))]
    rows: dict[str, dict[str, object]] = {}
    linear = LogisticRegression(max_iter=2000, class_weight="balanced")
    linear.fit(train[-1].numpy(), [each == "unsafe" for each in labels])
    rows["logistic regression, last layer"] = dict(measures(linear.predict_proba(test[-1].numpy())[:, 1], unsafe))
    for index, layer in enumerate(layers):
        part = slice(index, index + 1)
        one = fit(train[part], labels, "safe", [layer], Settings(aggregation="last", scale="unit"))
        rows[f"prototypes, {layer}"] = dict(measures([each.score for each in one.judge(test[part])], unsafe))
    for aggregation in ("uniform", "learned"):
        for scale in ("bayes", "unit"):
            settings = Settings(aggregation=aggregation, scale=scale, balanced=True)
            many = fit(train, labels, "safe", layers, settings)
            verdicts = many.judge(test)
            row: dict[str, object] = dict(measures([each.score for each in verdicts], unsafe))
            rows[f"prototypes, {aggregation} layers, {scale} scale"] = row | {"layers": many.chosen}
            if (aggregation, scale) == ("learned", "bayes"):
                quarter = Settings(prototypes=20, scale=scale, balanced=True)
                several = fit(train, labels, "safe", layers, quarter)
                rows["prototypes, learned layers, 20 of each label"] = dict(
                    measures([each.score for each in several.judge(test)], unsafe)
                )
    return rows


def far_from_intents(features: dict[str, Tensor], targets: dict[str, Tensor]) -> dict[str, dict[str, object]]:
    """The same by the distance from the nearest intent, for which no query of another kind is needed."""
    labels = torch.arange(int(targets["train"].max()) + 1)
    statistics = LayerStatistics.of(features["train"], targets["train"], len(labels))
    gaussian = LayerPrototypes(statistics, torch.zeros_like(labels), labels, "unit")
    distances = gaussian.distances(torch.cat([features["test"], features["out_of_scope_test"]], 1))
    unsafe = [False] * features["test"].shape[1] + [True] * features["out_of_scope_test"].shape[1]
    answers = {"last layer": distances[-1], "all layers": distances.mean(0)}
    return {
        f"distance from intents, {name}": {
            key: value for key, value in measures(each.tolist(), unsafe).items() if key in ("AUROC", "AP")
        }
        for name, each in answers.items()
    }


def seconds(encoder: Encoder, texts: list[str]) -> dict[str, float]:
    """Milliseconds a text up to each layer, in batches; best of five rounds in turn."""
    best = [float("inf")] * len(encoder.layers)
    for _ in range(5):
        for index in range(len(encoder.layers)):
            began = time.perf_counter()
            encoder.walk(texts, lambda layer, places, _, last=index: torch.full((len(places),), layer >= last))
            best[index] = min(best[index], time.perf_counter() - began)
    return {layer: 1000 * value / len(texts) for layer, value in zip(encoder.layers, best, strict=True)}


def draw(found: dict[str, Any], path: Path) -> None:
    """Accuracy after each task, and what each layer and all together know of queries that are no intent."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    kinds = ["nearest mean, last layer", *(f"Gaussian, {which}" for which in ("last layer", "uniform layers"))]
    kinds.append("Gaussian, learned layers")
    for name in kinds:
        values = found["tasks"][name]
        left.plot([10 * (task + 1) for task in range(len(values))], values, label=name)
    left.set(xlabel="intents so far", ylabel="accuracy, %")
    left.legend(fontsize=7)
    rows = {name: row["AUROC"] for name, row in found["out_of_scope"].items()}
    right.barh(list(rows), list(rows.values()))
    right.set(xlim=(0.7, 1), xlabel="AUROC, queries of no intent")
    right.tick_params(axis="y", labelsize=6)
    right.invert_yaxis()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
