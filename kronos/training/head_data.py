"""What the head's stage reads: dates of both parts, as batches of tensors for one process; and the states of a
predictor that stays as it is.

In: a resolved `Config`, a prepared store. Out: `HeadData`, `DateBatches` (a data set of micro-batches),
`Streams` for the loop. A micro-batch has its dates along the first axis, so what is cut for want of memory is
cut between dates. States are computed once per network, data and settings, and kept on disk: files (n, D)
float16 that loaders map into memory, in `RUN/states/KEY/`, where another head of the run finds them. The key
is a digest of the networks, the store, the samples and what the windows are cut and normalised with; a folder
appears complete or not at all. Several processes compute a share each.

Letters: E dates, W stocks of a date, T bars of tokens, L bars of channels, C channels, S figures, K horizons,
D width of a state.
"""

import hashlib
import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from kronos import files
from kronos.config import Config
from kronos.data.batch_plan import BatchPlan, ScoringPlan
from kronos.data.channels import ChannelReader
from kronos.data.date_batches import DateIndex, DateReader
from kronos.data.loader import Batch, WindowLoader
from kronos.data.splits import Part, Splits, split_store
from kronos.data.store import BarStore
from kronos.data.windows import WindowReader
from kronos.errors import KitError
from kronos.networks.head import Head
from kronos.progress import progress
from kronos.training.device import Streams, attempt, halved
from kronos.training.distributed import Runtime
from kronos.training.start import sheltered

# -- dates as batches ----------------------------------------------------------------------------------------
MIN_BARS = 32
"""Fewest bars behind a sample whose channels are read; older ones that are missing are marked as such."""
VALIDATION_SEED = 20
"""Of the stocks that are scored on each date of the validation part: the same ones in every run."""


def asked_horizon(config: Config) -> int:
    """The horizon that chooses the best head: the one that is forecast or backtested, else the longest of
    head.horizons.
    """
    return config.inference.horizon or config.evaluation.horizon or max(config.head.horizons)


def all_horizons(config: Config) -> list[int]:
    """The horizons that are learnt, rising: head.horizons and the one that is asked for."""
    return sorted({*config.head.horizons, asked_horizon(config)})


def reads_tokens(config: Config) -> bool:
    """Whether the head reads states of the predictor."""
    return config.head.inputs in ("tokens", "both")


def history(config: Config) -> int:
    """Bars that a sample needs: all of the tokens' lookback, where they are read."""
    return config.head_token_lookback if reads_tokens(config) else MIN_BARS


@dataclass(frozen=True)
class HeadData:
    """Dates of both parts, and the order in which training takes them."""

    train: DateIndex
    validation: DateIndex
    plan: BatchPlan
    """A "window" of this plan is a date."""
    splits: Splits

    @classmethod
    def of(cls, config: Config, store: BarStore) -> "HeadData":
        """Raises KitError when a part has no date."""
        d, h, t = config.data, config.head, config.training
        splits = split_store(d, store.sessions, store.span_of(config.embargo))
        horizons = all_horizons(config)
        train, validation = (
            DateIndex.build(store, part, horizons, h.every, history(config))
            for part in (splits.train, splits.validation)
        )
        processes = config.distributed.num_processes
        if h.dates_per_batch % processes:
            raise KitError(
                f"head.dates_per_batch: expected a multiple of the {processes} processes, since a date is not divided between "
                f"them, found {h.dates_per_batch}; choose another number of dates"
            )
        plan = BatchPlan(
            windows=len(train),
            batch_size=1,
            accumulation=h.dates_per_batch // processes,
            processes=processes,
            epochs=t.head_epochs,
            seed=t.seed,
            samples_per_epoch=h.dates_per_epoch,
            max_steps=t.most_steps("head"),
        )
        return cls(train, validation, plan, splits)

    @property
    def train_part(self) -> Part:
        """The days that train."""
        return self.splits.train


