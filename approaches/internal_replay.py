"""Internal replay: what a generator draws are features, which enter the network above stages that are frozen."""

from cl_ac.approach import ExitNetwork
from cl_ac.approaches.generative_replay import GenerativeReplay, Labels
from cl_ac.errors import ConfigurationError, unknown
from cl_ac.network import Backbone

IMAGES = "images"


class InternalReplay(GenerativeReplay):
    """Generative replay of features that enter after one stage of the network (van de Ven et al., 2020).

    Stages below learn the first task and are then frozen, so that features keep their meaning; samples run neither
    forward nor backward through them. An AC below the place where samples enter gets nothing of the replay: it goes on
    with the new classes alone, as in fine-tuning. One at that very stage, or above, learns from the samples.

    Args:
        at: the stage whose output is replayed, or `images`. None is the last stage that `backbone.frozen` freezes, and
            the first stage if there is none.
        freeze: whether the stages up to `at` learn no more after the first task.
        labels: what samples teach, as of `GenerativeReplay`.
    """

    def __init__(self, at: str | None = None, freeze: bool = True, labels: Labels = "distilled", **replaying):
        super().__init__(labels=labels, **replaying)
        self.at, self.freeze = at, freeze

    def places(self, backbone: Backbone) -> list[int]:
        if self.at is None:
            return [max(backbone.frozen_stages, 1)]
        return [self.place(self.at, "at", backbone)]

    def place(self, stage: str, option: str, backbone: Backbone) -> int:
        """After how many stages the output of `stage` is there.

        Raises:
            ConfigurationError: if there is no such stage, or a frozen one above it.
        """
        names = [IMAGES, *backbone.stage_names]
        if stage not in names:
            raise ConfigurationError(unknown(f"stage in {type(self).__name__}.{option}", stage, names))
        return names.index(stage)

    def prepare(self, backbone: Backbone) -> None:
        self.places(backbone)

    def begin_task(self, task, network, trainer) -> None:
        super().begin_task(task, network, trainer)
        if not task.is_first:
            self.freeze_stages(network.backbone)

    def freeze_stages(self, backbone: Backbone) -> None:
        """Freezes what is below all samples, if it is to be."""
        first = self.places(backbone)[0]
        if self.freeze and first:
            backbone.freeze(backbone.stage_names[first - 1])

    def restore(self, state, network: ExitNetwork) -> None:
        super().restore(state, network)
        if len(network.sizes) > 1:
            self.freeze_stages(network.backbone)
