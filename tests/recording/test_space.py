from cl_ac.approaches.finetuning import FineTuning
from cl_ac.recording.space import outputs_bytes, tell_need


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
