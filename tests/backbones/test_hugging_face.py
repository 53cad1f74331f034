"""Hugging Face's vision encoders as backbones: tiny ones with random weights, in a folder as the hub has them."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from cl_ac.backbones.hub_files import published
from cl_ac.backbones.hugging_face import HuggingFaceModel
from cl_ac.cli.main import main
from cl_ac.errors import ConfigurationError
from cl_ac.exits.model import EarlyExitModel
from cl_ac.exits.rules import Confidence, decide
from cl_ac.network import ExitNetwork, Exits
from cl_ac.recording.rundir import RunDirectory
from cl_ac.serving.attach import Attachment, attach
from cl_ac.serving.finished import finished
from cl_ac.settings.parser import parse, run_parser

transformers = pytest.importorskip("transformers")

BLOCKS = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
TOKENS = {"image_size": 16, "patch_size": 4, **BLOCKS}
MAPS = {"num_stages": 2, "hidden_sizes": [8, 12], "depths": [1, 1]}
WINDOWS = {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2}
TINY = {
    "ViT": (TOKENS, ["vit.layers.0", "vit.layers.1"], ["class_token"] * 2),
    "Dinov2": (TOKENS, ["dinov2.encoder.layer.0", "dinov2.encoder.layer.1"], ["class_token"] * 2),
    "ConvNext": (MAPS, ["convnext.encoder.stages.0", "convnext.encoder.stages.1"], ["channels_first"] * 2),
    "Swin": (WINDOWS, ["swin.encoder.layers.0", "swin.encoder.layers.1"], ["tokens"] * 2),
}
PICTURES = {"size": {"height": 16, "width": 16}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5] * 3, "resample": 3}

CROPPED = {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}}


def saved(folder, kind: str, classes: bool = True) -> nn.Module:
    """A tiny model of a kind, with random weights, and its folder as the hub has it."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**TINY[kind][0])
    model = getattr(transformers, f"{kind}{'ForImageClassification' if classes else 'Model'}")(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PICTURES))
    return model


def features(backbone, images):
    return ExitNetwork(backbone).eval().hidden(images)[-1]


@pytest.mark.parametrize("kind", TINY)
def test_weights_come_out_of_a_folder_and_out_of_a_file(kind, tmp_path):
    _, stages, layouts = TINY[kind]
    model, images = saved(tmp_path, kind), torch.randn(2, 3, 16, 16)
    found = HuggingFaceModel((3, 16, 16), str(tmp_path), stages, weights=True)
    assert torch.allclose(model.classifier(features(found, images)), model(images).logits, atol=1e-5)
    assert found.layouts() == [*layouts, "vector"]
    one_file = HuggingFaceModel((3, 16, 16), str(tmp_path), stages, weights=str(tmp_path / "model.safetensors"))
    assert torch.equal(features(found, images), features(one_file, images))
    untrained = HuggingFaceModel((3, 16, 16), str(tmp_path), stages)
    assert not torch.allclose(features(found, images), features(untrained, images), atol=0.1)


def test_an_encoder_that_was_saved_without_a_classifier_has_all_its_weights(tmp_path):
    model, images = saved(tmp_path, "ViT", classes=False), torch.randn(2, 3, 16, 16)
    found = HuggingFaceModel((3, 16, 16), str(tmp_path), weights=True)
    assert torch.allclose(features(found, images), model(images).last_hidden_state[:, 0], atol=1e-5)


def test_an_encoder_for_which_there_is_no_classifier_ends_in_its_class_token(tmp_path):
    model = transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**TOKENS)).eval()
    model.save_pretrained(tmp_path)
    found = HuggingFaceModel((3, 16, 16), str(tmp_path), ["encoder.model.layer.0"], weights=True)
    images = torch.randn(2, 3, 16, 16)
    assert torch.allclose(features(found, images), model(images).last_hidden_state[:, 0], atol=1e-5)


