"""A run: the tasks of a benchmark feed an approach, which trains a network with exits."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from cl_ac.approach import Approach, TaskApproach
from cl_ac.benchmark import Benchmark
from cl_ac.classifiers.classifier import Classifier
from cl_ac.compatibility import check, check_data, check_inputs, check_learning
from cl_ac.data.available import told_when_memory_runs_out
from cl_ac.data.batches import Batch
from cl_ac.data.tasks import Task
from cl_ac.efficiency.sparsify import Sparsify, sparsified
from cl_ac.errors import ConfigurationError, UserError
from cl_ac.evaluation import Outputs
from cl_ac.exits.cost import exit_costs
from cl_ac.memory import Memory
from cl_ac.network import NO_EXITS, Backbone, ExitNetwork, Exits
from cl_ac.processes.group import current, local_rank
from cl_ac.recording.fingerprint import fingerprint
from cl_ac.recording.following import opened
from cl_ac.recording.journal import Journal
from cl_ac.recording.loggers import LoggerName, check_loggers
from cl_ac.recording.progress import Standing
from cl_ac.recording.records import Record, of_stream
from cl_ac.recording.rundir import RunDirectory
from cl_ac.recording.space import outputs_bytes, tell_need
from cl_ac.sparse_training.sparse import Sparse
from cl_ac.training import EpochReport, Fit, Trainer, Training
from cl_ac.watching.ahead import Outlook
from cl_ac.watching.drift import measure
from cl_ac.watching.watch import Watch, Watcher


@told_when_memory_runs_out
def run(
    approach: Approach,
    benchmark: Benchmark,
    backbone: Backbone,
    directory: RunDirectory,
    exits: Exits | str = NO_EXITS,
    training: Training = Training(),
    memory: Memory | None = None,
    classifier: Classifier | None = None,
    watch: Watch = Watch(),
    sparsify: Sparsify = Sparsify(),
    sparse: Sparse = Sparse(),
    device: str = "auto",
    seed: int = 0,
    resume: bool = False,
    loggers: Sequence[LoggerName] = ("tensorboard",),
    keep_checkpoints: bool = False,
    keep_outputs: int = 1,
    config: Mapping[str, Any] | None = None,
    console: Console | None = None,
    on_progress: Callable[[Standing], None] | None = None,
) -> list[Record]:
    """Trains `approach` on every task of `benchmark` in turn.

    Args:
        directory: where the results go.
        exits: where auxiliary classifiers hang, or the name of the backbone's preset; none by default.
        memory: the exemplar memory; none by default.
        classifier: what answers at inference; by default what the approach asks for, mostly the linear heads.
        watch: what is looked at while a task is trained.
        sparsify: how the feed-forward networks of a transformer are made sparse meanwhile; not at all by default.
        sparse: which share of the weights learns at all; all by default.
        device: `cpu`, `cuda`, `cuda:1`, …; `auto` takes a GPU if there is one.
        seed: of every random stream.
        resume: go on after the last finished epoch that `directory` holds.
        loggers: where scalars and figures go beside the files of `directory`.
        keep_checkpoints: keep the state after every task, not only the newest.
        keep_outputs: keep the outputs after each so many-th task, and after the last; 0 after the last only.
        config: all settings as plain values, kept in `directory`; without them (see `settings.configured`) the run
            can be reported, but not rebuilt.
        on_progress: is told how far the run is after each epoch and each task; what it raises ends the run, which can
            go on later.
    Returns:
        One record for each task.
    Raises:
        UserError: for settings that do not fit together, before any training, and for a disk that refuses results.
    """
    memory = Memory() if memory is None else memory
    check(approach, benchmark, training, memory, watch, classifier, sparsify)
    check_loggers(loggers)
    check_inputs(benchmark, backbone)
    benchmark.seed, group = seed, current()
    place = choose_device(device)
    sparsify.prepare(backbone)
    approach.prepare(backbone)
    network = assemble(approach, backbone, exits, memory, classifier, training.channels_last, sparse).to(place)
    check_learning(approach, training)
    approach.to(place)
    recall = training.frozen_outputs.recall(place) if backbone.frozen_stages else None
    trainer = Trainer(training, benchmark.augmentation, place, seed, recall)

    # Read first: data that are missing or damaged must leave no half-begun run behind.
    tasks = benchmark.tasks
    check_data(tasks, training, watch)
    watcher = Watcher(watch, network, approach, trainer, tasks)
    if not group.is_first:
        console, loggers = Console(quiet=True), ()
    outlook = Outlook(network, tasks, seed)
    console = Console(stderr=True) if console is None else console
    tell = partial(console.print, highlight=False, soft_wrap=True)
    tell_need(outputs_bytes(tasks, len(network), keep_outputs), directory.path, tell)
    config = {"seed": seed} if config is None else config
    with opened(directory, group, config, resume, fingerprint(benchmark), tell) as (directory, checkpoint):
        checkpoint.restore(network, approach, directory.checkpoint_path)
        approach.to(place)
        if sparse.enabled and not checkpoint.network:
            sparse.initialise(network, tasks[0], trainer)
            directory.keep_sparsity(None, sparse.record(network, tasks[0], trainer))
        if checkpoint.task and checkpoint.fit is None and not directory.has_outputs(checkpoint.task - 1):
            answer_again(directory, trainer, network, approach, benchmark, tasks[checkpoint.task - 1])
        if checkpoint.task == len(tasks):
            return directory.records
        epochs = [training.epochs_of(task) for task in range(len(tasks))]
        announced = benchmark.stream.boundaries
        kept = directory, checkpoint, network, approach, epochs, console, loggers, keep_checkpoints, keep_outputs
        with Journal(*kept, on_progress) as journal:
            for task in tasks[checkpoint.task :]:
                told = task if announced else task.unannounced
                unfinished = checkpoint.fit if task.index == checkpoint.task else None
                if unfinished is None:
                    watcher.begin(task, journal.checkpoint.steps)
                    if announced or task.is_first:
                        approach.expand(told, network, trainer)
                    network.grow(task.num_classes, seed)
                    if announced or task.is_first:
                        approach.begin_task(told, network, trainer)
                    watcher.grown(task)
                    trainer.warm_up_heads(network, approach.training_set(told), approach.correct)
                else:
                    watcher.resume(task, directory.watched(task.index), unfinished["steps"])
                network.train_old_rows(approach.trains_old_rows or task.repeats or not announced)
                data, done = approach.training_set(told), unfinished["steps"] if unfinished else 0
                if data is None or not epochs[task.index]:
                    journal.untrained(watcher.seen_so_far())
                else:
                    loss = sparsified(approach.loss, sparsify, data, training, done)
                    trainer.fit(
                        Fit(network, loss, data, parameters=approach.learns(network), following=approach.following),
                        validate=partial(validation_accuracy, trainer, network, approach, task),
                        state=unfinished,
                        on_step=partial(after_step, approach, watcher),
                        on_epoch=partial(after_epoch, journal, watcher, task),
                    )
                if announced:
                    approach.choose_exemplars(told, network, trainer)
                    approach.end_task(told, network, trainer)
                answering = approach.inference_network(network)
                if approach.inference is not None:
                    approach.inference.update(told, answering, trainer, memory)
                if watch.drift:
                    earlier = directory.grams(task.index - 1)
                    directory.keep_drift(task.index, *measure(task, answering, trainer, earlier))
                if sparse.enabled:
                    directory.keep_sparsity(task.index, sparse.record(answering, task, trainer, approach.inference))
                outputs = evaluate(trainer, network, approach, benchmark, task)
                ahead = outlook.after(task, trainer, answering, partial(approach.answer, answering))
                found = of_stream(task, outputs, benchmark.stream.disjoint, ahead, memory.samples)
                found["training_macs"] = approach.training_macs
                journal.task(task, outputs, found)
    return directory.records


def assemble(
    approach: Approach,
    backbone: Backbone,
    exits: Exits | str,
    memory: Memory,
    classifier: Classifier | None,
    channels_last: bool = False,
    sparse: Sparse = Sparse(),
) -> ExitNetwork:
    """The network before its first task; `approach` is given the memory and what answers at inference."""
    exits = backbone.exits(exits) if isinstance(exits, str) else exits
    approach.memory = memory
    approach.inference = approach.inference_classifier() if classifier is None else classifier
    if isinstance(approach, TaskApproach) and approach.inference is not None:
        raise ConfigurationError(
            f"classifier is {type(classifier).__name__}, but {type(approach).__name__} answers with a network for each "
            "task: leave classifier out"
        )
    network = ExitNetwork(backbone, exits, approach.build_classifier)
    sparse.prepare(network)
    return network.to(memory_format=torch.channels_last) if channels_last else network


def choose_device(name: str) -> torch.device:
    """The device called `name`; a GPU that is named by its number becomes the current one.

    Of several processes on a machine, each takes a GPU of its own.

    Raises:
        ConfigurationError: if there is none of that name here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and current().size > 1:
        name = f"cuda:{local_rank()}"
    try:
        device = torch.device(name)
        # Read back, since `meta` has tensors but no numbers.
        torch.zeros(1, device=device).item()
    except Exception as error:
        raise ConfigurationError(f"device is '{name}', which this machine does not have; try auto or cpu") from error
    if device.type == "cuda" and device.index is not None:
        # Triton launches on the current GPU, wherever its operands are.
        torch.cuda.set_device(device)
    return device


