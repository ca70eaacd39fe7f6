"""From windows on disk to batches of tensors: whole micro-batches read in worker processes, in an order that
is arithmetic.

In: a store, a `WindowIndex` and a plan (which windows when). Out: a `WindowLoader`, a `DataLoader` whose
items are ready batches for one process of the run; do not let accelerate prepare it, the plan has already
divided the work between processes. The only file of `data` with torch.
"""

import functools
import logging
import multiprocessing
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from kronos.bars import EpsilonKind
from kronos.data.batch_plan import BatchPlan, IntArray, ScoringPlan
from kronos.data.slots import Slots
from kronos.data.store import BarStore
from kronos.data.windows import WindowIndex, WindowReader
from kronos.errors import KitError

log = logging.getLogger(__name__)

Batch = dict[str, torch.Tensor]
AHEAD = 4
"""Micro-batches that each worker may have ready or under way."""
WORKER_GONE = (
    "expected the processes that read windows to live as long as the trainer, found one gone (out of memory?); "
    "the same command goes on from the last checkpoint, with fewer training.num_workers where memory is short"
)
RUN = 32
"""Micro-batches whose windows are looked up together."""


class MicroBatches(Dataset[Batch]):
    """Item i is micro-batch i of a run for one rank: step i div accumulation, micro-batch i mod accumulation.

    Tensors, B = batch_size: x (B, T, 6), stamp (B, T, 5), weight (B, T), mean and scale (B, 6) float32;
    ticker, row (B,) int64; real (B,) bool. Padding entries have real False and weight 0; they repeat other
    windows of the step.
    """

    def __init__(
        self,
        store: BarStore,
        index: WindowIndex,
        plan: BatchPlan | ScoringPlan,
        rank: int,
        *,
        clip: float,
        epsilon: EpsilonKind,
    ):
        self.index, self.plan, self.rank = index, plan, rank
        self._known: tuple[int, IntArray, NDArray[np.bool_]] = (
            -1,
            np.empty((0, 0), np.int64),
            np.empty((0, 0), bool),
        )
        self.read = WindowReader(
            store, index.lookback, index.predict, clip=clip, epsilon=epsilon, first_session=index.part.first
        )

    def __len__(self) -> int:
        return self.plan.total_steps * self.plan.accumulation

    def __getitem__(self, item: int) -> Batch:
        rows, real = self._rows(item)
        windows = self.read(rows)
        windows.weight[~real] = 0
        batch = {name: torch.from_numpy(values) for name, values in vars(windows).items()}
        batch["mean"], batch["scale"] = (
            batch["mean"].float(),
            batch["scale"].float(),
        )  # some devices have no float64
        batch["real"] = torch.from_numpy(real)
        return batch

    def _rows(self, item: int) -> tuple[IntArray, NDArray[np.bool_]]:
        """First rows of a micro-batch and which are real; worked out for RUN of them at once, which hardly
        costs more.
        """
        run, place = divmod(item, RUN)
        if run != self._known[0]:
            items = range(run * RUN, min((run + 1) * RUN, len(self)))
            parts = [self.plan.positions(*divmod(i, self.plan.accumulation), self.rank) for i in items]
            rows = self.index.rows(
                self.plan.windows_at(np.concatenate([positions for positions, _ in parts]))
            )
            self._known = run, rows.reshape(len(parts), -1), np.stack([real for _, real in parts])
        return self._known[1][place].copy(), self._known[2][place].copy()


