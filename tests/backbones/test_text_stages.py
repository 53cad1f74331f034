"""Language models in stages: tiny ones with random weights, against the library's own answers to texts alone."""

import pytest
import torch
from torch import nn

from cl_ac.backbones.hugging_face import HuggingFaceModel
from cl_ac.data.texts import padded
from cl_ac.errors import ConfigurationError
from cl_ac.evaluation import Outputs
from cl_ac.exits.cost import exit_costs
from cl_ac.exits.model import EarlyExitModel
from cl_ac.exits.rules import Confidence, decide
from cl_ac.network import ExitNetwork, Exits

transformers = pytest.importorskip("transformers")

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SIZES |= {"vocab_size": 40, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}
WINDOWS = {"num_key_value_heads": 1, "sliding_window": 3}
POSITIONS = {"max_position_embeddings": 40}
KINDS = {
    "Roberta": (POSITIONS, "encoder.layer.1"),
    "ModernBert": ({"local_attention": 4, "cls_token_id": 2, "sep_token_id": 3}, "layers.1"),
    "GPT2": ({"n_embd": 16, "n_layer": 2, "n_head": 2}, "h.1"),
    "Mistral": (WINDOWS, "layers.1"),
    "OPT": ({"ffn_dim": 32, "word_embed_proj_dim": 16}, "decoder.layers.1"),
}
TEXTS = [[5, 6, 7, 8, 9, 10, 11], [12, 13, 14], [15]]


def build(folder, kind: str, **options) -> tuple[nn.Module, HuggingFaceModel]:
    """A tiny model of a kind, and the backbone made of it."""
    torch.manual_seed(0)
    changes, _ = KINDS[kind]
    model = transformers.AutoModel.from_config(getattr(transformers, f"{kind}Config")(**{**SIZES, **changes})).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return model, HuggingFaceModel((1, 1, 9), str(folder), weights=True, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_is_never_read(kind, tmp_path):
    model, backbone = build(tmp_path, kind)
    assert backbone.stage_names[-2] == KINDS[kind][1]
    network = ExitNetwork(backbone.eval())
    found = network.features(padded(TEXTS, 9).float())[-1]
    last = backbone.token_layout == "text_last"
    for row, text in zip(found, TEXTS, strict=True):
        alone = torch.tensor([text])
        expected = model(alone, attention_mask=torch.ones_like(alone)).last_hidden_state[0, -1 if last else 0]
        assert torch.allclose(row, expected, atol=1e-4)


@pytest.mark.parametrize("weights", [True, None])
def test_what_is_published_in_half_precision_is_computed_in_full(weights, tmp_path):
    model, _ = build(tmp_path, "Mistral")
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    backbone = HuggingFaceModel((1, 1, 9), str(tmp_path), weights=weights)
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.float32}


def test_every_exit_reads_what_it_is_told(language_model):
    model = transformers.AutoModel.from_pretrained(language_model).eval()
    backbone = HuggingFaceModel((1, 1, 6), str(language_model), weights=True, reading="mean")
    numbers = [[2, 5, 7, 3], [2, 9, 3]]
    alone = torch.tensor(numbers[1:])
    hidden = model(alone, output_hidden_states=True).hidden_states
    for tokens, expected in (("auto", hidden[1][0].mean(0)), ("class", hidden[1][0, 0]), ("last", hidden[1][0, -1])):
        network = ExitNetwork(backbone, Exits([1], [1.0], tokens=tokens)).eval()
        exit_, final = network.features(padded(numbers, 6).float())
        assert torch.allclose(exit_[1], torch.layer_norm(expected, (16,)), atol=1e-5)
        assert torch.allclose(final[1], hidden[3][0].mean(0), atol=1e-5)


def test_early_exits_run_as_they_are_decided(language_model, threshold_between):
    backbone = HuggingFaceModel((1, 1, 6), str(language_model), weights=True)
    network = ExitNetwork(backbone, backbone.exits("sdn"))
    assert len(network) == 3
    network.grow(4, 0)
    inputs = padded([[2, 5, 7, 3], [2, 9, 3], [2, 4, 3], [2, 5, 6, 7, 8, 3]], 6).float()
    with torch.no_grad():
        logits = network.eval()(inputs)
        rule = Confidence(threshold_between(logits[0].softmax(-1).amax(-1)))
        costs = exit_costs(network)
        classes = torch.zeros(4, dtype=torch.int64)
        expected = decide(rule, Outputs(logits, classes, classes, (4,), costs))
        found = EarlyExitModel(network, None, rule)(inputs)
    assert len(set(expected.exits.tolist())) > 1
    assert torch.equal(found.exits, expected.exits)
    assert torch.equal(found.predictions, expected.predictions)
    assert costs.exits == sorted(costs.exits)
    assert costs.exits[0] > 0


def test_stages_are_joined_up_to_those_that_are_named(language_model):
    backbone = HuggingFaceModel((1, 1, 6), str(language_model), ["encoder.layer.1"], weights=True)
    assert backbone.stage_names == ["encoder.layer.1", "penultimate"]
    with pytest.raises(ConfigurationError, match=r"stage to cut the model BertModel at 'encoder\.layer\.9'"):
        HuggingFaceModel((1, 1, 6), str(language_model), ["encoder.layer.9"])


@pytest.mark.parametrize(
    ("shape", "options", "sentence"),
    [
        ((1, 1, 99), {}, "texts have up to 99 tokens, but the model BertModel reads 32: set tokens to at most that"),
        ((3, 8, 8), {}, "reads texts, but the benchmark holds images"),
    ],
)
def test_what_it_cannot_read_is_one_sentence(language_model, shape, options, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        HuggingFaceModel(shape, str(language_model), **options)


def test_a_model_whose_layers_share_what_learns_is_refused(tmp_path):
    config = transformers.MPNetConfig(**SIZES)
    transformers.MPNetModel(config).save_pretrained(tmp_path)
    with pytest.raises(ConfigurationError, match="are given 'position_bias', which learns"):
        HuggingFaceModel((1, 1, 6), str(tmp_path), weights=True)
