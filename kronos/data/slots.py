"""A ring of places for batches in memory that worker processes share with the process that trains.

In: one batch as a pattern (names, shapes, types), the number of places. Out: `write` in a worker, `read` in
the trainer; only batch numbers travel through a pipe. The memory is a file without a name: a killed process
leaves nothing behind, a container's small /dev/shm is not used, and forked and spawned workers reach it
alike. NumPy only.
"""

import mmap
import os
import tempfile
from collections.abc import Mapping
from multiprocessing import reduction
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 64
Pattern = tuple[tuple[str, tuple[int, ...], str], ...]
"""Name, shape and type of each array of a batch."""


class Slots:
    """Batch i lives in slot i mod `count`, from `write` until batch i + count is written there.

    Whoever hands out the numbers lets no worker begin batch i + count before batch i was read; a slot says
    which batch it holds, so that a broken order is an error and never a mixed batch.
    """

    def __init__(self, pattern: Pattern, count: int, descriptor: int | None = None) -> None:
        """descriptor: the memory of the Slots that this one is to share; None: new memory."""
        self.pattern, self.count = pattern, count
        size, places = _layout((("number", (), "<i8"), *pattern), count)
        self._file = _anonymous() if descriptor is None else os.fdopen(descriptor, "r+b")
        os.ftruncate(self._file.fileno(), size)
        memory = mmap.mmap(self._file.fileno(), size)
        arrays = {
            name: np.ndarray((count, *shape), kind, memory, place) for name, shape, kind, place in places
        }
        self._number, self._arrays = arrays.pop("number"), arrays

    @classmethod
    def like(cls, batch: Mapping[str, NDArray[Any]], count: int) -> "Slots":
        """Slots for batches of the same names, shapes and types."""
        return cls(tuple((name, values.shape, values.dtype.str) for name, values in batch.items()), count)

    def write(self, number: int, batch: Mapping[str, NDArray[Any]]) -> None:
        """Put batch `number` (from 0) into its slot."""
        slot = number % self.count
        self._number[slot] = -1
        for name, values in batch.items():
            self._arrays[name][slot] = values
        self._number[slot] = number

    def read(self, number: int) -> dict[str, NDArray[Any]]:
        """A copy of batch `number`: it stays what it is, however long it is kept."""
        slot = number % self.count
        batch = {name: values[slot].copy() for name, values in self._arrays.items()}
        assert self._number[slot] == number, "a worker wrote a batch before the one in its slot was read"
        return batch

    def __reduce__(self) -> tuple[Any, ...]:
        return _attached, (self.pattern, self.count, reduction.DupFd(self._file.fileno()))


def _anonymous() -> IO[bytes]:
    """A file without a name: in memory on Linux, elsewhere one in the temporary folder that was unlinked at
    its birth.
    """
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("windows"), "r+b")
    return tempfile.TemporaryFile(buffering=0)


def _attached(pattern: Pattern, count: int, descriptor: Any) -> Slots:
    return Slots(pattern, count, descriptor.detach())


def _layout(pattern: Pattern, count: int) -> tuple[int, list[tuple[str, tuple[int, ...], str, int]]]:
    """Bytes of all slots, and where the array of each name begins."""
    places, end = [], 0
    for name, shape, kind in pattern:
        places.append((name, shape, kind, end))
        size = int(np.prod((count, *shape))) * np.dtype(kind).itemsize
        end += -(-size // ALIGNMENT) * ALIGNMENT
    return end, places
