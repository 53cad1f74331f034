import pytest
import torch

from cl_ac.report.conversion_figures import load_figure, map_figure

IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_maps_show_what_is_executed_without_the_class_token():
    first, second = torch.zeros(2, 2, 5, 4, dtype=torch.bool)
    # The class token runs all experts of the first FFN, patch 1 of image 0 three of them, and expert 2 runs for half
    # of the patches.
    first[:, 0], first[0, 2, :3], first[:, 1:3, 1] = True, True, True
    figure = map_figure(IMAGES, {"a": first, "b": second})
    panels = [axes for axes in figure.axes if axes.images]
    assert [axes.get_ylabel() for axes in panels[::2]] == ["image", "executed", "FFN 1,\nexpert 2", "FFN 2,\nexpert 1"]
    assert panels[0].images[0].get_array().shape == (8, 8, 3)
    assert panels[2].images[0].get_array().tolist() == [[0.125, 0.375], [0, 0]]
    assert panels[4].images[0].get_array().tolist() == [[1, 1], [0, 0]]
    assert not panels[6].images[0].get_array().any()


def test_tokens_that_are_no_square_have_no_map():
    assert map_figure(IMAGES, {"a": torch.ones(2, 7, 4, dtype=torch.bool)}) is None
    uneven = {"a": torch.ones(2, 4, 4, dtype=torch.bool), "b": torch.ones(2, 9, 4, dtype=torch.bool)}
    assert map_figure(IMAGES, uneven) is None


def test_loads_are_sorted():
    (axes,) = load_figure({"a": torch.tensor([0.2, 0.9, 0.5])}).axes
    assert axes.lines[0].get_ydata().tolist() == pytest.approx([90, 50, 20])
