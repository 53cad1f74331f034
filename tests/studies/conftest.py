"""A benchmark that tells when it is looked at where it must not be, and an engine without processes."""

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

PLUGIN = '''
import torch

from cl_ac.benchmark import Benchmark
from cl_ac.data.samples import Samples


class Guarded:
    """Images that raise when those of forbidden classes are read."""

    def __init__(self, images, targets, forbidden):
        self.images, self.targets, self.forbidden = images, targets, forbidden

    @property
    def shape(self):
        return self.images.shape

    def __len__(self):
        return len(self.images)

    def __getitem__(self, indices):
        if seen := {*self.targets[indices].tolist()} & {*self.forbidden}:
            raise RuntimeError(f"looked at images of the classes {seen}")
        return self.images[indices]


class GuardedPatterns(Benchmark):
    """Six classes of noisy patterns; all test images, and training images from class `allowed` on, are guarded."""

    num_classes = 6
    image_shape = (1, 8, 8)

    def __init__(self, allowed: int = 6, **splitting):
        super().__init__(**splitting)
        self.allowed = allowed

    def load(self):
        stream = torch.Generator().manual_seed(0)
        targets = torch.arange(6).repeat_interleave(12)
        patterns = torch.rand(6, 1, 8, 8, generator=stream)
        noise = torch.rand(72, 1, 8, 8, generator=stream)
        images = ((0.7 * patterns[targets] + 0.3 * noise) * 255).to(torch.uint8)
        train = Samples(Guarded(images, targets, range(self.allowed, 6)), targets)
        return train, Samples(Guarded(images, targets, range(6)), targets)
'''


@pytest.fixture
def guarded_settings(tmp_path, monkeypatch) -> Callable[..., Path]:
    """Writes a settings file whose benchmark must not be looked at where it is guarded."""
    (tmp_path / "guarded.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()

    def write(**benchmark) -> Path:
        settings = {
            "approach": "LwF",
            "benchmark": {
                "class_path": "guarded.GuardedPatterns",
                "init_args": {"tasks": 3, "validation": 0.25, **benchmark},
            },
            "backbone": {"class_path": "SmallConvNet", "init_args": {"width": 4}},
            "training": {"epochs": 2, "batch_size": 16, "lr": 0.05, "momentum": 0.9},
            "device": "cpu",
        }
        path = tmp_path / "settings.yaml"
        path.write_text(yaml.safe_dump(settings))
        return path

    return write


class Here:
    """Does all pieces in this process."""

    def do(self, work, pieces, begin):
        for index, piece in enumerate(pieces):
            begin(index)
            yield index, work(*piece), False

    def __str__(self) -> str:
        return "one at a time"


@pytest.fixture
def here() -> Here:
    return Here()