def answer_again(
    directory: RunDirectory,
    trainer: Trainer,
    network: ExitNetwork,
    approach: Approach,
    benchmark: Benchmark,
    task: Task,
) -> None:
    """Makes the outputs of the newest finished task, which were lost, once more."""
    earlier = [record for record in directory.records if record.task == task.index]
    outputs = evaluate(trainer, network, approach, benchmark, task)
    directory.finish(earlier[0] if earlier else Record.of(task.index, outputs, 0.0), outputs)


def after_step(approach: Approach, watcher: Watcher, network: ExitNetwork, batch: Batch, step: int) -> None:
    """What follows each step of the optimiser on a task."""
    approach.end_step(network)
    if batch.incoming is not None:
        approach.memory.take_up(batch, approach.stored_with(batch))
    watcher.step(step)


def after_epoch(journal: Journal, watcher: Watcher, task: Task, report: EpochReport) -> None:
    """Keeps what an epoch came to; the watched points first, so that no checkpoint is ahead of them."""
    if watched := watcher.end_epoch(report):
        journal.watched(*watched)
    journal.epoch(task, report)


def evaluate(trainer: Trainer, network: ExitNetwork, approach: Approach, benchmark: Benchmark, task: Task) -> Outputs:
    """Every exit's answers on the test data of all tasks so far."""
    samples, tasks = benchmark.seen(task)
    answering = approach.inference_network(network)
    logits = trainer.predict(answering, samples, partial(approach.answer, answering))
    if logits.isnan().any():
        lr = trainer.training.lr
        raise UserError(f"the answers after task {task.index + 1} are no numbers; lower training.lr (now {lr:g})")
    cost = exit_costs(answering, approach.inference).times(approach.passes(answering))
    return Outputs(logits, samples.targets, tasks, task.sizes, cost)


def validation_accuracy(trainer: Trainer, network: ExitNetwork, approach: Approach, task: Task) -> float:
    """Accuracy of the final exit's linear head on the held-out samples of the current task.

    Inference classifiers learn a task only at its end.
    """
    answering = approach.inference_network(network)

    def answer(images: Tensor) -> Tensor:
        linear = approach.inference is None
        return approach.answer(answering, images) if linear else approach.correct(answering(images))

    logits = trainer.predict(answering, task.validation, answer)
    return (logits[-1].argmax(-1) == task.validation.targets).double().mean().item()
