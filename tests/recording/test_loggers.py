import sys
from types import SimpleNamespace

import matplotlib.figure
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata

from cl_ac.errors import ConfigurationError
from cl_ac.recording.loggers import CsvLogger, TensorBoardLogger, WandbLogger, check_loggers, rendered

SETTINGS = {"approach": "LwF", "training.lr": 0.5, "approach.reset": True}


def tensorboard(path, step: int = 0) -> TensorBoardLogger:
    """A logger whose layout has one chart for every tag."""
    return TensorBoardLogger(
        path, step, SETTINGS, ["a"], lambda tags: {t: {t: ["Multiline", [t]]} for t in sorted(tags)}
    )


def points(path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in EventAccumulator(str(path)).Reload().Scalars(tag)]


def killed_and_resumed(make) -> None:
    """An attempt that is killed three steps after its checkpoint at 4, in the middle of a write, and one that goes on.

    `late` stands for what is logged at the step of the checkpoint, but only after it.
    """
    first = make(0)
    for step in (2, 4):
        first.scalars({"a": step / 10}, step)
    first.scalars({"late": 4.0}, 4)
    first.scalars({"a": 0.7}, 7)
    first.flush()
    second = make(4)
    second.scalars({"late": 4.0, "later": 5.0}, 4)
    for step in (6, 8):
        second.scalars({"a": step / 10}, step)
    second.close()


def test_tensorboard_goes_on_without_overlap(tmp_path):
    def make(step: int) -> TensorBoardLogger:
        if step:  # the kill cut the last record short
            file = next(tmp_path.glob("events.*"))
            file.write_bytes(file.read_bytes() + b"\x18\x00\x00\x00\x00")
        return tensorboard(tmp_path, step)

    killed_and_resumed(make)
    assert points(tmp_path, "a") == [(step, pytest.approx(step / 10)) for step in (2, 4, 6, 8)]
    assert points(tmp_path, "late") == [(4, 4.0)]
    assert points(tmp_path, "later") == [(4, 5.0)]


def test_tensorboard_starts_again_after_a_kill_before_the_first_checkpoint(tmp_path):
    first = tensorboard(tmp_path)
    first.scalars({"a": 1.0}, 3)
    first.flush()
    second = tensorboard(tmp_path)
    second.scalars({"a": 2.0}, 2)
    second.close()
    assert points(tmp_path, "a") == [(2, 2.0)]


def test_tensorboard_layout_names_what_has_data(tmp_path):
    logger = tensorboard(tmp_path)
    for tag in ("a", "b"):
        logger.scalars({tag: 1.0}, 1)
        logger.flush()
    logger.close()
    first = set(tmp_path.iterdir())
    again = tensorboard(tmp_path, 1)
    again.scalars({"c": 1.0}, 2)
    again.close()
    # Files of the same second are read in the order of their names, where a tenth comes before a second.
    (second,) = set(tmp_path.iterdir()) - first
    last = EventAccumulator(str(second)).Reload().Tensors("custom_scalars__config__")[-1]
    layout = layout_pb2.Layout.FromString(last.tensor_proto.string_val[0])
    assert [category.title for category in layout.category] == ["a", "b", "c"]


def test_tensorboard_shows_a_run_once_with_its_settings(tmp_path):
    logger = tensorboard(tmp_path)
    logger.scalars({"a": 1.0}, 1)
    logger.close()
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    read = EventAccumulator(str(tmp_path)).Reload().summary_metadata
    start = metadata.parse_session_start_info_plugin_data(
        read[metadata.SESSION_START_INFO_TAG].plugin_data.content
    ).hparams
    assert start["approach"].string_value == "LwF"
    assert start["training.lr"].number_value == 0.5
    assert start["approach.reset"].bool_value
    experiment = metadata.parse_experiment_plugin_data(read[metadata.EXPERIMENT_TAG].plugin_data.content)
    assert [info.name.tag for info in experiment.metric_infos] == ["a"]
    assert {info.name for info in experiment.hparam_infos if info.differs} == {"approach"}


