"""The loader: the plan's windows for any number of workers and processes, resumable, and without side effects."""

import multiprocessing
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from panels import WEEKDAYS, random_bars, random_store
from torch.utils.data import DataLoader

from kronos.data.loader import Batch, MicroBatches, validation_loader, window_loader
from kronos.data.sampling import BatchPlan
from kronos.data.splits import Part
from kronos.data.store import BarStore, store_from_dict
from kronos.data.windows import WindowIndex, read_windows

LOOKBACK, PREDICT = 8, 2
READ = {"clip": 5.0, "epsilon": "absolute"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> BarStore:
    return random_store(tmp_path_factory.mktemp("data") / "store", seed=5, tickers=15, days=600)


@pytest.fixture(scope="module")
def index(store: BarStore) -> WindowIndex:
    return WindowIndex.build(store, LOOKBACK, PREDICT, Part("train", 0, len(store.sessions) - 15, whole=True))


def plan_of(index: WindowIndex, batch: int, accumulation: int = 1, processes: int = 1, epochs: int = 1) -> BatchPlan:
    return BatchPlan(len(index), batch, accumulation, processes, epochs, seed=9)


def loaded(store: BarStore, index: WindowIndex, plan: BatchPlan, rank: int = 0, start: int = 0, workers: int = 0) -> list[Batch]:
    return list(window_loader(store, index, plan, rank, start, workers=workers, **READ))


def same(one: Batch, other: Batch) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) and one[k].dtype == other[k].dtype for k in one)


# -- the order ---------------------------------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@pytest.mark.parametrize("processes", [1, 2, 8])
@pytest.mark.parametrize("workers", [0, 2, 4])
def test_every_window_once_per_epoch(store: BarStore, index: WindowIndex, workers: int, processes: int) -> None:
    """A dataset that ignores its index: workers or ranks draw the same windows, others never come."""
    plan = plan_of(index, batch=5, accumulation=2, processes=processes)
    seen: Counter[int] = Counter()
    for rank in range(processes):
        batches = loaded(store, index, plan, rank, workers=workers)
        assert len(batches) == plan.total_steps * plan.accumulation
        for batch in batches:
            seen.update(batch["row"][batch["real"]].tolist())
    assert seen == Counter(index.rows(np.arange(len(index))).tolist())


def test_workers_change_nothing(store: BarStore, index: WindowIndex) -> None:
    """Batches from worker processes are those of the main process, bit for bit and in order."""
    plan = plan_of(index, batch=7, accumulation=3)
    plain, two = loaded(store, index, plan), loaded(store, index, plan, workers=2)
    assert len(plain) == len(two) and all(map(same, plain, two))


def test_resumes_at_any_step(store: BarStore, index: WindowIndex) -> None:
    """A resumed run that repeats or skips windows."""
    plan = plan_of(index, batch=16, accumulation=2, processes=2, epochs=2)
    whole = loaded(store, index, plan, rank=1)
    for start in range(0, plan.total_steps + 1, 3):
        rest = loaded(store, index, plan, rank=1, start=start, workers=2 * (start == 3))
        assert len(rest) == len(whole) - 2 * start and all(map(same, rest, whole[2 * start :]))


@pytest.mark.parametrize("workers", [0, 2])
def test_global_random_state_is_untouched(store: BarStore, index: WindowIndex, workers: int) -> None:
    """A DataLoader without its own generator draws from the global one: dropout differs after a resume."""
    torch.manual_seed(1)
    before = torch.get_rng_state()
    loaded(store, index, plan_of(index, batch=64), workers=workers)
    next(iter(validation_loader(store, index, batch_size=4, samples=9, rank=0, processes=1, workers=workers, **READ)))
    assert torch.equal(torch.get_rng_state(), before)


# -- the batch ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_is_what_was_read(store: BarStore, index: WindowIndex, workers: int) -> None:
    """Shapes and types that the networks rely on, and values that survive the way out of a worker."""
    batch = loaded(store, index, plan_of(index, batch=6), workers=workers)[0]
    length = LOOKBACK + PREDICT
    shapes = {"x": (6, length, 6), "stamp": (6, length, 5), "weight": (6, length), "mean": (6, 6), "scale": (6, 6)}
    assert {k: tuple(batch[k].shape) for k in shapes} == shapes and all(batch[k].dtype == torch.float32 for k in shapes)
    assert batch["ticker"].dtype == batch["row"].dtype == torch.int64 and batch["real"].dtype == torch.bool
    assert type(batch) is dict and set(batch) == {*shapes, "ticker", "row", "real"}
    windows = read_windows(store, batch["row"].numpy(), LOOKBACK, PREDICT, clip=5.0, epsilon="absolute", first_session=0)
    for name, values in vars(windows).items():
        assert np.array_equal(batch[name].numpy(), values.astype(batch[name].numpy().dtype)), name
    batch["x"] += 1  # the networks may write to it


