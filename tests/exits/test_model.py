import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cl_ac.approach import Approach
from cl_ac.approaches.bic import BiC
from cl_ac.backbones.resnet import ResNet32
from cl_ac.classifiers.ensemble import Ensemble
from cl_ac.classifiers.nearest_mean import NearestMean
from cl_ac.errors import ConfigurationError, UserError
from cl_ac.evaluation import ExitCosts, Outputs
from cl_ac.exits.calibration import fit_scorer
from cl_ac.exits.model import EarlyExitModel, PlainModel, images_in_cache
from cl_ac.exits.rules import TOP, Confidence, Entropy, LearnedScorer, Margin, Patience, decide, scores
from cl_ac.network import NO_EXITS, ExitNetwork, Exits

SIZES = (2, 3)
CASCADE = Exits(["first", "second"], [0.3, 0.6], cascade=True)


class Plain(Approach):
    """Answers with the linear heads as they are."""


def bic(exits: int) -> BiC:
    """BiC after two tasks, each exit with a scale and a shift of its own."""
    approach, stream = BiC(), torch.Generator().manual_seed(0)
    approach.earlier = torch.rand(1, 2, exits, generator=stream) + 0.5
    approach.newest = torch.nn.Parameter(torch.rand(1, 2, exits, generator=stream) + 0.5, requires_grad=False)
    approach.task_of_class = torch.tensor([0, 0, 1, 1, 1])
    return approach


def nearest_mean(network: ExitNetwork, aggregation: str) -> Plain:
    """An approach that answers by class means, whose exits may build on earlier ones."""
    approach = Plain()
    approach.inference = NearestMean(temperature=0.2, aggregation=aggregation).double()
    stream = torch.Generator().manual_seed(1)
    features = approach.inference.features(network, torch.zeros(1, 1, 6, 6, dtype=torch.float64))
    for index, part in enumerate(features):
        means = torch.randn(5, part.shape[1], generator=stream)
        approach.inference.register_buffer(f"means_{index}", torch.nn.functional.normalize(means))
    weights = torch.eye(len(network)) if aggregation == "own" else torch.rand(len(network), len(network)).tril()
    approach.inference.weights = weights
    return approach


def ensemble(network: ExitNetwork, combination: str, with_final: bool) -> Plain:
    """An approach that answers by an ensemble of heads."""
    approach, exits, stream = Plain(), len(network), torch.Generator().manual_seed(2)
    approach.inference = Ensemble(combination, with_final)
    approach.inference.omega = torch.randn(exits, exits, generator=stream, dtype=torch.float64)
    approach.inference.beta = torch.randn(exits, 5, generator=stream, dtype=torch.float64)
    return approach


def cascaded(network: ExitNetwork, seed: int) -> ExitNetwork:
    """The network with cascades that say something."""
    stream = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for head in network.heads:
            for rows in [] if head.cascade is None else [head.cascade.old_weight, head.cascade.new_weight]:
                rows.copy_(torch.randn(rows.shape, generator=stream))
    return network


def rules(exits: int):
    weights = torch.randn(exits, TOP + 4, generator=torch.Generator().manual_seed(0))
    return [Confidence(), Entropy(), Margin(), Patience(), LearnedScorer(weights=weights)]


def stored(network: ExitNetwork, approach: Approach, images: torch.Tensor) -> Outputs:
    """What evaluation would keep of `images`; targets and costs play no part."""
    with torch.inference_mode():
        logits = approach.answer(network.eval(), images).float()
    nothing = torch.zeros(len(images), dtype=torch.int64)
    return Outputs(logits, nothing, nothing, SIZES, ExitCosts([1.0] * len(network), 1.0))


def in_parts(model: EarlyExitModel, images: int) -> EarlyExitModel:
    """The model with every segment run on so many images at a time."""
    for segment in model.segments:
        segment.images_in_cache = images
    return model


def between(values: torch.Tensor, level: float) -> float:
    """A number between two scores that are apart, or below all of them."""
    ordered = torch.cat([torch.tensor([-1.0], dtype=torch.float64), values.flatten().sort().values])
    gaps = (ordered.diff() > 1e-6).nonzero()[:, 0]
    lower = gaps[int(level * (len(gaps) - 1))]
    return ordered[lower : lower + 2].mean().item()


