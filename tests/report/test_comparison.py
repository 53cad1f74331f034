import pytest
import torch

from cl_ac.evaluation import average, forgetting
from cl_ac.recording.fingerprint import TaskData, save
from cl_ac.report.comparison import compare


def config(approach: str = "LwF", exits: str | None = None, seed: int = 0, tasks: int = 3, **more) -> dict:
    def plugin(name: str, **options) -> dict:
        return {"class_path": f"package.{name}", "init_args": options}

    options = more.pop("options", {})
    return {
        "approach": plugin(approach, **options),
        "benchmark": plugin(more.pop("benchmark", "Digits"), tasks=tasks, root=more.pop("root", "data"), download=True),
        "exits": exits,
        "seed": seed,
        "name": f"{approach}{seed}",
        **more,
    }


def labels(directories) -> list[str]:
    (comparison,), _ = compare(directories)
    return [group.label for group in comparison.groups]


def test_seeds_are_one_group(stored_run, tmp_path):
    runs = [stored_run(tmp_path / f"run{seed}", config(exits="sdn", seed=seed)) for seed in (2, 0, 1)]
    (comparison,), empty = compare([*runs, runs[0]])
    (group,) = comparison.groups
    assert [run.name for run in group.runs] == ["run0", "run1", "run2"]
    assert (group.label, group.tasks, group.total, empty) == ("LwF + sdn", 3, 3, [])
    assert "seed" not in group.settings
    assert comparison.differences == []


def test_labels_say_what_tells_groups_apart(stored_run, tmp_path):
    assert labels(
        [
            stored_run(tmp_path / "a", config(options={"strength": 1}), exits=1),
            # Tuned for ACs: the exits alone tell it from the one before.
            stored_run(tmp_path / "b", config(exits="sdn", options={"strength": 2})),
            stored_run(tmp_path / "c", config("ER", memory={"size": 20}), exits=1),
            stored_run(tmp_path / "d", config("ER", memory={"size": 40}), exits=1),
        ]
    ) == ["ER, memory.size 20", "ER, memory.size 40", "LwF", "LwF + sdn"]


def test_labels_with_different_options_name_them(stored_run, tmp_path):
    runs = [
        stored_run(tmp_path / f"{strength}{exits}", config(exits=exits, options={"strength": strength}))
        for strength in (1, 2)
        for exits in (None, "sdn")
    ]
    found = labels(runs)
    assert found == ["LwF, strength 1 + ACs", "LwF, strength 1 + sdn", "LwF, strength 2 + ACs", "LwF, strength 2 + sdn"]


def test_a_run_without_a_stream_has_the_usual_one_and_no_options_of_others(stored_run, tmp_path):
    streams = {
        "none": None,
        "usual": {"class_path": "ClassIncremental", "init_args": {"boundaries": True}},
        "rotated": {"class_path": "RotatedImages", "init_args": {"largest": 180.0, "boundaries": True}},
        "less": {"class_path": "RotatedImages", "init_args": {"largest": 90.0, "boundaries": True}},
    }
    runs = {
        name: stored_run(tmp_path / name, config(stream=stream, seed=place))
        for place, (name, stream) in enumerate(streams.items())
    }
    few = [runs["none"], runs["usual"], runs["rotated"]]
    assert labels(few) == ["LwF, stream ClassIncremental + ACs", "LwF, stream RotatedImages + ACs"]
    assert compare(few)[0][0].differences == ["stream"]
    assert labels(runs.values()) == [
        "LwF, stream ClassIncremental + ACs",
        "LwF, stream RotatedImages, stream.largest 180.0 + ACs",
        "LwF, stream RotatedImages, stream.largest 90.0 + ACs",
    ]


def test_the_counterpart_without_acs(stored_run, tmp_path):
    plain, other = stored_run(tmp_path / "plain", config(), exits=1), stored_run(tmp_path / "er", config("ER"), exits=1)
    (comparison,), _ = compare([stored_run(tmp_path / "acs", config(exits="sdn")), other, plain])
    er, lwf, with_acs = comparison.groups
    assert comparison.without_acs(with_acs) is lwf
    assert comparison.without_acs(lwf) is None
    assert list(comparison.families) == ["ER", "LwF"]
    assert comparison.differences == ["exits", "approach"]
    assert er.label == "ER"


def test_unfinished_runs_stand_apart(stored_run, tmp_path):
    whole, part = stored_run(tmp_path / "whole", config()), stored_run(tmp_path / "part", config(seed=1), tasks=2)
    nothing = stored_run(tmp_path / "nothing", config(seed=2), tasks=0)
    (comparison,), empty = compare([whole, part, nothing])
    assert [group.label for group in comparison.groups] == ["LwF + ACs", "LwF + ACs (2 of 3 tasks)"]
    assert [run.name for run in empty] == ["nothing"]


def test_a_run_whose_classes_per_task_say_how_many_tasks_there_are_is_finished(stored_run, tmp_path):
    settings = config(tasks=5)
    settings["benchmark"]["init_args"]["classes_per_task"] = [2, 3, 1]
    run = stored_run(tmp_path / "run", settings)
    save([TaskData(["0"], [1, 4, 4], 1, 0, 1, "")] * 3, run.data_path)
    (comparison,), _ = compare([run])
    assert (comparison.title, labels([run])) == ("Digits, 3 tasks", ["LwF + ACs"])


def test_benchmarks_are_compared_apart(stored_run, tmp_path):
    runs = [
        stored_run(tmp_path / "a", config()),
        stored_run(tmp_path / "b", config("ER", root="elsewhere")),
        stored_run(tmp_path / "c", config(benchmark="CIFAR100")),
        stored_run(tmp_path / "d", config(tasks=4), tasks=4),
    ]
    comparisons, _ = compare(runs)
    found = {comparison.title: [group.family for group in comparison.groups] for comparison in comparisons}
    assert found == {"Digits, 3 tasks": ["ER", "LwF"], "CIFAR100, 3 tasks": ["LwF"], "Digits, 4 tasks": ["LwF"]}


def test_benchmarks_of_one_name_and_other_settings_are_numbered(stored_run, tmp_path):
    other = config(seed=1)
    other["benchmark"]["init_args"]["order"] = "random"
    comparisons, _ = compare([stored_run(tmp_path / "a", config()), stored_run(tmp_path / "b", other)])
    assert [each.title for each in comparisons] == ["Digits, 3 tasks, settings 1", "Digits, 3 tasks, settings 2"]


def test_numbers_of_a_group_are_those_of_its_runs(stored_run, tmp_path):
    runs = [stored_run(tmp_path / f"run{seed}", config(exits="sdn", seed=seed)) for seed in (0, 1)]
    (comparison,), _ = compare(runs)
    (group,) = comparison.groups
    for place, run in enumerate(runs):
        answers = run.ac_accuracies()
        assert torch.equal(group.answers[place].nan_to_num(-1), answers.nan_to_num(-1))
        expected = [average(answers[task, : task + 1]).item() for task in range(3)]
        assert group.average_accuracy[place].tolist() == pytest.approx(expected)
        lost = [forgetting(answers[: task + 1, : task + 1]).mean().item() for task in (1, 2)]
        assert group.forgetting[place].tolist() == pytest.approx(lost)
        assert torch.equal(group.last[place], run.accuracies()[-1])
        assert group.all_samples[place].tolist() == pytest.approx(run.outputs(2).correct.double().mean(1).tolist())
    assert group.watched == []
