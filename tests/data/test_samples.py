"""Resident images, files, and mixtures of both."""

import numpy
import pytest
import torch
from PIL import Image

from cl_ac.data.samples import ImageFiles, ImageParts, Samples, concatenate
from cl_ac.errors import DataError


@pytest.fixture
def files(tmp_path) -> ImageFiles:
    """Six PNG files of 5 × 5 random colours."""
    pixels = numpy.random.default_rng(0).integers(0, 256, (6, 5, 5, 3), dtype=numpy.uint8)
    paths = [tmp_path / f"{index}.png" for index in range(6)]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path)
    return ImageFiles(paths, 5)


def _stored(files: ImageFiles) -> torch.Tensor:
    return torch.stack([torch.from_numpy(numpy.array(Image.open(path))).permute(2, 0, 1) for path in files.paths])


def _resident(count: int, **extras: torch.Tensor) -> Samples:
    images = torch.arange(count * 75, dtype=torch.uint8).reshape(count, 3, 5, 5)
    return Samples(images, torch.arange(count), extras)


def test_files_index_like_the_tensor_they_hold(files):
    stored = _stored(files)
    assert tuple(files.shape) == stored.shape
    indices = torch.tensor([4, 0, 0, 5])
    assert torch.equal(files[indices], stored[indices])
    nothing = files[torch.arange(0)]
    assert nothing.shape == (0, 3, 5, 5)
    assert nothing.dtype == torch.uint8


def test_files_are_resized_to_the_shorter_side_and_cropped_at_the_centre(tmp_path):
    wide = numpy.zeros((10, 30, 3), dtype=numpy.uint8)
    wide[:, 10:20] = [200, 100, 50]
    Image.fromarray(wide).save(tmp_path / "wide.png")
    image = ImageFiles([tmp_path / "wide.png"], 5)[torch.tensor([0])][0]
    assert image.shape == (3, 5, 5)
    # The outer columns blend with what is next to the square.
    colour = torch.tensor([200, 100, 50], dtype=torch.uint8)
    assert torch.equal(image[:, :, 1:4], colour[:, None, None].expand(3, 5, 3))
    assert (image[0] > 150).all()


@pytest.mark.parametrize(("mode", "colour"), [("L", (90, 90, 90)), ("P", (90, 90, 90)), ("RGBA", (90, 90, 90))])
def test_every_kind_of_image_becomes_rgb(tmp_path, mode, colour):
    Image.new("L", (4, 4), 90).convert(mode).save(tmp_path / "image.png")
    image = ImageFiles([tmp_path / "image.png"], 4)[torch.tensor([0])][0]
    assert image[:, 0, 0].tolist() == list(colour)


def test_selection_by_mask_or_index(files):
    mask = torch.tensor([True, False, True, False, False, True])
    resident = _resident(6, logits=torch.arange(12).reshape(6, 2))
    for samples in (resident, Samples(files, torch.arange(6))):
        chosen = samples.select(mask)
        assert chosen.targets.tolist() == [0, 2, 5]
        assert chosen.resident == samples.resident
        assert torch.equal(chosen.images[torch.arange(3)], samples.images[torch.tensor([0, 2, 5])])
    assert resident.select(mask).extras["logits"].tolist() == [[0, 1], [4, 5], [10, 11]]


def test_selection_is_a_copy():
    source = _resident(3)
    chosen = source.select(torch.tensor([1]))
    source.images.zero_()
    assert chosen.images.sum() > 0


def test_concatenation_keeps_order_and_common_extras():
    first, second = _resident(2, logits=torch.ones(2), age=torch.zeros(2)), _resident(3, logits=torch.zeros(3))
    joined = concatenate(first, second)
    assert torch.equal(joined.images, torch.cat([first.images, second.images]))
    assert joined.targets.tolist() == [0, 1, 0, 1, 2]
    assert joined.extras.keys() == {"logits"}
    assert joined.extras["logits"].tolist() == [1, 1, 0, 0, 0]


def test_empty_parts_do_not_count():
    full, empty = _resident(2, logits=torch.ones(2)), Samples(torch.empty(0, dtype=torch.uint8), torch.arange(0))
    assert concatenate(empty, full, empty) is full
    assert len(concatenate(empty, empty)) == 0


def test_mixture_of_files_and_tensors_indexes_like_one_tensor(files):
    resident = _resident(4)
    joined = concatenate(Samples(files, torch.arange(6)), resident, Samples(files, torch.arange(6)))
    whole = torch.cat([_stored(files), resident.images, _stored(files)])
    assert isinstance(joined.images, ImageParts)
    assert tuple(joined.images.shape) == whole.shape
    indices = torch.tensor([15, 7, 0, 9, 6, 10, 7])
    assert torch.equal(joined.images[indices], whole[indices])
    assert torch.equal(joined.select(indices).images, whole[indices])
    assert joined.images[torch.arange(0)].shape == (0, 3, 5, 5)


@pytest.mark.parametrize("content", [b"", b"no image", "truncated"])
def test_unreadable_image_is_named(tmp_path, files, content):
    path = tmp_path / "bad.png"
    path.write_bytes(files.paths[0].read_bytes()[:-40] if content == "truncated" else content)
    with pytest.raises(DataError, match=r"cannot read the image '.*bad\.png'.*mend it or remove it"):
        ImageFiles([path], 5)[torch.tensor([0])]


def test_probe_reads_only_the_header(tmp_path, files):
    path = tmp_path / "truncated.png"
    path.write_bytes(files.paths[0].read_bytes()[:-40])
    files.probe(path)
    path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"truncated\.png"):
        files.probe(path)
