from cl_ac.approaches.finetuning import FineTuning
from cl_ac.recording.records import Record
from cl_ac.recording.rundir import RunDirectory
from cl_ac.recording.space import is_kept, outputs_bytes, tell_need


def test_what_is_told_is_what_the_files_take(toy_run, toy_benchmark):
    directory = toy_run(FineTuning(), exits="sdn", loggers=[])
    sizes = [path.stat().st_size for path in (directory.path / "outputs").iterdir()]
    told = outputs_bytes(toy_benchmark().tasks, exits=3)
    # Labels and headers come on top.
    assert told < sum(sizes) < told + 3 * 2000


def test_only_large_runs_are_told_of(tmp_path):
    told = []
    tell_need(1000, tmp_path / "not" / "yet", told.append)
    assert not told
    tell_need(45 * 2**30, tmp_path / "run", told.append)
    assert "will take up to 45.0 GiB" in told[0]
    assert "--keep_outputs" in told[0]


def test_which_outputs_are_kept_while_a_run_goes_on(random_outputs, tmp_path):
    assert [[task for task in range(6) if is_kept(task, every)] for every in (0, 1, 3)] == [[], [*range(6)], [2, 5]]
    for every, left in {0: [4], 1: [0, 1, 2, 3, 4], 2: [1, 3, 4]}.items():
        directory = RunDirectory(tmp_path / str(every))
        for task in range(5):
            outputs = random_outputs(task, 2, 20, (2,) * (task + 1))
            directory.finish(Record.of(task, outputs, 1.0), outputs, every)
        assert directory.tasks_with_outputs() == left


def test_fewer_outputs_take_less(toy_benchmark):
    tasks = toy_benchmark().tasks
    every, last = (outputs_bytes(tasks, 3, keep) for keep in (1, 0))
    assert last == 4 * 3 * sum(len(task.test) for task in tasks) * tasks[-1].classes_seen < every
