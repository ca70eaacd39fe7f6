"""The loader: the plan's windows for any number of workers and processes, resumable, and without side
effects.
"""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from panels import WEEKDAYS, random_bars, random_store, read_windows

from kronos.data.batch_plan import BatchPlan
from kronos.data.loader import Batch, MicroBatches, validation_loader, window_loader
from kronos.data.slots import Slots
from kronos.data.splits import Part
from kronos.data.store import BarStore
from kronos.data.store_writer import store_from_dict
from kronos.data.windows import WindowIndex

LOOKBACK, PREDICT = 8, 2
READ = {"clip": 5.0, "epsilon": "absolute"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> BarStore:
    return random_store(tmp_path_factory.mktemp("data") / "store", seed=5, tickers=15, days=600)


@pytest.fixture(scope="module")
def index(store: BarStore) -> WindowIndex:
    return WindowIndex.build(store, LOOKBACK, PREDICT, Part("train", 0, len(store.sessions) - 15, whole=True))


def plan_of(
    index: WindowIndex, batch: int, accumulation: int = 1, processes: int = 1, epochs: int = 1
) -> BatchPlan:
    return BatchPlan(len(index), batch, accumulation, processes, epochs, seed=9)


def loaded(
    store: BarStore, index: WindowIndex, plan: BatchPlan, rank: int = 0, start: int = 0, workers: int = 0
) -> list[Batch]:
    return list(window_loader(store, index, plan, rank, start, workers=workers, **READ))


def same(one: Batch, other: Batch) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[k], other[k]) and one[k].dtype == other[k].dtype for k in one
    )


# -- the order -----------------------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@pytest.mark.parametrize("processes", [1, 2, 8])
@pytest.mark.parametrize("workers", [0, 2, 4])
def test_every_window_once_per_epoch(
    store: BarStore, index: WindowIndex, workers: int, processes: int
) -> None:
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
    next(
        iter(
            validation_loader(
                store, index, batch_size=4, samples=9, rank=0, processes=1, workers=workers, **READ
            )
        )
    )
    assert torch.equal(torch.get_rng_state(), before)


# -- the batch -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_is_what_was_read(store: BarStore, index: WindowIndex, workers: int) -> None:
    """Shapes and types that the networks rely on, and values that survive the way out of a worker."""
    batch = loaded(store, index, plan_of(index, batch=6), workers=workers)[0]
    length = LOOKBACK + PREDICT
    shapes = {
        "x": (6, length, 6),
        "stamp": (6, length, 5),
        "weight": (6, length),
        "mean": (6, 6),
        "scale": (6, 6),
    }
    assert {k: tuple(batch[k].shape) for k in shapes} == shapes and all(
        batch[k].dtype == torch.float32 for k in shapes
    )
    assert batch["ticker"].dtype == batch["row"].dtype == torch.int64 and batch["real"].dtype == torch.bool
    assert type(batch) is dict and set(batch) == {*shapes, "ticker", "row", "real"}
    windows = read_windows(store, batch["row"].numpy(), LOOKBACK, PREDICT)
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


# -- validation ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("samples", [None, 1, 37])
def test_validation_does_not_depend_on_the_division(
    store: BarStore, index: WindowIndex, samples: int | None
) -> None:
    """A mean of batch means over a sampler's padding: another batch size, another best checkpoint."""
    seen = set()
    for batch_size, processes, workers in [(1, 1, 0), (8, 1, 0), (8, 2, 2), (5, 3, 0), (64, 8, 0)]:
        rows, lengths = [], set()
        for rank in range(processes):
            batches = list(
                validation_loader(
                    store,
                    index,
                    batch_size=batch_size,
                    samples=samples,
                    rank=rank,
                    processes=processes,
                    workers=workers,
                    **READ,
                )
            )
            lengths.add(len(batches))
            rows += [row for batch in batches for row in batch["row"][batch["real"]].tolist()]
        assert len(lengths) == 1
        seen.add(tuple(sorted(rows)))
    assert len(seen) == 1 and len(seen.pop()) == (samples or len(index))