def test_tensorboard_keeps_the_order_of_tasks_that_end_within_a_second(tmp_path):
    logger = tensorboard(tmp_path)
    for place in (100, 200, 300):
        logger.over_tasks([(place, {"by_task/a": place / 100})])
        # By its name this file would be read after all that follow in this second.
        (newest,) = tmp_path.glob(f"*.tasks_{place}")
        parts = newest.name.split(".")
        newest.rename(newest.with_name(".".join([*parts[:-2], f"9{place}", parts[-1]])))
    logger.close()
    assert points(tmp_path, "by_task/a") == [(100, 1.0), (200, 2.0), (300, 3.0)]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_tensorboard_writes_a_task_again_whose_file_was_cut(tmp_path, share):
    first = tensorboard(tmp_path)
    first.scalars({"a": 1.0}, 5)
    first.over_tasks([(100, {"by_task/a": 0.25})])
    first.over_tasks([(150, {"by_task/a": 0.5}), (200, {"by_task/a": 0.75})])
    first.close()
    (file,) = tmp_path.glob("*.tasks_200")
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    second = tensorboard(tmp_path, step=5)
    second.over_tasks([(150, {"by_task/a": 0.5}), (200, {"by_task/a": 0.75})])
    second.scalars({"a": 2.0}, 6)
    second.close()
    assert points(tmp_path, "by_task/a") == [(100, 0.25), (150, 0.5), (200, 0.75)]
    assert points(tmp_path, "a") == [(5, 1.0), (6, 2.0)]


def test_tensorboard_shows_figures(tmp_path):
    logger = tensorboard(tmp_path)
    figure = matplotlib.figure.Figure(figsize=(1, 2), dpi=50)
    logger.figure("picture", figure, 3)
    logger.close()
    (image,) = EventAccumulator(str(tmp_path)).Reload().Images("picture")
    assert (image.step, image.width, image.height) == (3, 50, 100)
    assert rendered(figure).shape == (100, 50, 3)


def test_csv_goes_on_without_overlap(tmp_path):
    file = tmp_path / "scalars.csv"

    def make(step: int) -> CsvLogger:
        if step:
            file.write_text(file.read_text() + "7,la")
        return CsvLogger(tmp_path, step)

    killed_and_resumed(make)
    rows = ["step,tag,value", "2,a,0.2", "4,a,0.4", "4,late,4", "4,later,5", "6,a,0.6", "8,a,0.8"]
    assert file.read_text().splitlines() == rows


@pytest.fixture
def wandb(monkeypatch):
    """A module in place of wandb that records what it is told."""
    calls = []
    run = SimpleNamespace(
        log=lambda values, step: calls.append((step, values)), finish=lambda: calls.append("finished")
    )

    def init(**options):
        calls.append(options)
        return run

    module = SimpleNamespace(Error=RuntimeError, init=init, Image=lambda pixels: ("image", pixels.shape), calls=calls)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_wandb_is_told_everything(wandb, tmp_path):
    check_loggers(["wandb"])
    logger = WandbLogger(tmp_path, 0, SETTINGS)
    logger.scalars({"a": 1.0, "b": 2.0}, 3)
    logger.figure("picture", matplotlib.figure.Figure(figsize=(1, 1), dpi=20), 3)
    logger.flush()
    logger.close()
    options, *logged = wandb.calls
    assert (options["name"], options["config"], options["dir"]) == (tmp_path.name, SETTINGS, str(tmp_path))
    assert logged == [(3, {"a": 1.0, "b": 2.0}), (3, {"picture": ("image", (20, 20, 3))}), "finished"]


def test_wandb_goes_on_with_the_same_run_but_never_with_one_that_starts_again(wandb, tmp_path):
    for step in (0, 5, 0):
        WandbLogger(tmp_path, step, SETTINGS)
    first, resumed, again = (options["id"] for options in wandb.calls)
    assert first == resumed
    assert first != again
    assert wandb.calls[1]["resume"] == "allow"


def test_wandb_that_does_not_start_is_one_sentence(wandb, tmp_path):
    def refuse(**options):
        raise wandb.Error("No API key\nconfigured.")

    wandb.init = refuse
    with pytest.raises(ConfigurationError, match="does not start: No API key configured; WANDB_MODE=offline"):
        WandbLogger(tmp_path, 0, SETTINGS)


def test_a_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(
        ConfigurationError, match="the package wandb is not installed; install it with 'pip install wandb'"
    ):
        check_loggers(["csv", "wandb"])
    check_loggers(["tensorboard", "csv"])
