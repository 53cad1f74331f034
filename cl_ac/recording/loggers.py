"""Where a run's scalars and figures go beside its own files: TensorBoard, a CSV file, Weights & Biases.

A logger opens where the run goes on. What an earlier attempt logged later than that is hidden or cut off, and what it
logged at that very step is not logged again: a killed and resumed run leaves what a whole one does.
"""

import csv
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from cl_ac.errors import ConfigurationError
from cl_ac.recording.files import write_atomically
from cl_ac.recording.hyperparameters import Value

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LoggerName = Literal["tensorboard", "csv", "wandb"]
Layout = dict[str, dict[str, list]]
MAIN = ("approach", "exits", "classifier", "memory.size", "seed")


class Logger(ABC):
    """A place for the scalars and figures of one run."""

    shows_figures: ClassVar[bool] = True

    @abstractmethod
    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Logs numbers by tag; steps never decrease."""

    def over_tasks(self, points: Sequence[tuple[int, Mapping[str, float]]]) -> None:  # noqa: B027
        """Logs numbers by tag at places on an axis of tasks; nothing where training steps are the only axis."""

    @abstractmethod
    def figure(self, tag: str, figure: "Figure", step: int) -> None:
        """Logs a figure, where figures can be shown."""

    @abstractmethod
    def flush(self) -> None:
        """Makes sure that a kill loses nothing of what was logged so far."""

    @abstractmethod
    def close(self) -> None:
        """Ends the log."""


class TensorBoardLogger(Logger):
    """Event files in the run's directory.

    Args:
        path: the run directory.
        step: where the run goes on.
        settings: for the HParams tab.
        metrics: tags of the scalars that the HParams tab shows beside them.
        dashboard: gives the layout of the Custom Scalars tab for the tags that have data.
    """

    def __init__(
        self,
        path: Path,
        step: int,
        settings: Mapping[str, Value],
        metrics: Sequence[str],
        dashboard: Callable[[set[str]], Layout],
    ):
        from torch.utils.tensorboard import SummaryWriter

        self.path, self.dashboard = path, dashboard
        self.tags, self.done = _earlier_tags(path, step) if step else (set(), set())
        self.layout, self.arranged = dashboard(self.tags), len(self.tags)
        self.start = step
        self.writer = SummaryWriter(str(path), purge_step=step + 1 if step else 0)
        if step:
            _put_last(sorted(path.glob("events.out.tfevents.*.tasks_*")))
        else:
            events = self.writer._get_file_writer()
            for summary in _hparams(settings, metrics):
                events.add_summary(summary)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for tag, value in values.items():
            if self._is_new(tag, step):
                self.writer.add_scalar(tag, value, step)
        self.tags.update(values)

    def over_tasks(self, points: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """A file of its own for each call; a resumed run that comes here again replaces it, since a kill may cut it."""
        from torch.utils.tensorboard import SummaryWriter

        suffix = f".tasks_{points[-1][0]}"
        for cut in self.path.glob(f"events.out.tfevents.*{suffix}"):
            cut.unlink()
        earlier = max(self.path.glob("events.out.tfevents.*.tasks_*"), default=None)
        with SummaryWriter(str(self.path), filename_suffix=suffix) as writer:
            for place, values in points:
                for tag, value in values.items():
                    writer.add_scalar(tag, value, place)
        (file,) = self.path.glob(f"events.out.tfevents.*{suffix}")
        # Files are read by their names, and those of one second are not in the order of their numbers.
        if earlier is not None and file < earlier:
            _renamed(file, _began(earlier) + 1)
        self.tags.update(tag for _, values in points for tag in values)

    def figure(self, tag: str, figure: "Figure", step: int) -> None:
        if self._is_new(tag, step):
            self.writer.add_image(tag, rendered(figure), step, dataformats="HWC")

    def _is_new(self, tag: str, step: int) -> bool:
        return step > self.start or tag not in self.done

    def flush(self) -> None:
        # TensorBoard complains of charts without data, and takes the last layout that it finds.
        if len(self.tags) > self.arranged:
            layout, self.arranged = self.dashboard(self.tags), len(self.tags)
            if layout != self.layout:
                self.writer.add_custom_scalars(layout)
                self.layout = layout
        self.writer.flush()

    def close(self) -> None:
        self.flush()
        self.writer.close()


def _put_last(files: Sequence[Path]) -> None:
    """Renames event files so that they are read, in their order, after one that begins now: it hides later steps of
    those before it, and places on other axes with them.
    """
    for place, file in enumerate(files, start=1):
        _renamed(file, int(time.time()) + place)


def _began(file: Path) -> int:
    """The second in which an event file began, by its name."""
    return int(file.name.split(".")[3])


def _renamed(file: Path, began: int) -> None:
    """Gives an event file the name that it would have if it had begun in another second."""
    parts = file.name.split(".")
    parts[3] = f"{began:010d}"
    file.rename(file.with_name(".".join(parts)))


def _hparams(settings: Mapping[str, Value], metrics: Sequence[str]) -> list[Any]:
    """The summaries that show a run in the HParams tab, in its own directory and not in one below it."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    kinds = {str: api_pb2.DATA_TYPE_STRING, bool: api_pb2.DATA_TYPE_BOOL}
    infos = [
        # TensorBoard shows five settings at first: those that it is told differ.
        api_pb2.HParamInfo(name=name, type=kinds.get(type(value), api_pb2.DATA_TYPE_FLOAT64), differs=name in MAIN)
        for name, value in settings.items()
    ]
    shown = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in metrics]
    start = plugin_data_pb2.SessionStartInfo()
    for name, value in settings.items():
        field = (
            "string_value" if isinstance(value, str) else "bool_value" if isinstance(value, bool) else "number_value"
        )
        setattr(start.hparams[name], field, value)
    content = {
        metadata.EXPERIMENT_TAG: {"experiment": api_pb2.Experiment(hparam_infos=infos, metric_infos=shown)},
        metadata.SESSION_START_INFO_TAG: {"session_start_info": start},
    }
    described = {tag: plugin_data_pb2.HParamsPluginData(**each) for tag, each in content.items()}
    return [
        Summary(
            value=[Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR)]
        )
        for tag, data in described.items()
    ]


