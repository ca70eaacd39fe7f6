"""What a stage reads: the windows of both parts, and loaders of them for one process.

In: a resolved `Config`, a prepared store. Out: `StageData`, `Streams` for the loop.
"""

import os
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader

from kronos.config import Config
from kronos.data.loader import validation_loader, window_loader
from kronos.data.sampling import BatchPlan
from kronos.data.splits import Part, Splits, split_store
from kronos.data.store import BarStore
from kronos.data.windows import WindowIndex, require_windows
from kronos.training.runtime import Runtime
from kronos.training.settings import Stage, Streams


@dataclass(frozen=True)
class StageData:
    """Windows of both parts, and the order in which training takes them."""

    train: WindowIndex
    validation: WindowIndex
    plan: BatchPlan
    splits: Splits

    @classmethod
    def of(cls, config: Config, stage: Stage, store: BarStore) -> "StageData":
        """Raises KitError when a part has no window."""
        d, t = config.data, config.training
        splits = split_store(d, store.sessions, store.span_of(config.embargo))
        indices = [WindowIndex.build(store, d.lookback_window, d.predict_window, part) for part in splits.parts]
        require_windows(indices)
        train, validation = indices[:2]
        plan = BatchPlan(
            windows=len(train),
            batch_size=t.batch_size,
            accumulation=t.accumulation_steps,
            processes=config.distributed.num_processes,
            epochs=t.tokenizer_epochs if stage == "tokenizer" else t.basemodel_epochs,
            seed=t.seed,
            samples_per_epoch=t.samples_per_epoch,
            max_steps=t.most_steps(stage),
            ticker_windows=train.ticker_windows if d.ticker_weighting == "equal" else None,
        )
        return cls(train, validation, plan, splits)

    @property
    def train_part(self) -> Part:
        return self.train.part


def streams(config: Config, data: StageData, store: BarStore, runtime: Runtime) -> Streams:
    """Loaders of this process, with workers that signals to the run do not reach."""
    d, t = config.data, config.training
    common: dict[str, Any] = {
        "clip": d.clip,
        "epsilon": d.norm_epsilon,
        "workers": t.num_workers,
        "pin_memory": runtime.device.type == "cuda",
    }

    def train_from(step: int) -> DataLoader:
        return sheltered(window_loader(store, data.train, data.plan, runtime.rank, step, **common))

    validation = sheltered(
        validation_loader(
            store,
            data.validation,
            batch_size=t.batch_size,
            samples=t.validation_samples,
            rank=runtime.rank,
            processes=runtime.world,
            **common,
        )
    )
    return Streams(train_from, lambda: validation, store.tickers)


def sheltered(loader: DataLoader) -> DataLoader:
    """The loader, whose workers are not in the trainer's process group."""
    # Ctrl-C and the like go to the whole process group: the workers would die, and the trainer of that before it could save.
    # In a group of their own they still end with the trainer, and when it tells them to.
    loader.worker_init_fn = _leave_group
    return loader


def _leave_group(worker: int) -> None:
    os.setpgid(0, 0)
