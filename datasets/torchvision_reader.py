"""How one of torchvision's own readers is opened, and what is said where that fails."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from cl_ac.errors import DataError, told


class TorchvisionReader(ABC):
    """A part of a benchmark whose data set torchvision finds, reads and downloads.

    A subclass names torchvision's class as `reader`, as `stored_as` what that looks for under `root`, and as `obtained`
    how to get the data set where torchvision cannot download it.
    """

    stored_as: ClassVar[str]
    obtained: ClassVar[str] = "get it with --benchmark.download true"
    root: Path
    download: bool

    @property
    @abstractmethod
    def reader(self) -> str:
        """The name of torchvision's class."""

    def open(self, **part: Any) -> Any:
        """torchvision's own object for one part of the data set.

        Raises:
            DataError: if the data set is missing or damaged, or what torchvision needs to read it.
        """
        import torchvision.datasets

        name, place = type(self).__name__, self.root / self.stored_as
        try:
            return getattr(torchvision.datasets, self.reader)(self.root, download=self.download, **part)
        except ImportError as error:
            raise DataError(f"torchvision cannot read {name}: {told(error)}; install what is missing") from error
        # torchvision has no exception of its own for files that are missing, damaged or cannot be fetched.
        except (RuntimeError, OSError, ValueError, KeyError, AssertionError) as error:
            if self.download:
                raise DataError(f"cannot download {name} to '{place}': {told(error)}") from error
            raise DataError(
                f"there is no intact {name} at '{place}'; {self.obtained}, or say with --benchmark.root where it is"
            ) from error
