"""CORe50 in small: sessions, objects and frames in the folders of its archive."""

import pytest
import torch
from PIL import Image

from cl_ac.datasets.core50 import CORe50
from cl_ac.errors import DataError
from cl_ac.streams.domain_incremental import DomainIncremental


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """One frame of each object in each session; its shade is that of the session."""
    root = tmp_path_factory.mktemp("core50")
    for session in range(1, 12):
        for number in range(1, 51):
            folder = root / "core50_32x32" / f"s{session}" / f"o{number}"
            folder.mkdir(parents=True)
            Image.new("RGB", (4, 4), (10 * session, number, 0)).save(folder / f"C_{session:02}_{number:02}_000.png")
    return root


def test_sessions_are_domains_and_three_are_for_testing(root):
    benchmark = CORe50(str(root), size=4)
    assert benchmark.num_classes == 50
    assert benchmark.class_names[:6] == [*(f"plug adapter {number}" for number in range(1, 6)), "mobile phone 1"]
    assert benchmark.domain_names == tuple(f"session {session}" for session in (1, 2, 4, 5, 6, 8, 9, 11))
    train, test = benchmark.load()
    assert test.images[:, 0, 0, 0].unique().tolist() == [30, 70, 100]
    assert "domain" not in test.extras
    for domain, session in enumerate((1, 2, 4, 5, 6, 8, 9, 11)):
        frames = train.select(train.extras["domain"] == domain)
        assert frames.images[:, 0, 0, 0].unique().tolist() == [10 * session]
        assert torch.equal(frames.images[:, 1, 0, 0].long() - 1, frames.targets)


def test_categories_are_five_objects_each(root):
    benchmark = CORe50(str(root), level="category", size=4)
    assert benchmark.class_names[:3] == ["plug adapter", "mobile phone", "scissors"]
    train, _ = benchmark.load()
    assert torch.equal((train.images[:, 1, 0, 0].long() - 1) // 5, train.targets)


def test_where_it_must_lie_is_said(root):
    with pytest.raises(DataError, match=r"no CORe50 at '.*core50_128x128', which lacks s1/o1; unpack http.*128\.zip"):
        CORe50(str(root)).load()
    assert CORe50("x").input_shape == (3, 128, 128)


def test_all_sessions_are_tested_on_the_same_frames(root):
    benchmark = CORe50(str(root), size=4, level="category", test_samples_per_class=9)
    benchmark.stream = DomainIncremental()
    assert len(benchmark) == 8
    for domain, task in enumerate(benchmark):
        assert task.train.extras["domain"].unique().tolist() == [domain]
        assert task.test.targets.bincount().tolist() == [9] * 10
        assert torch.equal(task.test.images, benchmark[0].test.images)