def test_validation_can_be_repeated(store: BarStore, index: WindowIndex) -> None:
    """The list is fixed: every validation of a run, and every run, scores the same windows; the workers are
    kept.
    """
    loader = validation_loader(store, index, batch_size=8, samples=30, rank=0, processes=1, workers=2, **READ)
    first, second = list(loader), list(loader)
    assert len(first) == 4 and all(map(same, first, second))
    tickers = torch.cat([batch["ticker"][batch["real"]] for batch in first]).unique()
    assert len(tickers) > np.count_nonzero(index.ticker_windows) / 2, "evenly spread over the tickers"


# -- what travels to a worker --------------------------------------------------------------------------------
def test_a_worker_gets_a_path_and_not_the_bars(tmp_path: Path) -> None:
    """A pickled memory map is a copy of every row: on spawn each worker would hold the whole market."""
    sizes = []
    for tickers in (2, 20):
        bars = random_bars(np.random.default_rng(0), 1500)
        store = store_from_dict(
            tmp_path / str(tickers), {f"t{k:02d}": (WEEKDAYS[:1500], bars) for k in range(tickers)}
        )
        index = WindowIndex.build(store, 64, 1, Part("train", 0, 1400, whole=True))
        data = MicroBatches(store, index, plan_of(index, 32), rank=0, clip=5.0, epsilon="absolute")
        sizes.append(len(pickle.dumps(data)))
        again = pickle.loads(pickle.dumps(data))  # noqa: S301 (written above)
        assert same(again[3], data[3])
    assert sizes[1] - sizes[0] < 18 * 100, "a few numbers per ticker, nothing per row"


def test_spawned_workers(store: BarStore, index: WindowIndex) -> None:
    """Python 3.14 and other systems do not fork."""
    plan = plan_of(index, batch=32)
    spawned = window_loader(store, index, plan, 0, workers=1, **READ)
    spawned.multiprocessing_context = multiprocessing.get_context("spawn")
    batches = list(spawned)
    plain = loaded(store, index, plan)
    assert len(batches) == len(plain) and all(map(same, plain, batches))


# -- slots ---------------------------------------------------------------------------------------------------
def test_an_epoch_left_early(store: BarStore, index: WindowIndex) -> None:
    """Batches of an iteration that was given up, in slots of the next one."""
    loader = validation_loader(
        store, index, batch_size=8, samples=300, rank=0, processes=1, workers=2, **READ
    )
    whole = list(loader)
    for left in (0, 1, 5, 20):
        batches = iter(loader)
        assert all(same(next(batches), whole[i]) for i in range(left))
        again = list(loader)
        assert len(again) == len(whole) and all(map(same, again, whole))


def test_a_batch_waits_for_a_slow_trainer(store: BarStore, index: WindowIndex) -> None:
    """A batch overwritten by workers that are ahead while the trainer is still at it, or keeps it."""
    plan = plan_of(index, batch=7)
    plain = loaded(store, index, plan)
    kept = []
    for batch, expected in zip(window_loader(store, index, plan, 0, workers=2, **READ), plain, strict=True):
        time.sleep(0.05 if len(kept) < 20 else 0)
        assert same(batch, expected)
        kept.append(batch)
    assert all(map(same, kept, plain))


def test_a_slot_that_was_written_over_is_an_error() -> None:
    """A reader that takes whatever lies in the slot: windows of one step beside targets of another."""
    batches = [{"x": np.full((3, 2), i, np.float32), "row": np.arange(3) + i} for i in range(5)]
    slots = Slots.like(batches[0], 4)
    for number in range(4):
        slots.write(number, batches[number])
    for number in range(4):
        found = slots.read(number)
        assert found.keys() == batches[number].keys()
        assert all(
            np.array_equal(found[k], v) and found[k].dtype == v.dtype for k, v in batches[number].items()
        )
    kept = slots.read(0)
    slots.write(4, batches[4])
    assert np.array_equal(kept["x"], batches[0]["x"]) and np.array_equal(slots.read(4)["x"], batches[4]["x"])
    with pytest.raises(AssertionError, match="before the one in its slot"):
        slots.read(0)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_slots_where_the_system_has_no_memory_files(method: str, tmp_path: Path) -> None:
    """Keeps out: AttributeError with the first worker on a Mac; a file that stays behind."""
    (tmp_path / "x").mkdir()
    environment = os.environ | {"TMPDIR": str(tmp_path / "x"), "PYTHONPATH": str(Path(__file__).parents[2])}
    (tmp_path / "x.py").write_text(WITHOUT_MEMFD)
    command = [sys.executable, str(tmp_path / "x.py"), method]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "0 1 2 3 4 5\n", done.stderr
    assert not [p for p in (tmp_path / "x").iterdir() if not p.name.startswith("pymp-")]


