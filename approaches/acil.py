"""Analytic class-incremental learning: a frozen backbone, and closed-form classifiers on random features of it."""

from cl_ac.approaches.freezing import Freezing
from cl_ac.classifiers import analytic
from cl_ac.classifiers.classifier import Classifier


class ACIL(Freezing):
    """Analytic class-incremental learning (Zhuang et al., 2022, ACIL), on a frozen backbone.

    The first task trains the network, nothing trains it on later ones, and the classifier of the same name answers at
    every exit. Published numbers begin with half of the classes (`--benchmark.first_task`).

    Args:
        width: random features of each exit, see the classifier.
        ridge: of the regression; None chooses it after each task, see the classifier.
    """

    family = "prototypes"
    memory_use = "none"
    copes_with = frozenset({"repeated classes"})

    def __init__(self, width: int = 2048, ridge: float | None = 0.1):
        super().__init__(train_heads=False)
        self.width, self.ridge = width, ridge

    def inference_classifier(self) -> Classifier:
        return analytic.ACIL(self.width, self.ridge)


class DSAL(ACIL):
    """Dual-stream analytic learning (Zhuang et al., 2024, DS-AL): as ACIL, with the classifier of the same name.

    Args:
        width: random features of each exit and stream, see the classifier.
        ridge: of both regressions.
        compensation: weight of the second stream (the authors': 0.6 for CIFAR-100, 1.5 for ImageNet).
    """

    copes_with = frozenset()

    def __init__(self, width: int = 2048, ridge: float | None = 0.1, compensation: float = 0.6):
        super().__init__(width, ridge)
        self.compensation = compensation

    def inference_classifier(self) -> Classifier:
        return analytic.DSAL(self.width, self.ridge, self.compensation)
