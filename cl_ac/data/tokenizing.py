"""Tokenizers of Hugging Face's transformers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cl_ac.errors import ConfigurationError, DataError, told


def tokenizer(name: str | None, download: bool = False) -> Any:
    """The tokenizer of Hugging Face's transformers in a folder, or of that name on the hub. Runs no code of a model.

    Raises:
        ConfigurationError: if nobody has named one.
        DataError: if it is not here, or the library is missing.
    """
    if name is None:
        raise ConfigurationError("benchmark.tokenizer is absent; name the folder or the model whose tokenizer it is")
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise DataError("texts need transformers; install cl_ac[transformers]") from error
    folder = Path(name).expanduser()
    place = str(folder) if folder.is_dir() else name
    try:
        return AutoTokenizer.from_pretrained(place, trust_remote_code=False, local_files_only=not download)
    # The library raises errors of many others: of files, of the network, of formats.
    except Exception as error:
        way = (
            ""
            if download or folder.is_dir()
            else "; bring it in a folder and name that (or, for a benchmark, set download to true)"
        )
        raise DataError(f"cannot load the tokenizer of '{name}' ({told(error, 100)}){way}") from error


def tokenised(found: Any, texts: Sequence[str], most: int) -> list[list[int]]:
    """The token numbers of texts, at most `most` of each, with the tokens that its model expects around them.

    Raises:
        ConfigurationError: if `most` leaves no room for the tokens around a text.
        DataError: if nothing is left of a text, or it has halves of characters, which JSON can name.
    """
    for row, text in enumerate(texts, 1):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"text {row} is no valid Unicode; remove it") from error
    numbers = found(list(texts), truncation=True, max_length=most, verbose=False)["input_ids"]
    empty = [row for row, text in enumerate(numbers, 1) if not text]
    if empty:
        raise DataError(f"the tokenizer makes no token of text {empty[0]}; remove it")
    longest = max(map(len, numbers), default=0)
    if longest > most:
        around = found.num_special_tokens_to_add()
        raise ConfigurationError(f"tokens is {most}, but the tokenizer puts {around} around each text; set more")
    return numbers
