"""A padded batch of texts counts like the texts one by one, whatever looks at the model."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cl_ac.backbones.vit import MLP
from cl_ac.efficiency.allocation import allocate_thresholds
from cl_ac.efficiency.budget import tau_for_budget
from cl_ac.efficiency.convert import Conversion, convert
from cl_ac.efficiency.dynamic import dynamic_ffns, measure_usage, recording, set_gate
from cl_ac.efficiency.effective_rank import effective_ranks
from cl_ac.efficiency.flops import relative_ffn_cost
from cl_ac.efficiency.gates import Gate
from cl_ac.efficiency.observation import call
from cl_ac.efficiency.padding import RealTokens, last_real, padding_mask, real
from cl_ac.efficiency.projections import Projections, distil_projections
from cl_ac.efficiency.router_free import masked
from cl_ac.efficiency.routers import RouterTraining
from cl_ac.efficiency.sparsify import Sparsify, Sparsity
from cl_ac.efficiency.sparsity_rules import MaxP
from cl_ac.efficiency.teal import allocate, calibrate, layer_thresholds, thresholds
from cl_ac.errors import ConfigurationError

Batches = Sequence[dict[str, Tensor]]
# Padding is far from anything that a text says.
PADDED = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1]])
PADDED[MASK == 0] = 50 + 10 * torch.arange(3.0)[:, None]
BATCH: Batches = [{"hidden": PADDED, "attention_mask": MASK}]
TEXTS: Batches = [{"hidden": PADDED[:1, :4]}, {"hidden": PADDED[1:, 1:]}]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(8, 8) for _ in range(4))
        self.mlp = MLP(8, 16, "relu")

    def forward(self, hidden: Tensor) -> Tensor:
        queries = self.q_proj(hidden) * self.k_proj(hidden)
        hidden = hidden + self.out_proj(queries + self.v_proj(hidden))
        return hidden + self.mlp(hidden)


class Text(nn.Module):
    """What each token becomes is its own affair, so that padding can be seen by those who look only."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(2))

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        for block in self.blocks:
            hidden = block(hidden)
        return hidden


@pytest.fixture
def model() -> Text:
    torch.manual_seed(0)
    return Text().eval()


def made(model: nn.Module, batches: Batches = TEXTS, **options) -> nn.Module:
    settings = {"size": 2, "router_width": 4, "tokens": 9, "router_training": RouterTraining(2, 4), **options}
    return convert(model, batches, Conversion(**settings))


def run_on(batches: Batches) -> Callable[[nn.Module], list[Any]]:
    return lambda model: [call(model, batch) for batch in batches]


def weights_of_experts(model: nn.Module, batches: Batches) -> list[Tensor]:
    return list(made(model, batches, split="coactivation").state_dict().values())


def cost(model: nn.Module, batches: Batches) -> float:
    converted = made(model)
    set_gate(converted, Gate("max", 0.5))
    with recording(converted) as recordings:
        run_on(batches)(converted)
    return relative_ffn_cost(converted, recordings)


def loads(model: nn.Module, batches: Batches) -> list[Tensor]:
    converted = made(model)
    with recording(converted) as recordings:
        run_on(batches)(converted)
    return [each.load for each in recordings.values()]


def tau(model: nn.Module, batches: Batches) -> float:
    return tau_for_budget(made(model), batches, 0.8)


def errors_of_thresholds(model: nn.Module, batches: Batches) -> list[float]:
    return [step.measured.error for step in allocate_thresholds(made(model), batches)]


def magnitudes(model: nn.Module, batches: Batches) -> list[float]:
    rules = thresholds(calibrate(model, run_on(batches)), 0.5, ["input", "intermediate"])
    return [rule.value for places in rules.values() for rule in places.values()]


def magnitudes_of_layers(model: nn.Module, batches: Batches) -> list[float]:
    return [rule.value for rule in layer_thresholds(model, run_on(batches), 0.5).values()]


def errors_of_magnitudes(model: nn.Module, batches: Batches) -> list[float]:
    found = allocate(model, "blocks.1", run_on(batches), step=0.3, tail=0.5)
    return [step.error for step in found.steps] + [rule.value for rule in found.thresholds(0.5).values()]


def ranks(model: nn.Module, batches: Batches) -> list[float]:
    return [rank for places in effective_ranks(model, run_on(batches)).values() for rank in places.values()]


def dropped(model: nn.Module, batches: Batches) -> float:
    with masked(model.requires_grad_(False), {"input": MaxP(0.3), "intermediate": MaxP(0.1)}) as induced:
        run_on(batches)(model)
    return induced.total()