class DateBatches(Dataset[Batch]):
    """Item i is micro-batch i of a run for one rank, as `data.loader.MicroBatches` counts them.

    Tensors: ticker, row, sample (E, W) int64, real (E, W) bool; rank, rise, labelled (E, W, K) float32; with
    bars series (E, W, L, C) and figures (E, W, S); with tokens x (E, W, T, 6) and stamp (E, W, T, 5), or, of
    a frozen predictor, state (E, W, D).
    """

    def __init__(
        self,
        config: Config,
        store: BarStore,
        index: DateIndex,
        plan: BatchPlan | ScoringPlan,
        rank: int,
        stocks: int,
        seed: int,
        states: Path | None = None,
    ) -> None:
        """stocks: W. seed: of their draw. states: file (n, D) of the frozen predictor's states of the index's
        samples.
        """
        self.plan, self.rank, self.states = plan, rank, states
        self.read = DateReader(store, index, all_horizons(config), stocks, seed)
        self.channels = (
            ChannelReader(store, config.head.bar_lookback) if config.head.inputs in ("bars", "both") else None
        )
        self.tokens: WindowReader | None = None
        if reads_tokens(config) and states is None:
            d = config.data
            self.tokens = WindowReader(
                store, config.head_token_lookback, 0, clip=d.clip, epsilon=d.norm_epsilon, first_session=0
            )

    def __len__(self) -> int:
        return self.plan.total_steps * self.plan.accumulation

    def __getitem__(self, item: int) -> Batch:
        positions, real = self.plan.positions(*divmod(item, self.plan.accumulation), self.rank)
        batch = self.read(self.plan.windows_at(positions), positions, real)
        arrays = batch.arrays()
        shape, rows = batch.row.shape, batch.row.reshape(-1)
        if self.channels is not None:
            channels = self.channels(rows)
            arrays["series"] = channels.series.reshape(*shape, *channels.series.shape[1:])
            arrays["figures"] = channels.figures.reshape(*shape, -1)
        if self.tokens is not None:
            windows = self.tokens(rows - self.tokens.lookback + 1)
            arrays["x"] = windows.x.reshape(*shape, *windows.x.shape[1:])
            arrays["stamp"] = windows.stamp.reshape(*shape, *windows.stamp.shape[1:])
        if self.states is not None:
            arrays["state"] = np.load(self.states, mmap_mode="r")[batch.sample]
        return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in arrays.items()}


def head_streams(
    config: Config, data: HeadData, store: BarStore, runtime: Runtime, states: tuple[Path, Path] | None
) -> Streams:
    """Loaders of this process. states: files of the frozen predictor's states, of training and of
    validation.
    """
    h, t = config.head, config.training
    on_train, on_validation = states or (None, None)
    pin = runtime.device.type == "cuda"
    training = DateBatches(
        config, store, data.train, data.plan, runtime.rank, h.stocks_per_date, t.seed, on_train
    )
    plan = ScoringPlan(len(data.validation), 1, runtime.world)
    scored = DateBatches(
        config,
        store,
        data.validation,
        plan,
        runtime.rank,
        h.validation_stocks,
        VALIDATION_SEED,
        on_validation,
    )

    def train_from(step: int) -> DataLoader:
        return sheltered(
            WindowLoader(training, range(step * data.plan.accumulation, len(training)), t.num_workers, pin)
        )

    validation = sheltered(WindowLoader(scored, range(len(scored)), t.num_workers, pin))
    return Streams(train_from, lambda: validation, store.tickers)


# -- states of a frozen predictor ----------------------------------------------------------------------------
log = logging.getLogger(__name__)

CHUNK = 1024
"""Samples between two looks at whether the run has to stop."""
KEY = "key.json"