def _earlier_tags(path: Path, step: int) -> tuple[set[str], set[str]]:
    """The tags that earlier attempts logged up to `step`, and those among them that they logged at `step` itself."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    before: set[str] = set()
    at: set[str] = set()
    for file in sorted(path.glob("events.out.tfevents.*")):
        for event in EventFileLoader(str(file)).Load():
            if event.HasField("session_log") and event.step <= step:
                at.clear()
            tags = {v.tag for v in event.summary.value if v.metadata.plugin_data.plugin_name in ("scalars", "images")}
            before |= tags if event.step <= step else set()
            at |= tags if event.step == step else set()
    return before, at


class CsvLogger(Logger):
    """`scalars.csv` in the run's directory, with the columns step, tag and value.

    Args:
        path: the run directory.
        step: where the run goes on.
    """

    shows_figures = False

    def __init__(self, path: Path, step: int):
        file = path / "scalars.csv"
        kept = _rows_until(file, step) if step and file.exists() else []
        self.start, self.done = step, {tag for at, tag, _ in kept if int(at) == step}
        write_atomically(file, lambda p: _write_rows(p, [["step", "tag", "value"], *kept]))
        self.file = file.open("a", newline="")
        self.writer = csv.writer(self.file, lineterminator="\n")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        new = {tag: value for tag, value in values.items() if step > self.start or tag not in self.done}
        self.writer.writerows([step, tag, f"{value:.9g}"] for tag, value in new.items())

    def figure(self, tag: str, figure: "Figure", step: int) -> None:
        """A table has no place for figures."""

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        self.file.close()


def _rows_until(file: Path, step: int) -> list[list[str]]:
    """The rows up to `step`; a kill may have cut the last line short."""
    whole = file.read_text().rpartition("\n")[0]
    rows = csv.reader(whole.splitlines()[1:])
    return [row for row in rows if len(row) == 3 and int(row[0]) <= step]


def _write_rows(file: Path, rows: Sequence[Sequence[str]]) -> None:
    with file.open("w", newline="") as opened:
        csv.writer(opened, lineterminator="\n").writerows(rows)


class WandbLogger(Logger):
    """A run on Weights & Biases, or offline in the run's directory if its own settings say so.

    Weights & Biases drops what is logged at steps that it has seen, so that a resumed run leaves no overlap.

    Args:
        path: the run directory; its name is that of the run.
        step: where the run goes on; the same W&B run goes on with it.
        settings: its configuration.

    Raises:
        ConfigurationError: if Weights & Biases refuses to start.
    """

    def __init__(self, path: Path, step: int, settings: Mapping[str, Value]):
        self.wandb = import_module("wandb")
        id_path = path / "wandb_id.txt"
        if not step or not id_path.exists():
            id_path.write_text(uuid.uuid4().hex)
        options = {"project": "cl_ac", "name": path.name, "id": id_path.read_text(), "resume": "allow"}
        try:
            self.run = self.wandb.init(dir=str(path), config=dict(settings), **options)
        except self.wandb.Error as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise ConfigurationError(
                f"loggers has 'wandb', which does not start: {reason}; WANDB_MODE=offline needs no account"
            ) from error

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def figure(self, tag: str, figure: "Figure", step: int) -> None:
        self.run.log({tag: self.wandb.Image(rendered(figure))}, step=step)

    def flush(self) -> None:
        """Another process of Weights & Biases holds what was logged."""

    def close(self) -> None:
        self.run.finish()


def check_loggers(names: Sequence[LoggerName]) -> None:
    """Raises `ConfigurationError` if a logger needs a package that is not installed."""
    if "wandb" in names:
        try:
            import_module("wandb")
        except ImportError as error:
            raise ConfigurationError(
                "loggers has 'wandb', but the package wandb is not installed; install it with 'pip install wandb', or "
                "leave it out"
            ) from error


def rendered(figure: "Figure") -> np.ndarray:
    """The pixels of a figure, uint8 [height, width, 3]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]