def test_images_of_another_size_have_their_positions_interpolated(tmp_path):
    model, images = saved(tmp_path, "ViT"), torch.randn(2, 3, 24, 24)
    found = HuggingFaceModel((3, 24, 24), str(tmp_path), weights=True)
    expected = model(images, interpolate_pos_encoding=True).logits
    assert torch.allclose(model.classifier(features(found, images)), expected, atol=1e-5)


def test_the_configuration_can_be_changed(tmp_path):
    saved(tmp_path, "ViT")
    found = HuggingFaceModel((1, 32, 32), str(tmp_path), options={"image_size": 32, "num_channels": 1})
    assert found.shapes()[-1] == (8,)
    with pytest.raises(ConfigurationError, match="has 'depth', which the configuration of"):
        HuggingFaceModel((3, 16, 16), str(tmp_path), options={"depth": 3})


def test_every_kind_of_exit_hangs_on_it(tmp_path):
    saved(tmp_path, "ViT")
    images = torch.randn(3, 3, 16, 16)
    for tokens in ("class", "mean", "patches", "map"):
        backbone = HuggingFaceModel((3, 16, 16), str(tmp_path), TINY["ViT"][1], weights=True, frozen="all")
        network = ExitNetwork(backbone, Exits([0, 1], [1.0, 1.0], tokens=tokens))
        network.grow(4, 0)
        assert network(images).shape == (3, 3, 4)


def damaged(folder, change) -> None:
    state = load_file(folder / "model.safetensors")
    save_file(change(state), folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda state: {name: state[name] for name in state if "layernorm" not in name},
            "tensors are missing, such as",
        ),
        (lambda state: {**state, "vit.more": torch.zeros(1)}, "1 tensors are unknown to it, such as 'vit.more'"),
        (
            lambda state: {**state, "vit.embeddings.cls_token": torch.zeros(1, 1, 9)},
            "1 tensors have other shapes, such as 'vit.embeddings.cls_token'",
        ),
    ],
)
def test_weights_that_do_not_fit_say_which(change, sentence, tmp_path):
    saved(tmp_path, "ViT")
    damaged(tmp_path, change)
    for weights in (True, str(tmp_path / "model.safetensors")):
        with pytest.raises(ConfigurationError, match=sentence) as caught:
            HuggingFaceModel((3, 16, 16), str(tmp_path), weights=weights)
        assert "\n" not in str(caught.value)


def test_weights_of_another_number_of_classes_fit(tmp_path):
    saved(tmp_path, "ViT")
    damaged(tmp_path, lambda state: {name: value for name, value in state.items() if "classifier" not in name})
    HuggingFaceModel((3, 16, 16), str(tmp_path), weights=True)


def test_what_is_not_here_is_told_with_the_files_to_bring(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for weights in (None, True):
        with pytest.raises(ConfigurationError, match="is not on this machine") as caught:
            HuggingFaceModel((3, 16, 16), "someone/no-such-model", weights=weights)
        message = str(caught.value)
        assert "bring config.json, model.safetensors" in message
        assert "--backbone hf:FOLDER" in message
    with pytest.raises(ConfigurationError, match=r"holds no config.json.*its folder needs config.json and model.safe"):
        HuggingFaceModel((3, 16, 16), str(tmp_path))
    saved(tmp_path, "ViT")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigurationError, match="its folder needs"):
        HuggingFaceModel((3, 16, 16), str(tmp_path), weights=True)


def test_nothing_is_asked_of_the_hub_without_weights(monkeypatch):
    asked = []
    monkeypatch.setattr("huggingface_hub.file_download.hf_hub_download", lambda *_, **__: asked.append(1))
    with pytest.raises(ConfigurationError):
        HuggingFaceModel((3, 16, 16), "someone/no-such-model")
    assert not asked