def frozen_states(
    config: Config, store: BarStore, data: HeadData, head: Head, networks: str, runtime: Runtime
) -> tuple[Path, Path] | None:
    """Files of the states of training and of validation, which an earlier run may have left; None: asked to
    stop meanwhile.

    networks: digest of tokenizer and predictor. Every process has to call it.
    """
    facts = _facts(config, store, data, networks)
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    folder, temporary = config.run_dir / "states" / key, config.run_dir / "states" / f".{key}.tmp"
    names = ("train.npy", "validation.npy")
    if runtime.on_main(lambda: (folder / KEY).is_file()):
        log.info("head: the predictor's states are in %s, computed before", folder)
        return folder / names[0], folder / names[1]
    runtime.on_main(
        lambda: _allocate(
            temporary, [len(data.train.row), len(data.validation.row)], head.trunk.config.d_model
        )
    )
    head.to(runtime.device).eval()
    for name, index in zip(names, (data.train, data.validation), strict=True):
        done = _compute(config, store, index, head, temporary / name, runtime)
        if runtime.total([float(not done)])[0]:
            return None
    runtime.on_main(lambda: _publish(temporary, folder, facts))
    return folder / names[0], folder / names[1]


def _facts(config: Config, store: BarStore, data: HeadData, networks: str) -> dict[str, object]:
    """What the states are a function of."""
    rows = hashlib.sha256()
    for index in (data.train, data.validation):
        rows.update(np.ascontiguousarray(index.row).tobytes())
    d = config.data
    window = {"lookback": config.head_token_lookback, "clip": d.clip, "norm_epsilon": d.norm_epsilon}
    return {"networks": networks, "data": store.digest, "samples": rows.hexdigest(), **window}


def _allocate(folder: Path, counts: list[int], width: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, count in zip(("train.npy", "validation.npy"), counts, strict=True):
        np.lib.format.open_memmap(folder / name, mode="w+", dtype=np.float16, shape=(count, width)).flush()


def _publish(temporary: Path, folder: Path, facts: dict[str, object]) -> None:
    """Put the finished files in place; those of other networks or settings go."""
    for old in folder.parent.glob("[!.]*"):
        log.info("head: %s is of another network, data or settings: removed", old)
        shutil.rmtree(old, ignore_errors=True)
    files.write_json(temporary / KEY, facts)
    temporary.rename(folder)


def _compute(
    config: Config, store: BarStore, index: DateIndex, head: Head, path: Path, runtime: Runtime
) -> bool:
    """Fill this process's share of the chunks; False: asked to stop."""
    d = config.data
    read = WindowReader(
        store, config.head_token_lookback, 0, clip=d.clip, epsilon=d.norm_epsilon, first_session=0
    )
    out = np.lib.format.open_memmap(path, mode="r+")
    starts = range(runtime.rank * CHUNK, len(index.row), runtime.world * CHUNK)
    with progress(f"states of the {index.part.name} part", len(index.row), "samples") as bar:
        for start in starts:
            if runtime.stop.asked:
                return False
            rows = index.row[start : start + CHUNK]
            out[start : start + CHUNK] = states_of(head, read, rows, runtime.device)
            bar.update(len(rows) * runtime.world)
    out.flush()
    return True


@torch.inference_mode()
def states_of(
    head: Head, read: WindowReader, rows: NDArray[np.int64], device: torch.device
) -> NDArray[np.float32]:
    """States (n, D) of the rows of last known bars, each with a whole lookback behind it, in as many pieces
    as fit.

    The head is on the device and in evaluation mode.
    """
    windows = read(rows - read.lookback + 1)
    x, stamp = torch.from_numpy(windows.x), torch.from_numpy(windows.stamp)
    pieces = 1
    while True:
        parts = list(zip(x.tensor_split(pieces), stamp.tensor_split(pieces), strict=True))
        done = attempt(lambda: [head.state(a.to(device), b.to(device)).cpu() for a, b in parts])  # noqa: B023 (called at once)
        if done is not None:
            return torch.cat(done).numpy()
        pieces = halved("head states", len(x), pieces)
