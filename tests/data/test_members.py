"""Who may be asked about when: the file, the array in the store, training windows and backtest rows."""

from pathlib import Path

import numpy as np
import pytest
from panels import arrays_of, cut_segments, random_series, store_of

from kronos.data import members
from kronos.data.splits import Part
from kronos.data.store import BarStore
from kronos.data.store_writer import write_store
from kronos.data.windows import WindowIndex
from kronos.errors import KitError
from kronos.evaluation.panel import NOT_MEMBER, build_panel

DAYS = np.arange("2024-01-01", "2024-01-21", dtype="datetime64[D]").astype("datetime64[s]")


def pool(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(["ticker,first,last", *rows]) + "\n")
    return path


def test_the_file_becomes_intervals_of_sessions(tmp_path: Path) -> None:
    """Touching and overlapping intervals are one; days without a session lie between; names without prices
    are counted.
    """
    path = pool(
        tmp_path / "pool.csv",
        "B,2023-01-01,2024-01-03",
        "A,2024-01-05,2024-01-08",
        "A,2024-01-09,2024-01-10",
        "A,2024-01-15,2030-01-01",
        "X,2024-01-01,2024-02-01",
    )
    sessions = DAYS[(np.arange(20) % 7) < 5]
    found = members.read(path, ["A", "B", "C"], sessions)
    # sessions: 1-5, 8-12, 15-19 January
    np.testing.assert_array_equal(found, [[0, 4, 7], [0, 10, 14], [1, 0, 2]])
    assert found.dtype == np.int32


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("A,yesterday,2024-01-02", "days as YYYY-MM-DD"),
        ("A,,2024-01-02", "empty value"),
        ("A,2024-01-03,2024-01-02", "first <= last"),
        ("X,2024-01-03,2024-01-04", "none of its 1 there"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, row: str, said: str) -> None:
    with pytest.raises(KitError, match=said) as error:
        members.read(pool(tmp_path / "pool.csv", row), ["A"], DAYS)
    assert "\n" not in str(error.value)
    (tmp_path / "other.csv").write_text("name,from,to\nA,2024-01-01,2024-01-02\n")
    with pytest.raises(KitError, match="found no ticker"):
        members.read(tmp_path / "other.csv", ["A"], DAYS)
    with pytest.raises(KitError, match="pool_path"):
        members.digest(tmp_path / "none.csv")


def random_members(rng: np.random.Generator, store: BarStore) -> np.ndarray:
    """Sorted intervals that do not touch, none for some tickers."""
    rows = []
    for k in range(len(store.tickers)):
        cuts = np.unique(rng.integers(0, len(store.sessions), 2 * rng.integers(0, 4)))
        pairs = cuts[: len(cuts) // 2 * 2].reshape(-1, 2)
        rows += [(k, a, b - 1) for a, b in pairs if b - 1 > a]
    return np.array(rows, np.int32).reshape(-1, 3)


@pytest.mark.parametrize("seed", range(12))
def test_windows_are_asked_on_member_days_only(tmp_path: Path, seed: int) -> None:
    """Against a loop over all rows. The lookback may begin before the membership, the predicted bars may lie
    after it.
    """
    rng = np.random.default_rng(seed)
    arrays = arrays_of(random_series(rng, 12, 120))
    arrays["segments"] = cut_segments(rng, arrays)
    bare = write_store(tmp_path / "bare", **arrays)
    store = write_store(tmp_path / "store", **arrays, members=random_members(rng, bare))
    assert store.digest != bare.digest and BarStore.open(store.path).members is not None
    inside = np.zeros(len(store), bool)
    for ticker, first, last in np.asarray(store.members):
        rows = np.arange(store.offsets[ticker], store.offsets[ticker + 1])
        inside[rows[(store.session[rows] >= first) & (store.session[rows] <= last)]] = True
    np.testing.assert_array_equal(store.askable(np.arange(len(store))), inside)
    assert bare.askable(np.arange(len(bare))).all()
    lookback, predict = 7, 3
    for part in (Part("train", 0, 80, whole=True), Part("validation", 40, 100)):
        plain, index = (WindowIndex.build(s, lookback, predict, part) for s in (bare, store))
        expected = [row for row in plain.rows(np.arange(len(plain))) if inside[row + lookback - 1]]
        np.testing.assert_array_equal(index.rows(np.arange(len(index))), expected)
        assert index.ticker_windows.sum() == len(index) == len(expected)
        assert f"{len(expected):,} windows" in index.describe()


def test_a_backtest_asks_about_members_only(tmp_path: Path) -> None:
    closes = {name: list(np.linspace(10, 20, 20)) for name in ("A", "B")}
    plain = store_of(tmp_path / "plain", closes)
    names = ("bars", "session", "sessions", "offsets", "tickers", "segments")
    store = write_store(
        tmp_path / "store",
        **{name: getattr(plain, name) for name in names},
        members=np.array([[0, 5, 8], [1, 0, 19]]),
    )
    panel = build_panel(store, np.array([3, 7, 12]), 2)
    assert [(store.tickers[t], int(panel.sessions[o])) for t, o in zip(panel.ticker, panel.origin, strict=True)] == [
        ("B", 3), ("A", 7), ("B", 7), ("B", 12),
    ]  # fmt: skip
    assert panel.excluded[NOT_MEMBER] == 2
    assert NOT_MEMBER not in build_panel(plain, np.array([3, 7, 12]), 2).excluded
