"""Colours changed in batches against torchvision's functions, image by image."""

import pytest
import torch
from torchvision.transforms.v2 import ColorJitter, functional

from cl_ac.data import color
from cl_ac.data.augmentation import Augmentation
from cl_ac.errors import ConfigurationError

ADJUST = (
    functional.adjust_brightness,
    functional.adjust_contrast,
    functional.adjust_saturation,
    functional.adjust_hue,
)


def _images(count: int, channels: int = 3) -> torch.Tensor:
    images = torch.rand(count, channels, 6, 5, generator=torch.Generator().manual_seed(0))
    images[0], images[1, :, :3] = 0.5, images[1, :1, :3]  # without any hue, and in part
    return images


def _expected(image: torch.Tensor, drawn: list[float]) -> torch.Tensor:
    for operation in color.ORDERS[int(drawn[4])]:
        image = ADJUST[operation](image, drawn[operation])
    return functional.rgb_to_grayscale(image, len(image)) if drawn[5] else image


@pytest.mark.parametrize("channels", [1, 3])
def test_fixed_factors_in_every_order_give_torchvisions_colors(channels):
    images = _images(24, channels)
    for factors in (torch.tensor([0.7, 1.4, 1.3, -0.2]), torch.tensor([1.5, 0.6, 0.2, 0.45])):
        for gray in (0.0, 1.0):
            drawn = torch.cat([factors.expand(24, 4), torch.arange(24.0)[:, None], torch.full((24, 1), gray)], 1)
            expected = torch.stack([_expected(*pair) for pair in zip(images, drawn.tolist(), strict=True)])
            torch.testing.assert_close(color.apply(images, drawn), expected, atol=1e-5, rtol=0)


def test_pure_colors_turn_round_the_circle():
    red, green, blue = torch.eye(3)[:, None, :, None, None].unbind(0)
    third = torch.tensor([1 / 3])
    torch.testing.assert_close(color.turned(red, third), green)
    torch.testing.assert_close(color.turned(green, third), blue)
    torch.testing.assert_close(color.turned(blue, third), red)


def test_draws_are_each_images_own_and_distributed_as_torchvisions():
    strengths = (0.4, 0.3, 1.5, 0.1)
    drawn = color.draw(4000, strengths, 0.75, 0.2, torch.Generator().manual_seed(0))
    still = (drawn[:, :4] == torch.tensor([1.0, 1.0, 1.0, 0.0])).all(1)
    assert 0.22 < still.double().mean() < 0.28
    assert 0.17 < drawn[:, 5].mean() < 0.23
    assert drawn[:, 4].unique().tolist() == list(range(24))
    jitter = ColorJitter(*strengths)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        names = ("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor")
        theirs = torch.tensor([[p[name] for name in names] for p in (jitter.make_params([]) for _ in range(2000))])
    points = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    mine = drawn[~still, :4]
    torch.testing.assert_close(mine.quantile(points, 0), theirs.quantile(points, 0), atol=0.1, rtol=0)
    assert len(mine.unique(dim=0)) == len(mine)


def test_an_augmentation_changes_colors_after_crops_that_stay_as_they_were():
    plain = Augmentation(mean=(0.5,) * 3, std=(0.25,) * 3, crop="shift", padding=2, flip=True)
    colored = Augmentation(
        mean=(0.5,) * 3, std=(0.25,) * 3, crop="shift", padding=2, flip=True, jitter=(0.4, 0.4, 0.4, 0.1), grayscale=0.5
    )
    images = (255 * _images(50)).to(torch.uint8)
    drawn = [each.draw(50, 6, 5, torch.Generator().manual_seed(3)) for each in (plain, colored)]
    assert torch.equal(drawn[0], drawn[1][:, :5])
    cropped, found = plain.apply(images, drawn[0]), colored.apply(images, drawn[1])
    expected = color.apply(cropped * 0.25 + 0.5, drawn[1][:, 5:])
    torch.testing.assert_close(found, (expected - 0.5) / 0.25, atol=1e-4, rtol=0)
    assert torch.equal(colored.apply(images), plain.apply(images))


def test_gray_images_keep_their_shape_and_change_brightness_and_contrast_alone():
    augmentation = Augmentation(mean=(0.0,), std=(1 / 255,), jitter=(0.0, 0.0, 0.9, 0.5), grayscale=1.0)
    images = (255 * _images(20, 1)).to(torch.uint8)
    drawn = augmentation.draw(20, 6, 5, torch.Generator().manual_seed(0))
    torch.testing.assert_close(augmentation.apply(images, drawn), images.float(), atol=1e-3, rtol=0)


def test_empty_batch_and_other_channels():
    augmentation = Augmentation(jitter=(0.1, 0.1, 0.1, 0.1))
    drawn = augmentation.draw(0, 4, 4, torch.Generator())
    assert augmentation.apply(torch.empty(0, 3, 4, 4, dtype=torch.uint8), drawn).shape == (0, 3, 4, 4)
    with pytest.raises(ConfigurationError, match="1 or 3 channels; these have 2"):
        augmentation.apply(torch.empty(0, 2, 4, 4, dtype=torch.uint8), drawn)


IMPOSSIBLE = [{"jitter": (0.1, -0.1, 0.0, 0.0)}, {"jitter": (0.0, 0.0, 0.0, 0.6)}, {"jittered": 1.5}, {"grayscale": -1}]


@pytest.mark.parametrize("settings", IMPOSSIBLE)
def test_impossible_settings(settings):
    with pytest.raises(ConfigurationError, match=f"augmentation.{next(iter(settings))} is"):
        Augmentation(**settings)
