"""Windows: which rows they hold, what their statistics see, and the fast reader against a slow one."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from panels import (
    arrays_of,
    cut_segments,
    random_bars,
    random_series,
    random_store,
    read_windows,
    store_in_memory,
)

from kronos import bars
from kronos.data.splits import Part
from kronos.data.store import BarStore
from kronos.data.windows import WindowIndex, WindowReader, require_windows
from kronos.errors import KitError

SEEDS = st.integers(0, 2**32 - 1)


def panel(seed: int, tickers: int = 6, days: int = 60) -> BarStore:
    rng = np.random.default_rng(seed)
    arrays = arrays_of(random_series(rng, tickers, days))
    return replace(BarStore(Path(), {}, **arrays), segments=cut_segments(rng, arrays))


def belongs(store: BarStore, row: int, lookback: int, length: int, part: Part) -> bool:
    """The definition, for one window: its predicted bars (training: all of its bars) are dated in the
    part.
    """
    sessions = store.session[row : row + length]
    wanted = sessions if part.whole else sessions[lookback:]
    return bool(part.first <= wanted.min() and wanted.max() <= part.last)


def slow_rows(store: BarStore, lookback: int, predict: int, part: Part) -> list[int]:
    """Every window by looking at every row of every segment."""
    length = lookback + predict
    return [
        row
        for start, end in store.segments
        for row in range(start, end - length + 1)
        if belongs(store, row, lookback, length, part)
    ]


def slow_window(store: BarStore, row: int, lookback: int, predict: int, first: int) -> dict[str, np.ndarray]:
    """One window, field by field, without a shared line of code with the reader."""
    rows = np.arange(row, row + lookback + predict)
    raw = store.bars[rows].astype(np.float64)
    mean, scale = raw[:lookback].mean(axis=0), raw[:lookback].std(axis=0) + 1e-5
    return {
        "x": np.clip((raw - mean) / scale, -5, 5),
        "stamp": bars.calendar_stamps(store.sessions[store.session[rows]]),
        "weight": (store.session[rows] >= first).astype(float),
        "ticker": np.flatnonzero((store.offsets[:-1] <= row) & (row < store.offsets[1:]))[0],
        "row": np.array(row),
        "mean": mean,
        "scale": scale,
    }


# -- which rows ----------------------------------------------------------------------------------------------
@settings(max_examples=200, deadline=None)
@given(
    seed=SEEDS, lookback=st.integers(1, 12), predict=st.integers(1, 4), whole=st.booleans(), data=st.data()
)
def test_index_is_the_definition(
    seed: int, lookback: int, predict: int, whole: bool, data: st.DataObject
) -> None:
    """Windows that cross a ticker, a segment or a part's boundary, or windows that the arithmetic forgets."""
    store = panel(seed)
    first = data.draw(st.integers(0, len(store.sessions) - 1))
    part = Part("any", first, data.draw(st.integers(first, len(store.sessions) - 1)), whole)
    index = WindowIndex.build(store, lookback, predict, part)
    expected = slow_rows(store, lookback, predict, part)
    assert index.rows(np.arange(len(index))).tolist() == expected
    tickers = np.searchsorted(store.offsets, expected, side="right") - 1
    assert index.ticker_windows.tolist() == np.bincount(tickers, minlength=len(store.tickers)).tolist()


