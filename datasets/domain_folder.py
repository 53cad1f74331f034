"""Images in folders named after their domains and, in these, after their classes."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import cast

import torch

from cl_ac.data.augmentation import Augmentation
from cl_ac.data.samples import ImageFiles, Samples
from cl_ac.datasets.image_files import PHOTOGRAPHS, ImageFileSet, drawn_apart, folders_in, in_folders
from cl_ac.errors import ConfigurationError, DataError


class DomainFolder(ImageFileSet):
    """Any tree `<domain>/<class>/*` of image files, such as PACS and Office-Home, which is split here.

    A share of the images are test images.

    With the stream `DomainIncremental` each domain is a task; with another one domains come together.

    Args:
        root: folder that holds one folder for each domain.
        domains: the folders of the domains, in the order in which they come; all in alphabetical order by default.
        test_share: share of each class's images in each domain that are test images, the same for every seed.
    """

    def __init__(
        self,
        root: str,
        domains: Sequence[str] | None = None,
        test_share: float = 0.2,
        augmentation: Augmentation = PHOTOGRAPHS,
        **source,
    ):
        super().__init__(root, augmentation=augmentation, **source)
        if not 0 < test_share < 1:
            raise ConfigurationError(f"benchmark.test_share is {test_share:g}; it must be above 0 and below 1")
        self.domains, self.test_share = domains, test_share

    @cached_property
    def domain_names(self) -> list[str]:
        """The folder of each domain.

        Raises:
            DataError: if there are none.
            ConfigurationError: if one that is named is not there, or named twice.
        """
        found = folders_in(self.root) if self.root.is_dir() else []
        if not found:
            raise DataError(f"'{self.root}' is no folder of domains: it needs <domain>/<class>/* for each")
        names = found if self.domains is None else list(self.domains)
        if not names or len(set(names)) < len(names) or not set(names) <= set(found):
            raise ConfigurationError(
                f"benchmark.domains is {names}; it must name folders in '{self.root}' once each: {', '.join(found)}"
            )
        return names

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @cached_property
    def class_names(self) -> list[str]:
        """The name of each label.

        Raises:
            DataError: if the domains have not the same classes.
        """
        first, *others = self.domain_names
        names = folders_in(self.root / first)
        for domain in others:
            if differing := sorted(set(names) ^ set(folders_in(self.root / domain))):
                few = ", ".join(f"'{name}'" for name in differing[:10])
                which = "1 class is" if len(differing) == 1 else f"{len(differing)} classes are"
                raise DataError(
                    f"{which} in only one of '{self.root / first}' and '{self.root / domain}': "
                    f"{few}; every domain must have every class"
                )
        if not names:
            raise DataError(f"'{self.root / first}' holds no folders; it needs one for each class")
        return names

    def list_samples(self) -> tuple[Samples, Samples]:
        """All images as files, of which nothing is read; `domain` is the place of each one's domain.

        Raises:
            DataError: if a class has no images in a domain, or too few to train and to test on.
        """
        parts: tuple[list[tuple[Path, int]], ...] = ([], [])
        domains: tuple[list[int], ...] = ([], [])
        for domain, name in enumerate(self.domain_names):
            place = self.root / name
            split = drawn_apart(self.listed(in_folders(place, self.class_names)), self.test_share)
            for label, class_name in enumerate(self.class_names):
                counts = [int((part.targets == label).sum()) for part in split]
                if 0 in counts:
                    raise DataError(
                        f"'{place / class_name}' has {counts[0]} training and {counts[1]} test images; "
                        "each class needs at least one of both in each domain"
                    )
            for part, files, of_files in zip(split, parts, domains, strict=True):
                files += zip(cast(ImageFiles, part.images).paths, part.targets.tolist(), strict=True)
                of_files += [domain] * len(part)
        train, test = (
            replace(self.listed(files), extras={"domain": torch.tensor(of_files)})
            for files, of_files in zip(parts, domains, strict=True)
        )
        return train, test
