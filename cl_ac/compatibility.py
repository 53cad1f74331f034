"""What is refused before a run begins: settings that do not fit together, and data that lack what they need."""

from collections.abc import Iterator, Sequence

from cl_ac.approach import Approach, TaskApproach
from cl_ac.benchmark import Benchmark
from cl_ac.classifiers.classifier import Classifier
from cl_ac.data.tasks import Task
from cl_ac.efficiency.sparsify import Sparsify
from cl_ac.errors import ConfigurationError
from cl_ac.memory import Memory
from cl_ac.network import Backbone
from cl_ac.processes.group import current
from cl_ac.training import Training
from cl_ac.watching.watch import Watch


def check(
    approach: Approach,
    benchmark: Benchmark,
    training: Training,
    memory: Memory,
    watch: Watch = Watch(),
    classifier: Classifier | None = None,
    sparsify: Sparsify = Sparsify(),
) -> None:
    """Raises one `ConfigurationError` that names every pair of settings that do not fit together."""
    benchmark.check()
    problems, name = [], type(approach).__name__
    if approach.memory_use == "required" and not memory.enabled:
        problems.append(f"the approach {name} needs exemplars: set memory.size or memory.per_class above 0")
    if approach.memory_use == "none" and memory.enabled:
        problems.append(f"the approach {name} uses no exemplars: leave memory.size and memory.per_class at 0")
    needed = approach.exemplars_per_class
    classes = benchmark.classes_to_come
    if memory.size and memory.size < needed * classes:
        problems.append(
            f"memory.size is {memory.size}, but {name} needs at least {needed} for each of {classes} classes"
        )
    if memory.per_class and memory.per_class < needed:
        problems.append(f"memory.per_class is {memory.per_class}, but {name} needs at least {needed}")
    if approach.most_classes is not None and approach.most_classes < classes:
        problems.append(
            f"approach.classes is {approach.most_classes}, but the benchmark has {classes}: set it to the "
            "number of classes of the whole run"
        )
    if classifier is not None and classifier.needs_equal_features and approach.adds_features:
        problems.append(
            f"the classifier {type(classifier).__name__} keeps statistics of the features of earlier tasks, but {name} "
            "adds features with each task: take NearestMean, or the linear heads (classifier absent)"
        )
    if benchmark.kind == "texts" and approach.needs_images:
        problems.append(
            f"the approach {name} {approach.needs_images}, which cannot be done to texts; take another approach"
        )
    problems += challenges(approach, benchmark, memory, classifier)
    if isinstance(training.epochs, list) and len(training.epochs) != len(benchmark):
        problems.append(f"training.epochs lists {len(training.epochs)} tasks, but the benchmark has {len(benchmark)}")
    if training.select == "best" and benchmark.validation in (0, "test"):
        what = "the test images would be selected by" if benchmark.validation else "there is nothing to select by"
        problems.append(f"training.select is 'best', but benchmark.validation is {benchmark.validation}: {what}")
    if training.select == "best" and not approach.trains_heads:
        problems.append(f"training.select is 'best', but {name} trains no linear heads to select by; take 'last'")
    if watch.every and watch.data == "validation" and benchmark.validation == 0:
        problems.append("watch.data is 'validation', but benchmark.validation is 0: there is nothing to watch")
    if watch.nearest_mean == "exemplars" and not memory.enabled:
        problems.append(
            "watch.nearest_mean is 'exemplars', but there is no memory: "
            "set memory.size or memory.per_class above 0, or take 'oracle'"
        )
    if classifier is not None and type(approach).answer not in (Approach.answer, TaskApproach.answer):
        problems.append(
            f"classifier is {type(classifier).__name__}, but {name} answers in a way of its own: leave classifier out"
        )
    if sparsify.enabled and current().size > 1:
        problems.append(
            f"sparsify.loss is '{sparsify.loss}', which looks at what happens inside a pass, but {current().size} "
            "devices share the passes: take one"
        )
    if training.compile is True and current().size > 1:
        problems.append(
            f"training.compile is true, but {current().size} devices share the passes of the network, which are then "
            "not compiled: take one, or training.compile false"
        )
    if problems:
        raise ConfigurationError("; ".join(problems))


