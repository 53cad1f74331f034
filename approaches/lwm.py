"""LwM: the regions that the previous network looked at stay the ones that matter."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_ac.approach import Approach, Batch, ExitNetwork
from cl_ac.data.layouts import AXES, Layout, read
from cl_ac.errors import ConfigurationError
from cl_ac.losses import attention_distance, cross_entropy, global_distillation
from cl_ac.teacher import Teacher, TeacherStatistics


class LwM(Approach):
    """Learning without memorizing (Dhar et al., 2019): LwF with a distance between attention maps.

    The map of an exit is Grad-CAM (Selvaraju et al., 2017) of the class that the previous network's exit finds most
    probable, on the last feature map up to the exit. It depends on the student's weights twice, through the features
    and through the gradient. (FACIL's maps are cut off from the weights, so that its LwM is LwF; and each of its
    networks explains its own most probable class.)

    Args:
        strength: weight of the distillation term (β); neither weight is given in the paper, and FACIL takes 1.
        attention: weight of the distance between attention maps (γ).
        temperature: softmax temperature of teacher and student.
        teacher_bn: the statistics of the teacher's batch norm; `batch` is teacher adaptation.
    """

    family = "distillation"
    copes_with = frozenset({"repeated classes"})

    def __init__(
        self,
        strength: float = 1.0,
        attention: float = 1.0,
        temperature: float = 2.0,
        teacher_bn: TeacherStatistics = "frozen",
    ):
        super().__init__()
        self.strength, self.attention, self.temperature = strength, attention, temperature
        self.teacher = Teacher(teacher_bn)

    def begin_task(self, task, network, trainer) -> None:
        if any(last_map(network, index) is None for index in range(len(network))):
            raise ConfigurationError(
                "LwM distils attention over feature maps, but no stage of the backbone "
                f"{type(network.backbone).__name__} up to the first exit gives any; choose a convolutional one"
            )
        self.teacher.begin_task(task, trainer)

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        task = batch.task
        if task.is_first:
            return cross_entropy(network(batch.images), batch.targets, task.classes)
        old_logits, old_maps = self.teacher(batch.images, explained)
        logits, maps = explain(network, batch.images, old_logits.argmax(-1))
        loss = cross_entropy(logits, batch.targets, self.trained_classes(task))
        loss = loss + self.strength * global_distillation(logits, old_logits, self.temperature)
        return loss + self.attention * attention_distance(maps, old_maps)

    def end_task(self, task, network, trainer) -> None:
        self.teacher.update(network)


@torch.enable_grad()
def explained(teacher: ExitNetwork, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The logits of a network none of whose weights learns, and the maps of its most probable classes."""
    logits, maps = explain(teacher, images.detach().requires_grad_(), None)
    return logits.detach(), [value.detach() for value in maps]


def explain(network: ExitNetwork, images: Tensor, classes: Tensor | None) -> tuple[Tensor, list[Tensor]]:
    """Logits [E, B, C], and each exit's Grad-CAM of `classes` [E, B], by default of the most probable: E × [B, H, W].

    A map is the rectified sum over channels of the features, each channel weighted by the mean gradient of the class's
    logit.
    """
    if network.backbone.frozen_stages:
        # What comes out of frozen stages is explained too.
        images = images.detach().requires_grad_()
    outputs = network.stage_outputs(images)
    hidden = network.at_exits(outputs)
    if network.exits.detach:
        hidden = [value.requires_grad_() for value in hidden]
    logits, maps = network.classify(hidden), []
    chosen = logits.gather(-1, (logits.argmax(-1) if classes is None else classes)[..., None]).sum((1, 2))
    for index, (score, (_, end)) in enumerate(zip(chosen, network.bounds, strict=True)):
        stage = cast(int, last_map(network, index))
        features = hidden[index] if stage == end - 1 else outputs[stage]
        # An exit that only reads the backbone may leave no path to a map below it.
        (gradient,) = torch.autograd.grad(score, features, create_graph=True, materialize_grads=True)
        features, gradient = (
            read(value, cast(Layout, network.stage_layouts[stage])).float() for value in (features, gradient)
        )
        maps.append(F.relu((gradient.mean((2, 3), keepdim=True) * features).sum(1)))
    return logits, maps


def last_map(network: ExitNetwork, index: int) -> int | None:
    """The last stage up to the exit at `index` whose output is a feature map; None if there is none."""
    layouts = network.stage_layouts[: network.bounds[index][1]]
    return max((stage for stage, layout in enumerate(layouts) if layout and AXES[layout] == 3), default=None)
