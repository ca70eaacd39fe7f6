"""Data checks of the bars: order of the four prices, zeros, gaps, jumps, splits, balance of rises and falls.

In: `Evidence`. Out: a `Finding` a check.
"""

import numpy as np
from numpy.typing import NDArray

from kronos.bars import CLOSE, HIGH, LOW, OPEN
from kronos.data.check_result import Evidence, Finding, example, panel_of, severity, share
from kronos.data.policy import SPLIT_QUIET_BARS, SPLIT_RATIOS, SPLIT_TOLERANCE, Limits
from kronos.data.price_panel import Panel
from kronos.data.row_places import followers, owner_of

# Shares of the rows (bars, changes, tickers) above which a person should look.
MANY_IMPOSSIBLE = 0.05
MANY_ZERO_PRICES = 0.10
MANY_JUMPS = 0.01
MANY_TICKERS = 0.5
MANY_UNCHANGED = 0.2
BALANCE_WARN, BALANCE_FAIL = 0.15, 0.3
"""Distance of a year's share of rises from one half."""
BALANCE_CHANGES = 1000
"""Years with fewer changes are not judged."""
ROUNDING = 1e-5
"""Relative: adjusted prices carry the rounding of their factors."""


def ohlc_order(evidence: Evidence) -> Finding:
    """High is the highest and Low the lowest of the four prices; only among rows whose prices are all
    positive.
    """
    panel = panel_of(evidence)
    opened, high, low, close = (panel.values[:, k] for k in (OPEN, HIGH, LOW, CLOSE))
    slack = ROUNDING * np.abs(close)
    wrong = (
        (high < low) | (np.maximum(opened, close) > high + slack) | (np.minimum(opened, close) < low - slack)
    )
    wrong &= np.isfinite(panel.values[:, :4]).all(axis=1) & (panel.values[:, :4] > 0).all(axis=1)
    rows = np.flatnonzero(wrong)
    if not len(rows):
        return "ok", "High and Low contain Open and Close everywhere", ""
    total = len(panel.session)
    found = f"{share(len(rows), total)} have Open or Close outside High and Low beyond rounding, e.g. {example(panel, rows[0])}"
    return severity(
        len(rows), total, MANY_IMPOSSIBLE, found, "repaired by default (data.cleaning.inconsistent_bar)"
    )


def zero_prices(evidence: Evidence) -> Finding:
    """Prices of 0 or below."""
    panel = panel_of(evidence)
    rows = np.flatnonzero((panel.values[:, :4] <= 0).any(axis=1))
    if not len(rows):
        return "ok", "all prices are positive", ""
    closes = int((panel.values[rows, CLOSE] <= 0).sum())
    found = f"{share(len(rows), len(panel.session))} have a price <= 0 ({closes:,} the Close), e.g. {example(panel, rows[0])}"
    remedy = (
        "repaired from the row's other prices, left out when Close is bad (data.cleaning.non_positive_price)"
    )
    return severity(len(rows), len(panel.session), MANY_ZERO_PRICES, found, remedy)


def gaps(evidence: Evidence) -> Finding:
    """Pauses inside a ticker that are longer than a window may cross."""
    panel, limit = panel_of(evidence), evidence.config.data.cleaning.max_gap
    rows = followers(panel.offsets)
    own = panel.own_session()
    missing = own[rows] - own[rows - 1] - 1
    long = missing > limit
    if not long.any():
        return "ok", f"no ticker pauses for more than {limit} trading days", ""
    tickers = len(np.unique(owner_of(panel.offsets, rows[long])))
    worst = rows[np.argmax(missing)]
    found = f"{int(long.sum()):,} gaps of more than {limit} trading days in {share(tickers, len(panel.tickers), 'tickers')}"
    found += f", the longest {int(missing.max()):,} days before {example(panel, worst)}"
    return severity(
        tickers, len(panel.tickers), MANY_TICKERS, found, "windows do not cross them (data.cleaning.max_gap)"
    )


def jumps(evidence: Evidence) -> Finding:
    """Moves of the close that are larger than what is taken as real."""
    panel, limit = panel_of(evidence), _max_jump(evidence)
    rows, ratio = _close_ratios(panel)
    large = np.abs(ratio - 1) > limit
    if not large.any():
        return "ok", f"no close moves by more than {limit:.0%}", ""
    worst = rows[np.argmax(np.abs(np.log(ratio)))]
    found = f"{share(int(large.sum()), len(rows), 'moves')} are larger than {limit:.0%}, the worst {example(panel, worst)}"
    return severity(
        int(large.sum()),
        len(rows),
        MANY_JUMPS,
        found,
        "look at them; data.cleaning.jump splits or drops them",
    )


