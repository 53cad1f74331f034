"""Trees of image files, written as PNG and JPEG to a temporary folder."""

import os

import numpy
import pytest
import torch
from PIL import Image

from cl_ac.data.decoding import square
from cl_ac.data.samples import ImageFiles
from cl_ac.datasets import image_files
from cl_ac.datasets.image_folder import IMAGENET_100, ImageFolder, ImageNet100
from cl_ac.errors import DataError

NAMES = ["ant", "bee", "cow"]


def _write_tree(root, names=NAMES, train=4, test=2, side=8, test_name="test"):
    """Random PNG images; returns the pixels [N, 3, side, side] of the training and of the test images."""
    random = numpy.random.default_rng(0)
    result = []
    for part, count in (("train", train), (test_name, test)):
        pixels = random.integers(0, 256, (len(names) * count, side, side, 3), dtype=numpy.uint8)
        for index, image in enumerate(pixels):
            folder = root / part / names[index // count]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{index:03}.png")
        result.append(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    return result


@pytest.mark.parametrize("test_name", ["test", "val"])
@pytest.mark.parametrize("in_memory", [None, True, False])
def test_images_and_labels_follow_the_folders(tmp_path, in_memory, test_name):
    train_pixels, test_pixels = _write_tree(tmp_path, test_name=test_name)
    benchmark = ImageFolder(str(tmp_path), size=8, in_memory=in_memory, tasks=3)
    assert benchmark.class_names == NAMES
    assert benchmark.num_classes == 3
    assert benchmark.input_shape == (3, 8, 8)
    train, test = benchmark.load()
    assert train.resident == test.resident == (in_memory is not False)
    for samples, pixels, count in ((train, train_pixels, 4), (test, test_pixels, 2)):
        assert torch.equal(samples.images[torch.arange(len(samples))], pixels)
        assert samples.targets.tolist() == [label for label in range(3) for _ in range(count)]


def test_streamed_tasks_hold_the_same_as_resident_ones(tmp_path):
    _write_tree(tmp_path)
    kept, streamed = (ImageFolder(str(tmp_path), size=6, in_memory=keep, tasks=3, order=1) for keep in (True, False))
    for expected, task in zip(kept, streamed, strict=True):
        for part in ("train", "validation", "test"):
            samples = getattr(task, part)
            assert isinstance(samples.images, ImageFiles)
            assert torch.equal(samples.targets, getattr(expected, part).targets)
            assert torch.equal(samples.images[torch.arange(len(samples))], getattr(expected, part).images)


def test_what_exceeds_the_limit_is_streamed(tmp_path, monkeypatch):
    _write_tree(tmp_path)
    bytes_needed = 3 * (4 + 2) * 3 * 8 * 8
    for limit, resident in ((bytes_needed, True), (bytes_needed - 1, False)):
        monkeypatch.setattr(image_files, "RESIDENT_BYTES", limit)
        assert ImageFolder(str(tmp_path), size=8).load()[0].resident == resident


def test_extensions_in_capitals_grey_images_and_other_files(tmp_path):
    _write_tree(tmp_path, names=["ant"])
    folder = tmp_path / "train" / "ant"
    Image.new("L", (20, 10), 77).save(folder / "zebra.JPEG")
    (folder / "notes.txt").write_text("no image")
    (tmp_path / "train" / ".hidden").mkdir()
    (tmp_path / "train" / "list.csv").write_text("no folder")
    train, _ = ImageFolder(str(tmp_path), size=8, tasks=1).load()
    assert len(train) == 5
    assert (train.images[4] == 77).all()


def test_all_damaged_files_are_named(tmp_path):
    _write_tree(tmp_path)
    damaged = [tmp_path / "train" / "ant" / "001.png", tmp_path / "test" / "cow" / "005.png"]
    damaged[0].write_bytes(damaged[0].read_bytes()[:-40])
    damaged[1].write_bytes(b"no image")
    with pytest.raises(DataError) as caught:
        ImageFolder(str(tmp_path), size=8).load()
    assert "2 of 18 images" in str(caught.value)
    assert all(str(path) in str(caught.value) for path in damaged)
    with pytest.raises(DataError) as caught:
        ImageFolder(str(tmp_path), size=8, in_memory=False).load()
    assert str(damaged[1]) in str(caught.value), "a file that is no image is found by its header"


def test_of_many_damaged_files_ten_are_named_and_all_counted(tmp_path):
    _write_tree(tmp_path, names=["ant"], train=14)
    for path in (tmp_path / "train" / "ant").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError) as caught:
        ImageFolder(str(tmp_path), tasks=1).load()
    message = str(caught.value)
    assert "14 of 16 images" in message
    assert message.count("cannot read the image") == 10
    assert message.endswith("and 4 more")


def test_different_classes_in_train_and_test(tmp_path):
    _write_tree(tmp_path)
    (tmp_path / "train" / "dog").mkdir()
    with pytest.raises(DataError, match="'dog'"):
        ImageFolder(str(tmp_path)).check()


def test_class_without_images(tmp_path):
    _write_tree(tmp_path)
    for part in ("train", "test"):
        (tmp_path / part / "dog").mkdir()
    with pytest.raises(DataError, match=r"train/dog' holds no images"):
        ImageFolder(str(tmp_path)).load()


@pytest.mark.parametrize("folders", [[], ["train"], ["test"], ["train", "test"]])
def test_root_without_the_tree(tmp_path, folders):
    for name in folders:
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=f"'{tmp_path}"):
        ImageFolder(str(tmp_path)).check()


