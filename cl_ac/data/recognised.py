"""Images that are recognised when they come again, so that what never changes is computed once for each."""

import hashlib
import math
import weakref
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map_only

from cl_ac.data.rows import Room, Table
from cl_ac.data.samples import ImageFiles, ImageParts, Images
from cl_ac.data.seeding import generator

# Of one network; a network whose frozen stages change more often is none of which anything should be kept.
MOST_STATES = 8

# Of a batch that is only answered, on a CPU: maps of more are memory that the system hands out anew for each layer.
# EfficientNet-Lite0 at 96 × 96, one thread of an EPYC, November 2026: 4.2 ms an image in batches of 16, 10.8 ms of 256.
PIXELS_ON_CPU = 2**18


class Recall:
    """What functions of images gave, by the state of what computes them.

    Args:
        room: where it is kept.
        pixels: at most so many are computed at once; None for all that are asked for.
    """

    def __init__(self, room: Room, pixels: int | None = None):
        self.room, self.pixels = room, pixels
        self.tables: dict[Hashable, Table] = {}
        self._states: list[tuple[list[tuple[weakref.ref, int]], str]] = []

    def knows(self, keys: Sequence[Hashable]) -> bool:
        """Whether all these images have been seen."""
        return any(all(key in table.index for key in keys) for table in self.tables.values())

    def __call__(
        self, images: "Recognised", state: Sequence[Tensor], what: Hashable, compute: Callable[[Tensor], list[Tensor]]
    ) -> list[Tensor]:
        """What `compute` makes of images: tensors [B, ...].

        Args:
            state: all that it depends on beside the images.
            what: tells one function of the same state from another.
        """
        device = images.device.type
        precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        kind = (self._name(state), what, precision, images.kind)
        if kind not in self.tables:
            if len(self.tables) == MOST_STATES:
                return compute(images.pixels)
            self.tables[kind] = Table(self.room)
        table = self.tables[kind]
        missing = [place for place, key in enumerate(images.keys) if key not in table.index]
        if len(missing) == 1:
            # For a batch of one image, libraries choose other algorithms, whose sums differ in the last bit.
            missing = sorted({missing[0], 0, min(1, len(images) - 1)})
        if missing:
            seen = images.pixels if len(missing) == len(images) else images.pixels[missing]
            table.add([images.keys[place] for place in missing], self._computed(compute, seen))
        return table.read(images.keys, images.device)

    def _computed(self, compute: Callable[[Tensor], list[Tensor]], images: Tensor) -> list[Tensor]:
        """What `compute` makes of images [B, ...], a part at a time, none of which is a single image unless B is 1."""
        size = len(images) if self.pixels is None or images.ndim < 4 else at_once(images.shape[-2:], self.pixels)
        parts = [compute(part) for part in images.tensor_split(-(-len(images) // size))]
        return parts[0] if len(parts) == 1 else [torch.cat(values) for values in zip(*parts, strict=True)]

    def _name(self, state: Sequence[Tensor]) -> str:
        """The digest of `state`; computed again for other tensors, and for the same when they were written to."""
        for references, name in self._states:
            if len(references) == len(state) and all(
                reference() is tensor and version == tensor._version
                for (reference, version), tensor in zip(references, state, strict=True)
            ):
                return name
        digest = hashlib.blake2b(digest_size=16)
        for tensor in state:
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        references = [(weakref.ref(tensor), tensor._version) for tensor in state]
        self._states = [*self._states[1 - MOST_STATES :], (references, digest.hexdigest())]
        return digest.hexdigest()


def at_once(side: Sequence[int], pixels: int) -> int:
    """How many images of the height and width in `side` are at most `pixels`, but no fewer than 8."""
    return max(8, pixels // math.prod(side))


class Recognised(Tensor):
    """Images [B, channels, height, width] that a network may know already.

    They are a tensor like any other, made when something asks for their pixels.

    Args:
        shape: of the images.
        recall: what is known.
        kind: how they were made.
        keys: one for each image.
        make: makes them.
    """

    recall: Recall
    kind: Hashable
    keys: list[Hashable]
    make: Callable[[], Tensor]
    made: Tensor | None

    # Operations arrive at `__torch_dispatch__` only.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, shape, device, recall, kind, keys, make):
        images = Tensor._make_wrapper_subclass(cls, shape, dtype=torch.float32, device=device)
        images.recall, images.kind, images.keys, images.make, images.made = recall, kind, keys, make, None
        return images

    def __init__(self, *_: Any):
        pass

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Recognised({self.pixels})"

    @property
    def pixels(self) -> Tensor:
        """The images as a plain tensor."""
        if self.made is None:
            self.made = self.make()
        return self.made

    @property
    def unchanged(self) -> bool:
        """Whether nobody has written into the images."""
        return self._version == 0

    @classmethod
    def __torch_dispatch__(cls, function, types, arguments=(), options=None):
        if function is torch.ops.aten.cat.default and arguments[1:] in ((), (0,)):
            parts = arguments[0]
            if all(isinstance(part, cls) and part.unchanged and part.kind == parts[0].kind for part in parts):
                return joined(parts)
        plain, named = (tree_map_only(cls, lambda each: each.pixels, value) for value in (arguments, options or {}))
        return function(*plain, **named)


def joined(parts: Sequence[Recognised]) -> Recognised:
    """Several batches as one."""
    keys = [key for part in parts for key in part.keys]
    first, recall = parts[0], parts[0].recall
    shape = (len(keys), *first.shape[1:])
    return Recognised(shape, first.device, recall, first.kind, keys, lambda: torch.cat([each.pixels for each in parts]))


def image_keys(images: Images) -> list[Hashable] | None:
    """What each image is recognised by: its file, or its bytes; None if neither is at hand."""
    if isinstance(images, ImageFiles):
        return [(str(path), images.size) for path in images.paths]
    if isinstance(images, ImageParts):
        parts = [image_keys(part) for part in images.parts]
        return None if None in parts else [key for part in parts for key in part or ()]
    return content_keys(images) if isinstance(images, Tensor) else None


def content_keys(images: Tensor) -> list[Hashable]:
    """Two numbers of 64 bits for each image [N, ...] of bytes: sums of its words, each times a random odd number.

    Of a million images, two different ones have the same numbers with a probability below 10⁻⁶, whatever they show.
    """
    shape = tuple(images.shape[1:])
    keys: list[Hashable] = []
    for part in images.split(256):
        flat = part.flatten(1)
        words = F.pad(flat, (0, -flat.shape[1] % 4)).contiguous().view(torch.int32).long()
        factors = _factors(words.shape[1], words.device)
        sums = torch.stack([(words * factor).sum(1) for factor in factors], 1)
        keys += [(shape, *numbers) for numbers in sums.tolist()]
    return keys


@lru_cache(maxsize=8)
def _factors(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    streams = (generator(0, "image keys", number) for number in (0, 1))
    first, second = (torch.randint(-(2**63), 2**63 - 1, (count,), generator=each) | 1 for each in streams)
    return first.to(device), second.to(device)
