"""A network with published weights gets images as it learned on, unless the user says otherwise."""

import pytest

from cl_ac.settings.parser import parse, run_parser

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def augmentation(*arguments: str):
    given = ["--approach", "LwF", "--benchmark", "Digits", *arguments]
    return parse(run_parser(), given).benchmark.init_args.augmentation


@pytest.mark.parametrize("backbone", ["torchvision:resnet18", "ResNet18"])
@pytest.mark.parametrize("weights", ["true", "mine.pth"])
def test_the_models_own_is_taken_over(backbone, weights):
    found = augmentation("--backbone", backbone, "--backbone.weights", weights)
    assert (found.size, found.keep, found.interpolation) == (224, 0.875, "bilinear")
    assert {name: tuple(found[name]) for name in IMAGENET} == IMAGENET
    assert found.crop == "shift"


def test_what_the_user_sets_stays():
    model = ["--backbone", "torchvision:vit_b_16", "--backbone.weights", "true"]
    found = augmentation("--benchmark.augmentation.size", "32", *model)
    assert (found.size, found.keep, tuple(found.mean)) == (32, None, IMAGENET["mean"])
    found = augmentation("--benchmark.augmentation.mean", "[0.305]", *model)
    assert (found.size, tuple(found.mean), tuple(found.std)) == (224, (0.305,), (0.376,))


def test_other_networks_take_over_nothing():
    for model in (["SmallConvNet"], ["torchvision:resnet18"], ["torchvision:no_such", "--backbone.weights", "true"]):
        found = augmentation("--backbone", *model)
        assert (found.size, tuple(found.mean)) == (None, (0.305,))


def test_timm_says_how_images_are_cropped():
    pytest.importorskip("timm")
    found = augmentation("--backbone", "timm:vit_tiny_patch16_224", "--backbone.weights", "true")
    assert (found.size, found.keep, found.interpolation) == (224, 0.9, "bicubic")
    assert tuple(found.mean) == (0.5, 0.5, 0.5)
