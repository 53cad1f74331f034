"""Rows of tensors, found again by their keys: in memory up to a bound, in a file beyond it."""

import os
import tempfile
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from cl_ac.errors import StorageError

# Rows of the first segment of a table, and the most bytes of any segment.
FIRST, LARGEST = 256, 2**26


@dataclass
class Room:
    """Where rows are kept.

    Args:
        left: bytes of memory that may still be taken.
        device: whose memory it is.
        folder: of the files beyond it, which vanish with the process; None is the system's for temporary files.
    """

    left: int
    device: torch.device
    folder: Path | None = None

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor in memory, or, where no memory is left, in a file.

        Raises:
            StorageError: if the disk refuses the file.
        """
        count = torch.Size(shape).numel()
        size = count * dtype.itemsize
        if size <= self.left:
            self.left -= size
            return torch.empty(*shape, dtype=dtype, device=self.device)
        folder = Path(tempfile.gettempdir() if self.folder is None else self.folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder, prefix="cl_ac_") as file:
                # Taken now: a disk that is full when a mapped file is written ends the process.
                os.posix_fallocate(file.fileno(), 0, max(size, 1))
                return torch.from_file(file.name, shared=True, size=count, dtype=dtype).view(*shape)
        except OSError as error:
            raise StorageError(
                f"what frozen stages gave cannot be kept in '{folder}' ({os.strerror(error.errno or 0)}, "
                f"{size / 2**20:.0f} MiB needed); name another folder in training.frozen_outputs.folder, or allow more "
                "training.frozen_outputs.memory"
            ) from error


@dataclass
class Column:
    """Tensors [N, ...] that grow by rows.

    Args:
        room: where they are.
        channels_last: whether maps [N, channels, height, width] lie in that order of memory: the sums of what reads
            them depend on it in their last bits.
    """

    room: Room
    channels_last: bool = False
    segments: list[Tensor] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    count: int = 0

    def add(self, values: Tensor) -> None:
        """Puts `values` [B, ...] behind the others."""
        values = values.permute(0, 2, 3, 1) if self.channels_last else values
        while len(values):
            taken = self.starts[-1] + len(self.segments[-1]) if self.segments else 0
            if self.count == taken:
                # Twice as many as there are: few segments, and no more than half of the room is empty.
                row = values[0].numel() * values.element_size()
                rows = max(min(max(taken, FIRST), LARGEST // max(row, 1)), 1)
                self.segments.append(self.room.empty((rows, *values.shape[1:]), values.dtype))
                self.starts.append(taken)
                taken += rows
            part, values = values.split(
                [min(len(values), taken - self.count), max(len(values) - taken + self.count, 0)]
            )
            first = self.count - self.starts[-1]
            self.segments[-1][first : first + len(part)] = part
            self.count += len(part)

    def read(self, rows: Tensor, device: torch.device) -> Tensor:
        """The rows at the indices `rows` (int64 on the CPU)."""
        values = self._read(rows, device)
        return values.permute(0, 3, 1, 2) if self.channels_last else values

    def _read(self, rows: Tensor, device: torch.device) -> Tensor:
        places = torch.searchsorted(torch.tensor(self.starts), rows, right=True) - 1
        numbers = places.unique().tolist()
        if len(numbers) == 1:
            segment = self.segments[numbers[0]]
            return segment[(rows - self.starts[numbers[0]]).to(segment.device)].to(device)
        first = self.segments[0]
        values = torch.empty(len(rows), *first.shape[1:], dtype=first.dtype, device=device)
        for number in numbers:
            here, segment = (places == number).nonzero()[:, 0], self.segments[number]
            found = segment[(rows[here] - self.starts[number]).to(segment.device)]
            values[here.to(device)] = found.to(device)
        return values


@dataclass
class Table:
    """Rows of several columns, each under a key."""

    room: Room
    index: dict[Hashable, int] = field(default_factory=dict)
    columns: list[Column] = field(default_factory=list)

    def add(self, keys: Sequence[Hashable], values: Sequence[Tensor]) -> None:
        """Keeps the rows of `values`, one tensor [B, ...] for each column, under `keys` [B]."""
        self.columns = self.columns or [Column(self.room, _lies_channels_last(value)) for value in values]
        first = self.columns[0].count
        for column, value in zip(self.columns, values, strict=True):
            column.add(value)
        # Last, so that what the disk refuses is not known.
        self.index.update({key: first + offset for offset, key in enumerate(keys)})

    def read(self, keys: Sequence[Hashable], device: torch.device) -> list[Tensor]:
        """The rows under `keys` of every column."""
        rows = torch.tensor([self.index[key] for key in keys], dtype=torch.int64)
        return [column.read(rows, device) for column in self.columns]


def _lies_channels_last(value: Tensor) -> bool:
    lies = value.ndim == 4 and value.is_contiguous(memory_format=torch.channels_last)
    return lies and not value.is_contiguous()
