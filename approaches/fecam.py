"""FeCAM: a frozen backbone, and class means with a covariance of each class."""

from cl_ac.approaches.freezing import Freezing
from cl_ac.classifiers import fecam
from cl_ac.classifiers.classifier import Classifier


class FeCAM(Freezing):
    """Feature covariance-aware metric (Goswami et al., 2023): class means and covariances on a frozen backbone.

    The first task trains the network, nothing trains it on later ones, and the classifier of the same name answers at
    every exit. Published numbers begin with half of the classes (`--benchmark.first_task`).

    Args:
        tukey: exponent that features are raised to, see the classifier.
        diagonal: how much the diagonals of covariances are shrunk (γ₁).
        off_diagonal: how much the rest of them is (γ₂; 0 for transformers).
    """

    family = "prototypes"
    copes_with = frozenset()
    memory_use = "none"

    def __init__(self, tukey: float = 0.5, diagonal: float = 1.0, off_diagonal: float = 1.0):
        super().__init__(train_heads=False)
        self.tukey, self.diagonal, self.off_diagonal = tukey, diagonal, off_diagonal

    def inference_classifier(self) -> Classifier:
        return fecam.FeCAM(self.tukey, self.diagonal, self.off_diagonal)