def challenges(
    approach: Approach, benchmark: Benchmark, memory: Memory, classifier: Classifier | None
) -> Iterator[str]:
    """What the stream and the memory bring that the approach, or what answers, does not cope with, in words."""
    stream, name, copes = benchmark.stream, type(approach).__name__, approach.copes_with
    kind, others = type(stream).__name__, "`cl-ac approaches --copes_with '{}'` lists those that do"
    if not stream.disjoint and "repeated classes" not in copes:
        yield (
            f"the stream {kind} brings classes again, and {name} cannot learn from classes that it knows; "
            + others.format("repeated classes")
        )
    if not stream.disjoint and classifier is not None and not classifier.takes_repeated_classes:
        yield (
            f"the stream {kind} brings classes again, but the classifier {type(classifier).__name__} takes each from "
            "one task alone: take NearestMean, or the linear heads (classifier absent)"
        )
    if memory.live and memory.enabled and "live memory" not in copes:
        yield (
            f"memory.selection is 'live', and {name} does not draw from a memory that changes while a task is learned; "
            + others.format("live memory")
        )
    if not stream.boundaries and "no boundaries" not in copes:
        yield (
            f"stream.boundaries is false, and {name} cannot do without knowing where a task ends; "
            + others.format("no boundaries")
        )
    if not stream.boundaries and memory.enabled and not memory.live:
        yield (
            f"memory.selection is '{memory.selection}', which chooses exemplars where a task ends, but "
            "stream.boundaries is false; take 'live'"
        )


def check_inputs(benchmark: Benchmark, backbone: Backbone | type[Backbone]) -> None:
    """Raises a `ConfigurationError` if the backbone does not read what the benchmark holds."""
    name = backbone.__name__ if isinstance(backbone, type) else type(backbone).__name__
    if benchmark.kind not in backbone.reads:
        way = "take a language model, such as --backbone hf:FOLDER" if benchmark.kind == "texts" else "take another"
        raise ConfigurationError(
            f"the backbone {name} reads {' or '.join(sorted(backbone.reads))}, but the benchmark "
            f"{type(benchmark).__name__} holds {benchmark.kind}; {way}"
        )
    known = None if isinstance(backbone, type) else backbone.vocabulary
    if known is not None and benchmark.vocabulary > known:
        raise ConfigurationError(
            f"the tokenizer of the benchmark has {benchmark.vocabulary} tokens, but the backbone {name} knows {known}; "
            "take the tokenizer of its model as benchmark.tokenizer"
        )


def check_learning(approach: Approach, training: Training) -> None:
    """Raises a `ConfigurationError` if no epoch trains linear heads that are all that answers.

    An approach may set them in a hook of its own.
    """
    hooks = ("answer", "begin_task", "end_task", "inference_network")
    own = any(getattr(type(approach), hook) is not getattr(Approach, hook) for hook in hooks)
    counts = training.epochs if isinstance(training.epochs, list) else [training.epochs]
    if not (any(counts) or own or approach.inference is not None or training.head_warmup.epochs):
        raise ConfigurationError(
            "training.epochs is 0, so that the linear heads would learn nothing; train them, or name what answers "
            "instead, such as --classifier NearestMean"
        )


def check_data(tasks: Sequence[Task], training: Training, watch: Watch = Watch()) -> None:
    """Raises a `ConfigurationError` that names the first task without images for something that it needs."""
    for task in tasks:
        if watch.drift and not task.is_tested:
            raise ConfigurationError(
                f"watch.drift is true, but task {task.index + 1} of {len(tasks)} brings no new class, so that it has "
                "no test images to measure drift on"
            )
        needed = {"training": task.train, "test": task.test}
        if training.select == "best":
            needed["held-out"] = task.validation
        if not task.is_tested:
            needed.pop("test")
        for what, samples in needed.items():
            if not len(samples):
                raise ConfigurationError(
                    f"task {task.index + 1} of {len(tasks)} has no {what} images; give each task some, or split "
                    "the classes in another way (benchmark.tasks)"
                )
