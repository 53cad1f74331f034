"""Small real components that many tests share."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from hypothesis import settings
from torch import nn

from cl_ac.approach import Approach
from cl_ac.backbones.vit import ViT
from cl_ac.benchmark import Benchmark, Task
from cl_ac.cli.main import main
from cl_ac.data.augmentation import Augmentation
from cl_ac.data.batches import Batch
from cl_ac.data.samples import Samples
from cl_ac.data.seeding import global_stream
from cl_ac.efficiency.convert import Conversion
from cl_ac.efficiency.finetune import SparseTuning
from cl_ac.efficiency.routers import RouterTraining
from cl_ac.efficiency.sparsify import Sparsify
from cl_ac.evaluation import ExitCosts, Outputs
from cl_ac.memory import Memory
from cl_ac.network import NO_EXITS, Backbone, ExitNetwork, Exits
from cl_ac.recording.rundir import RunDirectory
from cl_ac.serving.conversion import Converted, Settings, convert_run
from cl_ac.training import Fit, Trainer, Training

# The first call of an operation can take seconds on a busy machine.
settings.register_profile("cl_ac", deadline=None)
settings.load_profile("cl_ac")


class ToyBenchmark(Benchmark):
    """Six classes of noisy 6 × 6 patterns in three tasks."""

    num_classes = 6
    image_shape = (1, 6, 6)
    augmentation = Augmentation(mean=(0.5,), std=(0.25,), crop="shift", padding=1, flip=True)

    def __init__(self, per_class: int = 12, tasks: int = 3, **splitting):
        super().__init__(augmentation=type(self).augmentation, tasks=tasks, **splitting)
        self.per_class = per_class

    def load(self) -> tuple[Samples, Samples]:
        stream = torch.Generator().manual_seed(7)
        patterns = torch.rand(self.num_classes, 1, 1, 6, 6, generator=stream)

        def draw(count: int) -> Samples:
            noise = torch.rand(self.num_classes, count, 1, 6, 6, generator=stream)
            images = ((0.7 * patterns + 0.3 * noise) * 255).to(torch.uint8).flatten(0, 1)
            return Samples(images, torch.arange(self.num_classes).repeat_interleave(count))

        return draw(self.per_class), draw(5)


class ToyBackbone(Backbone):
    """Two convolutions with batch norm, then average pooling: stages `first`, `second`, `pool`."""

    presets: ClassVar[dict[str, Exits]] = {"sdn": Exits(["first", "second"], [0.3, 0.6])}

    def __init__(self, image_shape: tuple[int, int, int] = (1, 6, 6), width: int = 4):
        def block(in_channels: int) -> nn.Module:
            return nn.Sequential(
                nn.Conv2d(in_channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
            )

        stages = {
            "first": block(image_shape[0]),
            "second": block(width),
            "pool": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        }
        super().__init__(image_shape, stages)


class ToyTransformer(Backbone):
    """Three transformer blocks on four patches, with the same stages; the second and the third block share one."""

    presets = ToyBackbone.presets

    def __init__(self, image_shape: tuple[int, int, int] = (1, 6, 6), width: int = 8):
        patches, first, second, third, token = ViT(image_shape, 3, width, 3, 2).stages
        stages = {"first": nn.Sequential(patches, first), "second": nn.Sequential(second, third), "pool": token}
        super().__init__(image_shape, stages)


TOY_TRAINING = Training(epochs=2, batch_size=8, lr=0.05, momentum=0.9, schedule="constant")


@pytest.fixture
def toy_benchmark() -> Callable[..., ToyBenchmark]:
    """Makes a benchmark of six classes in three tasks; arguments are its constructor's."""
    return ToyBenchmark


@pytest.fixture(scope="session")
def toy_backbone() -> Callable[..., Backbone]:
    """Makes a backbone with given seed, for an approach if one is named: a transformer if it needs one."""

    def make(seed: int = 0, approach: Approach | None = None) -> Backbone:
        with global_stream(seed, "backbone"):
            return ToyTransformer() if approach is not None and approach.needs_transformer else ToyBackbone()

    return make


@pytest.fixture(scope="session")
def toy_network(toy_backbone) -> Callable[..., ExitNetwork]:
    """Makes a network with one head of `sizes[t]` classes grown for each task."""

    def make(exits: Exits | str = NO_EXITS, sizes: tuple[int, ...] = (2,), seed: int = 0, **options) -> ExitNetwork:
        backbone = toy_backbone(seed)
        network = ExitNetwork(backbone, backbone.exits(exits) if isinstance(exits, str) else exits, **options)
        for size in sizes:
            network.grow(size, seed)
        return network

    return make


@pytest.fixture
def toy_trainer() -> Trainer:
    """A trainer of two epochs on the CPU."""
    return Trainer(TOY_TRAINING, ToyBenchmark.augmentation, torch.device("cpu"), seed=0)


