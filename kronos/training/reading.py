"""Loaders of a stage's windows for one process.

In: a resolved `Config`, a prepared store, `StageData`. Out: `Streams` for the loop.
"""

import os
from typing import Any

from torch.utils.data import DataLoader

from kronos.config import Config
from kronos.data.loader import validation_loader, window_loader
from kronos.data.store import BarStore
from kronos.training.facts import StageData
from kronos.training.runtime import Runtime
from kronos.training.settings import Streams


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
    # Ctrl-C and the like go to the whole process group: the workers would die, and the trainer of that before
    # it could save. In a group of their own they still end with the trainer, and when it tells them to.
    loader.worker_init_fn = _leave_group
    return loader


def _leave_group(worker: int) -> None:
    os.setpgid(0, 0)
