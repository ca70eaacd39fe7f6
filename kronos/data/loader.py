"""From windows on disk to batches of tensors: whole micro-batches read in worker processes, in an order that is arithmetic.

In: a store, a `WindowIndex` and a plan (which windows when). Out: a `DataLoader` whose items are ready batches for one
process of the run; do not let accelerate prepare it, the plan has already divided the work between processes.
The only file of `data` with torch.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from kronos.bars import EpsilonKind
from kronos.data.sampling import BatchPlan, IntArray, ScoringPlan
from kronos.data.store import BarStore
from kronos.data.windows import WindowIndex, WindowReader

Batch = dict[str, torch.Tensor]
SMALL = ("stamp", "weight")
"""Batch entries whose values are whole numbers below 256."""
RUN = 32
"""Micro-batches whose windows are looked up together."""


class MicroBatches(Dataset[Batch]):
    """Item i is micro-batch i of a run for one rank: step i div accumulation, micro-batch i mod accumulation.

    Tensors, B = batch_size: x (B, T, 6), stamp (B, T, 5), weight (B, T), mean and scale (B, 6) float32; ticker, row (B,)
    int64; real (B,) bool. Padding entries have real False and weight 0; they repeat other windows of the step.
    """

    def __init__(
        self, store: BarStore, index: WindowIndex, plan: BatchPlan | ScoringPlan, rank: int, *, clip: float, epsilon: EpsilonKind
    ):
        self.index, self.plan, self.rank = index, plan, rank
        self._known: tuple[int, IntArray, NDArray[np.bool_]] = (-1, np.empty((0, 0), np.int64), np.empty((0, 0), bool))
        self.read = WindowReader(store, index.lookback, index.predict, clip=clip, epsilon=epsilon, first_session=index.part.first)

    def __len__(self) -> int:
        return self.plan.total_steps * self.plan.accumulation

    def __getitem__(self, item: int) -> Batch:
        rows, real = self._rows(item)
        windows = self.read(rows)
        windows.weight[~real] = 0
        batch = {name: torch.from_numpy(values) for name, values in vars(windows).items()}
        batch["mean"], batch["scale"] = batch["mean"].float(), batch["scale"].float()  # some devices have no float64
        batch["real"] = torch.from_numpy(real)
        return batch

    def _rows(self, item: int) -> tuple[IntArray, NDArray[np.bool_]]:
        """First rows of a micro-batch and which are real; worked out for RUN of them at once, which hardly costs more."""
        run, place = divmod(item, RUN)
        if run != self._known[0]:
            items = range(run * RUN, min((run + 1) * RUN, len(self)))
            parts = [self.plan.positions(*divmod(i, self.plan.accumulation), self.rank) for i in items]
            rows = self.index.rows(self.plan.windows_at(np.concatenate([positions for positions, _ in parts])))
            self._known = run, rows.reshape(len(parts), -1), np.stack([real for _, real in parts])
        return self._known[1][place].copy(), self._known[2][place].copy()


class _Parcel(dict[str, torch.Tensor]):
    """A batch on its way out of a worker: pickled arrays through the pipe, small numbers as bytes; arrives as a plain dict.

    Cheaper than torch's own way, which sends every tensor as a file descriptor of shared memory, and it needs no /dev/shm,
    of which containers have little.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        arrays = {name: tensor.numpy() for name, tensor in self.items()}
        return _unpack, ({**arrays, **{name: arrays[name].astype(np.uint8) for name in SMALL}},)


def _unpack(arrays: dict[str, NDArray[Any]]) -> Batch:
    batch = {name: torch.from_numpy(values) for name, values in arrays.items()}
    return {**batch, **{name: batch[name].float() for name in SMALL}}


def _as_it_is(batch: Batch) -> Batch:
    return batch


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
) -> DataLoader[Batch]:
    """Training batches of one rank from optimiser step `start_step` to the end: `plan.accumulation` items per step.

    The order is a function of the plan and the step alone: equal for any number of workers, and when resumed.
    """
    data = MicroBatches(store, index, plan, rank, clip=clip, epsilon=epsilon)
    return _loader(data, range(start_step * plan.accumulation, len(data)), workers, pin_memory)


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
) -> DataLoader[Batch]:
    """A fixed list of windows, each real exactly once over all ranks; every rank has the same number of batches.

    samples: that many, evenly spread over the index; None: all. Sums over real entries do not depend on batch_size or
    processes. The loader can be iterated again and keeps its workers.
    """
    plan = ScoringPlan(len(index), batch_size, processes, samples)
    data = MicroBatches(store, index, plan, rank, clip=clip, epsilon=epsilon)
    return _loader(data, range(len(data)), workers, pin_memory)


def _loader(data: MicroBatches, items: range, workers: int, pin_memory: bool) -> DataLoader[Batch]:
    collate: Callable[[Any], Batch] = _Parcel if workers else _as_it_is
    more: dict[str, Any] = {"prefetch_factor": 4, "persistent_workers": True} if workers else {}
    return DataLoader(
        data,
        batch_size=None,  # an item is already a batch
        sampler=items,
        num_workers=workers,
        pin_memory=pin_memory,
        collate_fn=collate,
        generator=torch.Generator(),  # else every new iterator draws from the global state, and a resumed run differs
        **more,
    )
