"""A language model that reads texts, and what each of its layers makes of them.

Shapes: L layers, N texts, D features.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from cl_ac.backbones.hugging_face import HuggingFaceModel
from cl_ac.data.layouts import read
from cl_ac.data.texts import padded
from cl_ac.data.tokenizing import tokenised, tokenizer
from cl_ac.errors import ConfigurationError, DataError

# Texts of like length are read together.
AT_ONCE = 32


class Encoder:
    """What the layers of a frozen language model say of texts; its embeddings are left out.

    Args:
        model: a folder, or a name on the hub, with weights; no code of it is run.
        tokens: how many tokens of a text are read at most.
        reading: what speaks for a text at each layer, see `HuggingFaceModel`.
        device: where it runs.
    """

    def __init__(self, model: str, tokens: int = 128, reading: str = "auto", device: torch.device | None = None):
        if tokens < 1:
            raise ConfigurationError(f"tokens is {tokens}; it must be at least 1")
        self.model, self.tokens = model, tokens
        self.device = torch.device("cpu") if device is None else device
        # As its weights are.
        self.tokenizer = tokenizer(model, download=True)
        self.backbone = HuggingFaceModel((1, 1, tokens), model, weights=True, reading=reading, frozen="all")  # type: ignore[arg-type]
        self.backbone.eval().to(self.device)
        self.reading = self.backbone.reading
        self.layers = self.backbone.stage_names[1:-1]

    @cached_property
    def digest(self) -> str:
        """What the weights are recognised by."""
        found = hashlib.blake2b(digest_size=16)
        for name, value in sorted(self.backbone.state_dict().items()):
            found.update(name.encode())
            found.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return found.hexdigest()

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """What speaks for each text at each layer: [L, N, D]; the last is what the whole model gives."""
        found: list[Tensor] = []

        def keep(layer: int, places: Tensor, features: Tensor) -> Tensor:
            if not found:
                found.append(torch.empty(len(self.layers), len(texts), features.shape[1]))
            found[0][layer, places] = features.float().cpu()
            return torch.zeros(len(places), dtype=torch.bool)

        self.walk(texts, keep)
        return found[0]

    @torch.no_grad()
    def walk(self, texts: Sequence[str], leave: Callable[[int, Tensor, Tensor], Tensor]) -> None:
        """Runs the layers one after the other.

        Args:
            leave: told the layer, the places of texts in `texts` [B] and what speaks for them there [B, D], says which
                of them need no deeper layer [B].
        Raises:
            DataError: for a text that is empty.
        """
        for place, text in enumerate(texts, 1):
            if not isinstance(text, str) or not text.strip():
                raise DataError(f"text {place} of {len(texts)} is empty")
        numbers = tokenised(self.tokenizer, texts, self.tokens)
        order = torch.tensor(sorted(range(len(numbers)), key=lambda place: len(numbers[place])), dtype=torch.int64)
        embeddings, *layers, ending = self.backbone.stages
        layout = str(self.backbone.token_layout)
        for places in order.split(AT_ONCE):
            inputs = padded([numbers[place] for place in places.tolist()], self.tokens).float()
            hidden = embeddings(inputs.to(self.device))
            for index, layer in enumerate(layers):
                hidden = layer(hidden)
                is_last = index + 1 == len(layers)
                stay = ~leave(index, places, ending(hidden) if is_last else read(hidden, layout)[:, 0])
                places, hidden = places[stay], hidden[stay.to(self.device)]
                if not len(places):
                    break
