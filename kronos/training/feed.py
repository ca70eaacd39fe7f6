"""Micro-batches from the loader to the device, the next step's while the present one computes.

In: an endless or finite run of micro-batches on the CPU. Out: those of one optimiser step at a time, on both
sides: the host's for weights and names, which then cost no wait for the device, and the device's for the
networks.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch

from kronos.training.objectives import Batch


class StepBatches(NamedTuple):
    """The micro-batches of one optimiser step."""

    host: list[Batch]
    device: list[Batch]


class DeviceFeed(Iterator[StepBatches]):
    """`per_step` micro-batches at a time; fewer than one ends it.

    On a GPU `prefetch`, called when a step's work is queued, reads the next ones and copies them on a stream
    of its own, from pinned memory beside the computation. Elsewhere it does nothing: there is nothing to
    copy.
    """

    def __init__(self, batches: Iterable[Batch], per_step: int, device: torch.device) -> None:
        self._batches, self._per_step, self._device = iter(batches), per_step, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._ahead: StepBatches | None = None

    def __next__(self) -> StepBatches:
        ready, self._ahead = self._ahead or self._load(), None
        if not ready.host:
            raise StopIteration
        if self._stream is not None:
            self._hand_over(ready, self._stream)
        return ready

    def prefetch(self) -> None:
        """Read and copy the next step's micro-batches, without waiting for the copy."""
        if self._stream is not None and self._ahead is None:
            self._ahead = self._load()

    def _load(self) -> StepBatches:
        host = list(itertools.islice(self._batches, self._per_step))
        with torch.cuda.stream(self._stream):  # None: the stream in use
            return StepBatches(host, [self._copy(batch) for batch in host])

    def _copy(self, batch: Batch) -> Batch:
        return {name: tensor.to(self._device, non_blocking=True) for name, tensor in batch.items()}

    def _hand_over(self, ready: StepBatches, copied: torch.cuda.Stream) -> None:
        """Let the computing stream wait for the copy, and its allocator know that it uses the memory."""
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(copied)
        for batch in ready.device:
            for tensor in batch.values():
                tensor.record_stream(computing)
