"""A ring of places for batches in memory that worker processes share with the process that trains.

In: one batch as a pattern (names, shapes, types), the number of places. Out: `write` in a worker, `read` in the trainer; only
batch numbers travel through a pipe. The memory is an anonymous file: it has no name that a killed process could leave
behind, needs no /dev/shm (64 MB in many containers), and reaches forked and spawned workers alike. NumPy only.
"""

import mmap
import os
from collections.abc import Mapping
from multiprocessing import reduction
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 64
Pattern = tuple[tuple[str, tuple[int, ...], str], ...]
"""Name, shape and type of each array of a batch."""


class Slots:
    """Batch i lives in slot i mod `count`, from `write` until batch i + count is written there.

    Whoever hands out the numbers lets no worker begin batch i + count before batch i was read; a slot says which batch
    it holds, so that a broken order is an error and never a mixed batch.
    """

    def __init__(self, pattern: Pattern, count: int, descriptor: int | None = None) -> None:
        """descriptor: the memory of the Slots that this one is to share; None: new memory."""
        self.pattern, self.count = pattern, count
        size, places = _layout((("number", (), "<i8"), *pattern), count)
        descriptor = os.memfd_create("windows") if descriptor is None else descriptor
        self._file = os.fdopen(descriptor, "r+b")
        os.ftruncate(descriptor, size)
        memory = mmap.mmap(descriptor, size)
        arrays = {name: np.ndarray((count, *shape), kind, memory, place) for name, shape, kind, place in places}
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