def test_a_model_of_text_is_refused(tmp_path):
    transformers.BertConfig(**BLOCKS).save_pretrained(tmp_path)
    with pytest.raises(ConfigurationError, match="reads texts, but the benchmark holds images"):
        HuggingFaceModel((3, 16, 16), str(tmp_path))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (PICTURES, (16, 1.0, "bicubic")),
        ({**PICTURES, "size": 20, "do_center_crop": True, "crop_size": 16, "resample": 2}, (16, 0.8, "bilinear")),
        ({**PICTURES, **CROPPED}, (224, 0.875, "bicubic")),
        ({**PICTURES, "size": {"shortest_edge": 224}, "crop_pct": 0.9}, (224, 0.9, "bicubic")),
        ({**PICTURES, "size": {"shortest_edge": 384}, "crop_pct": 0.9}, (384, 1.0, "bicubic")),
    ],
)  # fmt: skip
def test_how_images_are_made_is_read_off(settings, expected):
    found = published(settings)
    assert (found["size"], found["keep"], found["interpolation"]) == expected
    assert (found["mean"], found["std"]) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    assert published({**settings, "do_normalize": False})["mean"] == (0, 0, 0)


def test_the_command_line_takes_the_models_own_images_over(tmp_path):
    saved(tmp_path, "ViT")
    given = ["--approach", "LwF", "--benchmark", "Digits", "--backbone", f"hf:{tmp_path}"]
    found = parse(run_parser(), [*given, "--backbone.weights", "true"]).benchmark.init_args.augmentation
    assert (found.size, found.interpolation, tuple(found.mean)) == (16, "bicubic", (0.1, 0.2, 0.3))
    assert parse(run_parser(), given).benchmark.init_args.augmentation.size is None


@pytest.fixture
def run_of(tmp_path):
    """Makes a run of digits on a frozen tiny ViT."""
    (tmp_path / "vit").mkdir()
    saved(tmp_path / "vit", "ViT")

    def make(*given: str) -> RunDirectory:
        shared = ["--benchmark", "Digits", "--benchmark.tasks", "2", "--benchmark.samples_per_class", "10"]
        shared += ["--benchmark.augmentation.crop", "none", "--approach", "FineTuning", "--device", "cpu"]
        shared += ["--backbone", f"hf:{tmp_path / 'vit'}", "--backbone.weights", "true", "--backbone.frozen", "all"]
        assert main(["run", *shared, *given, "--loggers", "[]", "--out", str(tmp_path), "--name", "run"]) == 0
        return RunDirectory(tmp_path / "run")

    return make


def test_training_free_exits_leave_early_as_their_outputs_say_and_take_no_acs(run_of, tmp_path):
    at = ["--exits.at", "[1, 2]", "--exits.weights", "[1, 1]", "--exits.tokens", "patches"]
    directory = run_of("--classifier", "NearestMean", "--training.epochs", "0", *at)
    outputs, rule = directory.outputs(1), Confidence(0.3)
    assert len(outputs.logits) == 3
    run = finished(directory, "cpu")
    samples, _ = run.objects.benchmark.seen(run.objects.benchmark[1])
    images = run.objects.benchmark.augmentation.apply(samples.images)
    model = EarlyExitModel(run.network, rule=rule, approach=run.objects.approach)
    found, expected = model(images), decide(rule, outputs)
    assert torch.equal(found.exits, expected.exits)
    assert torch.equal(found.predictions, expected.predictions)
    assert len(expected.exits.unique()) > 1
    with pytest.raises(ConfigurationError, match="left the linear heads untrained"):
        attach(directory, RunDirectory(tmp_path / "attached"), Exits([1], [1.0]), device="cpu")


def test_acs_are_attached_to_a_frozen_pretrained_network(run_of, tmp_path):
    source, directory = run_of("--training.epochs", "1"), RunDirectory(tmp_path / "attached")
    attach(source, directory, Exits([1, 2], [1.0, 1.0], tokens="map"), Attachment(epochs=3, lr=0.01), "cpu")
    before, after = source.outputs(1), directory.outputs(1)
    torch.testing.assert_close(after.logits[-1], before.logits[-1])
    assert len(after.logits) == 3
    assert len(finished(directory, "cpu").network) == 3
