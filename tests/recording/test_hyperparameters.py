import pytest

from cl_ac.recording.hyperparameters import exits_text, hyperparameters

CONFIG = {
    "approach": {"class_path": "cl_ac.approaches.lwf.LwF", "init_args": {"strength": 2.0, "reset": True}},
    "classifier": None,
    "exits": None,
    "training": {"epochs": [3, 4], "lr": 0.1, "workers": 4},
    "memory": {"size": 20, "limit": None},
    "seed": 1,
    "name": "run",
    "device": "cpu",
}


def test_settings_that_decide_a_result():
    assert hyperparameters(CONFIG) == {
        "exits": "none",
        "approach": "LwF",
        "approach.strength": 2.0,
        "approach.reset": True,
        "classifier": "linear",
        "training.epochs": "[3, 4]",
        "training.lr": 0.1,
        "memory.size": 20,
        "seed": 1,
    }


def test_exits_given_one_by_one_keep_their_options():
    found = hyperparameters({**CONFIG, "exits": {"at": ["a", "b"], "weights": [0.5, 1.0], "pool": 2}})
    assert found["exits"] == "at a b"
    assert (found["exits.weights"], found["exits.pool"]) == ("[0.5, 1.0]", 2)
    assert "exits.at" not in found


@pytest.mark.parametrize(
    ("exits", "text"), [(None, "none"), ("sdn", "sdn"), ({"at": [], "weights": []}, "none"), ({"at": ["x"]}, "at x")]
)
def test_exits_in_words(exits, text):
    assert exits_text(exits) == text


def test_a_classifier_goes_by_its_name():
    classifier = {"class_path": "cl_ac.classifiers.nearest_mean.NearestMean", "init_args": {"side": 2}}
    found = hyperparameters({**CONFIG, "classifier": classifier})
    assert (found["classifier"], found["classifier.side"]) == ("NearestMean", 2)


def test_data_that_can_be_downloaded_are_the_same_anywhere():
    def names(**options) -> set[str]:
        benchmark = {"class_path": "cl_ac.datasets.x.Data", "init_args": options}
        return {name for name in hyperparameters({**CONFIG, "benchmark": benchmark}) if name.startswith("benchmark")}

    assert names(root="here", download=False, tasks=2) == {"benchmark", "benchmark.tasks"}
    assert names(root="here", tasks=2) == {"benchmark", "benchmark.tasks", "benchmark.root"}
    assert names() == {"benchmark"}