def test_padding_has_no_weight(store: BarStore, index: WindowIndex) -> None:
    """A padded row that counts: the mean depends on the number of processes."""
    plan = plan_of(index, batch=50, accumulation=2, processes=3)
    ends = [loaded(store, index, plan, rank, start=plan.total_steps - 1) for rank in range(3)]
    reals = [int(batch["real"].sum()) for batches in ends for batch in batches]
    assert sum(reals) == plan.step_range(plan.total_steps - 1)[1] < plan.step_samples
    for batch in (batch for batches in ends for batch in batches):
        assert torch.equal(batch["weight"].sum(dim=1) > 0, batch["real"])
        assert torch.isfinite(batch["x"]).all()


# -- validation --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("samples", [None, 1, 37])
def test_validation_does_not_depend_on_the_division(store: BarStore, index: WindowIndex, samples: int | None) -> None:
    """A mean of batch means over a sampler's padding: another batch size, another best checkpoint."""
    seen = set()
    for batch_size, processes, workers in [(1, 1, 0), (8, 1, 0), (8, 2, 2), (5, 3, 0), (64, 8, 0)]:
        rows, lengths = [], set()
        for rank in range(processes):
            batches = list(
                validation_loader(
                    store, index, batch_size=batch_size, samples=samples, rank=rank, processes=processes, workers=workers, **READ
                )
            )
            lengths.add(len(batches))
            rows += [row for batch in batches for row in batch["row"][batch["real"]].tolist()]
        assert len(lengths) == 1
        seen.add(tuple(sorted(rows)))
    assert len(seen) == 1 and len(seen.pop()) == (samples or len(index))


def test_validation_can_be_repeated(store: BarStore, index: WindowIndex) -> None:
    """The list is fixed: every validation of a run, and every run, scores the same windows; the workers are kept."""
    loader = validation_loader(store, index, batch_size=8, samples=30, rank=0, processes=1, workers=2, **READ)
    first, second = list(loader), list(loader)
    assert len(first) == 4 and all(map(same, first, second))
    tickers = torch.cat([batch["ticker"][batch["real"]] for batch in first]).unique()
    assert len(tickers) > np.count_nonzero(index.ticker_windows) / 2, "evenly spread over the tickers"


# -- what travels to a worker ------------------------------------------------------------------------------------------
def test_a_worker_gets_a_path_and_not_the_bars(tmp_path: Path) -> None:
    """A pickled memory map is a copy of every row: on spawn each worker would hold the whole market."""
    sizes = []
    for tickers in (2, 20):
        bars = random_bars(np.random.default_rng(0), 1500)
        store = store_from_dict(tmp_path / str(tickers), {f"t{k:02d}": (WEEKDAYS[:1500], bars) for k in range(tickers)})
        index = WindowIndex.build(store, 64, 1, Part("train", 0, 1400, whole=True))
        data = MicroBatches(store, index, plan_of(index, 32), rank=0, clip=5.0, epsilon="absolute")
        sizes.append(len(pickle.dumps(data)))
        again = pickle.loads(pickle.dumps(data))  # noqa: S301 (written above)
        assert same(again[3], data[3])
    assert sizes[1] - sizes[0] < 18 * 100, "a few numbers per ticker, nothing per row"


def test_spawned_workers(store: BarStore, index: WindowIndex) -> None:
    """Python 3.14 and other systems do not fork."""
    plan = plan_of(index, batch=32)
    plain = loaded(store, index, plan)
    spawned = window_loader(store, index, plan, 0, workers=1, **READ)
    other = DataLoader(
        spawned.dataset, batch_size=None, sampler=spawned.sampler, num_workers=1, collate_fn=spawned.collate_fn,
        multiprocessing_context=multiprocessing.get_context("spawn"),
    )  # fmt: skip
    assert all(map(same, plain, other))
