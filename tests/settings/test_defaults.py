import yaml

from cl_ac.recording.stored_settings import flatten
from cl_ac.settings.configured import configured
from cl_ac.settings.defaults import usual_settings

GIVEN = {
    "approach": "LwF",
    "benchmark": "Digits",
    "backbone": "SmallConvNet",
    "classifier": "ACIL",
    "exits.at": ["block0"],
    "exits.weights": [0.5],
}


def test_every_option_that_is_not_given_is_stored_as_its_default():
    stored = configured({**GIVEN, "approach.strength": 7.0}).config
    usual = usual_settings(stored)
    differ = {name for name, value in flatten(stored).items() if value != usual.get(name)}
    classes = {f"{kind}.class_path" for kind in ("approach", "benchmark", "backbone", "classifier")}
    assert differ == {*classes, "approach.init_args.strength", "exits.at", "exits.weights"}
    assert usual["approach.init_args.strength"] == 1.0


def test_a_run_of_a_version_without_some_options_goes_on(tmp_path):
    experiment = configured({**GIVEN, "out": str(tmp_path)})
    directory, stored = experiment.directory, yaml.safe_load(yaml.safe_dump(dict(experiment.config)))
    del stored["sparsify"], stored["training"]["fixed_views"], stored["exits"]["detach"]
    del stored["approach"]["init_args"]["temperature"], stored["benchmark"]["init_args"]["augmentation"]["size"]
    directory.open(stored, resume=False)
    (directory.path / "metrics.jsonl").touch()
    directory.open(experiment.config, resume=True)
    assert directory.config == experiment.config
