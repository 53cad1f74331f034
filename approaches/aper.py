"""APER: the first task adapts a pretrained network, and class means of old and adapted features answer from then on."""

from typing import Literal, get_args

from torch import Tensor

from cl_ac.approach import Approach, Batch, ExitNetwork, Task, TrainingSet
from cl_ac.backbones.branching import make_branching
from cl_ac.classifiers.classifier import Classifier
from cl_ac.classifiers.nearest_mean import NearestMean
from cl_ac.data.copying import seen_again
from cl_ac.errors import ConfigurationError, unknown
from cl_ac.heads import GrowingCosine
from cl_ac.losses import cross_entropy
from cl_ac.teacher import Teacher
from cl_ac.tuning.adapters import add_adapters
from cl_ac.tuning.bank import draw
from cl_ac.tuning.merging import switch_off
from cl_ac.tuning.prompted import add_prompts, promptable
from cl_ac.tuning.prompts import VisualPrompts
from cl_ac.tuning.scale_shift import add_scale_shift
from cl_ac.tuning.side_by_side import side_by_side

Tuning = Literal["finetune", "adapter", "ssf", "prompt_shallow", "prompt_deep"]


class APER(Approach):
    """Adapt and merge (Zhou et al., 2024, APER), for a pretrained backbone.

    The first task trains the cross-entropy of cosine heads, by all weights or by what `tuning` puts into the frozen
    backbone, and nothing learns afterwards. At every exit the features of the backbone as it came and as the first task
    left it are joined, and the class whose mean of joint features has the largest cosine is the answer. The branch with
    longer features counts more, as in the paper. Everything depends on the classes of the first task: repeat it with
    other orders of classes.

    Two passes answer.

    Args:
        tuning: `finetune`; `adapter`, beside each feed-forward network, or beside each larger convolution of a backbone
            without any; `ssf`, scale and shift of the outputs of all layers; or prompts, tokens that a transformer with
            a class token reads beside an image: `prompt_shallow`, those of the first block in all, or `prompt_deep`.
        width: of adapters.
        scale: factor on what adapters add.
        dropout: share of an adapter's narrow values that training zeroes.
        length: tokens of a prompt.
    """

    family = "tuning"
    memory_use = "none"

    def __init__(
        self, tuning: Tuning = "adapter", width: int = 64, scale: float = 0.1, dropout: float = 0.1, length: int = 5
    ):
        super().__init__()
        if tuning not in get_args(Tuning):
            raise ConfigurationError(unknown("approach.tuning", tuning, get_args(Tuning)))
        self.tuning, self.width, self.scale, self.dropout, self.length = tuning, width, scale, dropout, length
        self.pretrained = Teacher()

    def build_classifier(self, in_features: int) -> GrowingCosine:
        return GrowingCosine(in_features)

    def inference_classifier(self) -> Classifier:
        return NearestMean(normalise=False)

    def prepare(self, backbone) -> None:
        if self.tuning in ("prompt_shallow", "prompt_deep"):
            found = promptable(backbone, f"APER.tuning {self.tuning}")
            deep = self.tuning == "prompt_deep"
            add_prompts(backbone, VisualPrompts(len(found.blocks), self.length, found.width, deep), found)
        elif self.tuning != "finetune":
            backbone.freeze("all")
        make_branching(backbone)
        if self.tuning == "adapter":
            add_adapters(backbone, self.width, self.scale, self.dropout)
        elif self.tuning == "ssf":
            add_scale_shift(backbone)

    def begin_task(self, task, network, trainer) -> None:
        if not task.is_first:
            network.backbone.requires_grad_(False)
        elif self.tuning == "finetune":
            self.pretrained.update(network)
        else:
            draw(network, lambda index: trainer.generator("adapters", index))

    def training_set(self, task: Task) -> TrainingSet | None:
        return TrainingSet(task.train, task) if task.is_first else None

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        return cross_entropy(network(batch.images), batch.targets)

    def inference_network(self, network: ExitNetwork) -> ExitNetwork:
        pretrained = self.pretrained.network
        before, adapted = seen_again(network if pretrained is None else pretrained), seen_again(network)
        switch_off(before)
        return side_by_side([before, adapted])