@settings(max_examples=100, deadline=None)
@given(seed=SEEDS, lookback=st.integers(1, 12), predict=st.integers(1, 4))
def test_a_window_is_one_ticker_in_order(seed: int, lookback: int, predict: int) -> None:
    """The merge sorted by date of an earlier kit: windows that mix companies."""
    store = panel(seed)
    index = WindowIndex.build(store, lookback, predict, Part("all", 0, len(store.sessions) - 1))
    for row in index.rows(np.arange(len(index))):
        rows = np.arange(row, row + index.length)
        assert len(set(np.searchsorted(store.offsets, rows, side="right"))) == 1
        assert (np.diff(store.dates(rows)) > np.timedelta64(0)).all()


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, lookback=st.integers(1, 12), predict=st.integers(1, 4))
def test_what_is_left_out_adds_up(seed: int, lookback: int, predict: int) -> None:
    """Segments that vanish from the report without a reason."""
    store = panel(seed)
    index = WindowIndex.build(
        store, lookback, predict, Part("late", len(store.sessions) // 2, len(store.sessions) - 1)
    )
    out = index.left_out
    assert out.segments == len(store.segments) == len(index.first) + out.short_segments + out.outside_segments
    assert out.short_segments == sum(end - start < lookback + predict for start, end in store.segments)
    assert out.tickers - out.empty_tickers == (index.ticker_windows > 0).sum()
    assert f"{len(index):,} windows" in index.describe()


def test_rows_refuses_an_index_outside() -> None:
    """A negative or too large index that wraps round to another ticker's window."""
    store = panel(1)
    index = WindowIndex.build(store, 4, 1, Part("all", 0, len(store.sessions) - 1))
    for wrong in (-1, len(index)):
        with pytest.raises(IndexError):
            index.rows(np.array([wrong]))
    with pytest.raises(IndexError):
        read_windows(store, np.array([len(store) - 3]), 4, 1)


def test_empty_part_refuses() -> None:
    """A validation part without a window: an earlier kit saved 0.0 as its best loss."""
    store = panel(2)
    good = WindowIndex.build(store, 3, 1, Part("train", 0, len(store.sessions) - 1, whole=True))
    empty = WindowIndex.build(
        store, 500, 1, Part("validation", len(store.sessions) // 2, len(store.sessions) - 1)
    )
    require_windows([good])
    with pytest.raises(KitError, match=r"validation: 0 windows of 500 \+ 1 bars.*lookback_window.*val_ratio"):
        require_windows([good, empty])


def test_index_does_not_list_windows() -> None:
    """A list of windows takes 8 bytes a row; 50,000 tickers in a Python loop take a minute."""
    tickers, each = 50_000, 400
    arrays = {
        "bars": np.broadcast_to(np.float32(1), (tickers * each, 6)),
        "session": np.tile(np.arange(each, dtype=np.int32), tickers),
        "sessions": WEEKDAY_SECONDS[:each],
        "offsets": np.arange(tickers + 1) * each,
        "segments": np.stack([np.arange(tickers) * each, (np.arange(tickers) + 1) * each], axis=1),
        "tickers": [f"{k:05d}" for k in range(tickers)],
    }
    started = time.process_time()
    index = WindowIndex.build(BarStore(Path(), {}, **arrays), 256, 1, Part("train", 0, 350, whole=True))
    assert time.process_time() - started < 2.0
    assert len(index) == tickers * (351 - 257 + 1)
    assert index.first.nbytes + index.ends.nbytes + index.ticker_windows.nbytes <= 3 * 8 * tickers


WEEKDAY_SECONDS = np.arange("2010-01-04", "2013-01-01", dtype="datetime64[D]").astype("datetime64[s]")


# -- what is read --------------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, lookback=st.integers(2, 12), predict=st.integers(1, 4))
def test_reader_equals_the_slow_one(seed: int, lookback: int, predict: int) -> None:
    """The batch reader's views and strides against one window at a time."""
    store = panel(seed)
    part = Part("validation", len(store.sessions) // 2, len(store.sessions) - 1)
    index = WindowIndex.build(store, lookback, predict, part)
    rows = np.random.default_rng(seed).permutation(index.rows(np.arange(len(index))))[:20]
    batch = read_windows(store, rows, lookback, predict, first_session=part.first)
    for place, row in enumerate(rows):
        for name, expected in slow_window(store, row, lookback, predict, part.first).items():
            np.testing.assert_allclose(vars(batch)[name][place], expected, rtol=1e-6, atol=1e-6, err_msg=name)


def test_validation_lookback_has_no_weight() -> None:
    """Bars dated before the part are history, not targets; all predicted bars are targets."""
    store = panel(3, tickers=8, days=120)
    part = Part("validation", 60, 100)
    index = WindowIndex.build(store, 10, 3, part)
    rows = index.rows(np.arange(len(index)))
    batch = read_windows(store, rows, 10, 3, first_session=part.first)
    dated = np.stack([store.session[row : row + 13] for row in rows])
    assert (batch.weight == (dated >= 60)).all()
    assert (batch.weight[:, 10:] == 1).all() and (batch.weight == 0).any()


def test_a_window_does_not_depend_on_its_batch(tmp_path: Path) -> None:
    """Sums in another order: a resumed run, or the same window at another batch size, would differ in the
    last bit.
    """
    store = random_store(tmp_path / "store", 4)
    index = WindowIndex.build(store, 33, 2, Part("all", 0, len(store.sessions) - 1))
    rows = index.rows(np.arange(0, len(index), 3))
    together = read_windows(store, rows, 33, 2)
    for place, row in enumerate(rows):
        alone = read_windows(store, np.array([row]), 33, 2)
        for name, values in vars(alone).items():
            assert np.array_equal(values[0], vars(together)[name][place]), name


@settings(max_examples=50, deadline=None)
@given(
    seed=SEEDS,
    lookback=st.integers(2, 20),
    predict=st.integers(1, 5),
    epsilon=st.sampled_from(["absolute", "relative"]),
)
def test_statistics_do_not_see_the_horizon(
    seed: int, lookback: int, predict: int, epsilon: bars.EpsilonKind
) -> None:
    """Multiply the horizon by 10: the context and its statistics are bit-identical."""
    raw = random_bars(np.random.default_rng(seed), lookback + predict)
    louder = raw.copy()
    louder[lookback:] *= 10
    dates = WEEKDAY_SECONDS[: len(raw)]
    one, other = (
        read_windows(store_in_memory({"t": (dates, b)}), np.array([0]), lookback, predict, epsilon)
        for b in (raw, louder)
    )
    assert np.array_equal(one.x[:, :lookback], other.x[:, :lookback])
    assert np.array_equal(one.mean, other.mean) and np.array_equal(one.scale, other.scale)


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, before=st.integers(0, 30), lookback=st.integers(2, 20))
def test_rows_before_the_context_change_nothing(seed: int, before: int, lookback: int) -> None:
    """Statistics over more history than the model sees."""
    rng = np.random.default_rng(seed)
    raw = random_bars(rng, before + lookback + 1)
    other = np.vstack([random_bars(rng, before), raw[before:]])
    dates = WEEKDAY_SECONDS[: len(raw)]
    one, two = (
        read_windows(store_in_memory({"t": (dates, b)}), np.array([before]), lookback, 1)
        for b in (raw, other)
    )
    short = read_windows(store_in_memory({"t": (dates[before:], raw[before:])}), np.array([0]), lookback, 1)
    for name in ("x", "stamp", "weight", "mean", "scale"):
        assert np.array_equal(vars(one)[name], vars(two)[name]) and np.array_equal(
            vars(one)[name], vars(short)[name]
        ), name


@settings(max_examples=100, deadline=None)
@given(seed=SEEDS, exponent=st.floats(-6, 6), lookback=st.integers(3, 40))
def test_relative_epsilon_ignores_the_price_level(seed: int, exponent: float, lookback: int) -> None:
    """A share of a thousandth of a cent must look like one of a million; float32 rounding of the input is all
    that differs.
    """
    raw = random_bars(np.random.default_rng(seed), lookback + 2)
    dates = WEEKDAY_SECONDS[: len(raw)]
    one, scaled = (
        read_windows(
            store_in_memory({"t": (dates, (raw * np.float32(c)).astype(np.float32))}),
            np.array([0]),
            lookback,
            2,
            "relative",
        )
        for c in (1.0, 10**exponent)
    )
    rounding = 2.0**-22 * np.abs(one.mean / one.scale).max() + 1e-5
    np.testing.assert_allclose(scaled.x, one.x, atol=rounding)
    np.testing.assert_allclose(scaled.scale, one.scale * np.float32(10**exponent), rtol=rounding)


@settings(max_examples=100, deadline=None)
@given(
    value=st.floats(0, 2.0**40, width=32),
    lookback=st.integers(1, 600),
    epsilon=st.sampled_from(["absolute", "relative"]),
)
def test_a_constant_series_is_zero(value: float, lookback: int, epsilon: bars.EpsilonKind) -> None:
    """Rounding in the statistics of a halted share must not become a pattern."""
    dates = np.arange(lookback + 1).astype("datetime64[D]").astype("datetime64[s]")
    store = store_in_memory({"t": (dates, np.full((lookback + 1, 6), value, dtype=np.float32))})
    assert not read_windows(store, np.array([0]), lookback, 1, epsilon).x.any()


def test_reader_takes_no_memory_per_row(tmp_path: Path) -> None:
    """Training memory grows with the sessions and the segments, never with the rows."""
    store = random_store(tmp_path / "store", 5)
    reader = WindowReader(store, 10, 1, clip=5.0, epsilon="absolute", first_session=0)
    assert isinstance(store.bars, np.memmap)
    own = [value for value in vars(reader).values() if isinstance(value, np.ndarray)]
    assert sum(value.size for value in own) <= 5 * len(store.sessions)
