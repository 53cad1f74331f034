"""FFNs and attention projections of other people's models, small and with random weights."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from cl_ac.backbones.feed_forward import find_feed_forwards
from cl_ac.backbones.vit import ViT
from cl_ac.efficiency.split_attention import split_projections
from cl_ac.kernels.experts import activate

HIDDEN = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 50,
    "max_position_embeddings": 16,
}


def our_vit() -> nn.Module:
    return nn.Sequential(*ViT((3, 32, 32), patch=8, width=32, depth=2, expansion=1.5).stages)


def torchvision_vit() -> nn.Module:
    return torchvision.models.VisionTransformer(32, 8, 2, 4, 32, 48)


def timm_model(name: str, mlp_ratio: float = 1.5) -> nn.Module:
    timm = pytest.importorskip("timm")
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_ratio": mlp_ratio}
    return timm.create_model(name, **sizes)


def timm_vit() -> nn.Module:
    return timm_model("vit_tiny_patch16_224")


def timm_swiglu() -> nn.Module:
    """Gate and up in one layer."""
    return timm_model("vit_giant_patch14_dinov2", mlp_ratio=3)


def timm_eva() -> nn.Module:
    """Gate and up in two layers; the attention adds biases of its own."""
    return timm_model("eva02_tiny_patch14_224")


def hugging_face(name: str, **options) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{name}Config")(**options)
    return getattr(transformers, f"{name}Model")(config)


def bert() -> nn.Module:
    return hugging_face("Bert", **HIDDEN)


def gpt2() -> nn.Module:
    return hugging_face("GPT2", n_embd=32, n_inner=48, n_layer=2, n_head=4, vocab_size=50, n_positions=16)


def llama() -> nn.Module:
    return hugging_face("Llama", **HIDDEN, num_key_value_heads=2)


def gemma() -> nn.Module:
    return hugging_face("Gemma", **HIDDEN, num_key_value_heads=1, head_dim=8)


IMAGES = [our_vit, torchvision_vit, timm_vit, timm_swiglu, timm_eva]
TEXT = [bert, gpt2, llama, gemma]
GATED = [timm_swiglu, timm_eva, llama, gemma]
ACTIVATIONS = {gpt2: "gelu_tanh", timm_swiglu: "silu", timm_eva: "silu", llama: "silu", gemma: "gelu_tanh"}


def built(build: Callable[[], nn.Module]) -> nn.Module:
    """A model whose every weight matters; published initial values hold zeros and ones."""
    model, generator = build().eval(), torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator)
    return model


@torch.no_grad()
def output_of(build: Callable[[], nn.Module], model: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    if build in IMAGES:
        return model(torch.randn(2, 3, 32, 32, generator=generator))
    return model(input_ids=torch.randint(50, (2, 9), generator=generator)).last_hidden_state


@pytest.mark.parametrize("build", [*IMAGES, *TEXT])
class TestFeedForwards:
    def test_each_block_has_one(self, build):
        found = find_feed_forwards(built(build))
        assert len(found) == 2
        for each in found.values():
            assert (each.width, each.hidden) == (32, 48)
            assert (each.gate is not None) == (build in GATED)
            assert each.activation == ACTIVATIONS.get(build, "gelu")

    def test_tensors_give_what_the_modules_give(self, build):
        """What enters the first and leaves the last part, caught in the running model, against the formula."""
        model = built(build)
        for each in find_feed_forwards(model).values():
            caught = {}
            first, last = (each.module.get_submodule(each.parts[end]) for end in (0, -1))
            hooks = [
                first.register_forward_pre_hook(lambda module, inputs, caught=caught: caught.update(x=inputs[0])),
                last.register_forward_hook(lambda module, inputs, output, caught=caught: caught.update(y=output)),
            ]
            output_of(build, model)
            for hook in hooks:
                hook.remove()
            hidden = F.linear(caught["x"], each.up, each.up_bias)
            if each.gate is None:
                hidden = activate(hidden, each.activation)
            else:
                hidden = hidden * activate(F.linear(caught["x"], each.gate, each.gate_bias), each.activation)
            torch.testing.assert_close(F.linear(hidden, each.down, each.down_bias), caught["y"], rtol=1e-4, atol=1e-4)

    def test_identical_replacement_keeps_the_output(self, build):
        model = built(build)
        expected = output_of(build, model)

        class Twin(nn.Module):
            def __init__(self, described):
                super().__init__()
                self.parts = nn.Sequential(*(copy.deepcopy(described.module.get_submodule(p)) for p in described.parts))

            def forward(self, tokens):
                return self.parts(tokens)

        for each in find_feed_forwards(model).values():
            each.replace(model, Twin(each))
        assert torch.equal(output_of(build, model), expected)

    def test_other_replacement_changes_the_output(self, build):
        model = built(build)
        expected = output_of(build, model)
        for each in find_feed_forwards(model).values():
            each.replace(model, nn.Identity())
        assert not torch.allclose(output_of(build, model), expected)


@pytest.mark.parametrize("build", [our_vit, torchvision_vit, timm_vit, timm_swiglu, *TEXT])
class TestProjections:
    def test_splitting_keeps_the_output(self, build):
        model = built(build)
        expected, state = output_of(build, model), sum(parameter.numel() for parameter in model.parameters())
        found = split_projections(model)
        torch.testing.assert_close(output_of(build, model), expected, rtol=1e-5, atol=1e-5)
        assert sum(parameter.numel() for parameter in model.parameters()) == state
        # Grouped keys and values of Llama and Gemma are narrower than the model.
        kinds = ["query", "output"] if build in (llama, gemma) else ["query", "key", "value", "output"]
        assert list(found.values()) == kinds * 2

    def test_each_one_is_called_and_has_its_kind(self, build):
        """Zeroing one projection by hand: a zero value or output silences attention, a zero query only evens it out."""
        model = built(build)
        found = split_projections(model)
        expected = output_of(build, model)
        for path, kind in found.items():
            changed = copy.deepcopy(model)
            layer = changed.get_submodule(path)
            nn.init.zeros_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
            assert not torch.allclose(output_of(build, changed), expected), kind

    def test_splitting_twice_finds_the_same(self, build):
        model = built(build)
        assert split_projections(model) == split_projections(model)


def test_attention_that_reads_its_weights_is_left_alone():
    model = built(timm_eva)
    assert split_projections(model) == {}
    output_of(timm_eva, model)
