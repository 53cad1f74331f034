"""What arrives with a task, out of all samples."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from cl_ac.data.samples import Samples
from cl_ac.streams.stream import Arrival


def order_of_arrival(arrivals: Sequence[Arrival], targets: Tensor) -> tuple[list[int], list[int]]:
    """The classes in the order in which they are first seen, and how many of them are new with each arrival."""
    order: list[int] = []
    sizes = []
    for arrival in arrivals:
        labels = targets[arrival.train] if arrival.labels is None else arrival.labels
        seen = set(order)
        order += (new := [label for label in labels.unique().tolist() if label not in seen])
        sizes.append(len(new))
    return order, sizes


def arrived(arrival: Arrival, train: Samples, order: Sequence[int]) -> Samples:
    """The training samples that arrive, labelled as the stream says; their true classes go with them if it says so."""
    samples = _without_domain(train.select(arrival.train))
    if arrival.labels is None:
        return samples
    places = {label: place for place, label in enumerate(order)}
    labels = torch.tensor([places[label] for label in arrival.labels.tolist()], dtype=torch.int64)
    return Samples(samples.images, labels, {**samples.extras, "true_targets": samples.targets})


def beside(samples: Samples, classes: slice, arrival: Arrival) -> Samples:
    """The test or held-out samples of `classes`, of the arrival's domain where both have one."""
    inside = (samples.targets >= classes.start) & (samples.targets < classes.stop)
    if arrival.domain is not None and "domain" in samples.extras:
        inside &= samples.extras["domain"] == arrival.domain
    return _without_domain(samples.select(inside))


def _without_domain(samples: Samples) -> Samples:
    return replace(samples, extras={name: value for name, value in samples.extras.items() if name != "domain"})
