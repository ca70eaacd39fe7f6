"""Nothing after an origin may reach the inputs of that origin: rows changed, added or deleted later leave
every bit alone.
"""

from pathlib import Path

import numpy as np
import pytest
from panels import WEEKDAYS, Series, random_bars, random_series, read_windows, store_in_memory

from kronos.bars import EpsilonKind
from kronos.config import Config, DataConfig
from kronos.data.prepare import prepare
from kronos.data.splits import Part
from kronos.data.store import BarStore
from kronos.data.windows import WindowIndex, Windows

DAYS = 90
LOOKBACK, PREDICT = 7, 3


def perturbed(rng: np.random.Generator, series: Series, origin: np.datetime64) -> Series:
    """Rows after the origin changed, added or deleted, in any ticker; sometimes a ticker that begins after
    it.
    """
    result = {}
    for name, (dates, bars) in series.items():
        past = dates <= origin
        action = rng.choice(["keep", "change", "delete some", "delete all", "add"])
        later_dates, later = dates[~past], bars[~past].copy()
        if action == "change":
            later = later * rng.choice([0.0, 0.5, 10.0, 1e6, -1.0]).astype(np.float32)
        elif action == "delete some":
            kept = rng.random(len(later)) < 0.5
            later_dates, later = later_dates[kept], later[kept]
        elif action == "delete all":
            later_dates, later = later_dates[:0], later[:0]
        elif action == "add":
            every = np.arange(origin + 1, WEEKDAYS[DAYS] + 40)  # weekends and days that no ticker had, too
            later_dates = np.union1d(
                later_dates, rng.choice(every, rng.integers(1, len(every)), replace=False)
            )
            later = random_bars(rng, len(later_dates))
        result[name] = (np.append(dates[past], later_dates), np.vstack([bars[past], later]))
    if rng.random() < 0.3:  # sorts before, between and after the others
        newcomer = rng.choice(["a", "t000x", "z"])
        result[newcomer] = (WEEKDAYS[DAYS : DAYS + 20], random_bars(rng, 20))
    return {name: rows for name, rows in result.items() if len(rows[0])}


def past_windows(
    store: BarStore, origin: np.datetime64, epsilon: EpsilonKind
) -> dict[tuple[str, str], list[bytes]]:
    """Every window whose last bar is dated at the origin or before: {(ticker, first date): its bytes}."""
    last = int(np.searchsorted(store.sessions, origin.astype("datetime64[s]"), side="right")) - 1
    index = WindowIndex.build(store, LOOKBACK, PREDICT, Part("train", 0, last, whole=True))
    rows = index.rows(np.arange(len(index)))
    return by_name(store, read(store, rows, PREDICT, epsilon))


def contexts(
    store: BarStore, origin: np.datetime64, epsilon: EpsilonKind
) -> dict[tuple[str, str], list[bytes]]:
    """What a forecast from the origin sees: the last LOOKBACK bars of every ticker, dated at the origin or
    before.
    """
    tickers = np.arange(len(store.tickers))
    ends = store.end_before(tickers, np.full(len(tickers), origin + 1))
    enough = ends - store.offsets[:-1] >= LOOKBACK
    return by_name(store, read(store, ends[enough] - LOOKBACK, 0, epsilon))


def read(store: BarStore, rows: np.ndarray, predict: int, epsilon: EpsilonKind) -> Windows:
    return read_windows(store, rows, LOOKBACK, predict, epsilon)


def by_name(store: BarStore, windows: Windows) -> dict[tuple[str, str], list[bytes]]:
    fields = ("x", "stamp", "weight", "mean", "scale")
    keys = zip(windows.ticker, store.dates(windows.row), strict=True)
    return {
        (store.tickers[ticker], str(date)): [vars(windows)[field][place].tobytes() for field in fields]
        for place, (ticker, date) in enumerate(keys)
    }


