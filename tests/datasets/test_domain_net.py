"""DomainNet in small: its lists beside folders of domains."""

import pytest
import torch
from PIL import Image

from cl_ac.datasets.domain_net import DomainNet
from cl_ac.errors import ConfigurationError, DataError

NAMES = ("aircraft_carrier", "alarm clock")


def _written(root, domains=("clipart", "real")):
    """Two classes; in each domain two training images and a test image of each, whose shades say what they are."""
    place = root / "domainnet"
    for number, domain in enumerate(domains):
        for part, shades in (("train", (1, 2)), ("test", (3,))):
            rows = []
            for label, name in enumerate(NAMES):
                for shade in shades:
                    path = place / domain / name / f"{domain}_{label}_{shade}.jpg"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.new("RGB", (20 + shade, 30), (100 * number + 40 * label + 10 * shade,) * 3).save(path)
                    rows.append(f"{path.relative_to(place)} {label}\n")
            (place / f"{domain}_{part}.txt").write_text("".join(rows))
    return place


def _shades(samples):
    return samples.images[torch.arange(len(samples))][:, 0, 0, 0].tolist()


@pytest.mark.parametrize("in_memory", [True, False])
def test_images_labels_and_domains_of_the_lists(tmp_path, in_memory):
    _written(tmp_path)
    benchmark = DomainNet(str(tmp_path), domains=["real", "clipart"], tasks=2, size=16, in_memory=in_memory)
    assert benchmark.class_names == list(NAMES)
    assert benchmark.domain_names == ("real", "clipart")
    train, test = benchmark.load()
    assert train.resident == test.resident == in_memory
    assert _shades(train) == [110, 120, 150, 160, 10, 20, 50, 60]
    assert train.targets.tolist() == [0, 0, 1, 1] * 2
    assert train.extras["domain"].tolist() == [0] * 4 + [1] * 4
    assert _shades(test) == [130, 170, 30, 70]
    assert test.extras["domain"].tolist() == [0, 0, 1, 1]


def test_where_it_must_lie_is_said(tmp_path):
    _written(tmp_path, domains=("real",))
    with pytest.raises(DataError, match=r"no DomainNet at '.*domainnet', which lacks quickdraw_train\.txt, .* put the"):
        DomainNet(str(tmp_path)).check()
    assert DomainNet(str(tmp_path), domains=["real"]).num_classes == 2


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("real/bus/a.jpg 0", "call class 0 'aircraft_carrier' and 'bus'"),
        ("real/bus/a.jpg 3", "have no image of the classes 2"),
        ("real/bus/a.jpg bus", r"line 3 of '.*real_test\.txt' ends with 'bus'"),
        ("a.jpg", "line 3 .* must have at least 2 words"),
    ],
)
def test_lists_that_do_not_fit(tmp_path, row, said):
    path = _written(tmp_path, domains=("real",)) / "real_test.txt"
    path.write_text(f"{path.read_text()}{row}\n")
    with pytest.raises(DataError, match=said):
        DomainNet(str(tmp_path), domains=["real"]).check()


@pytest.mark.parametrize("domains", [[], ["real", "real"], ["photo"]])
def test_domains_that_are_none(domains):
    with pytest.raises(ConfigurationError, match=r"benchmark\.domains is .*; it must name one or more of real, quick"):
        DomainNet("x", domains=domains)
