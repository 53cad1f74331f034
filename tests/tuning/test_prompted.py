"""Prompts reach the blocks of any transformer, image by image, and leave its weights alone."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_ac.backbones.attention import find_attentions
from cl_ac.backbones.vit import ViT
from cl_ac.backbones.wrapped import TorchvisionModel
from cl_ac.data.recognised import Recall, Recognised
from cl_ac.data.rows import Room
from cl_ac.errors import ConfigurationError
from cl_ac.evaluation import ExitCosts, Outputs
from cl_ac.exits.cost import counted, exit_costs
from cl_ac.exits.model import EarlyExitModel
from cl_ac.exits.rules import Confidence, Decision, decide
from cl_ac.network import NO_EXITS, Backbone, ExitNetwork, Exits
from cl_ac.tuning.prompted import PrefixAttention, add_prompts, promptable, prompts_in
from cl_ac.tuning.prompts import Prompts, VisualPrompts


class Turned(Prompts):
    """The query as tokens of the first block, and as keys and values of the third: each image is told its own."""

    stay = True

    def __init__(self, width: int = 16, speak: bool = False):
        super().__init__()
        self.speak = speak
        self.turn = nn.Parameter(torch.randn(width, width, generator=torch.Generator().manual_seed(2)))

    def told(self, block, query, tokens):
        if block == 1:
            return None
        told = torch.stack([query @ self.turn, query], 1)
        return told if block == 0 else torch.stack([told, -told], 1)


def prompted(backbone: Backbone, prompts: Prompts) -> Backbone:
    add_prompts(backbone, prompts, promptable(backbone, "this test"))
    return backbone


def features(backbone: Backbone, images: Tensor) -> Tensor:
    for stage in backbone.stages:
        images = stage(images)
    return images


def test_keys_and_values_join_the_attention(make_backbone):
    for attention in find_attentions(make_backbone()).values():
        tokens, prefix = torch.randn(2, 5, 16), torch.randn(2, 2, 3, 16)
        with PrefixAttention(attention).joined_by(prefix):
            pass
        joined = PrefixAttention(attention)
        with joined.joined_by(prefix):
            output = joined(tokens, tokens, tokens) if hasattr(attention.module, "batch_first") else joined(tokens)
        output = output[0] if isinstance(output, tuple) else output
        query, key, value = (part.transpose(1, 2).flatten(2) for part in attention.project(tokens))
        mixed = []
        for rows in torch.arange(16).chunk(attention.heads):
            keys, values = (torch.cat([prefix[:, i], own], 1)[..., rows] for i, own in enumerate((key, value)))
            scores = query[..., rows] @ keys.mT / len(rows) ** 0.5
            mixed.append(scores.softmax(-1) @ values)
        expected = attention.module.get_submodule(attention.output)(torch.cat(mixed, -1))
        torch.testing.assert_close(output, expected)


def test_the_query_is_what_the_network_says_without_prompts(make_backbone, images):
    backbone, prompts = prompted(make_backbone(), Turned()), None
    expected = features(make_backbone(), images)
    prompts = prompts_in(backbone, Turned)
    with prompts.learning() as lesson:
        told = features(backbone, images)
    torch.testing.assert_close(lesson.query, expected)
    assert prompts.lesson is None
    assert (told - expected).abs().max() > 0.01


class Silent(Prompts):
    def told(self, block, query, tokens):
        return None


def test_a_network_that_is_told_nothing_says_the_same(make_backbone, images):
    backbone = prompted(make_backbone(), Silent())
    torch.testing.assert_close(features(backbone, images), features(make_backbone(), images))


def test_each_image_is_told_its_own(make_backbone, images):
    backbone = prompted(make_backbone(), Turned(speak=True))
    together = features(backbone, images)
    alone = torch.cat([features(backbone, image[None]) for image in images])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("deep", [True, False])
def test_visual_prompts_join_the_tokens(deep, images):
    vit = ViT((3, 8, 8), patch=4, width=16, depth=3, heads=2).eval()
    plain, prompts = copy.deepcopy(vit), VisualPrompts(3, 2, 16, deep)
    nn.init.normal_(prompts.tokens)
    hidden = plain.stages[0](images)
    for block, stage in enumerate(plain.stages[1:4]):
        if deep or block == 0:
            hidden = torch.cat([hidden, prompts.tokens[block].expand(5, -1, -1)], 1)
        hidden = stage(hidden)
        hidden = hidden[:, :-2] if deep else hidden
    torch.testing.assert_close(features(prompted(vit, prompts), images), plain.stages[4](hidden))


def test_the_mean_of_prompts_stands_for_the_image(images):
    vit = ViT((3, 8, 8), patch=4, width=16, depth=3, heads=2).eval()
    plain, prompts = copy.deepcopy(vit), Turned(speak=True)
    query, hidden = features(plain, images), plain.stages[0](images)
    hidden = torch.cat([hidden, prompts.told(0, query, hidden)], 1)
    outputs = []
    prompted(vit, prompts)
    prefix = prompts.told(2, query, hidden)
    for block in (1, 2, 3):
        attention = plain.stages[block].attention
        joined = PrefixAttention(find_attentions(attention)[""])
        plain.stages[block].attention = joined
        if block == 3:
            with joined.joined_by(prefix):
                hidden = plain.stages[block](hidden)
        else:
            hidden = plain.stages[block](hidden)
        outputs.append(hidden[:, 5:].mean(1))
    found = images
    for stage, expected in zip(vit.stages, [None, *outputs, plain.stages[4].norm(outputs[-1])], strict=True):
        found = stage(found)
        if expected is not None:
            torch.testing.assert_close(found[:, 0] if found.ndim == 3 else found, expected)


def network_of(backbone: Backbone, exits: Exits | None = None) -> ExitNetwork:
    names = backbone.stage_names
    network = ExitNetwork(backbone, Exits([names[-3], names[-2]], [0.5, 0.5]) if exits is None else exits)
    network.grow(3, 0)
    return network.eval()


def answered(rule: Confidence, logits: Tensor) -> Decision:
    """What the rule says of the outputs of the whole network."""
    count = logits.shape[1]
    nothing = torch.zeros(count, dtype=torch.int64)
    costs = ExitCosts([float(exit) for exit in range(len(logits))], 1.0)
    return decide(rule, Outputs(logits.detach(), nothing, nothing, (3,), costs))


def test_images_that_leave_early_are_answered_as_by_the_rule(make_backbone, images, threshold_between):
    network = network_of(prompted(make_backbone(), Turned()))
    for head in network.heads:
        nn.init.normal_(head.classifier.new_weight, std=0.5)
    logits = network(images)
    threshold = threshold_between(logits[0].softmax(-1).amax(-1))
    expected = answered(Confidence(threshold), logits)
    found = EarlyExitModel(network, None, Confidence(threshold))(images)
    assert torch.equal(found.predictions, expected.predictions)
    assert len(found.exits.unique()) > 1
    assert torch.equal(found.exits, expected.exits)


@pytest.mark.parametrize("fold", [True, False])
def test_copies_and_states_say_the_same(make_backbone, images, fold):
    network = network_of(prompted(make_backbone(), Turned()))
    expected = network(images)
    teacher = network.frozen_copy()
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    other = network_of(prompted(make_backbone(), Turned()))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(network.state_dict())
    with torch.no_grad():
        prompts_in(network.backbone, Turned).turn.zero_()
    for copied in (teacher, other):
        torch.testing.assert_close(copied(images), expected)
    found, wanted = EarlyExitModel(other, None, Confidence(0.99), fold)(images), answered(Confidence(0.99), expected)
    assert torch.equal(found.predictions, wanted.predictions)
    assert torch.equal(found.exits, wanted.exits)


def test_only_prompts_learn(make_backbone, images):
    network = network_of(prompted(make_backbone(), Turned())).train()
    assert not any(stage.training for stage in network.backbone.stages)
    network(images).sum().backward()
    learning = {name for name, parameter in network.backbone.named_parameters() if parameter.requires_grad}
    assert learning == {"stages.0.prompts.turn"}
    assert prompts_in(network.backbone, Turned).turn.grad.abs().sum() > 0


def test_the_pass_for_the_query_is_counted(make_backbone):
    plain = network_of(make_backbone(), NO_EXITS)
    images = torch.zeros(1, 3, 8, 8)
    once, _ = counted(lambda: features(plain.backbone, images))
    twice = exit_costs(network_of(prompted(make_backbone(), Silent()), NO_EXITS)).plain
    head = exit_costs(plain).plain - once
    assert twice == 2 * once + head


def test_the_query_of_an_image_that_comes_again_is_computed_once(make_backbone, images):
    network = network_of(prompted(make_backbone(), Turned()))
    recall = Recall(Room(1 << 20, torch.device("cpu")))

    def known(kept: Tensor) -> Recognised:
        keys = [image.sum().item() for image in kept]
        return Recognised(kept.shape, kept.device, recall, "plain", keys, lambda: kept)

    expected = network(images)
    for _ in range(2):
        assert torch.equal(network(known(images)), expected)
    twice, once = (counted(partial(network, seen))[0] for seen in (images, known(images)))
    assert once < 0.6 * twice
    # Prompts may learn meanwhile, but with other weights the query is another.
    with torch.no_grad():
        prompts_in(network.backbone, Turned).turn.mul_(2)
    assert torch.equal(network(known(images.flip(0))).flip(1), network(images.flip(0)).flip(1))
    assert counted(partial(network, known(images)))[0] == once
    with torch.no_grad():
        promptless = [p for p in network.backbone.parameters() if not p.requires_grad]
        promptless[-1].add_(torch.randn_like(promptless[-1]))
    assert torch.equal(network(known(images)), network(images))


@pytest.mark.parametrize("options", [{"class_token": False, "global_pool": "avg"}, {"global_pool": "avg"}])
def test_a_network_that_reads_the_mean_of_its_tokens_is_refused(timm_model, options):
    with pytest.raises(ConfigurationError, match="this test needs a vision transformer whose class token answers"):
        promptable(timm_model(**options), "this test")


@pytest.mark.parametrize("tokens", ["mean", "patches", "map"])
def test_acs_that_would_read_prompts_are_refused(images, tokens):
    backbone = prompted(ViT((3, 8, 8), patch=4, width=16, depth=3, heads=2), Silent())
    with pytest.raises(ConfigurationError, match=f"exits.tokens is '{tokens}', but the approach puts tokens"):
        ExitNetwork(backbone, Exits(["block_0"], [0.5], tokens=tokens))


def test_other_networks_are_refused():
    with pytest.raises(ConfigurationError, match="this test needs a vision transformer, and the backbone Torch"):
        promptable(TorchvisionModel((3, 32, 32), "resnet18"), "this test")


def test_tokens_must_leave_the_first_stage():
    patches, block, token = ViT((3, 8, 8), patch=4, width=16, depth=1, heads=2).stages
    late = {"images": nn.Identity(), "patches": patches, "block": block, "token": token}
    with pytest.raises(ConfigurationError, match="is in its stage 'block'"):
        promptable(Backbone((3, 8, 8), late), "this test")


def test_normalised_query_travels_with_the_tokens(make_backbone, images):
    backbone = prompted(make_backbone(), Silent())
    network, expected = network_of(backbone), features(make_backbone(), images)
    hidden = network.segment(0, images)
    torch.testing.assert_close(hidden[:, -1], expected)
    assert F.cosine_similarity(hidden[:, 0], expected).min() < 0.999