def test_store_windows_ignore_the_future() -> None:
    """1,000 random cases: windows, stamps and statistics of an origin, bit for bit."""
    compared = 0
    for case in range(1000):
        rng = np.random.default_rng(case)
        series = random_series(rng, 5, DAYS)
        origin = WEEKDAYS[rng.integers(5, DAYS)]
        epsilon: EpsilonKind = "absolute" if case % 2 else "relative"
        before, after = store_in_memory(series), store_in_memory(perturbed(rng, series, origin))
        for view in (past_windows, contexts):
            expected = view(before, origin, epsilon)
            found = view(after, origin, epsilon)
            assert found == expected, f"case {case}: {view.__name__} at {origin}"
            compared += len(expected)
    assert compared > 20_000, "the cases must hold windows to compare"


def test_the_comparison_sees_a_leak() -> None:
    """A statistic over the whole window is caught: the test above can fail."""
    rng = np.random.default_rng(0)
    bars = random_bars(rng, 30)
    louder = np.vstack([bars[:20], bars[20:] * 2])
    stores = [store_in_memory({"t": (WEEKDAYS[:30], b)}) for b in (bars, louder)]
    leaky = [by_name(s, read_windows(s, np.array([15]), 10, 0)) for s in stores]
    assert leaky[0] != leaky[1]


# -- from files, through cleaning ----------------------------------------------------------------------------
HEADER = "Ticker,Date,Open,High,Low,Close,Volume,Dividends,Stock Splits"
DIRT = ("0", "", "inf", "-3", "nan", "1e15")


def csv_rows(rng: np.random.Generator, series: Series, dirt: float) -> list[tuple[np.datetime64, str]]:
    """(date, line) of every bar, sorted by date, with dirty fields, repeated rows and halted or split
    shares.
    """
    lines = []
    for name, (dates, bars) in series.items():
        for date, bar in zip(dates, bars, strict=True):
            fields = [f"{value:.6f}" for value in (bar[0], bar[:4].max(), bar[:4].min(), bar[3], bar[4])]
            if rng.random() < dirt:
                fields[rng.integers(0, 5)] = rng.choice(DIRT)
            line = (date, ",".join([name, str(date), *fields, "0.0", "0.0"]))
            lines += [line] * (2 if rng.random() < dirt else 1)
    order = rng.permutation(len(lines))
    return sorted((lines[i] for i in order), key=lambda line: line[0])


def prepared(folder: Path, lines: list[tuple[np.datetime64, str]]) -> BarStore:
    """The store of a file with these lines, by the default policy."""
    folder.mkdir()
    (folder / "train.csv").write_text("\n".join([HEADER, *(text for _, text in lines)]) + "\n")
    data = DataConfig(
        data_path=str(folder / "train.csv"),
        store=str(folder / "store"),
        lookback_window=LOOKBACK,
        predict_window=PREDICT,
    )
    return prepare(Config(data=data))


@pytest.mark.parametrize("block", range(4))
def test_prepared_windows_ignore_the_future(block: int, tmp_path: Path) -> None:
    """From the CSV on, dirty rows included: reading, cleaning and storing let nothing of the future through
    either.
    """
    compared = 0
    for case in range(block * 15, block * 15 + 15):
        rng = np.random.default_rng(case)
        series = random_series(rng, 4, DAYS) | {"whole": (WEEKDAYS[:DAYS], random_bars(rng, DAYS))}
        origin = WEEKDAYS[rng.integers(40, DAYS)]
        before = csv_rows(rng, series, dirt=0.05)
        future = [
            line for line in csv_rows(rng, perturbed(rng, series, origin), dirt=0.2) if line[0] > origin
        ]
        after = [line for line in before if line[0] <= origin] + future
        one, other = prepared(tmp_path / f"{case}a", before), prepared(tmp_path / f"{case}b", after)
        for view in (past_windows, contexts):
            expected = view(one, origin, "absolute")
            assert view(other, origin, "absolute") == expected, f"case {case}: {view.__name__} at {origin}"
            compared += len(expected)
    assert compared > 500
