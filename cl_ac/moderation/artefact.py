"""A moderator in one file: numbers as safetensors, and what they mean as JSON beside them.

The language model is not in it, only what it is called, how it is read, and what its weights are recognised by.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from cl_ac.errors import DataError, told
from cl_ac.moderation.encoder import Encoder
from cl_ac.moderation.moderator import Moderator, Settings
from cl_ac.moderation.prototypes import LayerStatistics
from cl_ac.recording.files import write_atomically

VERSION = 1
TENSORS = ("counts", "means", "scatter", "weights")


def save(moderator: Moderator, encoder: Encoder, path: Path) -> None:
    """Writes a moderator, and which encoder it belongs to.

    Raises:
        StorageError: if the disk refuses it.
    """
    statistics = moderator.statistics
    tensors = {name: getattr(statistics, name).contiguous() for name in ("counts", "means", "scatter")}
    tensors["weights"] = moderator.weights.contiguous()
    meaning = {
        "version": VERSION,
        "settings": asdict(moderator.settings),
        "labels": list(moderator.labels),
        "sources": list(moderator.sources),
        "layers": list(moderator.layers),
        "bias": moderator.bias,
        "encoder": {
            "model": str(encoder.model),
            "tokens": encoder.tokens,
            "reading": encoder.reading,
            "digest": encoder.digest,
        },
    }
    content = {"moderator": json.dumps(meaning)}
    write_atomically(Path(path), lambda file: save_file(tensors, file, content))


def load(path: Path) -> tuple[Moderator, Mapping[str, Any]]:
    """The moderator in a file, and what its encoder was. Runs no code from the file.

    Raises:
        DataError: if the file is missing, or is none that `save` wrote.
    """
    place = Path(path).expanduser()
    if not place.is_file():
        raise DataError(f"there is no file '{place}'; make it with `cl-ac moderate fit`")
    try:
        with safe_open(place, "pt") as file:
            meaning = json.loads((file.metadata() or {})["moderator"])
            tensors = {name: file.get_tensor(name) for name in TENSORS}
        if meaning["version"] != VERSION:
            raise DataError(f"'{place}' has version {meaning['version']}; this program reads version {VERSION}")
        moderator = Moderator(
            Settings(**meaning["settings"]),
            list(map(str, meaning["labels"])),
            list(map(str, meaning["sources"])),
            list(map(str, meaning["layers"])),
            LayerStatistics(tensors["counts"], tensors["means"], tensors["scatter"]),
            tensors["weights"],
            float(meaning["bias"]),
        )
        _check(moderator)
        kinds: Mapping[str, Any] = {"model": str, "tokens": int, "reading": str, "digest": str}
        encoder = {name: kind(meaning["encoder"][name]) for name, kind in kinds.items()}
    except DataError:
        raise
    # Every part of the file is somebody else's.
    except Exception as error:
        raise DataError(f"'{place}' is no moderator that this program wrote ({told(error, 100)})") from error
    return moderator, encoder


def encoder_of(described: Mapping[str, Any], model: str | None = None, device: torch.device | None = None) -> Encoder:
    """The encoder that a file describes.

    Args:
        model: where it is now, if it is not where it was.
    Raises:
        DataError: if its weights are not those that the moderator was fitted with.
    """
    name = str(described["model"]) if model is None else model
    encoder = Encoder(name, int(described["tokens"]), str(described["reading"]), device)
    if encoder.digest != described["digest"]:
        raise DataError(f"the model '{name}' has other weights than that which the moderator was fitted with")
    return encoder


def _check(moderator: Moderator) -> None:
    """Raises a `ValueError` if the numbers are not of the shapes that the names promise."""
    layers, labels, sources = len(moderator.layers), len(moderator.labels), len(moderator.sources)
    count = sources * labels * moderator.settings.prototypes
    statistics = moderator.statistics
    width = statistics.means.shape[-1]
    expected = {
        "counts": (count,),
        "means": (layers, count, width),
        "scatter": (layers, width, width),
    }
    for name, shape in expected.items():
        if tuple(getattr(statistics, name).shape) != shape:
            raise ValueError(f"{name} has the shape {tuple(getattr(statistics, name).shape)} in place of {shape}")
    if any(value.dtype != torch.float64 for value in (*vars(statistics).values(), moderator.weights)):
        raise ValueError("numbers are not in double precision")
    if moderator.weights.shape != (layers * sources * (labels - 1),):
        raise ValueError("weights do not fit the layers")