def splits(evidence: Evidence) -> Finding:
    """Jumps that look like a split: nobody recorded one, or one was recorded and the prices are not adjusted
    for it.
    """
    panel = panel_of(evidence)
    rows, ratio = _close_ratios(panel)
    looks = looks_like_split(ratio, rows, owner_of(panel.offsets, rows), _max_jump(evidence))
    recorded = panel.split[rows]
    silent, unadjusted = int((looks & ~recorded).sum()), int((looks & recorded).sum())
    if "split" in panel.roles and unadjusted > MANY_TICKERS * max(int(recorded.sum()), 1):
        found = (
            f"the close jumps by a simple ratio at {unadjusted:,} of {int(recorded.sum()):,} recorded splits"
        )
        return "fail", found, "the prices are not adjusted for splits; use adjusted prices"
    if not silent:
        return "ok", "no jump looks like a split that nobody recorded", ""
    first = rows[np.argmax(looks & ~recorded)]
    found = f"{silent:,} jumps near a simple ratio (1:2, 3:1, ...) without a recorded split, e.g. {example(panel, first)}"
    return "warn", found, "look whether the prices are adjusted (data.cleaning.unadjusted_split)"


def class_balance(evidence: Evidence) -> Finding:
    """Share of rises from bar to bar, year by year. A year far from one half is a data error more often than
    a market.
    """
    panel = panel_of(evidence)
    rows, ratio = _close_ratios(panel)
    year = panel.sessions.astype("datetime64[Y]").astype(int) + 1970
    of_row = year[panel.session[rows]] - year[0]
    changes = np.bincount(of_row, minlength=year[-1] - year[0] + 1)
    rises = np.bincount(of_row, weights=ratio > 1, minlength=len(changes))
    judged = np.flatnonzero(changes >= BALANCE_CHANGES)
    unchanged = float((ratio == 1).mean()) if len(rows) else 0.0
    if not len(judged):
        return "warn", f"no year has {BALANCE_CHANGES:,} changes of the close", "too little data to judge"
    share = rises[judged] / changes[judged]
    worst = int(np.argmax(np.abs(share - 0.5)))
    found = f"{rises.sum() / changes.sum():.1%} of the changes are rises, {unchanged:.1%} are none; "
    found += f"furthest from one half: {share[worst]:.1%} in {year[0] + judged[worst]}"
    distance = abs(share[worst] - 0.5)
    if distance > BALANCE_FAIL:
        return "fail", found, "look for stale, filled or wrongly sorted prices in that year"
    if distance > BALANCE_WARN or unchanged > MANY_UNCHANGED:
        return "warn", found, "constant answers score well there; compare with the baselines"
    return "ok", found, ""


def looks_like_split(
    ratio: NDArray[np.float64], rows: NDArray[np.int64], owner: NDArray[np.int64], max_jump: float
) -> NDArray[np.bool_]:
    """Whether each close / previous close (n,) is a jump near a split's ratio, with none close before it in
    its ticker.

    The rule of `cleaning`: a penny stock that flips between two ticks does not split every week.
    """
    at = np.flatnonzero(np.abs(ratio - 1) > max_jump)
    size = np.maximum(ratio[at], 1 / ratio[at])[:, None]
    simple = (np.abs(size / SPLIT_RATIOS - 1) < SPLIT_TOLERANCE).any(axis=1)
    alone = np.ones(len(at), dtype=bool)
    alone[1:] = (np.diff(rows[at]) > SPLIT_QUIET_BARS) | (owner[at[1:]] != owner[at[:-1]])
    found = np.zeros(len(ratio), dtype=bool)
    found[at[simple & alone]] = True
    return found


def _close_ratios(panel: Panel) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rows (n,) and close / previous close (n,), where both are positive and finite."""
    rows = followers(panel.offsets)
    close = np.ascontiguousarray(panel.values[:, CLOSE])
    good = np.isfinite(close) & (close > 0)
    rows = rows[good[rows] & good[rows - 1]]
    return rows, close[rows].astype(np.float64) / close[rows - 1]


def _max_jump(evidence: Evidence) -> float:
    return Limits.of(evidence.config.data.cleaning, panel_of(evidence).frequency).max_jump
