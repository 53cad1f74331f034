from dataclasses import replace

import pytest

from cl_ac.errors import DamagedRun
from cl_ac.recording.fingerprint import differences, fingerprint, load, other_pixels, save


def test_the_same_data_are_recognised(toy_benchmark, tmp_path):
    before = fingerprint(toy_benchmark())
    save(before, tmp_path / "data.json")
    assert load(tmp_path / "data.json") == before == fingerprint(toy_benchmark())
    assert [each.classes for each in before] == [["0", "1"], ["2", "3"], ["4", "5"]]
    assert (before[0].shape, before[0].train + before[0].validation, before[0].test) == ([1, 6, 6], 24, 10)


def test_names_follow_the_order_of_arrival(toy_benchmark):
    benchmark = toy_benchmark(order=[5, 4, 3, 2, 1, 0])
    benchmark.class_names = list("abcdef")
    assert [each.classes for each in fingerprint(benchmark)] == [["f", "e"], ["d", "c"], ["b", "a"]]


def test_what_changed_is_named(toy_benchmark):
    before, now = fingerprint(toy_benchmark()), fingerprint(toy_benchmark(per_class=10))
    now = [now[0], replace(now[1], classes=["2", "x"], shape=[3, 6, 6]), now[2]]
    told = differences(before, now)
    assert "task 1 had 22 training images and has 18" in told
    assert "task 2 had the class '3' and has 'x' in its place" in told
    assert "images of task 2 had the shape [1, 6, 6] and have [3, 6, 6]" in told
    assert differences(before, now[:1])[-1] == "there were 3 tasks and are 1"


def test_other_pixels_are_noticed(toy_benchmark):
    benchmark = toy_benchmark()
    before = fingerprint(benchmark)
    benchmark.tasks[1].test.images[0, 0, 0, 0] ^= 1
    assert other_pixels(before, fingerprint(benchmark)) == [1]
    assert not differences(before, fingerprint(benchmark))


def test_a_damaged_file_is_one_sentence(tmp_path):
    (tmp_path / "data.json").write_text('[{"classes": []}]')
    with pytest.raises(DamagedRun, match=r"data\.json' is cut short or changed; remove it if"):
        load(tmp_path / "data.json")
