import pytest
import torch

from cl_ac.exits.curves import Curve
from cl_ac.recording.figures import (
    CostLine,
    Line,
    accuracy_matrix_figure,
    cost_accuracy_figure,
    heat_map,
    line_figure,
    mean_curve,
)


def curve(cost: list[float], accuracy: list[float]) -> Curve:
    return Curve(torch.arange(len(cost)), torch.tensor(accuracy).double(), torch.tensor(cost).double(), torch.empty(0))


def test_mean_curve_is_taken_at_equal_costs():
    cost, accuracy = mean_curve([curve([0.0, 1.0], [0.0, 1.0]), curve([0.2, 0.6, 1.2], [0.4, 0.8, 0.8])], points=5)
    assert cost.tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert accuracy.tolist() == pytest.approx([0.3, 0.5, 0.7, 0.8, 0.9])
    assert mean_curve([curve([0.5], [0.25])], points=2)[1].tolist() == [0.25, 0.25]


def test_lines_are_means_over_seeds_in_per_cent():
    lines = [
        Line("two seeds", [1, 2], torch.tensor([[0.2, 0.4], [0.4, 0.8]]), 0),
        Line("others", [1, 2], torch.tensor([[0.1, 0.1]]), None),
    ]
    (axes,) = line_figure(lines, "title", "x", "y").axes
    seeds, others = axes.lines
    assert seeds.get_ydata().tolist() == pytest.approx([30, 60])
    assert len(axes.collections) == 1  # the band of the line with two seeds
    assert axes.get_legend_handles_labels()[1] == ["two seeds"]
    assert others.get_color() == "0.85"


def test_a_run_without_acs_is_a_level_line():
    lines = [
        CostLine("acs", [curve([0.2, 1.0], [0.4, 0.6])], torch.tensor([[0.4, 0.6]]), 1),
        CostLine("plain", [], torch.tensor([[0.4], [0.6]]), 1),
    ]
    (axes,) = cost_accuracy_figure(lines).axes
    acs, plain = axes.lines
    assert plain.get_ydata() == pytest.approx([50, 50])
    assert acs.get_ydata()[[0, -1]].tolist() == pytest.approx([40, 60])
    assert plain.get_color() == acs.get_color()
    assert (plain.get_linestyle(), acs.get_linestyle()) == ("--", "-")


def test_accuracy_matrix_shows_what_is_known():
    nan = float("nan")
    (axes,) = accuracy_matrix_figure(torch.tensor([[0.9, nan], [0.123, 1.0]]), "run").axes
    assert {text.get_position(): text.get_text() for text in axes.texts} == {
        (0.5, 0.5): "90", (0.5, 1.5): "12", (1.5, 1.5): "100"
    }  # fmt: skip
    assert axes.yaxis.get_inverted()
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["1", "2"]


def test_many_cells_keep_the_figure_within_a_page():
    figure = heat_map(torch.rand(20, 20), "run", "x", "y", [str(i) for i in range(20)], [str(i) for i in range(20)])
    assert figure.get_figwidth() < 7


def test_a_thousand_tasks_are_drawn_without_a_million_numbers():
    (axes,) = accuracy_matrix_figure(torch.rand(1000, 1000), "run").axes
    assert not axes.texts
    assert len(axes.get_xticks()) == 40
    assert axes.figure.get_figwidth() < 12
