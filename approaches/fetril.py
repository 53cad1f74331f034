"""FeTrIL: a frozen backbone, and features of old classes made from those of new ones."""

from cl_ac.approaches.freezing import Freezing
from cl_ac.classifiers.classifier import Classifier
from cl_ac.classifiers.fetril import FeTrIL as PseudoFeatures
from cl_ac.classifiers.fetril import Separation


class FeTrIL(Freezing):
    """Feature translation for exemplar-free learning (Petit et al., 2023), on a frozen backbone.

    The first task trains the network, nothing trains it on later ones, and the classifier of the same name answers at
    every exit. Published numbers begin with half of the classes (`--benchmark.first_task`) and strong augmentation.

    Args:
        loss: of the classifier, see there.
        strength: of the loss against the length of the classifier's weights.
    """

    family = "prototypes"
    copes_with = frozenset()
    memory_use = "none"

    def __init__(self, loss: Separation = "hinge", strength: float = 1.0):
        super().__init__(train_heads=False)
        self.separation, self.strength = loss, strength

    def inference_classifier(self) -> Classifier:
        return PseudoFeatures(self.separation, self.strength)
