"""What all history says: base rates that know nothing later, and prices that stand still."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from panels import random_series, store_in_memory, store_of

from kronos.answers.answerer import Rows
from kronos.answers.history import TIE_BARS, base_rates, tie_shares
from kronos.bars import CLOSE
from kronos.data.store import BarStore
from kronos.forecasting.decide import TIE_PRIOR


def rows_at(store: BarStore, last: np.ndarray, horizon: int) -> Rows:
    ticker = np.searchsorted(store.offsets, last, side="right") - 1
    asof = np.asarray(store.session)[last].astype(np.int64)
    steps = np.full(len(last), horizon, np.int64)
    return Rows(
        ticker, last, asof, steps, np.full(len(last), ""), store.sessions[asof], [str(k) for k in last]
    )


@pytest.mark.parametrize("seed", range(5))
def test_base_rate_counts_days_up_to_the_date(seed: int) -> None:
    """Rises counted over the end of a ticker, or after the date, are another's or tomorrow's; a busy day is
    one day.
    """
    store = store_in_memory(random_series(np.random.default_rng(seed), 8, 120))
    bars = np.array(store.bars)
    bars[10:25, CLOSE] = 7.0  # ties say nothing about which way a price moves
    store = BarStore(**{**vars(store), "bars": bars})
    for horizon in (1, 3, 45):
        by_day: dict[int, list[bool]] = {}
        for a, b in zip(store.offsets[:-1], store.offsets[1:], strict=True):
            for row in range(a + horizon, b):
                if bars[row, CLOSE] != bars[row - horizon, CLOSE]:
                    by_day.setdefault(int(store.session[row]), []).append(
                        bars[row, CLOSE] > bars[row - horizon, CLOSE]
                    )
        for asof in (-1, 0, 40, len(store.sessions) - 1):
            days = [np.mean(found) for day, found in by_day.items() if day <= asof]
            expected = float(np.mean(days)) if days else 0.5
            assert base_rates(store, np.array([asof]), horizon)[0] == pytest.approx(expected)


def test_later_bars_change_no_base_rate() -> None:
    """The level of a decision is the past's, to the last bit."""
    for seed in range(200):
        rng = np.random.default_rng(seed)
        store = store_in_memory(random_series(rng, 6, 90))
        asof = int(rng.integers(5, len(store.sessions) - 5))
        bars = np.array(store.bars)
        bars[store.session > asof] *= rng.choice([0.0, 0.5, 10.0])
        later = BarStore(**{**vars(store), "bars": bars})
        for horizon in (1, 7):
            one, two = (base_rates(s, np.arange(-1, asof + 1), horizon) for s in (store, later))
            assert one.tobytes() == two.tobytes()


def test_ties_are_counted_over_the_horizon(tmp_path: Path) -> None:
    """A price that stands still for a day is not one that stands still for a month; few bars make no tie of
    it.
    """
    closes = {"a": [1.0, 1, 2, 2, 3, 3], "b": [5.0] * 6, "c": [1.0, 2, 1, 2, 1, 2]}
    store = store_of(tmp_path / "s", closes)
    last = store.offsets[1:] - 1
    assert tie_shares(store, rows_at(store, last, 1)) == pytest.approx((np.array([3, 5, 0]) + TIE_PRIOR) / 6)
    assert tie_shares(store, rows_at(store, last, 2)) == pytest.approx((np.array([0, 4, 4]) + TIE_PRIOR) / 5)
    assert tie_shares(store, rows_at(store, last, 30)) == pytest.approx((np.array([0, 1, 0]) + TIE_PRIOR) / 2)
    assert tie_shares(store, rows_at(store, store.offsets[:-1], 3)) == pytest.approx([TIE_PRIOR] * 3)
    nobody = Rows(
        *(np.array([-1]) for _ in range(3)),
        np.array([3]),
        np.array(["unknown ID"]),
        store.sessions[:1],
        ["x"],
    )
    assert tie_shares(store, nobody).tolist() == [TIE_PRIOR]


def test_ties_of_real_prices_are_as_many_as_expected(shared_data: Path, tmp_path: Path) -> None:
    """Stocks that trade every day must keep their answers, and a P(tie) that is off would bend every
    probability.
    """
    prices = pl.read_parquet(shared_data / "sp500" / "train_all505.parquet", columns=["Ticker", "Close"])
    groups = prices.drop_nulls().group_by("Ticker", maintain_order=True).agg(pl.col("Close")).iter_rows()
    store = store_of(tmp_path / "s", dict(groups))
    ends = np.concatenate(
        [np.arange(a + 299, b - 31, 97) for a, b in zip(store.offsets[:-1], store.offsets[1:], strict=True)]
    )
    close = store.bars[:, CLOSE]
    for horizon in (1, 5, 30):
        happened = np.mean(close[ends + horizon] == close[ends])
        found = tie_shares(store, rows_at(store, ends, horizon))
        assert len(ends) > 3000 and abs(found.mean() - happened) < 0.002 and TIE_BARS > 250, horizon
