from dataclasses import replace

from cl_ac.efficiency.dynamic import dynamic_ffns
from cl_ac.serving.conversion_timing import measure
from cl_ac.serving.operating_points import Chosen


def test_every_tau_and_the_choice_are_measured(converted):
    measured = measure(converted, batches=(8,), repeats=1)
    assert set(measured) == {8}
    assert set(measured[8].whole) == {0.01, 0.4, 1.0}
    assert all(seconds > 0 for seconds in [*measured[8].whole.values(), measured[8].chosen])
    # Usage of the experts was noted, for backends that cannot read masks back.
    assert all(ffn.usage is not None for ffn in dynamic_ffns(converted.dynamic).values())


def test_without_a_choice_only_taus_are_measured(converted):
    measured = measure(
        replace(converted, chosen=Chosen(None, converted.choice), points=converted.points[:1]), batches=(1,), repeats=1
    )
    assert set(measured[1].whole) == {0.01}
    assert measured[1].chosen is None