def images_of(seed: int, batch: int) -> torch.Tensor:
    return 2 * torch.randn(batch, 1, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(
    seed=st.integers(0, 10**6),
    batch=st.integers(1, 40),
    exits=st.sampled_from(["sdn", NO_EXITS, CASCADE]),
    which=st.integers(0, 4),
    kind=st.sampled_from(["plain", "bic", "geometric", "arithmetic"]),
    fallback=st.sampled_from(["most_confident", "last"]),
    level=st.floats(0, 1),
    per_exit=st.booleans(),
    known=st.booleans(),
    images_in_cache=st.sampled_from([3, 100]),
)
def test_answers_are_those_of_the_rule_on_stored_outputs(
    toy_network, seed, batch, exits, which, kind, fallback, level, per_exit, known, images_in_cache
):
    # Thresholds lie between scores, for the model computes the same logits in another order of operations.
    network = cascaded(toy_network(exits, SIZES, seed % 7), seed).double()
    if kind in ("geometric", "arithmetic"):
        approach = ensemble(network, kind, bool(seed % 2))
    else:
        approach = bic(len(network)) if kind == "bic" else Plain()
    images = images_of(seed, batch)
    tasks = torch.arange(batch) % 2
    # Of each task's own classes, as tasks that bring new ones are tested.
    first = torch.tensor([0, SIZES[0]])
    outputs = replace(stored(network, approach, images), tasks=tasks, targets=first[tasks])
    outputs = outputs.task_incremental if known else outputs
    rule = replace(rules(len(network))[which], fallback=fallback)
    values = scores(rule, outputs)
    threshold = tuple(between(each, level) for each in values) if per_exit else between(values, level)
    rule = replace(rule, threshold=threshold)
    expected = decide(rule, outputs)
    answers = in_parts(EarlyExitModel(network, approach, rule), images_in_cache)(images, tasks if known else None)
    assert torch.equal(answers.exits, expected.exits)
    assert torch.equal(answers.predictions, expected.predictions)
    surest = outputs.confidences.gather(0, expected.answering[None])[0]
    torch.testing.assert_close(answers.confidences, surest)


@pytest.mark.parametrize("aggregation", ["own", "learned"])
@pytest.mark.parametrize("threshold", [0.0, 0.35, 0.5, 2.0])
def test_inference_classifiers_answer_at_each_exit(toy_network, aggregation, threshold):
    network = toy_network("sdn", SIZES, 0).double()
    approach = nearest_mean(network, aggregation)
    images = images_of(3, 64)
    outputs = stored(network, approach, images)
    expected = decide(Confidence(threshold), outputs)
    answers = EarlyExitModel(network, approach, Confidence(threshold))(images)
    assert torch.equal(answers.exits, expected.exits)
    assert torch.equal(answers.predictions, expected.predictions)


@pytest.mark.parametrize("batch", [0, 1, 2, 1024])
def test_every_batch_size(toy_network, batch):
    network = toy_network("sdn", SIZES, 0).double()
    images = images_of(5, batch)
    rule = Confidence(0.45)
    answers = EarlyExitModel(network, None, rule)(images)
    assert answers.predictions.shape == answers.exits.shape == answers.confidences.shape == (batch,)
    if batch:
        assert torch.equal(answers.exits, decide(rule, stored(network, Plain(), images)).exits)


def test_a_batch_is_answered_as_its_images_one_by_one(toy_network):
    network = toy_network("sdn", SIZES, 1).double()
    images = images_of(6, 30)
    model = EarlyExitModel(network, None, Patience())
    together = model(images)
    alone = [model(image[None]) for image in images]
    assert together.exits.tolist() == [each.exits.item() for each in alone]
    assert together.predictions.tolist() == [each.predictions.item() for each in alone]


def test_nothing_is_computed_for_samples_that_have_left(toy_network):
    network = toy_network("sdn", SIZES, 0).double()
    images = images_of(7, 50)
    rule = Confidence(0.45)
    exits = decide(rule, stored(network, Plain(), images)).exits
    sizes = []
    model = EarlyExitModel(network, None, rule)
    for segment in model.segments:
        segment.head.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    model(images)
    inside = [int((exits >= index).sum()) for index in range(3)]
    assert 0 < inside[1] < 50, "the threshold should divide these samples"
    assert sizes == [count for count in inside if count]


def test_the_network_answers_in_evaluation_mode_whatever_trains_it(toy_network):
    network = toy_network("sdn", SIZES, 0).double()
    images = images_of(8, 20)
    model = EarlyExitModel(network, None, Confidence(0.45))
    before = model(images)
    network.train()
    statistics = network.backbone.stages[0][1].running_mean.clone()
    assert torch.equal(model(images).confidences, before.confidences)
    assert torch.equal(network.backbone.stages[0][1].running_mean, statistics)


def test_a_fitted_scorer_runs(toy_network):
    network = toy_network("sdn", SIZES, 0).double()
    images = images_of(9, 100)
    outputs = replace(stored(network, Plain(), images), targets=torch.arange(100) % 5)
    rule = replace(fit_scorer(outputs), threshold=0.5)
    expected = decide(rule, outputs)
    answers = EarlyExitModel(network, None, rule)(images)
    assert torch.equal(answers.exits, expected.exits)
    assert len(expected.exits.unique()) > 1


class Mixing(Plain):
    """Every exit answers with the mean of all."""

    def correct(self, logits):
        return logits.mean(0, keepdim=True).expand_as(logits)


class AnsweringItself(Plain):
    def answer(self, network, images):
        return network(images)


def test_what_cannot_run_early_is_refused(toy_network):
    network = toy_network("sdn", SIZES, 0)
    with pytest.raises(ConfigurationError, match="Mixing corrects exits by one another"):
        EarlyExitModel(network, Mixing(), Confidence())
    with pytest.raises(ConfigurationError, match="AnsweringItself answers with all exits at once"):
        EarlyExitModel(network, AnsweringItself(), Confidence())
    with pytest.raises(ConfigurationError, match="2 thresholds for 3 exits"):
        EarlyExitModel(network, None, Confidence((0.5, 0.5)))
    with pytest.raises(ConfigurationError, match="no classes yet"):
        EarlyExitModel(toy_network("sdn", (), 0), None, Confidence())
    with pytest.raises(UserError, match="not numbers"):
        EarlyExitModel(network, None, Confidence())(torch.full((2, 1, 6, 6), torch.nan))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("batch", [1, 7, 1024])
def test_answers_on_a_gpu(toy_network, batch):
    network = toy_network("sdn", SIZES, 0).double().cuda()
    approach = bic(3).cuda()
    images = images_of(10, batch).cuda()
    outputs = stored(network, approach, images)
    outputs = replace(outputs, logits=outputs.logits.cpu())
    for rule in rules(3):
        # Between two scores, which another device may round otherwise.
        rule = replace(rule, threshold=scores(rule, outputs).flatten().quantile(0.611).item())
        expected = decide(rule, outputs)
        answers = EarlyExitModel(network, approach, rule)(images)
        assert torch.equal(answers.exits.cpu(), expected.exits)
        assert torch.equal(answers.predictions.cpu(), expected.predictions)


def test_a_cpu_runs_as_many_images_at_a_time_as_its_caches_hold():
    assert images_in_cache([(16, 32, 32), (32, 16, 16), (64,)]) == 24
    assert images_in_cache([(256, 56, 56)]) == 8
    assert images_in_cache([(197, 768), (768,)]) == sys.maxsize


def test_plain_model_is_the_same_in_parts(toy_network):
    network, images = toy_network(NO_EXITS, SIZES).double(), images_of(0, 10)
    model = PlainModel(network)
    whole = model(images)
    model.images_in_cache = 3
    torch.testing.assert_close(model(images), whole)


def test_plain_model_is_the_final_exit(toy_network):
    network = toy_network("sdn", SIZES, 0).double().eval()
    network(images_of(1, 20))
    images = images_of(2, 6)
    for fold in (False, True):
        torch.testing.assert_close(PlainModel(network, fold)(images).float(), network(images)[-1])


def test_folded_answers_are_the_same(toy_network):
    network = toy_network("sdn", SIZES, 2).double().train()
    network(images_of(1, 50))  # batch norm with statistics of its own
    network.eval()
    images = images_of(2, 60)
    outputs = stored(network, Plain(), images)
    rule = Confidence(between(scores(Confidence(), outputs), 0.5))
    plain, folded = EarlyExitModel(network, None, rule), EarlyExitModel(network, None, rule, fold=True)
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in folded.segments.modules())
    expected, answers = plain(images), folded(images)
    assert len(expected.exits.unique()) > 1
    assert torch.equal(answers.exits, expected.exits)
    assert torch.equal(answers.predictions, expected.predictions)
    torch.testing.assert_close(answers.confidences, expected.confidences)


