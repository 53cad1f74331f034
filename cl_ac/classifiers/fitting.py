"""What is fitted to the scores of exits: convex problems.

Shapes: E exits, N samples, C classes seen.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def minimise(loss: Callable[[], Tensor], parameters: Sequence[Tensor]) -> None:
    """Moves `parameters` down to a minimum of a smooth `loss`, and leaves them without gradient."""
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=500, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)
    for parameter in parameters:
        parameter.requires_grad_(False)


def fit_weights(scores: Tensor, targets: Tensor, sparsity: float) -> Tensor:
    """The non-negative weights A [E, E], zero above the diagonal, that minimise for each exit the cross-entropy of
    `Σ_l A_il log p_l` plus `sparsity · Σ_l A_il`: a convex problem, solved with bounds, so that zeros are exact.

    Args:
        scores: unnormalised log-probabilities [E, N, C].
        targets: [N].
    """
    from scipy.optimize import minimize

    log_probabilities = scores.double().log_softmax(-1)
    weights = torch.zeros(len(scores), len(scores))
    for index in range(len(scores)):
        visible = log_probabilities[: index + 1]

        def objective(values, visible: Tensor = visible) -> tuple[float, object]:
            row = torch.tensor(values, device=visible.device, requires_grad=True)
            loss = F.cross_entropy(torch.tensordot(row, visible, 1), targets) + sparsity * row.sum()
            (gradient,) = torch.autograd.grad(loss, row)
            return loss.item(), gradient.cpu().numpy()

        start = [1 / (index + 1)] * (index + 1)
        result = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(start))
        weights[index, : index + 1] = torch.from_numpy(result.x)
    return weights.to(scores.device)
