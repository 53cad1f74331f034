"""Everything that computes, on an emulated accelerator, which refuses operands on different devices as CUDA does."""

import runpy
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from cl_ac.approach import Approach
from cl_ac.classifiers.ensemble import Ensemble
from cl_ac.classifiers.gaussian import Gaussian
from cl_ac.classifiers.nearest_mean import NearestMean
from cl_ac.cli.main import main
from cl_ac.data.loading import Loader
from cl_ac.data.seeding import global_stream
from cl_ac.exits.model import EarlyExitModel
from cl_ac.exits.rules import TOP, Confidence, Entropy, LearnedScorer, Margin, Patience, decide
from cl_ac.memory import Memory
from cl_ac.network import Backbone, ExitNetwork, Exits
from cl_ac.recording.journal import Journal
from cl_ac.recording.rundir import RunDirectory
from cl_ac.run import assemble, choose_device
from cl_ac.serving.exit_timing import measure
from cl_ac.serving.finished import finished
from cl_ac.serving.model_file import load, save
from cl_ac.settings.plugins import classes
from cl_ac.training import HeadWarmup, Trainer, Training
from cl_ac.watching.watch import Watch

EMULATION = runpy.run_path(str(Path(__file__).with_name("emulated_device.py")))
COMPILER = EMULATION["compiler"]()
pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler: c++, or what CXX names")
# Loaded before the first test of any file: autograd knows no devices that are younger than its first backward pass.
DEVICE = COMPILER and EMULATION["load"](Path(__file__).parents[1] / ".pytest_cache" / "emulated_device")
APPROACHES = classes("approach", Approach)
# Stages beside the main one, cut short.
SHORT = dict(runpy.run_path(str(Path(__file__).parent / "approaches" / "test_contract.py"))["SHORT"])
# The emulated device has no generators of random numbers.
SHORT["EEIL"] = {**SHORT["EEIL"], "noise": 0.0}
ONE_EPOCH = Training(epochs=1, batch_size=8, lr=0.05, momentum=0.9, schedule="constant")


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The emulated accelerator."""
    return DEVICE


def made(name: str, **options) -> Approach:
    with global_stream(0, "approach"):
        return APPROACHES[name](**{**SHORT.get(name, {}), **options})


def memory_for(name: str) -> int:
    return 12 if APPROACHES[name].memory_use == "required" else 0


def network_of(approach: Approach, backbone: Backbone, memory: int, selection: str = "random") -> ExitNetwork:
    approach.prepare(backbone)
    return assemble(approach, backbone, "sdn", Memory(memory, selection=selection), None)


HERE = torch.arange(12.0).view(3, 4)
MIXED = {
    "a sum": lambda x: x + HERE,
    "a product": lambda x: x @ HERE.T,
    "in place": lambda x: HERE.clone().add_(x),
    "a number in place": lambda x: torch.ones(()).add_(x.sum()),
    "joined": lambda x: torch.cat([x, HERE]),
    "stacked numbers": lambda x: torch.stack([x.sum(), torch.ones(())]),
    "a layer": lambda x: F.linear(x, torch.ones(2, 4)),
    "a convolution": lambda x: F.conv2d(x[None, None], torch.ones(1, 1, 2, 2)),
    "batch norm": lambda x: F.batch_norm(x, torch.zeros(4), torch.ones(4)),
    "a loss": lambda x: F.cross_entropy(x, torch.tensor([0, 1, 2])),
    "a condition": lambda x: torch.where(HERE > 0, x, 0.0),
    "a mask": lambda x: x.masked_fill(HERE > 0, 0.0),
    "gathered": lambda x: x.gather(1, torch.zeros(3, 1, dtype=torch.int64)),
    "indices of the device": lambda x: HERE[torch.tensor([1], device=x.device)],
    "a mask of the device": lambda x: HERE[x > 3],
    "values of an index": lambda x: x.index_put_((torch.tensor([0, 1]),), HERE[:2]),
    "a generator": lambda x: torch.rand(3, device=x.device, generator=torch.Generator()),
}


@pytest.mark.parametrize("mixed", MIXED)
def test_operands_of_different_devices_are_refused(device, mixed):
    with pytest.raises(RuntimeError, match="device"):
        MIXED[mixed](HERE.to(device))


def test_numpy_gets_no_memory_of_the_device(device):
    with pytest.raises(TypeError, match="can't convert emulated:0 device type tensor to numpy"):
        HERE.to(device).numpy()


ALLOWED = {
    "a number": lambda x: x * torch.tensor(2.0),
    "a chosen number": lambda x: torch.where(x > 3, x, torch.tensor(1.0)),
    "a number in place": lambda x: x.add_(torch.tensor(1.0)),
    "indices": lambda x: x[torch.tensor([2, 0])],
    "a mask": lambda x: x[HERE > 3],
    "assigned": lambda x: x.index_fill_(0, torch.tensor([1], device=x.device), 5.0),
    "a copy": lambda x: x.copy_(HERE + 1),
    "a view": lambda x: x.t()[1:].mul_(2),
    "resized": lambda x: torch.add(x, x, out=torch.empty(0, device=x.device)),
}


@pytest.mark.parametrize("allowed", ALLOWED)
def test_what_cuda_allows_gives_what_the_cpu_gives(device, allowed):
    here, there = HERE.clone(), HERE.to(device)
    result = ALLOWED[allowed](there)
    assert result.device.type == "emulated"
    assert torch.equal(result.cpu(), ALLOWED[allowed](here))
    assert torch.equal(there.cpu(), here)


WAITING = {
    "reading a number": lambda x: x.sum().item(),
    "a condition": lambda x: bool((x > 3).all()),
    "a shape": lambda x: x[x > 3],
    "a copy to the host": lambda x: x.cpu(),
    "a copy from the host": lambda x: torch.tensor([1.0, 2.0], device=x.device),
}


@pytest.mark.parametrize("waiting", WAITING)
def test_waiting_of_device_and_host_is_counted(device, waiting):
    x = HERE.to(device)
    before = torch.ops.emulated.waits()
    x[torch.ones(2, dtype=torch.int64, device=device)].masked_fill(x[:2] > 3, 0.0).softmax(-1)
    x + torch.ones(4).to(device, non_blocking=True)
    assert torch.ops.emulated.waits() == before
    WAITING[waiting](x)
    assert torch.ops.emulated.waits() > before


@pytest.fixture
def toy_trainer(toy_benchmark) -> Trainer:
    """What `toy_learn` trains with; tests set its device."""
    return Trainer(ONE_EPOCH, toy_benchmark.augmentation, torch.device("cpu"))


@pytest.mark.parametrize("name", APPROACHES)
def test_every_approach_learns_there_what_it_learns_here(toy_backbone, toy_benchmark, toy_trainer, toy_learn, name):
    logits, tasks = [], toy_benchmark().tasks
    for place in ("cpu", "emulated"):
        toy_trainer.device, approach = torch.device(place), made(name)
        network = network_of(approach, toy_backbone(approach=approach), memory_for(name)).to(place)
        approach.to(place)
        for task in tasks:
            toy_learn(approach, network, [task])
            answering = approach.inference_network(network)
            if approach.inference is not None:
                approach.inference.update(task, answering, toy_trainer, approach.memory)
        logits.append(toy_trainer.predict(answering, tasks[-1].test, partial(approach.answer, answering)))
    # The first steps of a generator's Adam have the sign of gradients that are nearly 0.
    tolerance = 1e-2 if approach.family == "generative replay" else 1e-3
    torch.testing.assert_close(logits[1], logits[0], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", APPROACHES)
def test_steps_never_wait_for_the_host(toy_backbone, toy_benchmark, toy_trainer, toy_learn, name):
    toy_trainer.device, approach, waits = torch.device("emulated"), made(name), []
    network = network_of(approach, toy_backbone(approach=approach), memory_for(name)).to("emulated")
    follow = approach.end_step

    def end_step(network) -> None:
        follow(network)
        waits[-1].append(torch.ops.emulated.waits())

    approach.to("emulated").end_step = end_step
    for task in toy_benchmark().tasks[:2]:
        waits.append([])
        toy_learn(approach, network, [task])
        assert len(waits[-1]) > 1 or approach.training_set(task) is None
        assert all(before == after for before, after in pairwise(waits[-1]))


@pytest.mark.parametrize("name", [name for name, each in APPROACHES.items() if "live memory" in each.copes_with])
def test_a_live_memory_lives_there_and_waits_for_nobody(toy_backbone, toy_benchmark, toy_trainer, toy_learn, name):
    held = []
    for place in ("cpu", "emulated"):
        toy_trainer.device, approach, waits = torch.device(place), made(name), []
        network = network_of(approach, toy_backbone(), 12, "live").to(place)
        take_up = approach.to(place).memory.take_up

        def passed(batch, extras, waits=waits, take_up=take_up) -> None:
            take_up(batch, extras)
            waits.append(torch.ops.emulated.waits())

        approach.memory.take_up = passed
        toy_learn(approach, network, toy_benchmark(per_class=30).tasks[:1])
        # From where the memory is full, sizes stay the same.
        steps = waits[3:]
        assert len(steps) > 1
        held.append(approach.memory.samples.to(torch.device("cpu")))
    assert all(before == after for before, after in pairwise(steps))
    assert torch.equal(held[0].images, held[1].images)
    assert torch.equal(held[0].targets, held[1].targets)


COMPOSED = {
    "watch": ("ER", {"watch": Watch(2, nearest_mean="exemplars", drift=True), "classifier": Gaussian()}),
    "oracle": ("BiC", {"watch": Watch(2, samples=9, nearest_mean="oracle"), "classifier": NearestMean()}),
    "learned": ("ER", {"classifier": NearestMean(aggregation="learned")}),
    "ensemble": ("ER", {"classifier": Ensemble()}),
    "cascade": ("EWC", {"exits": Exits(["first", "second"], [0.3, 0.6], detach=True, cascade=True)}),
    "float16": ("SI", {"training": Training(2, 8, lr=0.05, schedule="cosine", precision="float16")}),
    "warm-up": ("LwF", {"training": Training(2, 8, "adamw", head_warmup=HeadWarmup(1), select="best")}),
    "bfloat16": ("PODNet", {"training": Training(2, 8, freeze_batch_norm=True, precision="bfloat16")}),
}


@pytest.mark.parametrize("name", COMPOSED)
def test_what_composes_with_approaches_runs_there(toy_run, toy_benchmark, name):
    approach, options = COMPOSED[name]
    benchmark, given = toy_benchmark(8, validation=0.25), {"exits": "sdn", "training": ONE_EPOCH, **options}
    memory = 12 if name in ("learned", "ensemble") else memory_for(approach)
    directory = toy_run(made(approach), memory=memory, benchmark=benchmark, device="emulated", loggers=(), **given)
    assert directory.outputs(2).logits.isfinite().all()
    assert directory.outputs(2).logits.device.type == "cpu"


@pytest.mark.parametrize("statistics", ["batch", "pretrained", "continuous"])
def test_teachers_adapt_there(toy_run, toy_benchmark, statistics):
    options = {"benchmark": toy_benchmark(6), "training": ONE_EPOCH, "loggers": (), "device": "emulated"}
    directory = toy_run(made("LwF", teacher_bn=statistics), exits="sdn", **options)
    assert directory.outputs(2).logits.isfinite().all()


@pytest.mark.parametrize("selection", ["herding", "entropy", "distance", "reservoir", "class_balanced"])
def test_exemplars_are_chosen_there_as_here(toy_benchmark, toy_network, selection):
    chosen = []
    for place in ("cpu", "emulated"):
        memory, network = Memory(8, selection=selection).to(place), toy_network("sdn", (2, 2)).to(place)
        trainer = Trainer(ONE_EPOCH, toy_benchmark.augmentation, torch.device(place))
        for task in toy_benchmark(6).tasks[:2]:
            memory.update(task.train, trainer.generator("exemplars", task.index), network, trainer)
        assert memory.targets.device.type == place
        chosen.append(memory.to("cpu"))
    assert torch.equal(chosen[0].images, chosen[1].images)


class Stopped(Exception):
    pass


@pytest.mark.parametrize("name", ["BiC", "EWC"])
def test_a_run_there_resumes(toy_run, toy_benchmark, monkeypatch, name):
    options = {"exits": "sdn", "memory": memory_for(name), "device": "emulated", "loggers": ()}
    options["training"] = Training(2, 8, "adamw", 0.01, schedule="constant", precision="float16")
    whole = toy_run(made(name), "whole", benchmark=toy_benchmark(6), **options)
    original = Journal.epoch

    def stop(self, task, report):
        original(self, task, report)
        if (task.index, report.epoch) == (1, 0):
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "epoch", stop)
        with pytest.raises(Stopped):
            toy_run(made(name), "stopped", benchmark=toy_benchmark(6), **options)
    resumed = toy_run(made(name), "stopped", benchmark=toy_benchmark(6), resume=True, **options)
    assert torch.equal(resumed.outputs(2).logits, whole.outputs(2).logits)


@pytest.mark.parametrize("number", [0, 1])
def test_a_numbered_gpu_becomes_the_current_one(monkeypatch, number):
    chosen = []
    zero = torch.zeros(())
    monkeypatch.setattr(torch, "zeros", lambda *size, device: zero)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert choose_device(f"cuda:{number}") == chosen[0] == torch.device("cuda", number)
    choose_device("cuda")
    assert len(chosen) == 1


RUN = ["--benchmark", "Digits", "--benchmark.tasks", "2", "--benchmark.samples_per_class", "16", "--loggers", "[]"]
RUN += ["--benchmark.validation", "0.25", "--training.epochs", "1", "--training.batch_size", "32"]
RUN += ["--memory.size", "20", "--device", "emulated"]
CONVOLUTIONS = ["--backbone", "SmallConvNet", "--exits", "sdn"]
CASCADE = ["--exits.at", "[block0,block1]", "--exits.weights", "[0.3,0.5]", "--exits.cascade", "true"]
TRANSFORMER = ["--backbone", "ViT", "--backbone.width", "16", "--backbone.depth", "2", "--backbone.patch", "4"]
TRANSFORMER += ["--exits", "ln", "--sparsify.loss", "hoyer", "--training.optimizer", "adamw", "--training.lr", "0.002"]
RUNS = {
    "bias": ["--approach", "BiC", "--approach.bias_epochs", "2", *CONVOLUTIONS],
    "means": ["--approach", "ICaRL", *CONVOLUTIONS],
    "cascade": ["--approach", "ER", "--backbone", "SmallConvNet", *CASCADE],
    "transformer": ["--approach", "ER", *TRANSFORMER],
    "sparse": [
        "--approach",
        "ER",
        *CONVOLUTIONS,
        "--sparse.density",
        "0.2",
        "--sparse.layers",
        "snip",
        "--sparse.heads",
        "true",
    ],
}


@pytest.fixture(scope="module")
def run_there(tmp_path_factory, device):
    """Makes a finished run by the name of its settings, once."""
    made = {}

    def make(name: str) -> RunDirectory:
        if name not in made:
            out = tmp_path_factory.mktemp("runs")
            assert main(["run", *RUN, *RUNS[name], "--out", str(out), "--name", name]) == 0
            made[name] = RunDirectory(out / name)
        return made[name]

    return make


@pytest.mark.parametrize("name", RUNS)
def test_early_exits_run_there_by_every_rule(run_there, tmp_path, name):
    directory = run_there(name)
    run, outputs = finished(directory, "emulated"), directory.outputs(1)
    samples, _ = run.objects.benchmark.seen(run.last_task)
    (images,) = Loader(samples, run.objects.benchmark.augmentation, run.device).in_order(len(samples))
    weights = torch.randn(len(run.network), TOP + 4, generator=torch.Generator().manual_seed(0))
    middle = outputs.confidences[0].median().item()
    for rule in (
        Confidence(middle),
        Entropy(0.2),
        Margin(0.1),
        Patience(2, "last"),
        LearnedScorer(0.5, weights=weights),
    ):
        expected, model = decide(rule, outputs), EarlyExitModel(run.network, run.objects.approach, rule)
        answers = model(images)
        same = (answers.exits.cpu() == expected.exits) & (answers.predictions.cpu() == expected.predictions)
        assert same.float().mean() > 0.95  # a score may be rounded across its threshold
        save(model, tmp_path / "model.pt", directory.config)
        again = load(tmp_path / "model.pt", "emulated")(images, torch.zeros_like(answers.exits))
        assert again.predictions.max() < outputs.sizes[0]


def test_early_exits_are_measured_there(run_there):
    measured = measure(run_there("bias"), "emulated", batches=())
    assert min(measured.agreement.values()) > 0.95
    assert measured.held_out is not None


@pytest.mark.parametrize("cache", ["0", "2"])
def test_acs_are_attached_there(run_there, cache):
    command = ["attach", str(run_there("bias").path), "--exits", "sdn", "--epochs", "1", "--name", f"attached-{cache}"]
    assert main([*command, "--data", "memory", "--cache", cache, "--device", "emulated"]) == 0


CONVERTING = {
    "experts": ["--data", "memory"],
    "bundles": ["--experts.bundle", "2", "--experts.router", "oracle", "--finetune.epochs", "0"],
    "without routers": ["--router_free", "teal"],
}


@pytest.mark.parametrize("name", CONVERTING)
def test_transformers_are_converted_there(run_there, name):
    command = ["convert", str(run_there("transformer").path), "--device", "emulated", *CONVERTING[name]]
    if "--router_free" not in command:
        command += ["--taus", "[0.1]", "--experts.size", "8", "--experts.router_training.epochs", "1"]
        command += ["--experts.tokens", "100", "--finetune.epochs", "1"] if name == "experts" else []
    assert main(command) == 0
