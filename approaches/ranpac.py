"""RanPAC: a frozen backbone, and regression on normal random features of it, with a ridge that is chosen."""

from cl_ac.approaches.acil import ACIL
from cl_ac.classifiers import analytic
from cl_ac.classifiers.classifier import Classifier


class RanPAC(ACIL):
    """Random projections with pretrained models (McDonnell et al., 2023, RanPAC), on a frozen backbone.

    The first task trains the network, nothing trains it on later ones, and the classifier of the same name answers at
    every exit. The authors train adapters in the first task; here all that is not frozen learns. Without any training,
    as their variant with no first phase: `--training.epochs 0`.

    Args:
        width: random features of each exit, see the classifier (the authors' for one exit: 10000).
        ridge: of the regression; None chooses it after each task on held-out images.
    """

    def __init__(self, width: int = 2048, ridge: float | None = None):
        super().__init__(width, ridge)

    def inference_classifier(self) -> Classifier:
        return analytic.RanPAC(self.width, self.ridge)