def test_settings_are_checked_without_reading_images(tmp_path):
    for part in ("train", "test"):
        for name in NAMES:
            (tmp_path / part / name).mkdir(parents=True)
    ImageFolder(str(tmp_path), tasks=3).check()


def test_imagenet_100(tmp_path):
    for part in ("train", "val"):
        for name in IMAGENET_100:
            (tmp_path / part / name).mkdir(parents=True)
    benchmark = ImageNet100(str(tmp_path), tasks=10, order="published")
    benchmark.check()
    assert [benchmark.class_names[label] for label in benchmark.class_order] == IMAGENET_100
    assert IMAGENET_100[0] == "n03710193"
    assert len(set(IMAGENET_100)) == 100
    assert benchmark.image_shape == (3, 256, 256)
    assert benchmark.input_shape == (3, 224, 224)


def test_imagenet_100_of_other_classes(tmp_path):
    _write_tree(tmp_path)
    with pytest.raises(DataError, match="not the 100 classes"):
        ImageNet100(str(tmp_path), order="published").check()


def test_caps_are_applied_before_anything_is_decoded(tmp_path, monkeypatch):
    _write_tree(tmp_path, train=8, test=4)
    kept, streamed = (
        ImageFolder(str(tmp_path), size=8, in_memory=keep, tasks=3, samples_per_class=4, test_samples_per_class=2)
        for keep in (True, False)
    )
    decoded = []
    monkeypatch.setattr(image_files, "square", lambda path, size: decoded.append(path) or square(path, size))
    for expected, task in zip(streamed, kept, strict=True):
        for part, count in (("train", 4 - 1), ("validation", 1), ("test", 2)):
            samples = getattr(task, part)
            assert len(samples) == count
            assert torch.equal(samples.images, getattr(expected, part).images[torch.arange(count)])
    assert len(decoded) == 3 * (4 + 2)


@pytest.mark.parametrize("in_memory", [None, True])
def test_images_beyond_memory_stream_or_are_refused_by_the_settings_name(tmp_path, monkeypatch, in_memory):
    _write_tree(tmp_path)
    monkeypatch.setattr(image_files, "available_bytes", lambda: image_files.WORKING_BYTES)
    benchmark = ImageFolder(str(tmp_path), size=8, in_memory=in_memory)
    if in_memory is None:
        assert not benchmark.load()[0].resident
    else:
        with pytest.raises(DataError, match=r"benchmark\.in_memory is true.*set it to false"):
            benchmark.load()


def test_hidden_files_are_left_out_and_links_followed(tmp_path):
    _write_tree(tmp_path / "set", names=["ant"])
    folder, elsewhere = tmp_path / "set/train/ant", tmp_path / "elsewhere"
    image = Image.new("L", (8, 8), 77)
    for hidden in (folder / ".ipynb_checkpoints/000.png", folder / ".000.png"):
        hidden.parent.mkdir(exist_ok=True)
        image.save(hidden)
    elsewhere.mkdir()
    image.save(elsewhere / "z.pgm")
    (folder / "linked").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(folder)
    train, _ = ImageFolder(str(tmp_path / "set"), size=8, tasks=1).load()
    assert len(train) == 5
    assert (train.images[4] == 77).all()


@pytest.mark.parametrize("name", ["drawing.svg", "pipe.png"])
def test_what_is_called_an_image_and_cannot_be_read_is_named(tmp_path, name):
    _write_tree(tmp_path)
    os.mkfifo(tmp_path / "train/ant" / name)
    with pytest.raises(DataError, match=name):
        ImageFolder(str(tmp_path), size=8).load()


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_of_streamed_images_those_that_were_cut_short_are_named_at_once(tmp_path, ending):
    _write_tree(tmp_path, side=64)
    picture, cut, longer = (tmp_path / "train" / "ant" / f"{name}.{ending}" for name in ("whole", "cut", "longer"))
    Image.fromarray(numpy.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=numpy.uint8)).save(picture)
    content = picture.read_bytes()
    longer.write_bytes(content + 200 * b"\0")  # as cameras do
    folder = ImageFolder(str(tmp_path), size=8, in_memory=False)
    folder.load()
    cut.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=rf"cannot read the image '.*cut\.{ending}'"):
        folder.load()


def test_classes_are_chosen_by_number_or_by_name(tmp_path):
    train_pixels, _ = _write_tree(tmp_path)
    assert ImageFolder(str(tmp_path), size=8, classes=2, tasks=2).class_names == ["ant", "bee"]
    named = ImageFolder(str(tmp_path), size=8, classes=["cow", "ant"], tasks=2)
    assert named.class_names == ["ant", "cow"]
    train, _ = named.load()
    assert torch.equal(train.images[torch.arange(8)], train_pixels[[0, 1, 2, 3, 8, 9, 10, 11]])


@pytest.mark.parametrize(("classes", "said"), [(4, "holds 3"), (["dog"], "names 'dog'")])
def test_classes_that_are_not_there_are_told(tmp_path, classes, said):
    _write_tree(tmp_path)
    with pytest.raises(DataError, match=said):
        _ = ImageFolder(str(tmp_path), size=8, classes=classes).class_names
