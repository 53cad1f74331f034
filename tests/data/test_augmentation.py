"""Batched augmentation against torchvision's, image by image."""

import pytest
import torch
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional

from cl_ac.data.augmentation import Augmentation, cropped_one_by_one, cropped_together
from cl_ac.errors import ConfigurationError

RAW = {"mean": (0.0,), "std": (1 / 255,)}
"""Normalisation that gives back pixel values from 0 to 255."""
TOLERANCE = 0.01
"""In pixel values: rounding of positions in single precision moves weights by up to 1e-5."""


def _images(count: int, height: int, width: int | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 3, height, width or height), dtype=torch.uint8, generator=generator)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _expected(image: torch.Tensor, window: torch.Tensor, padding: int, size: int) -> torch.Tensor:
    """torchvision's result for one image, in float pixel values."""
    top, left, height, width, flip = window.int().tolist()
    padded = functional.pad(image.float(), [padding])
    crop = functional.resized_crop(padded, top + padding, left + padding, height, width, [size, size], antialias=True)
    return functional.horizontal_flip(crop) if flip else crop


@pytest.mark.parametrize(
    ("stored", "seen", "padding", "scale"),
    [(32, 32, 4, (0.08, 1.0)), (256, 224, 0, (0.08, 1.0)), (256, 224, 0, (0.9, 1.0)), (24, 40, 0, (0.08, 1.0))],
)
def test_resized_crop_is_torchvisions(stored, seen, padding, scale):
    augmentation = Augmentation(**RAW, crop="resized", padding=padding, flip=True, size=seen, scale=scale)
    images = _images(8 if stored > 100 else 40, stored)
    windows = augmentation.draw(len(images), stored, stored, _generator())
    outputs = augmentation.apply(images, windows)
    assert outputs.shape == (len(images), 3, seen, seen)
    assert 0 < windows[:, 4].sum() < len(images)
    for image, window, output in zip(images, windows, outputs, strict=True):
        torch.testing.assert_close(output, _expected(image, window, padding, seen), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("cubic", [False, True])
@pytest.mark.parametrize(("crop", "padding", "size"), [("shift", 2, (9, 11)), ("resized", 3, (7, 12))])
def test_windows_cut_one_by_one_are_those_cut_together(crop, padding, size, cubic):
    images = torch.rand(6, 3, 9, 11, generator=torch.Generator().manual_seed(0))
    augmentation = Augmentation(crop=crop, padding=padding, flip=True, scale=(0.2, 1.0))
    windows = augmentation.draw(6, 9, 11, torch.Generator().manual_seed(1))
    assert 0 < windows[:, 4].sum() < 6
    one, together = (cut(images, windows, size, padding, cubic) for cut in (cropped_one_by_one, cropped_together))
    torch.testing.assert_close(one, together, rtol=0, atol=1e-5)


def test_resized_crop_of_images_that_are_not_square():
    augmentation = Augmentation(**RAW, crop="resized", size=16)
    images = _images(20, 40, 24)
    windows = augmentation.draw(20, 40, 24, _generator())
    for image, window, output in zip(images, windows, augmentation.apply(images, windows), strict=True):
        torch.testing.assert_close(output, _expected(image, window, 0, 16), atol=TOLERANCE, rtol=0)


def test_shift_crop_is_an_exact_slice():
    augmentation = Augmentation(**RAW, crop="shift", padding=4, flip=True)
    images = _images(64, 32)
    windows = augmentation.draw(64, 32, 32, _generator())
    padded = torch.nn.functional.pad(images, [4] * 4).float()
    for image, window, output in zip(padded, windows.int().tolist(), augmentation.apply(images, windows), strict=True):
        top, left = window[0] + 4, window[1] + 4
        expected = image[:, top : top + 32, left : left + 32]
        assert torch.equal(output, expected.flip(2) if window[4] else expected)


def test_shift_crop_reaches_every_place():
    windows = Augmentation(crop="shift", padding=2).draw(2000, 8, 8, _generator())
    assert set(map(tuple, windows[:, :2].int().tolist())) == {(y, x) for y in range(-2, 3) for x in range(-2, 3)}
    assert windows[:, 2:4].unique().tolist() == [8]
    assert not windows[:, 4].any()


def test_every_sample_has_its_own_window():
    for crop in ("shift", "resized"):
        windows = Augmentation(crop=crop, padding=4).draw(100, 32, 32, _generator())
        assert len(windows.unique(dim=0)) > 50


def test_draws_depend_on_the_generator_alone():
    augmentation = Augmentation(crop="resized", flip=True)
    first, same, other = (augmentation.draw(50, 32, 32, _generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_half_of_the_images_are_flipped_left_to_right():
    augmentation = Augmentation(**RAW, flip=True)
    images = _images(1000, 4)
    windows = augmentation.draw(1000, 4, 4, _generator())
    flipped = windows[:, 4].bool()
    assert 430 < flipped.sum() < 570
    outputs = augmentation.apply(images, windows)
    assert torch.equal(outputs[flipped], images[flipped].float().flip(3))
    assert torch.equal(outputs[~flipped], images[~flipped].float())


@pytest.mark.parametrize(("height", "width"), [(40, 40), (40, 160)])
def test_resized_crops_are_distributed_as_torchvisions(height, width):
    """Areas, aspect ratios and places of 3,000 windows; 160 wide, many of ten tries fail and the fallback is used."""
    settings = {"scale": (0.2, 1.0), "ratio": (0.75, 4 / 3)}
    windows = Augmentation(crop="resized", **settings).draw(3000, height, width, _generator())[:, :4]
    image = torch.empty(1, height, width)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        theirs = torch.tensor([RandomResizedCrop.get_params(image, **settings) for _ in range(3000)]).float()

    def statistics(windows: torch.Tensor) -> torch.Tensor:
        top, left, crop_height, crop_width = windows.unbind(1)
        values = torch.stack(
            [
                crop_height * crop_width / (height * width),
                (crop_width / crop_height).log(),
                top / height,
                left / width,
                ((crop_height == height) & (crop_width == round(height * 4 / 3))).float(),
            ]
        )
        return torch.cat([values.mean(1), values.std(1), values.quantile(torch.tensor([0.1, 0.5, 0.9]), 1).flatten()])

    torch.testing.assert_close(statistics(windows), statistics(theirs), atol=0.03, rtol=0)
    assert (windows[:, :2] >= 0).all()
    assert (windows[:, 0] + windows[:, 2] <= height).all()
    assert (windows[:, 1] + windows[:, 3] <= width).all()


def test_without_windows_the_centre_is_taken():
    images = _images(3, 32)
    assert torch.equal(Augmentation(**RAW, crop="resized", padding=4).apply(images), images.float())
    center = Augmentation(**RAW, crop="resized", size=28).apply(images)
    assert torch.equal(center, functional.center_crop(images, [28, 28]).float())


def test_nothing_random_draws_nothing():
    assert Augmentation(padding=4, size=8).draw(5, 32, 32, _generator()) is None


@pytest.mark.parametrize("crop", ["none", "shift", "resized"])
def test_smaller_images_are_enlarged(crop):
    images = _images(4, 32)
    output = Augmentation(**RAW, crop=crop, size=48).apply(images)
    expected = functional.resize(images.float(), [48, 48], antialias=True)
    torch.testing.assert_close(output, expected, atol=TOLERANCE, rtol=0)


def test_shift_of_smaller_images_is_enlarged():
    augmentation = Augmentation(**RAW, crop="shift", padding=4, size=48)
    images = _images(10, 32)
    windows = augmentation.draw(10, 32, 32, _generator())
    assert set(windows[:, 2:4].flatten().tolist()) == {32}
    for image, window, output in zip(images, windows, augmentation.apply(images, windows), strict=True):
        torch.testing.assert_close(output, _expected(image, window, 4, 48), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("crop", ["none", "shift", "resized"])
def test_empty_batch(crop):
    augmentation = Augmentation(crop=crop, flip=True, padding=1, size=6)
    empty = torch.empty(0, 3, 8, 8, dtype=torch.uint8)
    assert augmentation.apply(empty, augmentation.draw(0, 8, 8, _generator())).shape == (0, 3, 6, 6)


def test_normalisation_per_channel_leaves_the_source_alone():
    augmentation = Augmentation(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.2))
    images = _images(2, 8)
    before = images.clone()
    expected = functional.normalize(images.float() / 255, [0.1, 0.2, 0.3], [0.5, 0.25, 0.2])
    torch.testing.assert_close(augmentation.apply(images), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mean": (0.5, 0.5)}, "mean has 2 channels but std has 1"),
        ({"std": (0.0,)}, "augmentation.std is"),
        ({"padding": -1}, "augmentation.padding is -1"),
        ({"size": 0}, "augmentation.size is 0"),
        ({"keep": 0.5}, "augmentation.keep is 0.5 with the size None"),
        ({"keep": 1.5, "size": 8}, "augmentation.keep is 1.5"),
        ({"scale": (0.0, 1.0)}, "augmentation.scale is"),
        ({"ratio": (2.0, 1.0)}, "augmentation.ratio is"),
    ],
)
def test_impossible_settings(settings, words):
    with pytest.raises(ConfigurationError, match=words):
        Augmentation(**settings)


def test_the_callers_images_are_never_changed():
    images = torch.rand(2, 1, 4, 4)
    before = images.clone()
    Augmentation().apply(images)
    assert torch.equal(images, before)


@pytest.mark.parametrize(("stored", "size", "keep"), [(64, 28, 0.875), (10, 28, 1.0), (32, 28, 0.875)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_kept_centre_is_resized_from_any_size(stored, size, keep, interpolation):
    images = _images(4, stored, stored + 6)
    outputs = Augmentation(**RAW, size=size, keep=keep, interpolation=interpolation).apply(images)
    side = round(keep * stored)
    centre = functional.center_crop(images.float(), [side, side])
    mode = functional.InterpolationMode(interpolation)
    expected = functional.resize(centre, [size, size], mode, antialias=True).clamp(0, 255)
    torch.testing.assert_close(outputs, expected, atol=TOLERANCE, rtol=0)


def test_the_kept_centre_is_that_of_training_without_a_crop():
    augmentation = Augmentation(**RAW, size=16, keep=0.5, flip=True)
    images = _images(8, 24)
    windows = augmentation.draw(8, 24, 24, _generator())
    plain = augmentation.apply(images)
    outputs = augmentation.apply(images, windows)
    mirrored = windows[:, 4].bool()
    torch.testing.assert_close(outputs[~mirrored], plain[~mirrored])
    torch.testing.assert_close(outputs[mirrored], plain[mirrored].flip(3))


def test_grey_images_become_coloured_for_a_mean_of_three_values():
    augmentation = Augmentation((0.1, 0.2, 0.3), (1.0, 1.0, 1.0))
    outputs = augmentation.apply(torch.zeros(2, 1, 3, 3, dtype=torch.uint8))
    assert augmentation.output_shape((1, 3, 3)) == outputs.shape[1:] == (3, 3, 3)
    assert torch.allclose(outputs[0, :, 0, 0], torch.tensor([-0.1, -0.2, -0.3]))