def _toy_runs(toy_backbone, folder: Path) -> Callable[..., RunDirectory]:
    from rich.console import Console

    from cl_ac.run import run

    def make(
        approach, name: str = "run", exits: Exits | str = NO_EXITS, memory: int | Memory = 0, **options
    ) -> RunDirectory:
        directory = RunDirectory(folder / name)
        seed = options.get("seed", 0)
        given = {"benchmark": ToyBenchmark(), "training": TOY_TRAINING, "device": "cpu"}
        given["backbone"] = toy_backbone(seed, approach)
        # Drawing figures would take four fifths of the time of a run.
        given["loggers"] = ()
        settings = {**given, **options}
        run(
            approach=approach,
            directory=directory,
            exits=exits,
            memory=memory if isinstance(memory, Memory) else Memory(memory),
            console=Console(quiet=True),
            **settings,
        )
        return directory

    return make


@pytest.fixture
def toy_run(toy_backbone, tmp_path) -> Callable[..., RunDirectory]:
    """Runs an approach on the toy benchmark and returns its directory."""
    return _toy_runs(toy_backbone, tmp_path)


@pytest.fixture(scope="module")
def shared_toy_run(toy_backbone, tmp_path_factory) -> Callable[..., RunDirectory]:
    """The same for runs that several tests of a module read."""
    return _toy_runs(toy_backbone, tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """What a test writes need not outlive a power cut; waiting for the disk took a fifth of the time of a run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def toy_learn(toy_trainer) -> Callable[..., None]:
    """Lets an approach learn tasks with a network, as a run does."""

    def learn(approach, network: ExitNetwork, tasks) -> None:
        def after_step(network: ExitNetwork, batch: Batch, step: int) -> None:
            approach.end_step(network)
            if batch.incoming is not None:
                approach.memory.take_up(batch, approach.stored_with(batch))

        for task in tasks:
            approach.expand(task, network, toy_trainer)
            network.grow(task.num_classes, toy_trainer.seed)
            approach.begin_task(task, network, toy_trainer)
            network.train_old_rows(approach.trains_old_rows)
            data = approach.training_set(task)
            if data is not None:
                toy_trainer.fit(
                    Fit(network, approach.loss, data, parameters=approach.learns(network)),
                    on_step=after_step,
                )
            approach.choose_exemplars(task, network, toy_trainer)
            approach.end_task(task, network, toy_trainer)

    return learn


@pytest.fixture(scope="session")
def threshold_between() -> Callable[[torch.Tensor], float]:
    """Gives the middle of the widest gap between values, so that rounding takes none of them across it."""

    def make(values: torch.Tensor) -> float:
        ordered = values.detach().sort().values
        place = int(ordered.diff().argmax())
        return ordered[place : place + 2].mean().item()

    return make


@pytest.fixture
def numbered_network() -> Callable[[torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]:
    """Makes a network that answers images of the constant value n with logits[:, n]."""
    return lambda logits: lambda images: logits[:, images[:, 0, 0, 0].long()]


@pytest.fixture
def numbered_batch() -> Callable[..., Batch]:
    """Makes a batch of images with constant values, in the last of the tasks with `sizes` classes."""

    def make(numbers: list[int], targets: list[int], sizes: tuple[int, ...], **options) -> Batch:
        images = torch.tensor(numbers).float()[:, None, None, None].expand(-1, 1, 4, 4)
        nothing = Samples(torch.empty(0, 1, 4, 4, dtype=torch.uint8), torch.empty(0, dtype=torch.int64))
        task = Task(len(sizes) - 1, sizes, nothing, nothing, nothing)
        return Batch(images, torch.tensor(targets), task, **options)

    return make


@pytest.fixture(scope="session")
def random_outputs() -> Callable[..., Outputs]:
    """Makes outputs of `exits` exits with given seed, in tasks of `sizes` classes."""

    def make(seed: int, exits: int = 4, samples: int = 200, sizes: tuple[int, ...] = (2, 3)) -> Outputs:
        stream = torch.Generator().manual_seed(seed)
        targets = torch.randint(sum(sizes), (samples,), generator=stream)
        logits = 2 * torch.randn(exits, samples, sum(sizes), generator=stream)
        # Deeper exits know more, as they mostly do.
        logits += torch.linspace(0.5, 3, exits)[:, None, None] * nn.functional.one_hot(targets, sum(sizes))
        tasks = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))[targets]
        cost = ExitCosts([10.0 * (index + 1) for index in range(exits)], 10.0 * exits - 3)
        return Outputs(logits, targets, tasks, sizes, cost)

    return make


@pytest.fixture(scope="session")
def stored_run(random_outputs) -> Callable[..., Path]:
    """Makes the directory of a run whose stored outputs, watched points and drift, if any, are random; returns it."""
    from cl_ac.recording.records import Record
    from cl_ac.recording.rundir import RunDirectory
    from cl_ac.watching.drift import Drift, Grams
    from cl_ac.watching.stability import Watched, answer_names

    def watched(task: int, exits: int, seed: int) -> Watched:
        stream = torch.Generator().manual_seed(seed + task)
        answers, steps = answer_names(exits, nearest_mean=True), torch.arange(0, 11, 2)
        shares = torch.rand(len(steps), len(answers), task + 1, task + 1, generator=stream)
        shares /= shares.sum(-1, keepdim=True)
        return Watched(task, 10 * task, steps, answers, shares.diagonal(dim1=-2, dim2=-1) * 0.9, shares)

    def moved(task: int, exits: int, seed: int) -> tuple[Drift, Grams]:
        stream = torch.Generator().manual_seed(seed + task)
        similarities, norms = (
            torch.rand(2, *shape, generator=stream) for shape in ((task + 1, exits), (exits, task + 1))
        )
        grams = ([torch.rand(exits, 2, 2, generator=stream) for _ in range(task + 1)] for _ in range(2))
        return Drift(*similarities, *norms), Grams(*grams)

    def make(
        path: Path,
        config: dict | None = None,
        exits: int = 3,
        tasks: int = 3,
        watch: bool = False,
        drift: bool = False,
        sizes: tuple[int, ...] = (2, 3, 1, 2),
    ) -> RunDirectory:
        directory, config = RunDirectory(path), config or {"seed": 0}
        directory.open(config, resume=False)
        for task in range(tasks):
            outputs = random_outputs(config["seed"], exits, 60, sizes[: task + 1])
            directory.finish(Record.of(task, outputs, 1.0), outputs)
            if watch:
                directory.keep_watched(watched(task, exits, config["seed"]))
            if drift:
                directory.keep_drift(task, *moved(task, exits, config["seed"]))
        return directory

    return make


RUN = ["--benchmark", "Digits", "--benchmark.tasks", "2", "--benchmark.samples_per_class", "12", "--device", "cpu"]
RUN += ["--training.epochs", "2", "--training.batch_size", "16", "--training.optimizer", "adamw"]
RUN += ["--training.lr", "0.002", "--training.schedule", "constant", "--loggers", "[]"]
VIT = ["--backbone", "ViT", "--backbone.width", "16", "--backbone.depth", "3", "--backbone.patch", "4"]


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory) -> Callable[..., RunDirectory]:
    """Makes a finished run on a few digits; arguments are options of `cl-ac run`."""

    def make(*options: str) -> RunDirectory:
        out = tmp_path_factory.mktemp("runs")
        assert main(["run", *RUN, *options, "--out", str(out), "--name", "run"]) == 0
        return RunDirectory(out / "run")

    return make


@pytest.fixture(scope="session")
def vit_run(digits_run) -> RunDirectory:
    """A ViT with two ACs and exemplars; nothing is held out."""
    return digits_run(*VIT, "--approach", "ER", "--memory.size", "20", "--exits", "ln", "--benchmark.validation", "0")


@pytest.fixture(scope="session")
def held_out_run(digits_run) -> RunDirectory:
    """A ViT without ACs; a quarter of the training samples is held out."""
    return digits_run(*VIT, "--approach", "FineTuning", "--benchmark.validation", "0.25")


@pytest.fixture(scope="session")
def quick_conversion() -> Conversion:
    """Small experts, and routers that hardly learn."""
    return Conversion(8, router_width=4, tokens=200, router_training=RouterTraining(1))


@pytest.fixture(scope="session")
def converted(vit_run, quick_conversion) -> Converted:
    """The conversion of `vit_run`; tests may change the gates of its dynamic network."""
    settings = Settings(taus=(0.01, 0.4, 1.0), tolerance=0.5)
    return convert_run(vit_run, settings, quick_conversion, SparseTuning(1), Sparsify("hoyer"), "cpu")


WORDS = ("red", "blue", "green", "cat", "dog", "cow", "one", "two", "six", "sea", "sun", "ice")


@pytest.fixture(scope="session")
def language_model(tmp_path_factory) -> Path:
    """The folder of a tiny BERT with random weights and a tokenizer of a few words."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder = tmp_path_factory.mktemp("language_model")
    numbers = {word: place for place, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS))}
    words = Tokenizer(models.WordLevel(numbers, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, **names).save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig(**sizes, vocab_size=16, max_position_embeddings=32))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def text_tables(tmp_path) -> tuple[Path, Path]:
    """Files with texts of four classes, each told by a word of its own, to train on and to test on."""
    stream = torch.Generator().manual_seed(0)
    paths = []
    for name, count in (("train", 12), ("test", 4)):
        rows = []
        for label, word in enumerate(WORDS[:4]):
            for _ in range(count):
                others = [WORDS[4 + int(place)] for place in torch.randint(8, (3,), generator=stream)]
                others = others[: 1 + int(torch.randint(3, (), generator=stream))]
                rows.append(f"{' '.join([word, *others])},class {label}")
        paths.append(tmp_path / f"{name}.csv")
        paths[-1].write_text("\n".join(["text,label", *rows]) + "\n")
    return paths[0], paths[1]
