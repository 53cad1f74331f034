"""torchvision's data sets of photographs, in small, in the layouts of their archives."""

import json
import sys
from pathlib import Path

import numpy
import pytest
import scipy.io
import torch
from PIL import Image

from cl_ac.benchmark import Benchmark
from cl_ac.datasets.torchvision_files import (
    DTD,
    GTSRB,
    SUN397,
    EuroSAT,
    FGVCAircraft,
    Flowers102,
    Food101,
    OxfordPets,
    StanfordCars,
)
from cl_ac.errors import DataError
from cl_ac.settings.plugins import classes


def _picture(path: Path, shade: int) -> None:
    """A picture of one shade, of a size of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20 + shade % 7, 30), (shade,) * 3).save(path)


def _text(path: Path, *rows: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows))


# Each writes training images of the shades 10 and 20 with the labels 1 and 0, and a test image of shade 30 with label
# 1; where labels are told by what is there, also one of shade 40 with label 0.


def _flowers(root: Path) -> None:
    place = root / "flowers-102"
    for number in (1, 2, 3):
        _picture(place / f"jpg/image_{number:05}.jpg", 10 * number)
    scipy.io.savemat(place / "imagelabels.mat", {"labels": numpy.array([[2, 1, 2]])})
    ids = {name: numpy.array([[number, number]]) for name, number in (("trnid", 1), ("valid", 2), ("tstid", 3))}
    scipy.io.savemat(place / "setid.mat", ids)


def _food(root: Path) -> None:
    place = root / "food-101"
    names = {"train": {"waffles": ["waffles/1"], "apple_pie": ["apple_pie/2"]}, "test": {"waffles": ["waffles/3"]}}
    names["test"]["apple_pie"] = []
    for part, pictures in names.items():
        _text(place / f"meta/{part}.json", json.dumps(pictures))
        for picture in (each for some in pictures.values() for each in some):
            _picture(place / f"images/{picture}.jpg", 10 * int(picture[-1]))


def _pets(root: Path) -> None:
    place = root / "oxford-iiit-pet"
    _text(place / "annotations/trainval.txt", "beagle_1 2 2 1", "Abyssinian_2 1 1 1")
    _text(place / "annotations/test.txt", "beagle_3 2 2 1")
    for name in ("beagle_1", "Abyssinian_2", "beagle_3"):
        _picture(place / f"images/{name}.jpg", 10 * int(name[-1]))


def _textures(root: Path) -> None:
    place = root / "dtd/dtd"
    parts = {"train": ["dotted/1.jpg", "banded/2.jpg"], "val": ["dotted/1.jpg", "banded/2.jpg"]}
    parts["test"] = ["dotted/3.jpg", "banded/4.jpg"]
    for part, pictures in parts.items():
        _text(place / f"labels/{part}1.txt", *pictures)
        for picture in pictures:
            _picture(place / "images" / picture, 10 * int(picture[-5]))


def _aircraft(root: Path) -> None:
    place = root / "fgvc-aircraft-2013b/data"
    _text(place / "variants.txt", "707-320", "A300 B4")
    _text(place / "images_variant_trainval.txt", "0000001 A300 B4", "0000002 707-320")
    _text(place / "images_variant_test.txt", "0000003 A300 B4")
    for number in (1, 2, 3):
        _picture(place / f"images/{number:07}.jpg", 10 * number)


def _cars(root: Path) -> None:
    place = root / "stanford_cars"
    (place / "devkit").mkdir(parents=True)
    kind = [("fname", object), ("class", object)]
    train = numpy.array([("00001.jpg", 2), ("00002.jpg", 1)], dtype=kind)
    test = numpy.array([("00003.jpg", 2), ("00004.jpg", 1)], dtype=kind)
    scipy.io.savemat(place / "devkit/cars_train_annos.mat", {"annotations": train})
    scipy.io.savemat(place / "cars_test_annos_withlabels.mat", {"annotations": test})
    scipy.io.savemat(place / "devkit/cars_meta.mat", {"class_names": numpy.array(["a", "b"], dtype=object)})
    for number in (1, 2, 3, 4):
        _picture(place / ("cars_train" if number < 3 else "cars_test") / f"{number:05}.jpg", 10 * number)


def _signs(root: Path) -> None:
    place = root / "gtsrb"
    _picture(place / "GTSRB/Training/00001/00000_00000.ppm", 10)
    _picture(place / "GTSRB/Training/00000/00000_00000.ppm", 20)
    _picture(place / "GTSRB/Final_Test/Images/00000.ppm", 30)
    _text(place / "GT-final_test.csv", "Filename;Width;Height;ClassId", "00000.ppm;20;30;1")


WRITERS = {
    Flowers102: _flowers,
    Food101: _food,
    OxfordPets: _pets,
    DTD: _textures,
    FGVCAircraft: _aircraft,
    StanfordCars: _cars,
    GTSRB: _signs,
}


@pytest.fixture(autouse=True)
def _any_checksum(monkeypatch):
    """torchvision accepts files with checksums other than those of the real data."""
    monkeypatch.setattr("torchvision.datasets.flowers102.check_integrity", lambda path, md5: Path(path).is_file())


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("kind", WRITERS, ids=lambda kind: kind.__name__)
def test_images_and_labels_of_the_official_parts(tmp_path, kind, in_memory):
    WRITERS[kind](tmp_path)
    train, test = kind(root=str(tmp_path), size=16, in_memory=in_memory).load()
    assert train.resident == test.resident == in_memory
    for samples, shown, possible in ((train, {(10, 1), (20, 0)}, set()), (test, {(30, 1)}, {(40, 0)})):
        images = samples.images[torch.arange(len(samples))]
        assert images.shape[1:] == (3, 16, 16)
        found = set(zip(images[:, 0, 0, 0].tolist(), samples.targets.tolist(), strict=True))
        assert shown <= found <= shown | possible


def test_a_fifth_of_eurosat_is_its_test_set(tmp_path):
    for name in ("AnnualCrop", "Forest"):
        for number in range(10):
            _picture(tmp_path / f"eurosat/2750/{name}/{name}_{number}.jpg", 10 * number)
    first, again = (EuroSAT(root=str(tmp_path)).load() for _ in range(2))
    train, test = first
    assert train.targets.tolist() == [0] * 8 + [1] * 8
    assert test.targets.tolist() == [0] * 2 + [1] * 2
    assert torch.equal(test.images, again[1].images)
    for target in (0, 1):
        shades = [set(part.images[part.targets == target][:, 0, 0, 0].tolist()) for part in first]
        assert not shades[0] & shades[1]
        assert len(shades[0] | shades[1]) == 10


def test_places_of_sun397_may_have_kinds(tmp_path):
    """Folders lie under the first letter, some of them two deep; a fifth of each is for testing."""
    _text(tmp_path / "SUN397/ClassName.txt", "/a/abbey", "/a/apse/indoor")
    for name in ("abbey", "apse/indoor"):
        for number in range(5):
            _picture(tmp_path / f"SUN397/a/{name}/sun_{number}.jpg", 10 * number + 5 * (name != "abbey"))
    parts = SUN397(root=str(tmp_path), size=16).load()
    assert [part.targets.tolist() for part in parts] == [[0] * 4 + [1] * 4, [0, 1]]
    for target in (0, 1):
        shades = [part.images[part.targets == target][:, 0, 0, 0].tolist() for part in parts]
        assert sorted(shades[0] + shades[1]) == [10 * number + 5 * target for number in range(5)]


@pytest.mark.parametrize("kind", [*WRITERS, EuroSAT, SUN397], ids=lambda kind: kind.__name__)
def test_missing_data_say_where_and_how(tmp_path, kind):
    benchmark = kind(root=str(tmp_path))
    benchmark.check()
    with pytest.raises(DataError) as caught:
        benchmark.load()
    message = str(caught.value)
    assert "\n" not in message
    assert str(tmp_path / kind.stored_as) in message
    assert ("--benchmark.download true" in message) == (kind is not StanfordCars)
    assert "devkit/" in message or kind is not StanfordCars


def test_what_torchvision_needs_is_named(tmp_path, monkeypatch):
    _flowers(tmp_path)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(DataError, match=r"cannot read Flowers102: .*scipy.*; install what is missing"):
        Flowers102(root=str(tmp_path)).load()


def test_signs_are_not_mirrored():
    assert not GTSRB().augmentation.flip
    assert GTSRB().input_shape == (3, 32, 32)
    assert Food101().input_shape == (3, 224, 224)


def test_what_sets_have_in_common_is_no_set():
    names = set(classes("benchmark", Benchmark))
    assert {"Food101", "KMNIST", "TinyImageNet"} <= names
    assert not {"TorchvisionSet", "TorchvisionFiles", "ImageFileSet"} & names
