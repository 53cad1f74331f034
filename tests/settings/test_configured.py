import pytest

from cl_ac.approaches.lwf import LwF
from cl_ac.backbones.small import SmallConvNet
from cl_ac.cli.main import main
from cl_ac.datasets.digits import Digits
from cl_ac.errors import ConfigurationError
from cl_ac.recording.rundir import RunDirectory
from cl_ac.run import run
from cl_ac.serving.finished import finished
from cl_ac.settings.configured import as_arguments, configured
from cl_ac.settings.objects import rebuild
from cl_ac.streams.class_incremental import ClassIncremental
from cl_ac.training import Training

OPTIONS = {
    "approach": "LwF", "approach.strength": 2, "benchmark": "Digits", "benchmark.tasks": 2,
    "benchmark.samples_per_class": 12, "backbone": "SmallConvNet", "exits": "sdn", "training.epochs": 1,
    "training.batch_size": 32, "device": "cpu", "loggers": [], "seed": 3, "name": "python",
}  # fmt: skip


@pytest.fixture(scope="module")
def python_run(tmp_path_factory) -> RunDirectory:
    """A run made from Python out of plain settings."""
    experiment = configured({**OPTIONS, "out": tmp_path_factory.mktemp("runs")})
    assert len(run(**vars(experiment))) == 2
    return experiment.directory


def test_a_run_made_from_python_is_rebuilt(python_run):
    rebuilt = finished(python_run, "cpu")
    assert isinstance(rebuilt.objects.approach, LwF)
    assert rebuilt.objects.approach.strength == 2
    assert rebuilt.network.sizes == [5, 5]
    assert python_run.config["seed"] == 3


def test_a_run_made_from_python_is_reported(python_run):
    assert main(["report", str(python_run.path)]) == 0
    assert "LwF" in (python_run.path / "report" / "report.html").read_text()


def test_a_run_made_from_python_goes_on_by_its_config_file(python_run):
    again = configured({"config": python_run.path / "config.yaml", "resume": True})
    assert again.directory.path == python_run.path
    assert len(run(**vars(again))) == 2


def test_a_run_of_objects_alone_is_reported_but_says_why_it_cannot_be_rebuilt(tmp_path):
    directory = RunDirectory(tmp_path / "objects")
    benchmark = Digits(tasks=2, samples_per_class=12)
    training = Training(epochs=1, batch_size=32)
    run(LwF(), benchmark, SmallConvNet(benchmark.input_shape), directory, training=training, seed=3, loggers=[])
    assert directory.config == {"seed": 3}
    assert main(["report", str(directory.path)]) == 0
    with pytest.raises(ConfigurationError, match=r"started from Python without `config`"):
        finished(directory, "cpu")


def test_options_become_a_command_line_in_an_order_that_knows_each_class():
    options = {"approach.strength": 2, "approach": "LwF", "exits": None, "loggers": ["csv"], "config": "file.yaml"}
    assert as_arguments(options) == [
        "--config=file.yaml",
        "--approach=LwF",
        '--loggers=["csv"]',
        "--approach.strength=2",
    ]


def test_a_wrong_option_is_one_sentence():
    with pytest.raises(ConfigurationError, match=r"did you mean 'Lw[FM]'"):
        configured({**OPTIONS, "approach": "LfW"})


def test_the_benchmark_gets_the_stream(tmp_path):
    options = {"benchmark": "Digits", "approach": "ER", "memory.size": 20, "backbone": "SmallConvNet"}
    plain = configured({**options, "out": str(tmp_path)})
    assert type(plain.benchmark.stream) is ClassIncremental
    (tmp_path / "rotated.yaml").write_text("stream: RotatedImages\nstream.largest: 90\n")
    options |= {"benchmark.tasks": 3}
    rotated = configured({**options, "config": tmp_path / "rotated.yaml", "out": str(tmp_path)})
    assert rotated.benchmark.stream.largest == 90
    assert [task.num_classes for task in rotated.benchmark] == [10, 0, 0]
    assert rotated.config["stream"]["init_args"]["largest"] == 90
    again = rebuild(rotated.config)
    assert again.benchmark.stream.largest == 90


def test_impossible_streams_are_one_sentence(tmp_path):
    options = {"benchmark": "Digits", "approach": "ER", "memory.size": 20, "backbone": "SmallConvNet"}
    with pytest.raises(ConfigurationError, match=r"^stream\.largest is 400.*; it must be above 0 and at most 360$"):
        configured({**options, "stream": "RotatedImages", "stream.largest": 400, "out": str(tmp_path)})
    with pytest.raises(ConfigurationError, match="the benchmark has no domains"):
        configured({**options, "stream": "DomainIncremental", "out": str(tmp_path)})
    with pytest.raises(ConfigurationError, match="unknown stream 'Rotated'; did you mean 'RotatedImages'"):
        configured({**options, "stream": "Rotated", "out": str(tmp_path)})