@pytest.mark.parametrize(
    "look",
    [
        weights_of_experts,
        cost,
        loads,
        tau,
        errors_of_thresholds,
        magnitudes,
        magnitudes_of_layers,
        errors_of_magnitudes,
        ranks,
        dropped,
    ],
)
def test_a_padded_batch_counts_like_its_texts_one_by_one(model, look):
    torch.testing.assert_close(look(model, BATCH), look(model, TEXTS))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_sparsity_loss_is_the_mean_over_real_tokens(model):
    with Sparsity(model, Sparsify("hoyer", 1.0, "constant")) as sparsity:
        padded = [call(model, batch) for batch in BATCH] and sparsity.loss(0, 1)
        call(model, {"hidden": PADDED[MASK.bool()][None]})
        torch.testing.assert_close(padded, sparsity.loss(0, 1))


def test_projections_learn_from_real_tokens(model):
    flat = [{"hidden": PADDED[MASK.bool()][None]}]
    settings = Projections(dropout=0.0, epochs=2)
    padded, plain = (distil_projections(copy.deepcopy(model), batches, settings) for batches in (BATCH, flat))
    assert padded[-1] == pytest.approx(plain[-1])


def test_calibration_tokens_are_counted_without_padding(model):
    with pytest.raises(ConfigurationError, match="there are no inputs to calibrate on, or no token"):
        made(model, [{"hidden": PADDED, "attention_mask": torch.zeros_like(MASK)}])


def test_backends_are_chosen_by_all_that_they_run(model):
    converted = made(model)
    set_gate(converted, Gate("max", 0.5))
    measure_usage(converted, BATCH[0])
    usage = [ffn.usage for ffn in dynamic_ffns(converted).values()]
    measure_usage(converted, {"hidden": PADDED})
    assert usage == [ffn.usage for ffn in dynamic_ffns(converted).values()]


def hugging_face(name: str, **options) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    return getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**options)).eval()


def test_hugging_faces_encoder_is_calibrated_on_its_texts():
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = hugging_face("Bert", vocab_size=30, max_position_embeddings=8, **sizes)
    words = torch.randint(1, 30, (2, 6), generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    padded = magnitudes(model, [{"input_ids": words, "attention_mask": mask}])
    texts = [{"input_ids": words[:1]}, {"input_ids": words[1:, :4]}]
    torch.testing.assert_close(padded, magnitudes(model, texts), rtol=2e-3, atol=0)


def test_encoders_and_decoders_have_masks_of_their_own():
    sizes = {"d_model": 16, "d_ff": 24, "d_kv": 8, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2}
    model = hugging_face("T5", vocab_size=30, decoder_start_token_id=0, **sizes)
    words, seen = torch.ones(2, 6, dtype=torch.int64), []
    with RealTokens(model) as real_tokens:
        for stack in (model.encoder, model.decoder):
            layer = stack.block[0].layer[-1]
            layer.register_forward_hook(lambda module, inputs, output: seen.append(len(real_tokens.only(output))))
        model(input_ids=words, attention_mask=MASK, decoder_input_ids=words[:, :3])
        decoded = {"decoder_input_ids": words[:, :3], "decoder_attention_mask": MASK[:, :3]}
        model(input_ids=words, attention_mask=MASK, **decoded)
    assert seen == [9, 2, 9, 5], "a decoder without a mask keeps its two texts of three tokens apart"


def test_an_error_inside_a_call_leaves_the_next_one_right():
    model = Text()
    with RealTokens(model) as real_tokens:
        with pytest.raises(RuntimeError):
            model(PADDED[..., 1:], attention_mask=MASK)
        assert real_tokens.mask is None


@pytest.mark.parametrize("shape", [(2, 1, 6, 6), (12,)])
def test_masks_of_layers_say_nothing(shape):
    assert padding_mask({"attention_mask": torch.zeros(shape)}, MASK) is MASK


def test_layouts_of_tokens():
    mask = MASK.bool()
    assert torch.equal(real(torch.zeros(2, 6, 3), mask), mask)
    assert torch.equal(real(torch.zeros(12, 3), mask), mask.flatten())
    assert real(torch.zeros(2, 1, 3), mask).tolist() == [[False], [True]], "a mask over earlier tokens too"
    for other in (torch.zeros(2, 7, 3), torch.zeros(2, 2, 3, 3), torch.zeros(2, 3)):
        assert real(other, mask) is None


def test_the_last_tokens_of_a_text_come_before_its_padding():
    values = torch.arange(12.0).view(2, 6, 1)
    assert last_real(values, MASK.bool(), 0.5).flatten().tolist() == [2, 3, 10, 11]
    assert last_real(values, MASK.bool(), 0.01).flatten().tolist() == [3, 11]
    assert last_real(values, None, 0.5).flatten().tolist() == [3, 4, 5, 9, 10, 11]
