"""A model that is cut by watching it run computes what it computes as a whole."""

import pytest
import torch
from torch import nn

from cl_ac.backbones.chaining import NoChain, Reading, chained
from cl_ac.backbones.wrapped import WrappedModel
from cl_ac.errors import ConfigurationError


class Block(nn.Module):
    """Answers in a tuple, and reads a scale beside its tokens."""

    def __init__(self, width: int):
        super().__init__()
        self.inner = nn.Linear(width, width)

    def forward(self, hidden, scale, flag=None):
        return hidden + scale * torch.tanh(self.inner(hidden)), flag


class Embedding(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.project = nn.Conv2d(1, width, 2, 2)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))

    def forward(self, images):
        tokens = self.project(images).flatten(2).transpose(1, 2)
        return torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], 1)


class Encoder(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.ModuleList([Block(width) for _ in range(2)])

    def forward(self, hidden, scale):
        for layer in self.layers:
            # Depends on what is read, so that it cannot be traced.
            hidden, _ = layer(hidden, scale, flag="steady") if hidden.sum() < 1e9 else (hidden, None)
        return {"last": hidden}


class Model(nn.Module):
    """Tokens through an encoder, of which `reading` makes what the classifier reads.

    Args:
        varying: whether blocks are given something that depends on the images.
        overwrites: whether something is written into the tokens between two modules.
    """

    def __init__(self, reading=lambda hidden: hidden[:, 0], varying=False, overwrites=False, width=6, classes=3):
        super().__init__()
        self.embeddings, self.encoder, self.norm = Embedding(width), Encoder(width), nn.LayerNorm(width)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(2 * width if reading is both else width, classes)
        self.reading, self.varying, self.overwrites = reading, varying, overwrites

    def forward(self, images):
        hidden = self.embeddings(images)
        scale = images.mean() if self.varying else torch.full((hidden.shape[-1],), 0.5)
        hidden = self.encoder(hidden, scale)["last"]
        if self.overwrites:
            hidden += 1
        hidden = self.drop(self.norm(hidden))
        return self.head(self.reading(hidden))


def both(hidden):
    return torch.cat([hidden[:, 0], hidden[:, 1:].mean(1)], 1)


@pytest.fixture
def images():
    return torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "reading", [lambda hidden: hidden[:, 0], lambda hidden: hidden.mean(1), lambda hidden: hidden[:, 1:].mean(1), both]
)
def test_stages_give_what_the_classifier_reads(reading, images):
    model = Model(reading)
    stages = chained(model, (1, 8, 8), ["embeddings", "encoder.layers.0", "encoder.layers.1"])
    assert list(stages) == ["embeddings", "encoder.layers.0", "encoder.layers.1", "penultimate"]
    whole = nn.Sequential(*stages.values()).eval()
    assert torch.allclose(model.head(whole(images)), model.eval()(images), atol=1e-6)
    assert torch.equal(stages["encoder.layers.0"](model.embeddings(images))[:, :, 0], first(model, images))
    assert {id(p) for p in whole.parameters()} == {id(p) for p in model.parameters()} - set(
        map(id, model.head.parameters())
    )


def first(model: Model, images):
    hidden, _ = model.encoder.layers[0](model.embeddings(images), torch.full((6,), 0.5))
    return hidden[:, :, 0]


def test_dropout_between_modules_follows_the_mode(images):
    stages = chained(Model(), (1, 8, 8), ["encoder"])
    last, hidden = stages["penultimate"], stages["encoder"](images)
    assert last.training
    assert not torch.equal(last(hidden), last(hidden))
    assert torch.equal(last.eval()(hidden), last(hidden))


def test_blocks_are_the_stages_if_nothing_is_said():
    model = Model()
    model.encoder.layers.extend([Block(6) for _ in range(30)])
    assert list(chained(model, (1, 8, 8), None)) == [f"encoder.layers.{block}" for block in range(32)] + ["penultimate"]


def test_a_map_is_read_by_its_mean():
    class Maps(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.norm = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3), nn.LayerNorm(6)
            self.head = nn.Linear(6, 2)

        def forward(self, images):
            return self.head(self.norm(self.second(self.first(images)).mean((-2, -1))))

    model, images = Maps().eval(), torch.randn(2, 1, 8, 8)
    stages = chained(model, (1, 8, 8), ["first"])
    assert torch.allclose(model.head(nn.Sequential(*stages.values())(images)), model(images), atol=1e-6)
    assert any(isinstance(module, Reading) for module in stages["penultimate"])


@pytest.mark.parametrize(
    ("model", "stages", "sentence"),
    [
        (Model(varying=True), None, r"'encoder' reads more of an image than what the module before gave"),
        (Model(overwrites=True), None, r"after 'encoder.layers.1' no module goes on with what it gave"),
        (Model(lambda hidden: hidden.amax(1)), None, r"after 'drop' no module goes on"),
    ],
)
def test_what_is_no_chain_is_refused(model, stages, sentence):
    with pytest.raises(NoChain, match=sentence):
        chained(model, (1, 8, 8), stages)


@pytest.mark.parametrize(
    ("stages", "sentence"),
    [
        (["encoder.layers.2"], "unknown stage to cut the model Model at 'encoder.layers.2'; did you mean"),
        (["encoder", "embeddings"], "name each end once, from shallow to deep"),
        (["head"], "unknown stage"),
    ],
)
def test_stages_must_exist_in_order(stages, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        chained(Model(), (1, 8, 8), stages)


def test_a_model_without_a_linear_layer_at_its_end_is_refused():
    with pytest.raises(ConfigurationError, match="does not end in a linear layer"):
        chained(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), (1, 8, 8), None)


def test_any_model_that_cannot_be_traced_becomes_a_backbone(monkeypatch, images):
    monkeypatch.setattr(nn, "mine", Model, raising=False)
    backbone = WrappedModel((1, 8, 8), "torch.nn.mine", ["encoder.layers.0"])
    assert backbone.layouts() == ["class_token", "vector"]
    assert backbone.shapes() == [(17, 6), (6,)]
    monkeypatch.setattr(nn, "mine", lambda: Model(varying=True), raising=False)
    with pytest.raises(ConfigurationError, match="the model Model cannot be traced"):
        WrappedModel((1, 8, 8), "torch.nn.mine", ["encoder.layers.0"])
