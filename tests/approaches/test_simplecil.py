"""SimpleCIL: cosines with means of features, of a network that nothing trains."""

import torch
import torch.nn.functional as F

from cl_ac.approaches.finetuning import FineTuning
from cl_ac.approaches.simplecil import SimpleCIL
from cl_ac.classifiers.nearest_mean import NearestMean
from cl_ac.recording.checkpoint import Checkpoint
from cl_ac.training import Training


def test_means_are_of_features_as_they_are():
    rows, targets = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
    for normalise, mean in ((False, [2 / 5**0.5, 1 / 5**0.5]), (True, [0.5**0.5, 0.5**0.5])):
        classifier = NearestMean(normalise=normalise)
        classifier.set_means([([rows], targets)], 1)
        torch.testing.assert_close(classifier.means_0, torch.tensor([mean]))
        query = torch.tensor([[3.0, -1.0]])
        expected = F.cosine_similarity(query, torch.tensor([mean]))[:, None] / classifier.temperature
        torch.testing.assert_close(classifier.score(0, query), expected)


def test_no_task_trains_and_the_answers_are_those_of_its_classifier(toy_run):
    directory = toy_run(SimpleCIL(), "method", "sdn")
    assert Checkpoint.load(directory.checkpoint_path).steps == 0
    parts = toy_run(
        FineTuning(), "parts", "sdn", classifier=NearestMean(normalise=False), training=Training(epochs=0, batch_size=8)
    )
    assert torch.equal(directory.outputs(2).logits, parts.outputs(2).logits)
