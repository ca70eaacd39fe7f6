"""Figures of stocks: right, from the past only, and the same bits however they are asked for."""

import numpy as np
import pytest
from panels import random_series, store_in_memory
from scipy.stats import rankdata, skew

from kronos.answers import features
from kronos.answers.features import NAMES, YEAR, placed, ranked, raw_features
from kronos.bars import AMOUNT, CLOSE, HIGH, LOW, OPEN, VOLUME


def plain(bars: np.ndarray) -> list[float]:
    """The figures of the last of a ticker's bars (T, 6), written down one by one."""
    b = bars.astype(np.float64)
    close = b[:, CLOSE]
    change = np.diff(np.log(close))
    have = len(b)

    def need(count: int, value: float) -> float:
        return float(value) if have >= count else np.nan

    with np.errstate(all="ignore"):
        return [
            *(need(lag + 1, close[-1] / close[-1 - min(lag, have - 1)] - 1) for lag in features.LAGS),
            need(YEAR + 1, close[-min(22, have)] / close[-min(YEAR + 1, have)] - 1),
            need(22, change[-21:].std() if have > 1 else np.nan),
            need(64, change[-63:].std() if have > 1 else np.nan),
            need(22, change[-21:].max(initial=-9)),
            need(64, skew(change[-63:]) if have > 64 else np.nan) if have != 64 else float(skew(change)),
            close[-1] / b[-YEAR:, HIGH].max(),
            close[-1] / b[-63:, LOW].min(),
            need(21, ((b[-21:, HIGH] - b[-21:, LOW]) / b[-21:, CLOSE]).mean()),
            close[-1] / b[-1, OPEN] - 1,
            need(2, b[-1, OPEN] / close[-min(2, have)] - 1),
            need(63, b[-1, VOLUME] / b[-63:, VOLUME].mean()),
            need(63, b[-5:, VOLUME].mean() / b[-63:, VOLUME].mean()),
            need(21, b[-21:, AMOUNT].mean()),
        ]


def test_every_figure_is_what_its_name_says() -> None:
    """A window that is one bar too long, or reaches into another ticker, gives a plausible wrong figure."""
    store = store_in_memory(random_series(np.random.default_rng(0), 12, 500))
    rows = np.arange(len(store))
    found = raw_features(store, rows)
    for row in np.random.default_rng(1).choice(rows, 300, replace=False).tolist():
        first = int(features.first_rows(store, np.array([row]))[0])
        wanted = plain(store.bars[first : row + 1])
        np.testing.assert_allclose(
            found[row], wanted, rtol=1e-6, atol=1e-9, err_msg=f"{NAMES} of row {row - first}"
        )


def test_bits_do_not_depend_on_what_else_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The backtest asks for a store at once, the submission for its last rows: the same figures, or a
    decision fits neither.
    """
    store = store_in_memory(random_series(np.random.default_rng(2), 30, 700))
    rows = np.arange(len(store))
    whole = raw_features(store, rows)
    monkeypatch.setattr(features, "BLOCK", 1500)
    np.testing.assert_array_equal(raw_features(store, rows), whole)
    some = np.random.default_rng(3).permutation(rows)[: len(rows) // 3]
    np.testing.assert_array_equal(raw_features(store, some), whole[some])
    few = some[: len(store) // (YEAR + 1) - 1]
    np.testing.assert_array_equal(raw_features(store, few), whole[few])
    assert raw_features(store, rows[:0]).shape == (0, len(NAMES))


def test_ranks_are_scipys() -> None:
    """Ties share their ranks, missing values are the middle, dates do not see each other."""
    rng = np.random.default_rng(4)
    raw = np.round(rng.normal(size=(60, 3)), 1)
    raw[rng.random(raw.shape) < 0.2] = np.nan
    raw[40:, 1] = np.nan
    bounds = np.array([0, 0, 25, 26, 60])
    found = ranked(raw, bounds)
    for a, b in ((0, 25), (25, 26), (26, 60)):
        for column in range(3):
            known = np.isfinite(raw[a:b, column])
            wanted = np.zeros(b - a)
            wanted[known] = rankdata(raw[a:b, column][known]) / (known.sum() + 1) - 0.5
            np.testing.assert_allclose(found[a:b, column], wanted, atol=1e-12)


def test_a_stock_without_a_bar_is_placed_among_the_others() -> None:
    """Its rank is that of an equal value, and in the middle of a gap."""
    known = np.array([[1.0], [2.0], [2.0], [4.0], [np.nan]])
    np.testing.assert_allclose(placed(known[:2], known), ranked(known, np.array([0, 5]))[:2])
    np.testing.assert_allclose(
        placed(np.array([[3.0], [0.0], [np.nan]]), known).ravel(), [3.5 / 5 - 0.5, 0.5 / 5 - 0.5, 0]
    )
