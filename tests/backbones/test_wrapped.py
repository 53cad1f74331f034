"""A wrapped model computes what the model itself computes before its last linear layer."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from cl_ac.backbones.cutting import cut
from cl_ac.backbones.wrapped import ResNet18, TimmModel, TorchvisionModel, ViTB16, WrappedModel
from cl_ac.errors import ConfigurationError
from cl_ac.network import ExitNetwork


def penultimate(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What the model's last linear layer reads, caught by a hook."""
    caught = []
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    hook = last.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0].detach().clone()))
    model(images)
    hook.remove()
    return caught[0]


def check_equal(model: nn.Module, stages: list[str], images: torch.Tensor) -> None:
    original = copy.deepcopy(model)
    parts = nn.Sequential(*cut(model, stages).values())
    for mode in (True, False):
        original.train(mode)
        parts.train(mode)
        torch.manual_seed(0)
        expected = penultimate(original, images)
        torch.manual_seed(0)
        assert torch.equal(parts(images), expected)


class Residual(nn.Module):
    """Adds in place, drops by a function, and rectifies in place: all that must not leak across a cut."""

    def __init__(self, channels: int = 4):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, hidden):
        hidden += self.conv(hidden)
        return self.relu(nn.functional.dropout(hidden, 0.5, training=self.training))


class Net(nn.Module):
    def __init__(self, classes: int = 3, branch: bool = False):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.first, self.second = Residual(), Residual()
        self.head = nn.Linear(4, classes)
        self.branch = branch

    def forward(self, images, scale: float = 1.0):
        hidden = self.second(self.first(self.stem(images)))
        if self.branch and hidden.sum() > 0:
            hidden = hidden * scale
        return self.head(hidden.mean((2, 3)))


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "stages", "options"),
    [
        ("resnet18", ["layer1.1", "layer2", "layer4.0"], {}),
        ("vgg11_bn", ["features.3", "features.14", "classifier.1"], {}),
        ("shufflenet_v2_x0_5", ["conv1", "stage2.1", "stage3"], {}),
        (
            "vit_b_16",
            ["encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_5"],
            {"image_size": 32, "dropout": 0.1},
        ),
        ("swin_t", ["features.1.1", "features.3"], {"dropout": 0.2}),
        ("mobilenet_v3_small", ["features.3", "features.9"], {}),
    ],
)
def test_torchvision(name, stages, options, images):
    check_equal(torchvision.models.get_model(name, **options), stages, images)


@pytest.mark.parametrize(
    ("name", "stages", "options"),
    [
        ("resnet10t", ["layer1", "layer3"], {"drop_path_rate": 0.3}),
        ("vit_tiny_patch16_224", ["blocks.0", "blocks.5"], {"img_size": 32, "drop_path_rate": 0.3}),
        ("efficientnet_lite0", ["blocks.1", "blocks.4.0"], {}),
    ],
)
def test_timm(name, stages, options, images):
    timm = pytest.importorskip("timm")
    check_equal(timm.create_model(name, **options), stages, images)


def test_in_place_code_does_not_overwrite_what_an_exit_reads():
    model = Net()
    check_equal(model, ["stem", "first"], torch.randn(2, 1, 6, 6))
    parts = cut(Net(), ["stem", "first"])
    hidden = parts["stem"](torch.randn(2, 1, 6, 6))
    before = hidden.clone()
    parts["first"](hidden)
    assert torch.equal(hidden, before)


def test_functional_dropout_follows_the_mode():
    part = cut(Net(), ["stem", "first"])["first"]
    hidden = torch.randn(2, 4, 6, 6)
    assert torch.equal(part.eval()(hidden), part(hidden))
    assert not torch.equal(part.train()(hidden), part(hidden))


def test_exits_hang_on_a_wrapped_model(images):
    backbone = TorchvisionModel((3, 32, 32), "resnet18", ["layer1.1", "layer3"])
    assert backbone.stage_names == ["layer1.1", "layer3", "penultimate"]
    assert backbone.shapes() == [(64, 8, 8), (256, 2, 2), (512,)]
    resnet = ResNet18((3, 32, 32))
    network = ExitNetwork(resnet, resnet.exits("sdn"))
    network.grow(2, 0)
    network(images).sum().backward()
    assert all(parameter.grad is not None for parameter in network.backbone.parameters())
    teacher = network.frozen_copy()
    assert torch.equal(teacher(images), network.eval()(images))


def test_vit_has_an_ac_after_each_block_but_the_last():
    with torch.device("meta"):
        presets = ViTB16.presets["sdn"]
    assert len(presets.at) == 11
    assert presets.weights == pytest.approx([0.08 * (block + 1) for block in range(11)])


def test_any_factory_by_dotted_path():
    backbone = WrappedModel((3, 32, 32), "torchvision.models.resnet18", ["layer2"], options={"num_classes": 5})
    assert backbone.shapes()[-1] == (512,)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_come_from_a_file(suffix, tmp_path, images):
    from safetensors.torch import save_file

    model = torchvision.models.resnet18(num_classes=4).eval()
    path = tmp_path / f"weights{suffix}"
    save_file(model.state_dict(), path) if suffix == ".safetensors" else torch.save(model.state_dict(), path)
    backbone = TorchvisionModel((3, 32, 32), "resnet18", ["layer2"], str(path), {"num_classes": 4}).eval()
    assert torch.equal(ExitNetwork(backbone).hidden(images)[-1], penultimate(model, images))
    with pytest.raises(ConfigurationError, match="are no state of ResNet"):
        TorchvisionModel((3, 32, 32), "resnet18", ["layer2"], str(path))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"model": "resnet19"}, "the model 'resnet19' cannot be built"),
        ({"stages": ["layer1.2"]}, "unknown stage to cut the model ResNet at 'layer1.2'; did you mean 'layer1.1'"),
        ({"stages": ["layer1.0.bn1"]}, "unknown stage"),
        ({"stages": ["layer2", "layer1"]}, "from shallow to deep"),
        ({"stages": ["layer1", "layer1.1"]}, "each end once"),
        ({"image_shape": (1, 32, 32)}, "cannot read images of"),
        ({"model": "squeezenet1_0", "stages": []}, "does not end in a linear layer"),
    ],
)
def test_what_does_not_fit_is_one_sentence(arguments, sentence):
    defaults = {"image_shape": (3, 32, 32), "model": "resnet18", "stages": ["layer1"]}
    with pytest.raises(ConfigurationError, match=sentence):
        TorchvisionModel(**defaults | arguments)


def test_control_flow_on_inputs_is_refused():
    with pytest.raises(ConfigurationError, match="Net cannot be traced"):
        cut(Net(branch=True), ["first"])


def test_timm_reads_other_channels():
    pytest.importorskip("timm")
    backbone = TimmModel((1, 32, 32), "resnet10t", ["layer1"])
    assert backbone.shapes()[-1] == (512,)