WITHOUT_MEMFD = """
import multiprocessing, os, sys
import numpy as np
del os.memfd_create
from kronos.data.slots import Slots

def fill(slots, numbers):
    for number in numbers:
        slots.write(number, {"x": np.full(5, number)})

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    slots = Slots.like({"x": np.zeros(5, int)}, 6)
    workers = [context.Process(target=fill, args=(slots, range(k, 6, 2))) for k in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print(*(int(slots.read(number)["x"].mean()) for number in range(6)))
"""

WITHOUT_SEMAPHORES = """
import logging, resource, sys
from kronos.data.loader import window_loader
from kronos.data.batch_plan import BatchPlan
from kronos.data.splits import Part
from kronos.data.store import BarStore
from kronos.data.windows import WindowIndex
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
store = BarStore.open(sys.argv[1])
index = WindowIndex.build(store, 8, 2, Part("train", 0, len(store.sessions) - 15, whole=True))
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # no file may grow, those in /dev/shm neither
for _ in range(2):
    plan = BatchPlan(len(index), 64)
    loader = window_loader(store, index, plan, 0, clip=5.0, epsilon="absolute", workers=2)
    assert len(list(loader)) == plan.total_steps
"""


def test_without_semaphores_windows_are_read_without_workers(store: BarStore) -> None:
    """Keeps out: the interpreter's traceback in a container without /dev/shm; a fallback unsaid, or said by
    every loader.
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", WITHOUT_SEMAPHORES, str(store.path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.count("\n") == 1 and "training.num_workers" in done.stdout and "/dev/shm" in done.stdout
    )


TRAINER = """
import sys
from pathlib import Path
from panels import random_store
from kronos import cli
from kronos.data.loader import window_loader, worker_gone
from kronos.data.batch_plan import BatchPlan
from kronos.data.splits import Part
from kronos.data.store import BarStore
from kronos.data.windows import WindowIndex

def main():
    store = BarStore.open(sys.argv[1])
    index = WindowIndex.build(store, 8, 2, Part("train", 0, len(store.sessions) - 15, whole=True))
    loader = window_loader(store, index, BatchPlan(len(index), 4, epochs=10_000), 0, clip=5.0, epsilon="absolute", workers=2)
    batches = iter(loader)
    for _ in range(2):
        next(batches)  # one from each: torch's workers notice the end of their trainer once they are up
    print(*(worker.pid for worker in loader._iterator._workers), flush=True)
    try:
        for _ in batches:
            pass
    except RuntimeError as error:  # torch raises wherever the trainer is: here, too, as in a training step
        raise worker_gone(error) or error

cli.run(main)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def trainer(store: BarStore) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A process that takes batches from two workers without end, and the workers."""
    paths = f"{Path(__file__).parents[2]}{os.pathsep}{Path(__file__).parents[1]}"
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINER, str(store.path)], env={**os.environ, "PYTHONPATH": paths}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout
    yield process, [int(pid) for pid in process.stdout.readline().split()]
    process.kill()
    process.communicate()


def test_a_killed_worker_is_one_error(trainer: tuple[subprocess.Popen[str], list[int]]) -> None:
    """A trainer that waits for ever for a worker that the system killed, or forty lines of traceback."""
    process, workers = trainer
    os.kill(workers[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    lines = errors.strip().splitlines()
    assert process.returncode == 2 and len(lines) == 1, errors
    assert "processes that read windows" in lines[0] and "the same command goes on" in lines[0]


def test_a_killed_trainer_leaves_nothing(trainer: tuple[subprocess.Popen[str], list[int]]) -> None:
    """Shared memory that outlives a killed run: a container's 64 MB are full after a few of them."""
    process, workers = trainer
    mapped = Path(f"/proc/{process.pid}/maps").read_text()
    assert "/memfd:windows" in mapped and "/dev/shm/torch" not in mapped
    before = set(Path("/dev/shm").iterdir())
    process.kill()
    process.communicate()
    for _ in range(200):
        if not any(alive(pid) for pid in workers):
            break
        time.sleep(0.1)
    assert not any(alive(pid) for pid in workers), "a worker outlived its trainer"
    assert set(Path("/dev/shm").iterdir()) <= before
