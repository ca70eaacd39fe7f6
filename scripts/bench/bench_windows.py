#!/usr/bin/env python3
"""How many normalised windows a second reach the training process, beside a loader that slices a DataFrame
per sample.

    python scripts/bench/bench_windows.py                       4 million rows, two workers, batch 32
    python scripts/bench/bench_windows.py --rows 21000000 --batch 256

Both loaders give windows of lookback_window + 2 bars with statistics of the lookback and stamps, in equal
batches, to one process. Memory is what the kit's loader and its workers added, without the pages of the
store's file. Then what loading costs
a training step on this processor: the time for which the trainer waits for its batch.
"""

import json
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a clone, without an installation

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset

from kronos import cli, configfile
from kronos.bars import FEATURES, STAMP_FIELDS, calendar_stamps
from kronos.data.batch_plan import BatchPlan
from kronos.data.loader import window_loader
from kronos.data.splits import Part
from kronos.data.store import BarStore
from kronos.data.store_writer import write_store
from kronos.data.windows import WindowIndex
from kronos.networks import Kronos, KronosTokenizer
from kronos.networks.presets import preset
from kronos.training.objectives import PredictorObjective

PREDICT = 2  # 258 bars with the default lookback


def generated(folder: Path, rows: int, tickers: int) -> BarStore:
    """A store of random walks, equally long."""
    each = rows // tickers
    rng = np.random.default_rng(0)
    bars = np.empty((tickers * each, len(FEATURES)), dtype=np.float32)
    for start in range(0, len(bars), 1 << 20):
        bars[start : start + (1 << 20)] = np.exp(rng.normal(3, 0.3, bars[start : start + (1 << 20)].shape))
    sessions = np.datetime64("1962-01-02") + np.arange(each) * 7 // 5
    return write_store(
        folder / "store", bars=bars, session=np.tile(np.arange(each), tickers), sessions=sessions,
        offsets=np.arange(tickers + 1) * each, tickers=[f"ticker_{k:05d}" for k in range(tickers)],
    )  # fmt: skip


class FrameSlices(Dataset[dict[str, np.ndarray]]):
    """What is usual: a DataFrame per ticker with its stamps as columns; each sample slices it and normalises
    the slice.
    """

    def __init__(self, store: BarStore, lookback: int) -> None:
        self.lookback, self.length = lookback, lookback + PREDICT
        self.frames = []
        for start, end in zip(store.offsets[:-1], store.offsets[1:], strict=True):
            frame = pd.DataFrame(np.asarray(store.bars[start:end]), columns=list(FEATURES))
            frame[list(STAMP_FIELDS)] = calendar_stamps(store.dates(np.arange(start, end)))
            self.frames.append(frame)
        self.per_ticker = len(self.frames[0]) - self.length + 1

    def __len__(self) -> int:
        return len(self.frames) * self.per_ticker

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        ticker, first = divmod(index, self.per_ticker)
        window = self.frames[ticker].iloc[first : first + self.length]
        x = window[list(FEATURES)].to_numpy()
        mean, std = x[: self.lookback].mean(axis=0), x[: self.lookback].std(axis=0)
        return {
            "x": np.clip((x - mean) / (std + 1e-5), -5, 5),
            "stamp": window[list(STAMP_FIELDS)].to_numpy(),
            "mean": mean,
            "scale": std,
        }


def rate(loader: DataLoader, batch: int, seconds: float) -> float:
    """Windows a second after the first batches, the workers' start not counted."""
    batches = iter(loader)
    for _ in range(10):
        next(batches)
    started, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < seconds:
        next(batches)
        count += 1
    return count * batch / elapsed


def own_memory() -> float:
    """MB of this process and its workers, shared pages counted once; pages of mapped files are the system's
    to take back.
    """
    kilobytes = 0
    for pid in (os.getpid(), *(child.pid for child in multiprocessing.active_children())):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                kilobytes += int(line.split()[1])
    return kilobytes / 1e3


def waiting(loader: DataLoader, name: str, lookback: int, steps: int) -> dict[str, float]:
    """Seconds of a training step of a predictor of preset `name`, and of those how many pass until its batch
    is there.
    """
    tokenizer, predictor = preset(name)
    objective = PredictorObjective(
        Kronos(**predictor),
        KronosTokenizer(**tokenizer),
        lookback=lookback,
        history_loss_weight=1.0,
        teacher_forcing=True,
    )
    optimizer = torch.optim.AdamW(p for p in objective.parameters() if p.requires_grad)
    batches, waited = iter(loader), 0.0
    for step in range(steps + 1):
        if step == 1:  # the first one starts the workers
            started, waited = time.perf_counter(), 0.0
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        sums = objective(batch, lambda joint: joint)
        (sums["loss"] / objective.weight(batch)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {"step_seconds": (time.perf_counter() - started) / steps, "wait_seconds": waited / steps}


def main() -> None:
    options = cli.parser(__doc__ or "", str(Path(__file__).resolve().parents[2] / "configs" / "kaggle.yaml"))
    for name, default in {
        "rows": 4_000_000,
        "tickers": 1000,
        "workers": 2,
        "batch": 32,
        "seconds": 10,
        "frames": 200,
    }.items():
        options.add_argument(f"--{name}", type=int, default=default)
    given = options.parse_args()
    lookback = configfile.load(given.config, given.overrides).data.lookback_window
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        store = generated(Path(folder), given.rows, given.tickers)
        index = WindowIndex.build(
            store, lookback, PREDICT, Part("train", 0, len(store.sessions) - 1, whole=True)
        )
        plan = BatchPlan(len(index), given.batch, epochs=1000)
        before = own_memory()
        loader = window_loader(store, index, plan, 0, clip=5.0, epsilon="absolute", workers=given.workers)
        ours = rate(loader, given.batch, given.seconds)
        memory = own_memory() - before
        del loader  # and its workers
        few = generated(Path(folder) / "few", given.frames * (given.rows // given.tickers), given.frames)
        frames = DataLoader(FrameSlices(few, lookback), given.batch, shuffle=True, num_workers=given.workers)
        theirs = rate(frames, given.batch, given.seconds)
        costs = {}
        for name, steps in {"nano": 20, "mini": 4}.items():
            loader = window_loader(store, index, plan, 0, clip=5.0, epsilon="absolute", workers=given.workers)
            costs[name] = waiting(loader, name, lookback, steps)
    print(
        f"{len(index):,} windows of {lookback + PREDICT} bars, {given.workers} workers, batches of {given.batch}"
    )
    print(f"kit {ours:>12,.0f} windows/s\nframes {theirs:>9,.0f} windows/s\nratio {ours / theirs:>10.1f}")
    print(f"memory of the loader and its workers: {memory:.0f} MB for {len(store.bars):,} rows")
    for name, cost in costs.items():
        share = cost["wait_seconds"] / cost["step_seconds"]
        print(f"{name}: a step takes {cost['step_seconds']:.3f} s, {share:.2%} of it waiting for windows")
    result = {
        "windows_per_second": round(ours),
        "frames_per_second": round(theirs),
        "ratio": round(ours / theirs, 1),
    }
    print(json.dumps({**result, "loader_mb": round(memory), "training_step": costs}))


if __name__ == "__main__":
    cli.run(main)
