"""A wrapped model computes what the model itself computes before its last linear layer."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from cl_ac.backbones.cutting import cut
from cl_ac.backbones.weights import load_weights
from cl_ac.backbones.wrapped import ResNet18, TimmModel, TorchvisionModel, ViTB16, WrappedModel
from cl_ac.errors import ConfigurationError
from cl_ac.network import ExitNetwork, Exits


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
    backbone = TorchvisionModel((3, 32, 32), "resnet18", ["layer2"], str(path)).eval()
    assert torch.equal(ExitNetwork(backbone).hidden(images)[-1], penultimate(model, images)), "another classifier"


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("name", [None, "state_dict"])
def test_states_of_training_scripts_are_found(tmp_path, prefix, name):
    model = Net()
    state = {f"{prefix}{key}": value for key, value in model.state_dict().items()}
    torch.save({name: state, "epoch": 3} if name else state, tmp_path / "weights.pt")
    twin = Net(classes=3)
    load_weights(twin, str(tmp_path / "weights.pt"))
    assert torch.equal(twin.stem.weight, model.stem.weight)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no weights", "cannot be read; save the model's state_dict"),
        ({"epoch": 3}, "hold no tensors by name"),
        ([1], "hold no tensors by name"),
        (Net(), "hold more than tensors"),
        ({"stem.weight": torch.zeros(4, 1, 3, 3)}, "7 tensors are missing, such as 'first.conv.bias'"),
        ({**Net().state_dict(), "more": torch.zeros(1)}, "1 tensors are unknown to it, such as 'more'"),
        (
            Net(classes=5).state_dict(),
            "2 tensors have other shapes, such as 'head.bias' with .5,. in the file and .3,. in the model",
        ),
        (None, "No such file"),
    ],
)
def test_what_is_wrong_with_weights_is_told_in_one_short_line(tmp_path, content, words):
    path = tmp_path / "weights.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ConfigurationError, match=words) as caught:
        load_weights(Net(), str(path))
    message = str(caught.value).replace(str(tmp_path), "")
    assert len(message) < 300
    assert "\n" not in message


def test_a_file_that_counts_no_batches_is_complete(tmp_path):
    torch.save(
        {name: value for name, value in nn.BatchNorm1d(2).state_dict().items() if "batches" not in name},
        path := tmp_path / "w",
    )
    holder = nn.Sequential(nn.BatchNorm1d(2))
    torch.save({f"0.{name}": value for name, value in torch.load(path).items()}, path)
    load_weights(holder, str(path))


def test_the_factory_is_asked_for_its_weights(monkeypatch):
    given = {}

    def mine(weights=None, classes=3):
        given.update(weights=weights)
        return Reshaping()

    monkeypatch.setattr(nn, "mine", mine, raising=False)
    WrappedModel((1, 6, 6), "torch.nn.mine", weights=True)
    assert given == {"weights": "DEFAULT"}
    monkeypatch.setattr(nn, "mine", lambda pretrained=False: given.update(pretrained=pretrained) or Reshaping())
    WrappedModel((1, 6, 6), "torch.nn.mine", weights=True)
    assert given["pretrained"] is True
    monkeypatch.setattr(nn, "mine", lambda: Reshaping())
    with pytest.raises(ConfigurationError, match=r"neither `weights` nor `pretrained`; name a file"):
        WrappedModel((1, 6, 6), "torch.nn.mine", weights=True)


def unreachable(*_, **__):
    raise OSError("no route to host")


@pytest.mark.parametrize(
    ("cls", "download", "source"),
    [
        (TorchvisionModel, "torchvision.models._api.load_state_dict_from_url", "https://download.pytorch.org/models/r"),
        (TimmModel, "timm.create_model", "model.safetensors of https://huggingface.co/timm/resnet18.a1_in1k"),
    ],
)
def test_without_network_the_sentence_says_which_file_to_bring(cls, download, source, monkeypatch):
    pytest.importorskip(download.partition(".")[0])
    monkeypatch.setattr(download, unreachable)
    with pytest.raises(ConfigurationError, match="no route to host") as caught:
        cls((3, 32, 32), "resnet18", ["layer1"], weights=True)
    assert f"bring {source}" in str(caught.value)
    assert "name the file in backbone.weights" in str(caught.value)
    with pytest.raises(ConfigurationError, match=r"the model 'resnet19' cannot be built|timm has none for"):
        cls((3, 32, 32), "resnet19", ["layer1"], weights=True)


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("resnet18", ["layer1", "layer2", "layer3", "layer4"]),
        ("swin_t", [f"features.{index}" for index in range(8)]),
        ("vgg11", ["features"]),
    ],
)
def test_a_model_is_cut_after_its_blocks_if_nothing_is_said(name, stages):
    assert list(cut(torchvision.models.get_model(name), None)) == [*stages, "penultimate"]


class Reshaping(nn.Module):
    """The number of images goes from the start of the model to its end."""

    def __init__(self, unpacks: bool = False):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)
        self.head = nn.Linear(2 * 36, 3)
        self.unpacks = unpacks

    def forward(self, images):
        if self.unpacks:
            batch, _, _, _ = images.shape
        else:
            batch = images.size(0)
        return self.head(self.second(self.first(images)).view(batch, -1))

    @classmethod
    def built(cls, **options):
        return cls(**options)


@pytest.mark.parametrize("unpacks", [False, True])
def test_the_number_of_images_may_cross_the_stages(unpacks):
    check_equal(Reshaping(unpacks), ["first"], torch.randn(2, 1, 6, 6))
    check_equal(Reshaping(unpacks), ["first", "second"], torch.randn(5, 1, 6, 6))


def test_a_class_method_builds_the_model(monkeypatch):
    monkeypatch.setattr(nn, "Reshaping", Reshaping, raising=False)
    backbone = WrappedModel((1, 6, 6), "torch.nn.Reshaping.built", ["first"], options={"unpacks": True})
    assert backbone.shapes() == [(4, 6, 6), (72,)]


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


def test_a_transformer_of_timm_is_built_for_the_size_of_the_images():
    pytest.importorskip("timm")
    options = {"depth": 1, "embed_dim": 24, "num_heads": 2}
    backbone = TimmModel((3, 48, 48), "vit_tiny_patch16_224", options=options)
    assert (3 * 3 + 1, 24) in backbone.shapes()


def test_grey_images_for_a_network_that_reads_colours_are_told():
    with pytest.raises(ConfigurationError, match=r"give benchmark\.augmentation\.mean and std three values"):
        TorchvisionModel((1, 32, 32), "resnet18").shapes()


def test_timm_reads_other_channels():
    pytest.importorskip("timm")
    backbone = TimmModel((1, 32, 32), "resnet10t", ["layer1"])
    assert backbone.shapes()[-1] == (512,)


@pytest.mark.parametrize("tokens", ["auto", "class", "mean", "patches", "map"])
def test_acs_hang_after_any_block_of_a_transformer_by_number(tokens):
    pytest.importorskip("timm")
    options = {"img_size": 32, "depth": 3, "embed_dim": 24, "num_heads": 2}
    stages = ["blocks.0", "blocks.1"]
    backbone = TimmModel((3, 32, 32), "vit_tiny_patch16_224", stages, options=options)
    network = ExitNetwork(backbone, Exits([0, 1], [1.0, 1.0], tokens=tokens))
    network.grow(2, 0)
    assert network.exits.at == stages
    assert network(torch.randn(2, 3, 32, 32)).shape == (3, 2, 2)


def test_lists_of_modules_are_opened_for_stages():
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(1, 30, 7), nn.Conv2d(30, 4, 7))
            self.blocks = nn.ModuleList([Residual(), Residual()])
            self.head = nn.Linear(4, 2)

        def forward(self, images):
            hidden = self.stem(images)
            for block in self.blocks:
                hidden = block(hidden)
            return self.head(hidden.mean((2, 3)))

    assert list(cut(Listed(), None)) == ["stem", "blocks.0", "blocks.1", "penultimate"]