@pytest.mark.parametrize("batch", [1, 4, 5, 40])
def test_a_packed_resnet_answers_as_its_stored_outputs_say(batch):
    torch.manual_seed(0)
    body = ResNet32((3, 32, 32))
    network = ExitNetwork(body, body.exits("sdn"))
    for count in (4, 6):
        network.grow(count, seed=0)
    images = torch.randn(40, 3, 32, 32)
    with torch.no_grad():
        network.train()(images)  # batch norm with statistics of its own
    network.eval().to(memory_format=torch.channels_last)
    outputs = stored(network, Plain(), images)
    rule = Confidence(between(scores(Confidence(), outputs), 0.7))
    decision = decide(rule, outputs)
    assert len(decision.exits.unique()) > 3
    model = EarlyExitModel(network, None, rule, fold=True)
    answers = [model(part) for part in images.split(batch)]
    assert all(segment.stages.packed is not None for segment in model.segments)
    assert torch.equal(torch.cat([each.exits for each in answers]), decision.exits)
    assert torch.equal(torch.cat([each.predictions for each in answers]), decision.predictions)
    confidences = outputs.logits.softmax(-1).amax(-1)[decision.answering, torch.arange(40)]
    torch.testing.assert_close(torch.cat([each.confidences for each in answers]), confidences, atol=1e-4, rtol=1e-4)


def test_another_rule_shares_the_segments(toy_network):
    network = toy_network("sdn", SIZES, 0).double()
    images = images_of(4, 30)
    model = EarlyExitModel(network, None, Confidence(0.45))
    other = model.with_rule(Patience(2.0, "last"))
    assert other.segments is model.segments
    assert torch.equal(other(images).exits, EarlyExitModel(network, None, Patience(2.0, "last"))(images).exits)
    assert model.rule == Confidence(0.45)
    with pytest.raises(ConfigurationError, match="2 thresholds for 3 exits"):
        model.with_rule(Confidence((0.5, 0.5)))
