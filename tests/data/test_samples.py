"""Resident images, files, and mixtures of both."""

import numpy
import pytest
import torch
from PIL import Image

from cl_ac.data.samples import ImageFiles, ImageParts, Samples, concatenate


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


def _bytes(count: int = 2, **changes) -> Samples:
    values = {"images": torch.zeros(count, 1, 2, 2, dtype=torch.uint8), "targets": torch.arange(count), **changes}
    return Samples(**values)


def test_samples_of_the_promised_form_have_no_fault(files):
    assert _bytes().fault((1, 2, 2), 2) is None
    assert Samples(files, torch.arange(6, dtype=torch.int32)).fault((3, 5, 5), 6) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": torch.rand(2, 1, 2, 2)}, "torch.float32"),
        ({"images": torch.zeros(2, 2, 2, dtype=torch.uint8)}, "shape (2, 2)"),
        ({"images": torch.zeros(3, 1, 2, 2, dtype=torch.uint8)}, "each of 3 images"),
        ({"targets": torch.zeros(2)}, "integers"),
        ({"targets": [0, 1]}, "a list"),
        ({"targets": torch.tensor([[0], [1]])}, "[2, 1]"),
        ({"targets": torch.tensor([1, 2])}, "from 0 to 1"),
        ({"targets": torch.tensor([-1, 0])}, "from -1 to 0"),
        ({"extras": {"logits": torch.zeros(3)}}, "logits are"),
        ({"images": torch.zeros(0, 1, 2, 2, dtype=torch.uint8), "targets": torch.arange(0)}, "number is 0"),
    ],
)
def test_faults_of_samples_are_told(changes, words):
    assert words in _bytes(**changes).fault((1, 2, 2), 2)
