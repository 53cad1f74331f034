"""Multi-layer latent prototypes (Chrabąszcz et al., 2026, MLPM): texts are judged by all layers of a language model.

Shapes: L layers, N texts, D features, S sources, C labels, of which one is safe; F = L · S · (C − 1).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from cl_ac.classifiers.latent_prototypes import clusters
from cl_ac.data.seeding import generator
from cl_ac.errors import ConfigurationError, DataError
from cl_ac.moderation.encoder import Encoder
from cl_ac.moderation.prototypes import LayerPrototypes, LayerStatistics, Scale

Aggregation = Literal["learned", "uniform", "last"]


@dataclass(frozen=True)
class Settings:
    """How a moderator is fitted.

    Args:
        scale: of posteriors, see `LayerPrototypes`.
        prototypes: of each label (and source).
        aggregation: how layers are put together: `learned`, by a logistic regression with an L1 penalty, which leaves
            most of them out; `uniform`, their mean; `last`, the last layer alone.
        strength: C of scikit-learn's logistic regression: less of it uses fewer layers.
        held_out: share of each label that the logistic regression is fitted on and, until then, no prototype; 0 fits
            both on all texts, as the published method does.
        balanced: whether safe and unsafe texts count alike in the logistic regression, however many there are; prior
            probabilities of prototypes are equal in any case.
    """

    scale: Scale = "bayes"
    prototypes: int = 1
    aggregation: Aggregation = "learned"
    strength: float = 1.0
    held_out: float = 0.2
    balanced: bool = False

    def __post_init__(self) -> None:
        if self.prototypes < 1:
            raise ConfigurationError(f"prototypes is {self.prototypes}; it must be at least 1")
        if self.strength <= 0:
            raise ConfigurationError(f"strength is {self.strength:g}; it must be above 0")
        if not 0 <= self.held_out < 1:
            raise ConfigurationError(f"held_out is {self.held_out:g}; it must be from 0 to below 1")


@dataclass(frozen=True)
class Verdict:
    """What a moderator says of a text.

    Args:
        score: how probably it is unsafe.
        label: the most probable label.
        distance: how far it is from everything known, about 1 for texts like those; mean over the layers that count.
        layer: the number of layers that were run.
    """

    score: float
    label: str
    distance: float | None
    layer: int


@dataclass(frozen=True)
class Moderator:
    """Prototypes at every layer, and how much each posterior counts.

    Args:
        settings: how it was fitted.
        labels: names; the first one is safe.
        sources: names of where texts come from; one where nobody tells them apart.
        layers: names of the layers.
        statistics: of the prototypes, which stand in order of source, label and number.
        weights: of posteriors of unsafe labels [F].
        bias: of the logistic regression.
    """

    settings: Settings
    labels: Sequence[str]
    sources: Sequence[str]
    layers: Sequence[str]
    statistics: LayerStatistics
    weights: Tensor
    bias: float
    prototypes: LayerPrototypes = field(init=False)

    def __post_init__(self) -> None:
        owners = torch.arange(len(self.sources) * len(self.labels)).repeat_interleave(self.settings.prototypes)
        sources, labels = owners // len(self.labels), owners % len(self.labels)
        found = LayerPrototypes(self.statistics, sources, labels, self.settings.scale)
        object.__setattr__(self, "prototypes", found)

    def features(self, posteriors: Tensor) -> Tensor:
        """Posteriors of unsafe labels [N, F] of `log_posteriors` [L, N, S, C]."""
        return posteriors.exp()[..., 1:].transpose(0, 1).flatten(1)

    def scores(self, posteriors: Tensor) -> Tensor:
        """How probably texts are unsafe [N], of log-posteriors [L, N, S, C]."""
        values = self.features(posteriors)
        if self.settings.aggregation == "learned":
            return (values @ self.weights + self.bias).sigmoid()
        return (values @ self.weights).clamp(0, 1)

    @property
    def shares(self) -> Tensor:
        """How much each layer counts [L]; they sum to 1."""
        sizes = self.weights.abs().view(len(self.layers), -1).sum(1)
        return sizes / sizes.sum() if sizes.sum() > 0 else torch.full_like(sizes, 1 / len(sizes))

    @property
    def chosen(self) -> dict[str, float]:
        """The layers that count, with their shares."""
        pairs = zip(self.layers, self.shares.tolist(), strict=True)
        return {layer: share for layer, share in pairs if share > 0}

    def judge(self, features: Tensor) -> list[Verdict]:
        """Verdicts on texts with `features` [L, N, D]."""
        posteriors = self.prototypes.log_posteriors(features)
        scores = self.scores(posteriors).tolist()
        shares = self.shares
        labels = self._labels(torch.tensordot(shares, posteriors.exp().mean(2), 1), scores)
        counted = (shares > 0).nonzero()[:, 0]
        distances = torch.tensordot(shares[counted], self.prototypes.distances(features)[counted], 1).tolist()
        rows = zip(scores, labels, distances, strict=True)
        return [Verdict(score, label, distance, len(self.layers)) for score, label, distance in rows]

    def _labels(self, probabilities: Tensor, scores: Sequence[float]) -> list[str]:
        """The name of the most probable label of each text: the safe one where its score is below 1/2."""
        unsafe = (probabilities[:, 1:].argmax(1) + 1).tolist()
        return [self.labels[place if score >= 0.5 else 0] for place, score in zip(unsafe, scores, strict=True)]

    def __call__(self, encoder: Encoder, texts: Sequence[str], sure: float | None = None) -> list[Verdict]:
        """Verdicts on texts.

        Args:
            sure: a text is read no deeper than the first layer whose own posterior of safe, or of unsafe, reaches it;
                None runs all layers. That needs no training, and posteriors of unit scale: others are tempered.
        Raises:
            ConfigurationError: as of `check_sure`.
            DataError: for an empty text.
        """
        self.check_sure(sure)
        if not len(texts):
            return []
        if sure is None:
            return self.judge(encoder(texts))
        known = torch.zeros(len(self.layers), len(texts), len(self.sources), len(self.labels), dtype=torch.float64)
        scores = torch.zeros(len(texts), dtype=torch.float64)
        depths = torch.full((len(texts),), len(self.layers))

        def leave(layer: int, places: Tensor, features: Tensor) -> Tensor:
            posteriors = self.prototypes.log_posteriors(features.float().cpu()[None], slice(layer, layer + 1))[0]
            known[layer, places] = posteriors
            unsafe = 1 - posteriors[:, :, 0].exp().mean(1)
            is_last = layer + 1 == len(self.layers)
            leaves = (unsafe - 0.5).abs() + 0.5 >= sure
            scores[places] = self.scores(known[:, places]) if is_last else unsafe
            depths[places] = layer + 1
            return torch.ones_like(leaves) if is_last else leaves

        encoder.walk(texts, leave)
        here = known[depths - 1, torch.arange(len(texts))].exp().mean(1)
        labels = self._labels(here, scores.tolist())
        rows = zip(scores.tolist(), labels, depths.tolist(), strict=True)
        return [Verdict(score, label, None, depth) for score, label, depth in rows]

    def check_sure(self, sure: float | None) -> None:
        """Says before any text is read whether it may leave early.

        Raises:
            ConfigurationError: if `sure` is out of range, or the posteriors of this moderator are tempered.
        """
        if sure is None:
            return
        if not 0.5 < sure <= 1:
            raise ConfigurationError(f"sure is {sure:g}; it must be above 0.5 and at most 1")
        if self.settings.scale != "unit":
            raise ConfigurationError("sure needs posteriors of unit scale; fit with --scale unit")

    def merge(self, other: "Moderator") -> "Moderator":
        """A moderator with the prototypes of both, as if all texts had been known at once, that weighs layers as this
        one does.

        Raises:
            ConfigurationError: if their labels, sources, layers or scale are not the same.
        """
        for name in ("labels", "sources", "layers"):
            if list(getattr(self, name)) != list(getattr(other, name)):
                raise ConfigurationError(f"moderators whose {name} differ cannot be merged")
        if (self.settings.scale, self.settings.prototypes) != (other.settings.scale, 1):
            raise ConfigurationError("moderators are merged if they have one scale, and one prototype of each label")
        return replace(self, statistics=self.statistics.merge(other.statistics))


def fit(
    features: Tensor,
    labels: Sequence[str],
    safe: str,
    layers: Sequence[str],
    settings: Settings = Settings(),
    sources: Sequence[str] | None = None,
    seed: int = 0,
) -> Moderator:
    """Fits a moderator.

    Args:
        features: of the texts at each layer [L, N, D].
        labels: of each text; all but `safe` are unsafe.
        safe: the name of the safe label.
        layers: their names.
        sources: of each text; None tells none apart.
        seed: of what is held out.
    Raises:
        DataError: if a label is missing, or has too few texts.
    """
    names = [safe, *sorted(set(labels) - {safe})]
    if safe not in labels or len(names) < 2:
        there = ", ".join(sorted(set(labels)))
        raise DataError(f"there must be texts with the label '{safe}', and with others; there are: {there}")
    places = sorted(set(sources)) if sources is not None else ["all"]
    label = torch.tensor([names.index(each) for each in labels])
    source = torch.tensor([places.index(each) for each in sources]) if sources is not None else torch.zeros_like(label)
    groups = source * len(names) + label
    missing = torch.bincount(groups, minlength=len(places) * len(names)).view(len(places), -1)
    if (missing[:, 0] == 0).any() or (missing[:, 1:].sum(1) == 0).any():
        raise DataError("each source needs texts that are safe and texts that are not")
    several = settings.prototypes > 1
    belongs = clusters(features[-1].double(), groups, settings.prototypes) if several else groups
    count = len(places) * len(names) * settings.prototypes
    away = (
        _held_out(groups, settings.held_out, seed) if settings.aggregation == "learned" else torch.zeros_like(label) > 0
    )
    width = len(layers) * len(places) * (len(names) - 1)
    weights = torch.zeros(len(layers), width // len(layers), dtype=torch.float64)
    weights[-1] = 1 / len(places)
    if settings.aggregation != "last":
        weights[:] = 1 / (len(places) * len(layers))
    kept = LayerStatistics.of(features[:, ~away], belongs[~away], count)
    found = Moderator(settings, names, places, layers, kept, weights.flatten(), 0.0)
    if settings.aggregation == "learned":
        judged = away if away.any() else ~away
        values = found.features(found.prototypes.log_posteriors(features[:, judged]))
        weight, bias = _regression(values, label[judged] > 0, settings, seed)
        found = replace(found, weights=weight, bias=bias)
    if away.any():
        found = replace(found, statistics=kept.merge(LayerStatistics.of(features[:, away], belongs[away], count)))
    return found


def _held_out(groups: Tensor, share: float, seed: int) -> Tensor:
    """Which texts are held out [N]: a share of each group, never all of it."""
    found = torch.zeros(len(groups), dtype=torch.bool)
    for group in groups.unique().tolist():
        members = (groups == group).nonzero()[:, 0]
        order = torch.randperm(len(members), generator=generator(seed, "held-out texts", group))
        found[members[order[: min(round(share * len(members)), len(members) - 1)]]] = True
    return found


def _regression(values: Tensor, unsafe: Tensor, settings: Settings, seed: int) -> tuple[Tensor, float]:
    """Weights [F] and bias of a logistic regression with an L1 penalty."""
    from sklearn.linear_model import LogisticRegression

    if len(unsafe.unique()) < 2:
        raise DataError("the texts that are held out are all safe or all unsafe; give more, or set held_out to 0")
    model = LogisticRegression(
        l1_ratio=1.0,
        C=settings.strength,
        solver="liblinear",
        class_weight="balanced" if settings.balanced else None,
        random_state=seed,
        max_iter=1000,
    )
    model.fit(values.numpy(), unsafe.numpy())
    return torch.from_numpy(model.coef_[0].copy()).double(), float(model.intercept_[0])
