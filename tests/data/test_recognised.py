import pytest
import torch
from PIL import Image

from cl_ac.data.augmentation import Augmentation
from cl_ac.data.loading import Loader
from cl_ac.data.recognised import Recall, Recognised, content_keys, image_keys
from cl_ac.data.rows import Room
from cl_ac.data.samples import ImageFiles, ImageParts, Samples
from cl_ac.data.seeding import generator

CPU = torch.device("cpu")


def recall() -> Recall:
    return Recall(Room(2**20, CPU))


def recognised(values: torch.Tensor, known: Recall, kind: str = "plain") -> Recognised:
    return Recognised(values.shape, CPU, known, kind, values[:, 0].tolist(), values.clone)


@pytest.mark.parametrize("shape", [(1, 3, 3), (3, 8, 8), (2, 5, 7)])
def test_images_have_the_same_key_if_they_have_the_same_bytes(shape):
    images = torch.randint(256, (20, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    changed = images.clone()
    changed.flatten(1)[torch.arange(20), torch.arange(20) % (images[0].numel() - 1)] ^= 128
    changed.flatten(1)[:, -1] ^= 128
    keys = content_keys(torch.cat([images, changed]))
    assert len(set(keys)) == 40
    assert content_keys(images[7:9].clone()) == keys[7:9]
    assert image_keys(ImageParts([images[:3], images[3:]])) == keys[:20]


def test_it_is_a_tensor_like_any_other():
    values = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    images, weight = recognised(values, recall()), torch.ones(2, 3, requires_grad=True)
    assert images.shape == (4, 3)
    assert images.made is None
    assert torch.equal(images + 1, values + 1)
    assert type(images[1:]) is torch.Tensor
    torch.nn.functional.linear(images, weight).sum().backward()
    assert torch.allclose(weight.grad, values.sum(0).expand(2, 3))
    assert torch.equal(images.detach().requires_grad_(), values)


@pytest.mark.parametrize(("count", "seen"), [(8, [8]), (17, [6, 6, 5]), (20, [7, 7, 6])])
def test_images_are_computed_in_even_parts_of_few_pixels(count, seen):
    known, parts = Recall(Room(2**20, CPU), pixels=8 * 6), []

    def sums(images):
        parts.append(len(images))
        return [images.sum((1, 2, 3)), -images]

    values = torch.arange(count * 6.0).reshape(count, 1, 2, 3)
    images = Recognised(values.shape, CPU, known, "plain", list(range(count)), values.clone)
    total, negative = known(images, [torch.zeros(1)], "sums", sums)
    assert parts == seen
    assert torch.equal(negative, -values)
    assert total.tolist() == values.flatten(1).sum(1).tolist()


def test_what_is_known_is_not_computed_again():
    known, seen, state = recall(), [], [torch.zeros(1)]

    def double(images):
        seen.append(len(images))
        return [2 * images]

    values = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    for chosen in ([0, 1], [1, 2, 3], [3, 0, 3]):
        (found,) = known(recognised(values[chosen], known), state, "double", double)
        assert torch.equal(found, 2 * values[chosen])
    assert seen == [2, 2]
    known(recognised(values[[0, 2]] + 1, known), state, "double", double)
    known(recognised(torch.cat([values[:1] + 1, values[1:2] + 1]), known), state, "double", double)
    assert seen == [2, 2, 2, 2], "no image is computed alone"
    seen.clear()
    known(recognised(values, known, "other augmentation"), state, "double", double)
    known(recognised(values, known), [torch.zeros(1)], "double", double)
    assert seen == [4], "an equal state is the same"
    state[0] += 1
    known(recognised(values, known), state, "double", double)
    assert seen == [4, 4], "another state is another"


def test_a_state_that_changes_all_the_time_is_given_up():
    known, values = recall(), torch.randn(2, 3)
    for number in range(20):
        (found,) = known(
            recognised(values, known), [torch.tensor(number)], "sum", lambda images, n=number: [images + n]
        )
        assert torch.equal(found, values + number)
    assert len(known.tables) == 8


def test_joined_batches_are_recognised_too():
    known, values = recall(), torch.randn(4, 3)
    first, second = recognised(values[:2], known), recognised(values[2:], known)
    both = torch.cat([first, second])
    assert isinstance(both, Recognised)
    assert both.keys == first.keys + second.keys
    assert torch.equal(both + 0, values)
    assert type(torch.cat([first, values])) is torch.Tensor
    assert type(torch.cat([first, recognised(values, known, "other")])) is torch.Tensor


def test_images_that_are_written_into_are_not_those_that_were_known():
    images = recognised(torch.randn(2, 3), recall())
    assert images.unchanged
    images += 1
    assert not images.unchanged


def test_files_that_are_known_are_not_decoded_again(tmp_path, monkeypatch):
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    for number, path in enumerate(paths):
        Image.new("RGB", (5, 5), (number, 0, 0)).save(path)
    known, augmentation, state = recall(), Augmentation(), [torch.zeros(1)]
    samples = Samples(ImageFiles(paths, 4), torch.arange(6))

    def sums() -> list[float]:
        loader = Loader(samples, augmentation, CPU, recall=known)
        parts = [known(part, state, "sum", lambda images: [images.sum((1, 2, 3))]) for part in loader.in_order(4)]
        return [value for (part,) in parts for value in part.tolist()]

    first, batches = sums(), Loader(samples, augmentation, CPU, recall=known)
    for path in paths:
        path.unlink()
    assert sums() == first
    for batch in batches.shuffled(4, 6, generator(0, "order"), None):
        (found,) = known(batch.images, state, "sum", None)
        assert found.tolist() == [first[index] for index in batch.targets.tolist()]
