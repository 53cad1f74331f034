"""What can be fitted to the logits of held-out samples after training: calibration, exit scores, task corrections.

No function here changes a network: a correction is applied to `Outputs`. Shapes: E exits, N samples, C classes seen,
T tasks.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_ac.classifiers.fitting import minimise
from cl_ac.evaluation import Outputs
from cl_ac.exits.quality import leaving_is_right
from cl_ac.exits.rules import Answer, LearnedScorer, exit_features


def rescale(outputs: Outputs, scale: Tensor, shift: Tensor | float = 0.0) -> Outputs:
    """Outputs with logits `scale · z + shift`; both broadcast to [E, N, C]."""
    return replace(outputs, logits=(outputs.logits * scale + shift).float())


def with_temperature(outputs: Outputs, temperatures: Tensor) -> Outputs:
    """Outputs whose logits at each exit are divided by its temperature [E]; no prediction changes."""
    return rescale(outputs, 1 / temperatures[:, None, None])


def with_vector_scaling(outputs: Outputs, scale: Tensor, shift: Tensor) -> Outputs:
    """Outputs with a scale and a shift [E, C] for each class at each exit; predictions may change."""
    return rescale(outputs, scale[:, None], shift[:, None])


def fit_temperature(held_out: Outputs) -> Tensor:
    """The temperature of each exit [E] with the least cross-entropy on `held_out` (Guo et al., 2017): convex in 1/T."""
    logits = held_out.logits.double()
    inverse = torch.ones(len(logits), dtype=torch.float64)
    minimise(lambda: _cross_entropy(logits * inverse[:, None, None], held_out.targets), [inverse])
    # Exits that are worse than chance would ask for a negative temperature.
    return 1 / inverse.clamp(min=1e-3)


def fit_vector_scaling(held_out: Outputs, decay: float = 1e-4) -> tuple[Tensor, Tensor]:
    """Scale and shift [E, C] of each exit with the least cross-entropy on `held_out` (Guo et al., 2017): convex.

    Args:
        decay: weight of the squared distance from doing nothing, which bounds classes that are rare in `held_out`.
    """
    logits = held_out.logits.double()
    exits, _, classes = logits.shape
    scale, shift = torch.ones(exits, classes, dtype=torch.float64), torch.zeros(exits, classes, dtype=torch.float64)

    def loss() -> Tensor:
        change = (scale - 1).square().sum() + shift.square().sum()
        return _cross_entropy(logits * scale[:, None] + shift[:, None], held_out.targets) + decay * change

    minimise(loss, [scale, shift])
    return scale, shift


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum over exits of the mean cross-entropy of [E, N, C]."""
    exits = len(logits)
    return exits * F.cross_entropy(logits.flatten(0, 1), targets.repeat(exits))


def fit_scorer(held_out: Outputs, decay: float = 1e-3) -> LearnedScorer:
    """A logistic regression of each exit's features on whether leaving there is right.

    Leaving the last exit is right always, by that definition; it learns whether its own answer is right instead, which
    is what the fallback needs to know. No exit's answer changes, only who leaves where.

    Args:
        decay: weight of the squared weights of standardised features.
    """
    labels = torch.cat([leaving_is_right(held_out.correct)[:-1], held_out.correct[-1:]]).double()
    features: list[Tensor] = []
    state: tuple[Tensor, ...] = ()
    for logits in held_out.logits:
        each, state = exit_features(Answer.of(logits), state)
        features.append(each)
    inputs = torch.stack(features).double()  # [E, N, features]
    centre, spread = inputs.mean(1, keepdim=True), inputs.std(1, correction=0, keepdim=True)
    spread = spread.where(spread > 1e-6, 1.0)
    standard = (inputs - centre) / spread
    weights = torch.zeros(len(inputs), inputs.shape[-1], dtype=torch.float64)
    constant = torch.zeros(len(inputs), dtype=torch.float64)

    def loss() -> Tensor:
        answers = torch.einsum("enf,ef->en", standard, weights) + constant[:, None]
        errors = F.binary_cross_entropy_with_logits(answers, labels, reduction="none").mean(1).sum()
        # The constant decays too: where all labels agree it would grow for ever.
        return errors + decay * (weights.square().sum() + constant.square().sum())

    minimise(loss, [weights, constant])
    weights = weights / spread[:, 0]
    constant = constant - (weights * centre[:, 0]).sum(1)
    return LearnedScorer(weights=torch.cat([weights, constant[:, None]], 1).float())


def task_shift(sizes: Sequence[int], slope: float, offset: float) -> Tensor:
    """What TLC adds to the logits of each class [C]: `slope · (T − 1 − s) + offset` for task s, 0 for the last."""
    last = len(sizes) - 1
    values = [slope * (last - task) + offset if task < last else 0.0 for task in range(last + 1)]
    return torch.tensor(values).repeat_interleave(torch.tensor(sizes))


def fit_tlc(logits: Tensor, sizes: Sequence[int]) -> tuple[float, float]:
    """Task-wise logits correction (v1 of the AC paper, arXiv 2403.07404v1): its slope and offset.

    After the correction, and without the class that is predicted, all tasks should score alike on training samples of
    the last task: the variance over exits and tasks of a task's largest logit left, mean over samples, is minimised.
    The published code samples 2,000 pairs. Use it as
    `rescale(outputs, 1.0, task_shift(sizes, *fit_tlc(logits, sizes)))`.

    Args:
        logits: of training samples of the last task [E, N, C].
        sizes: classes of each task [T]. Where the predicted class is its task's only one, the task is left out, and so
            are tasks that brought no class.
    """
    from scipy.optimize import minimize

    tasks = [task for task, size in enumerate(sizes) if size]
    if len(tasks) == 1:
        return 0.0, 0.0
    parts = [part.double() for part in logits.split([sizes[task] for task in tasks], -1)]
    tops = [
        F.pad(part.topk(min(2, part.shape[-1])).values, (0, max(0, 2 - part.shape[-1])), value=torch.nan)
        for part in parts
    ]
    first, second = torch.stack(tops, -1).unbind(-2)  # [E, N, T] each
    distance = torch.tensor([len(sizes) - 1 - task for task in tasks], dtype=torch.float64)
    old = (distance > 0).double()

    def objective(values) -> float:
        shift = values[0] * distance + values[1] * old
        predicted = F.one_hot((first + shift).argmax(-1), len(tasks)).bool()
        left = torch.where(predicted, second, first) + shift
        mean = left.nanmean((0, 2), keepdim=True)
        return (left - mean).square().nanmean().item()

    # Where predicted classes change the objective has kinks and valleys: descend from the best points of a grid.
    unit = first.std().item()
    grid = [step / 4 * unit for step in range(-16, 17)]
    starts = sorted(((slope, offset) for slope in grid for offset in grid), key=objective)[:5]
    best = min((minimize(objective, start, method="Nelder-Mead") for start in starts), key=lambda result: result.fun)
    return float(best.x[0]), float(best.x[1])
