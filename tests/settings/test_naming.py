import yaml

from cl_ac.settings.naming import run_name
from cl_ac.settings.parser import parse, run_parser


def name(*arguments: str) -> str:
    parser = run_parser()
    settings = parse(parser, ["--backbone", "SmallConvNet", *arguments])
    settings.pop("config", None)
    return run_name(yaml.safe_load(parser.dump(settings, skip_unset=False)), 5)


LWF = ["--approach", "LwF", "--benchmark", "Digits"]


def test_defaults_are_left_out():
    assert name(*LWF) == "Digits5_SmallConvNet_LwF_seed0"
    assert (
        name(*LWF, "--exits", "sdn", "--seed", "3", "--device", "cpu", "--out", "x")
        == "Digits5_SmallConvNet_LwF_sdn_seed3"
    )


def test_what_was_changed_tells_runs_apart():
    assert name(*LWF, "--approach.strength", "2") == "Digits5_SmallConvNet_LwF_strength2.0_seed0"
    changes = [
        ["--approach.strength", "2"],
        ["--approach.strength", "3"],
        ["--training.lr", "0.2"],
        ["--training.lr", "0.3"],
        ["--memory.size", "20"],
        ["--backbone.width", "8"],
        ["--benchmark.order", "1"],
        ["--benchmark.augmentation.padding", "2"],
        ["--classifier", "NearestMean"],
        ["--classifier", "Gaussian"],
        ["--exits", "sdn"],
        ["--exits.at", "[block0]", "--exits.weights", "[0.5]"],
        ["--exits.at", "[block1]", "--exits.weights", "[0.5]"],
    ]
    names = {name(*LWF, *change) for change in changes}
    assert len(names) == len(changes)


def test_avalanche_benchmarks_have_names_of_their_own():
    factory = "avalanche.benchmarks.classic.Split"
    chosen = ["--approach", "LwF", "--benchmark", "AvalancheBenchmark", "--benchmark.factory"]
    assert name(*chosen, f"{factory}MNIST") == "SplitMNIST5_SmallConvNet_LwF_seed0"
    assert name(*chosen, f"{factory}CIFAR10") == "SplitCIFAR105_SmallConvNet_LwF_seed0"


def test_a_stream_stands_beside_the_data():
    assert name(*LWF, "--stream", "RotatedImages").startswith("Digits5_RotatedImages_SmallConvNet_LwF")
    assert name(*LWF, "--stream", "RotatedImages") != name(*LWF, "--stream", "RotatedImages", "--stream.largest", "90")
