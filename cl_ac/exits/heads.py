"""Heads in the form that inference runs: the same answers in fewer operations.

Shapes: B batch, C classes, D features.
"""

import copy
import math
from functools import reduce, singledispatch
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_ac.data.layouts import read
from cl_ac.heads import GrowingClassifier, GrowingLinear, PooledHead

# Up to as many images, a product is as fast as the matrix can be read.
FEW_IMAGES = 4


class InferencePooledHead(nn.Module):
    """A `PooledHead` for inference: weights in the channels-last order in which convolutions give their maps.

    Of many images, maps are pooled by comparing and adding neighbouring rows, then columns, which reads whole vectors
    of channels where pooling layers go through one window at a time, and one product of both poolings reads all
    weights once. Few images are pooled by those layers, in fewer operations, and the poolings are mixed before the
    product, once for each block of classes of one mix. Where all tasks share one mix, as after one task, all are.
    """

    mix: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, head: PooledHead):
        super().__init__()
        self.pooling, self.cascade = copy.deepcopy(head.pooling), copy.deepcopy(head.cascade)
        mix, weight = head.mix.detach(), head.classifier.weight.detach()
        channels_last = weight.unflatten(1, (-1, *head.pooling.size)).permute(0, 2, 3, 1).flatten(1)  # [C, D]
        # The largest blocks of one size that hold classes of one mix each.
        block = math.gcd(len(mix), *(mix.diff().nonzero()[:, 0] + 1).tolist())
        self.blocks = len(mix) // block
        self.register_buffer("mix", mix.view(-1, block, 1))
        self.register_buffer("weight", channels_last.unflatten(0, (-1, block)).contiguous())  # [blocks, block, D]
        self.register_buffer("bias", head.classifier.bias.detach().view(-1, block, 1))
        self.eval().requires_grad_(False)

    def forward(self, hidden: Tensor, previous: Tensor | None = None) -> Tensor:
        # A program for any number of images needs the form for many.
        few = not torch.jit.is_tracing() and not torch.compiler.is_compiling() and len(hidden) <= FEW_IMAGES
        maps = self.pooling.maps(hidden) if few else self._maps(hidden)
        maximum, average = (part.permute(0, 2, 3, 1).flatten(1) for part in maps)
        if few or self.blocks == 1:
            mixed = torch.lerp(average, maximum, self.mix[:, :1])  # [blocks, B, D]
            logits = torch.baddbmm(self.bias, self.weight, mixed.mT).permute(2, 0, 1).flatten(1)
        else:
            products = F.linear(torch.stack([average, maximum]), self.weight.flatten(0, 1), self.bias.flatten())
            logits = torch.lerp(products[0], products[1], self.mix.flatten())
        return logits if self.cascade is None else logits + self.cascade(previous)

    def _maps(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """As `Pooling.maps`, for many images."""
        pooling, factor = self.pooling, self.pooling.factor
        if pooling.keeps or not pooling.divides:
            return pooling.maps(hidden)
        rows = read(hidden, pooling.layout).unflatten(2, (-1, factor)).unbind(3)
        maximum = reduce(torch.maximum, rows).unflatten(3, (-1, factor)).unbind(4)
        total = reduce(torch.add, rows).unflatten(3, (-1, factor)).unbind(4)
        return reduce(torch.maximum, maximum), reduce(torch.add, total) / factor**2


@singledispatch
def inference_classifier(classifier: GrowingClassifier) -> nn.Module:
    """The same function of features with the weights of this moment, which learns and grows no more."""
    return copy.deepcopy(classifier).eval().requires_grad_(False)


@inference_classifier.register
def _(classifier: GrowingLinear) -> nn.Module:
    classes, features = classifier.weight.shape
    linear = nn.Linear(features, classes, device="meta")
    linear.weight, linear.bias = (nn.Parameter(value.detach(), False) for value in (classifier.weight, classifier.bias))
    return linear.eval()


@singledispatch
def inference_head(head: nn.Module) -> nn.Module:
    """The same function of a stage's output (and of the previous AC's logits) with the weights of this moment."""
    fixed = copy.deepcopy(head).eval().requires_grad_(False)
    fixed.classifier = inference_classifier(cast(GrowingClassifier, head.classifier))
    return fixed


@inference_head.register
def _(head: PooledHead) -> nn.Module:
    return InferencePooledHead(head)
