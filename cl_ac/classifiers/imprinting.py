"""Imprinting: the rows of new classes start at what the network already makes of them (Qi et al., 2018)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_ac.data.tasks import Task
from cl_ac.heads import GrowingCosine
from cl_ac.network import ExitNetwork
from cl_ac.training import Trainer


def imprint(task: Task, network: ExitNetwork, trainer: Trainer) -> None:
    """Sets the newest rows of every exit's cosine classifier by the features of `task`, taken without augmentation.

    With one row per class it is the mean of the L2-normalised features, normalised again (Hou et al., 2019, LUCIR);
    with several, the centres that k-means finds among them (Douillard et al., 2020, PODNet). Both get the mean length
    of the old rows.
    """
    classifiers: list[GrowingCosine] = [head.classifier for head in network.heads]
    rows: list[list[Tensor]] = [[] for _ in classifiers]
    # One class at a time: the features of a whole task may not fit in memory.
    for target in range(task.classes.start, task.classes.stop):
        members = (task.train.targets == target).nonzero()[:, 0]
        samples = task.train.without_extras().select(members)
        for classifier, features, found in zip(classifiers, trainer.features(network, samples), rows, strict=True):
            found.append(centres(F.normalize(features), classifier.proxies, trainer.seed))
    for classifier, found in zip(classifiers, rows, strict=True):
        classifier.imprint(torch.cat(found).to(classifier.new_weight))


def centres(features: Tensor, count: int, seed: int) -> Tensor:
    """What stands for features [N, D] of length 1: their direction, or `count` centres of k-means [count, D]."""
    if count == 1:
        return F.normalize(features.mean(0, keepdim=True))
    # Imported here: it takes a second, and only several proxies per class need it.
    from sklearn.cluster import KMeans

    distinct = min(count, len(features.unique(dim=0)))
    found = KMeans(distinct, n_init=10, random_state=seed % 2**32).fit(features.numpy()).cluster_centers_
    # A class of fewer distinct images than proxies uses its centres more than once.
    return torch.from_numpy(found)[torch.arange(count) % distinct]
