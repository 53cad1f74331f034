"""SimpleCIL: nothing is trained, class means of a network's features answer."""

from cl_ac.approach import Approach, Task, TrainingSet
from cl_ac.classifiers.classifier import Classifier
from cl_ac.classifiers.nearest_mean import NearestMean


class SimpleCIL(Approach):
    """The class whose mean of features has the largest cosine, of a network as it came (Zhou et al., 2023, SimpleCIL).

    No task trains anything, so take a pretrained backbone (`--backbone.weights true`). It equals `--classifier
    NearestMean --classifier.normalise false`, which goes with any approach: one that trains the first task, too.
    """

    family = "prototypes"
    memory_use = "none"
    trains_heads = False

    def training_set(self, task: Task) -> TrainingSet | None:
        return None

    def inference_classifier(self) -> Classifier:
        return NearestMean(normalise=False)
