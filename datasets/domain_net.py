"""DomainNet with its official lists: the same classes in six domains."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch

from cl_ac.data.augmentation import Augmentation
from cl_ac.data.samples import Samples
from cl_ac.datasets.image_files import PHOTOGRAPHS, ImageFileSet, lines
from cl_ac.errors import ConfigurationError, DataError

DOMAINS = ("real", "quickdraw", "painting", "sketch", "infograph", "clipart")


class DomainNet(ImageFileSet):
    """DomainNet (Peng et al., 2019): 409,832 + 176,743 images of 345 classes in six domains, the cleaned version.

    `<domain>_train.txt` and `<domain>_test.txt` list the images with their labels. Class names are those of the
    folders.

    Args:
        root: folder that holds `domainnet`, and that the lists' paths start from.
        domains: which domains, in the order in which they come where each is a task. The default is the order of the
            papers on domain-incremental learning.
    """

    stored_as = "domainnet"

    def __init__(
        self,
        root: str = "~/data",
        domains: Sequence[str] = DOMAINS,
        augmentation: Augmentation = PHOTOGRAPHS,
        **source,
    ):
        super().__init__(root, augmentation=augmentation, **source)
        if not domains or len(set(domains)) < len(domains) or not set(domains) <= set(DOMAINS):
            raise ConfigurationError(
                f"benchmark.domains is {list(domains)}; it must name one or more of {', '.join(DOMAINS)}, each once"
            )
        self.domain_names = tuple(domains)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @cached_property
    def class_names(self) -> list[str]:
        """The name of each label.

        Raises:
            DataError: if lists are missing, or two of their lines give a label two names, or leave one out.
        """
        names: dict[int, str] = {}
        for path, label, _ in (row for part in self._rows for row in part):
            if names.setdefault(label, path.parent.name) != path.parent.name:
                raise DataError(
                    f"the lists in '{self.root / self.stored_as}' call class {label} '{names[label]}' and "
                    f"'{path.parent.name}'; they must be of one version"
                )
        if missing := set(range(max(names) + 1)) - set(names):
            raise DataError(
                f"the lists in '{self.root / self.stored_as}' have no image of the classes "
                f"{', '.join(map(str, sorted(missing)[:10]))}"
            )
        return [names[label] for label in sorted(names)]

    def list_samples(self) -> tuple[Samples, Samples]:
        """All images as files, of which nothing is read; `domain` is the place of each one's domain in `domains`.

        Raises:
            DataError: if a list is missing, or a line of it does not name a picture and a label.
        """
        train, test = (
            self.listed(
                [(path, label) for path, label, _ in part],
                {"domain": torch.tensor([domain for _, _, domain in part])},
            )
            for part in self._rows
        )
        return train, test

    @cached_property
    def _rows(self) -> tuple[list[tuple[Path, int, int]], list[tuple[Path, int, int]]]:
        """Path, label and domain of each training and of each test image."""
        place = self.root / self.stored_as
        parts: list[list[tuple[Path, int, int]]] = []
        for part in ("train", "test"):
            lists = [place / f"{name}_{part}.txt" for name in self.domain_names]
            if missing := [each.name for each in lists if not each.is_file()]:
                raise DataError(
                    f"there is no DomainNet at '{place}', which lacks {', '.join(missing)}; put the lists of the "
                    "cleaned version there and unpack its archives beside them (http://ai.bu.edu/M3SDA/), say with "
                    "--benchmark.root where they are, or name fewer --benchmark.domains"
                )
            parts.append([row for domain, path in enumerate(lists) for row in self._listed_in(path, domain)])
        return parts[0], parts[1]

    def _listed_in(self, path: Path, domain: int) -> list[tuple[Path, int, int]]:
        rows = []
        for number, words in lines(path, 2):
            if not words[-1].isdecimal():
                raise DataError(f"line {number} of '{path}' ends with '{words[-1][:80]}'; it must be a label from 0 on")
            rows.append((path.parent / " ".join(words[:-1]), int(words[-1]), domain))
        if not rows:
            raise DataError(f"'{path}' lists no images")
        return rows