class WindowLoader(DataLoader[Batch]):
    """Some consecutive micro-batches in order, each a dict of tensors of its own.

    With workers, these read into `Slots` and the pipe carries numbers: pickling and copying whole batches
    through it took half of the time. torch hands number i + AHEAD * workers to a worker while it gives out
    number i, which is copied before
    the next one is asked for: one slot more than that, and no slot is written to while it is read.
    """

    def __init__(self, data: Dataset[Batch], items: range, workers: int, pin_memory: bool) -> None:
        workers = workers if workers and items and _can_have_workers() else 0
        self.slots = Slots.like(_arrays(data[items[0]]), AHEAD * workers + 1) if workers else None
        self.pinned = pin_memory and self.slots is not None  # from the slot, in one copy
        more: dict[str, Any] = {"prefetch_factor": AHEAD, "persistent_workers": True} if workers else {}
        super().__init__(
            data if self.slots is None else _Slotted(data, self.slots),  # type: ignore[arg-type]
            batch_size=None,  # an item is already a batch
            sampler=items,
            num_workers=workers,
            pin_memory=pin_memory and not self.pinned,
            collate_fn=_as_it_is,
            generator=torch.Generator(),  # else every new iterator draws from the global state, and a resumed run differs
            **more,
        )

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        batches = (
            super().__iter__()
        )  # here and now, so that workers begin before the first batch is asked for
        return batches if self.slots is None else self._arriving(batches, self.slots)

    def _arriving(self, numbers: Iterator[Any], slots: Slots) -> Iterator[Batch]:
        try:
            for number in numbers:
                batch = {name: torch.from_numpy(values) for name, values in slots.read(number).items()}
                yield {name: tensor.pin_memory() for name, tensor in batch.items()} if self.pinned else batch
        except RuntimeError as error:
            known = worker_gone(error)
            if known is None:
                raise
            raise known from error


def worker_gone(error: RuntimeError) -> KitError | None:
    """The user's error where torch says that a process which reads windows is gone, else None.

    torch notices at the end of a child and raises wherever the trainer is at that moment: mostly in the
    middle of a step.
    """
    said = "DataLoader worker" in str(error)  # torch's words
    return KitError(f"{WORKER_GONE} ({' '.join(str(error).split())})") if said else None


@functools.cache
def _can_have_workers() -> bool:
    """Whether processes can wait for each other here; else a line in the log, once, and windows are read
    without them.
    """
    try:
        multiprocessing.Lock()
    except (OSError, ImportError) as error:
        log.warning(
            "no processes that read windows, as with training.num_workers 0: semaphores need /dev/shm (%s)",
            error,
        )
        return False
    return True


class _Slotted(Dataset[int]):
    """What a worker does: read a micro-batch, put it into its slot, say its number."""

    def __init__(self, data: Dataset[Batch], slots: Slots) -> None:
        self.data, self.slots = data, slots

    def __len__(self) -> int:
        return len(self.data)  # type: ignore[arg-type]

    def __getitem__(self, item: int) -> int:
        self.slots.write(item, _arrays(self.data[item]))
        return item


def _arrays(batch: Batch) -> dict[str, NDArray[Any]]:
    return {name: tensor.numpy() for name, tensor in batch.items()}


def _as_it_is(item: Any) -> Any:
    return item


def window_loader(
    store: BarStore,
    index: WindowIndex,
    plan: BatchPlan,
    rank: int,
    start_step: int = 0,
    *,
    clip: float,
    epsilon: EpsilonKind,
    workers: int = 0,
    pin_memory: bool = False,
) -> WindowLoader:
    """Training batches of one rank from optimiser step `start_step` to the end: `plan.accumulation` items per
    step.

    The order is a function of the plan and the step alone: equal for any number of workers, and when resumed.
    """
    data = MicroBatches(store, index, plan, rank, clip=clip, epsilon=epsilon)
    return WindowLoader(data, range(start_step * plan.accumulation, len(data)), workers, pin_memory)


def validation_loader(
    store: BarStore,
    index: WindowIndex,
    *,
    batch_size: int,
    samples: int | None,
    rank: int,
    processes: int,
    clip: float,
    epsilon: EpsilonKind,
    workers: int = 0,
    pin_memory: bool = False,
) -> WindowLoader:
    """A fixed list of windows, each real exactly once over all ranks; every rank has the same number of
    batches.

    samples: that many, evenly spread over the index; None: all. Sums over real entries do not depend on
    batch_size or processes. The loader can be iterated again and keeps its workers.
    """
    plan = ScoringPlan(len(index), batch_size, processes, samples)
    data = MicroBatches(store, index, plan, rank, clip=clip, epsilon=epsilon)
    return WindowLoader(data, range(len(data)), workers, pin_memory)
