"""The cleaning policy: every row is accounted for, repairs look at one row only, segments keep to what they
promise.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kronos.bars import AMOUNT, CLOSE, HIGH, LOW, OPEN, VOLUME
from kronos.config import CleaningConfig
from kronos.data import cleaning, policy
from kronos.data.price_panel import Panel
from kronos.errors import KitError

ROLES = frozenset({"ticker", "date", "open", "high", "low", "close", "volume", "split"})
DAY = np.timedelta64(1, "D")


def panel(
    *tickers: list[tuple[int, list[float]]], roles: frozenset[str] = ROLES, splits: tuple[int, ...] = ()
) -> Panel:
    """Tickers as lists of (day, [open, high, low, close, volume(, amount)])."""
    rows = [row for ticker in tickers for row in ticker]
    values = np.array([[*v, np.nan][:6] for _, v in rows], dtype=np.float32).reshape(-1, 6)
    days = np.array([d for d, _ in rows])
    sessions = np.arange(days.max() + 1)
    split = np.zeros(len(rows), dtype=bool)
    split[list(splits)] = True
    return Panel(
        name="train.csv",
        values=values,
        session=days.astype(np.int32),
        split=split,
        sessions=np.datetime64("2020-01-01", "s") + sessions * DAY,
        offsets=np.cumsum([0, *(len(t) for t in tickers)]),
        tickers=[f"t{k}" for k in range(len(tickers))],
        roles=roles,
        ignored=[],
        read=len(rows),
    )


def bar(close: float = 10, volume: float = 5, **other: float) -> list[float]:
    return [
        other.get("open", close),
        other.get("high", close + 1),
        other.get("low", close - 1),
        close,
        volume,
    ]


def series(closes: list[float], **other: float) -> list[tuple[int, list[float]]]:
    return [(d, bar(c, **other)) for d, c in enumerate(closes)]


def clean(p: Panel, frequency: str = "daily", **settings_: object) -> cleaning.Cleaned:
    written: list[np.ndarray] = []
    result = cleaning.clean(
        p, CleaningConfig(**settings_), frequency, lambda bars: written.append(bars.copy())
    )  # type: ignore[arg-type]
    np.testing.assert_array_equal(np.concatenate(written), p.values[result.keep])
    return result


MOVING = [10 + 0.1 * k for k in range(40)]

# problem -> a bar that has it, what the default does to it: the repaired bar, or None where it is dropped
BARS: dict[str, tuple[list[float], list[float] | None]] = {
    "missing_price/open": ([np.nan, 11, 9, 10, 5], None),
    "missing_price/close": ([10, 11, 9, np.nan, 5], None),
    "missing_price/infinite": ([10, np.inf, 9, 10, 5], None),
    "missing_price/both infinities": ([10, np.inf, -np.inf, 10, 5], None),
    "non_positive_price/open": ([0, 11, 9, 10, 5], [10, 11, 9, 10, 5]),
    "non_positive_price/open and low": ([0, 11, 0, 10, 5], [10.5, 11, 10, 10, 5]),
    "non_positive_price/high": ([10, -1, 9, 10, 5], [10, 10, 9, 10, 5]),
    "non_positive_price/close": ([10, 11, 9, 0, 5], None),
    "non_positive_price/negative close": ([10, 11, 9, -10, 5], None),
    "non_positive_price/only close": ([0, 0, 0, 10, 5], None),
    "inconsistent_bar/high below low": ([10, 9, 11, 10, 5], [10, 11, 9, 10, 5]),
    "inconsistent_bar/close above": ([10, 11, 9, 12, 5], [10, 12, 9, 12, 5]),
    "inconsistent_bar/open below": ([8, 11, 9, 10, 5], [8, 11, 8, 10, 5]),
    "bad_volume/missing": ([10, 11, 9, 10, np.nan], [10, 11, 9, 10, 0]),
    "bad_volume/negative": ([10, 11, 9, 10, -5], [10, 11, 9, 10, 0]),
    "bad_volume/infinite": ([10, 11, 9, 10, np.inf], [10, 11, 9, 10, 0]),
}


@pytest.mark.parametrize("name", BARS)
def test_each_problem_of_one_row(name: str) -> None:
    """Keeps out: a dirty bar kept as it is, a clean neighbour touched, a decision that no count shows."""
    problem, (values, expected) = name.split("/")[0], BARS[name]
    p = panel([(0, bar(10)), (1, values), (2, bar(10))])
    c = clean(p)
    assert c.keep.tolist() == [True, expected is not None, True]
    if expected is not None:
        np.testing.assert_allclose(p.values[1, :5], expected)
        assert p.values[1, AMOUNT] == pytest.approx(p.values[1, VOLUME] * np.mean(expected[:4]))
    np.testing.assert_array_equal(p.values[[0, 2], :5], [bar(10), bar(10)])
    counted = {
        "found": 1,
        "repaired": int(expected is not None),
        "dropped": int(expected is None),
        "excluded": 0,
    }
    assert c.tally.counts[problem] == counted
    assert {k for k, row in c.tally.counts.items() if row["found"]} == {problem}


@pytest.mark.parametrize("problem", ["missing_price", "non_positive_price", "inconsistent_bar", "bad_volume"])
def test_other_actions(problem: str) -> None:
    """Keeps out: an action in the configuration that nothing reads."""
    values = next(bad for name, (bad, _) in BARS.items() if name.startswith(problem))
    c = clean(panel([(0, bar()), (1, values)]), **{problem: "drop"})
    assert c.keep.tolist() == [True, False] and c.tally.counts[problem]["dropped"] == 1
    with pytest.raises(KitError, match=rf"t0 on 2020-01-02.*data.cleaning.{problem}"):
        clean(panel([(0, bar()), (1, values)]), **{problem: "stop"})


@pytest.mark.parametrize(("action", "kept"), [("last", [3]), ("first", [1]), ("drop", [])])
def test_duplicates(action: str, kept: list[int]) -> None:
    """Keeps out: two bars of one date in a window, or the choice left to chance."""
    rows = [
        [(0, bar(10)), (1, bar(11)), (1, bar(12)), (1, bar(13)), (2, bar(14))],
        [(2, bar(9)), (3, bar(9.5))],
    ]
    p = panel(*rows)
    c = clean(p, duplicate=action)
    assert p.values[c.keep, CLOSE].tolist() == [10, *[10 + k for k in kept], 14, 9, 9.5]
    assert c.tally.counts["duplicate"]["dropped"] == 3 - len(kept)
    with pytest.raises(KitError, match="t0 on 2020-01-02"):
        clean(panel(*rows), duplicate="stop")


def test_a_bad_duplicate_does_not_replace_a_good_one() -> None:
    """Keeps out: 'keep the last' that keeps a row without a price and loses the sound one."""
    p = panel([(0, bar(10)), (1, bar(11)), (1, [np.nan] * 5), (2, bar(12))])
    c = clean(p)
    assert p.values[c.keep, CLOSE].tolist() == [10, 11, 12]


def test_jumps() -> None:
    """Keeps out: a jump that is not counted; a split at the wrong row; a jump seen between two tickers."""
    closes = [*MOVING[:10], *(70 + c for c in MOVING[:10])]
    assert len(clean(panel(series(closes), series([900.0, 901.0]))).segments) == 2
    c = clean(panel(series(closes), series([900.0, 901.0])), jump="split")
    assert c.tally.counts["jump"]["found"] == 1 and c.segments.tolist() == [[0, 10], [10, 20], [20, 22]]
    c = clean(panel(series(closes)), jump="drop")
    assert np.flatnonzero(~c.keep).tolist() == [10] and c.tally.counts["jump"]["dropped"] == 1
    assert clean(panel(series([10, 14.0])), max_jump=0.5).tally.counts["jump"]["found"] == 0


@pytest.mark.parametrize("ratio", [0.5, 2, 3, 1 / 10, 1.5, 20.3])
def test_unadjusted_splits(ratio: float) -> None:
    """Keeps out: an unadjusted 2-for-1 split learnt as a loss of half the value (users' need 21)."""
    closes = [*MOVING[:10], *(MOVING[9] * ratio + 0.01 * k for k in range(10))]
    c = clean(panel(series(closes)))
    assert c.tally.counts["unadjusted_split"]["found"] == 1 and c.segments.tolist() == [[0, 10], [10, 20]]
    assert clean(panel(series(closes)), unadjusted_split="keep").segments.tolist() == [[0, 20]]
    named = clean(panel(series(closes), splits=(10,)))
    assert named.tally.counts["unadjusted_split"]["found"] == 0 and named.tally.counts["jump"]["found"] == 1


def test_what_is_no_split() -> None:
    """Keeps out: a crash by 40 %, or a penny stock that flips between two ticks, taken for splits."""
    crash = clean(panel(series([*MOVING[:10], *(0.6 * c for c in MOVING[:10])])))
    assert crash.tally.counts["jump"]["found"] == 1 and crash.tally.counts["unadjusted_split"]["found"] == 0
    flips = clean(panel(series([0.01, 0.02] * 15, high=0.02, low=0.01)))
    assert flips.tally.counts["jump"]["found"] == 29 and flips.tally.counts["unadjusted_split"]["found"] == 1


def test_idle_and_stagnant_runs() -> None:
    """Keeps out: thresholds off by one; runs counted across tickers; a default that drops idle tickers
    without a word.
    """
    volumes = [5, 0, 5, 0, 0, 5, 0, 0, 0, 5]
    rows = [(d, bar(c, volume=v)) for d, (c, v) in enumerate(zip(MOVING, volumes, strict=False))]
    p = panel(rows, [(9, bar(9, volume=0)), (10, bar(9.5))])
    kept = clean(p, illiquid_run=2)
    assert kept.tally.counts["illiquid"] == {"found": 3, "repaired": 0, "dropped": 0, "excluded": 0}
    assert kept.segments.tolist() == [[0, 10], [10, 12]]
    assert clean(p, illiquid="split", illiquid_run=2).segments.tolist() == [[0, 6], [9, 10], [10, 12]]
    closes = [10, 10, 10, 11, 11, 11, 11, 12, 13]
    still = clean(panel(series(closes), series([13, 13, 14])), stagnant="split", stagnant_run=3)
    assert (
        still.segments.tolist() == [[0, 3], [7, 9], [9, 12]]
        and still.tally.counts["stagnant"]["excluded"] == 4
    )
    assert clean(panel(rows, roles=ROLES - {"volume"})).tally.counts["illiquid"]["found"] == 0


def test_gaps() -> None:
    """Keeps out: a window that spans years without bars; a gap measured in days instead of trading days."""
    rows = [(d, bar(MOVING[k])) for k, d in enumerate([0, 1, 2, 13, 14, 26, 27])]
    calendar = [(d, bar(c)) for d, c in enumerate(MOVING[:28])]
    assert clean(panel(rows, calendar)).segments.tolist() == [[0, 5], [5, 7], [7, 35]]
    assert clean(panel(rows)).segments.tolist() == [[0, 7]], (
        "days on which nothing traded are no trading days"
    )
    assert clean(panel(rows, calendar), max_gap=11).segments.tolist() == [[0, 7], [7, 35]]


def test_dates_without_a_kept_bar_leave_the_calendar() -> None:
    """Keeps out: a stray row on a Sunday that makes the whole market wait a day."""
    p = panel([(0, bar(10)), (1, bar(0)), (2, bar(11))])
    c = clean(p)
    assert len(p.sessions) == 2 and p.session[c.keep].tolist() == [0, 1]


def test_short_runs() -> None:
    """Keeps out: a minimum length that nothing reads."""
    c = clean(panel(series(MOVING[:5]), series(MOVING[:12])), min_length=6)
    assert c.segments.tolist() == [[5, 17]] and c.tally.counts["short"]["excluded"] == 5
    assert c.keep.all(), "the bars of a short history stay: a forecast may still read them"


def test_amounts() -> None:
    """Keeps out: turnover invented where volume is unknown, or a missing one left as NaN."""
    with_amount = ROLES | {"amount"}
    p = panel([(0, [*bar(10), 77]), (1, [*bar(10), np.nan]), (2, [*bar(10), -3])], roles=with_amount)
    c = clean(p)
    assert p.values[:, AMOUNT].tolist() == [77, 50, 50] and c.tally.counts["bad_amount"]["repaired"] == 2
    p = panel([(0, bar(10)), (1, bar(10))], roles=ROLES - {"volume"})
    p.values[:, VOLUME] = np.nan
    clean(p)
    assert not p.values[:, [VOLUME, AMOUNT]].any()


def test_the_papers_thresholds_are_the_preset() -> None:
    """Keeps out: a changed digit in the table of the paper, and a configuration that does not override it."""
    table = {n: (t.min_length, t.max_jump, t.illiquid_run, t.stagnant_run) for n, t in policy.PAPER.items()}
    assert table == {
        "1min": (2048, 0.10, 15, 45),
        "5min": (1024, 0.15, 3, 10),
        "15min": (512, 0.15, 2, 5),
        "30min": (512, 0.20, 2, 3),
        "60min": (256, 0.20, 1, 3),
        "daily": (128, 0.30, 1, 3),
        "weekly": (16, 0.50, 0, 2),
    }
    limits = policy.Limits.of(CleaningConfig(), "5min")
    assert (limits.max_jump, limits.illiquid_run, limits.stagnant_run) == (0.15, 3, 10)
    own = policy.Limits.of(
        CleaningConfig(max_jump=0.9, illiquid_run=0, stagnant_run=7, min_length=9), "weekly"
    )
    assert (own.max_jump, own.illiquid_run, own.stagnant_run, own.min_length) == (0.9, 0, 7, 9)


def test_nothing_left_is_an_error() -> None:
    """Keeps out: an empty store."""
    with pytest.raises(KitError, match=r"train.csv.*none in 2 rows"):
        clean(panel([(0, bar(0)), (1, bar(0))]))


# -- properties ----------------------------------------------------------------------------------------------
price = st.sampled_from([10.0, 10.0, 10.1, 9.9, 20.0, 5.0, 31.0, 0.0, -1.0, np.nan, np.inf, 1e9])
volume = st.sampled_from([5.0, 0.0, 0.0, -1.0, np.nan, np.inf])
raw_bar = st.tuples(price, price, price, price, volume, volume).map(list)
step = st.sampled_from([0, 1, 1, 1, 2, 5])
ticker = st.lists(st.tuples(step, raw_bar), min_size=1, max_size=25).map(
    lambda rows: list(zip(np.cumsum([s for s, _ in rows]).tolist(), [b for _, b in rows], strict=True))
)
actions = st.fixed_dictionaries(
    {
        "missing_price": st.just("drop"),
        "non_positive_price": st.sampled_from(["repair", "drop"]),
        "inconsistent_bar": st.sampled_from(["repair", "drop"]),
        "bad_volume": st.sampled_from(["zero", "drop"]),
        "duplicate": st.sampled_from(["last", "first", "drop"]),
        "jump": st.sampled_from(["split", "keep", "drop"]),
        "unadjusted_split": st.sampled_from(["split", "keep"]),
        "illiquid": st.sampled_from(["split", "keep"]),
        "stagnant": st.sampled_from(["split", "keep"]),
        "min_length": st.sampled_from([None, 3]),
        "max_gap": st.sampled_from([0, 2, 10]),
    }
)
ALL = ROLES | {"amount"}


def cleaned_or_none(p: Panel, chosen: dict[str, object]) -> cleaning.Cleaned | None:
    try:
        return clean(p, **chosen)
    except KitError:
        return None


@settings(max_examples=300, deadline=None)
@given(st.lists(ticker, min_size=1, max_size=4), actions)
def test_rows_add_up_and_what_stays_is_sound(tickers: list, chosen: dict[str, object]) -> None:
    """Keeps out: a row lost or counted twice; an impossible bar in the store; a segment over two tickers."""
    p = panel(*tickers, roles=ALL)
    c = cleaned_or_none(p, chosen)
    if c is None:
        return
    assert p.read == c.keep.sum() + c.tally.dropped
    bars = p.values[c.keep]
    assert np.isfinite(bars).all() and (bars[:, :VOLUME] > 0).all() and (bars[:, VOLUME:] >= 0).all()
    assert (bars[:, HIGH] >= bars[:, [OPEN, LOW, CLOSE]].max(axis=1)).all() and (
        bars[:, LOW] <= bars[:, [OPEN, CLOSE]].min(axis=1)
    ).all()
    owner = np.repeat(np.arange(len(tickers)), np.diff(c.offsets))
    session = p.session[c.keep]
    same = owner[1:] == owner[:-1]
    assert (session[1:][same] > session[:-1][same]).all()
    assert (np.diff(c.segments.ravel()) >= 0).all()
    for first, end in c.segments:
        assert len(set(owner[first:end])) == 1 and end > first
        assert (np.diff(session[first:end]) - 1 <= chosen["max_gap"]).all()


@settings(max_examples=150, deadline=None)
@given(
    st.lists(ticker, min_size=1, max_size=3),
    st.lists(ticker, min_size=3, max_size=3),
    actions,
    st.integers(0, 30),
)
def test_later_rows_change_no_earlier_value(
    tickers: list, others: list, chosen: dict[str, object], origin: int
) -> None:
    """Keeps out: a repair, a dropped row or a calendar that looked past the origin."""
    known = [[row for row in t if row[0] <= origin] or [(0, bar())] for t in tickers]
    future = [k + [(origin + 1 + d, b) for d, b in o] for k, o in zip(known, others, strict=False)]
    a, b = panel(*known, roles=ALL), panel(*future, roles=ALL)
    ca, cb = cleaned_or_none(a, chosen), cleaned_or_none(b, chosen)
    if ca is None:
        return
    assert cb is not None
    past = b.sessions[b.session] <= np.datetime64("2020-01-01", "s") + origin * DAY
    np.testing.assert_array_equal(a.values[ca.keep], b.values[cb.keep & past])
    np.testing.assert_array_equal(a.sessions[a.session[ca.keep]], b.sessions[b.session[cb.keep & past]])


@settings(max_examples=100, deadline=None)
@given(st.lists(ticker, min_size=2, max_size=6), actions, st.integers(1, 20))
def test_pieces_do_not_matter(tickers: list, chosen: dict[str, object], rows: int) -> None:
    """Keeps out: a result that depends on how the work was cut for speed."""
    whole, cut = panel(*tickers, roles=ALL), panel(*tickers, roles=ALL)
    expected = cleaned_or_none(whole, chosen)
    saved, cleaning.PIECE_ROWS = cleaning.PIECE_ROWS, rows
    try:
        found = cleaned_or_none(cut, chosen)
    finally:
        cleaning.PIECE_ROWS = saved
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        np.testing.assert_array_equal(whole.values, cut.values)
        np.testing.assert_array_equal(expected.keep, found.keep)
        np.testing.assert_array_equal(expected.segments, found.segments)
        assert expected.tally.counts == found.tally.counts


def test_every_action_is_documented_and_named() -> None:
    """Keeps out: a problem of the policy that the page about it does not know."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    names = {f.name for f in dataclasses.fields(CleaningConfig)} | set(policy.PROBLEMS)
    assert not [name for name in names if f"`{name}`" not in page]
