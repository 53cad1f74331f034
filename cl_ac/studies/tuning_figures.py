"""Optuna's own plots of a search."""

import warnings
from collections.abc import Callable

import matplotlib
import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from optuna.trial import TrialState
from optuna.visualization import matplotlib as plots


def tuning_figures(study: optuna.Study) -> dict[str, Figure]:
    """How the best accuracy rose from trial to trial, and how much each setting matters, by file name.

    The second needs two finished trials of different accuracy, and settings that differ.
    """
    figures = {"history": _drawn(lambda: plots.plot_optimization_history(study, target_name="held-out accuracy"))}
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len({trial.value for trial in finished}) > 1:
        figures["importance"] = _drawn(lambda: plots.plot_param_importances(study, target_name="held-out accuracy"))
    return figures


def _drawn(draw: Callable[[], Axes]) -> Figure:
    """The figure of a plot, which Optuna draws in a style and with windows of its own."""
    from matplotlib import pyplot

    with matplotlib.rc_context(), warnings.catch_warnings():
        # It calls them experimental each time.
        warnings.simplefilter("ignore")
        figure = draw().figure
    assert isinstance(figure, Figure)
    pyplot.close(figure)
    return figure
