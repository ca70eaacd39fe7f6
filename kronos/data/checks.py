"""Data checks: what is wrong with a user's files, said before anything is trained on them.

In: a configuration (price files, test file, sample). Out: one `CheckResult` per check, with the figures found
and what to do. The files are judged as they are, before cleaning. `warn`: cleaning or a fallback deals with
it, and counts it; `fail`: a person should look first. `pytest tests/data_checks --data PATH` and the report
of `kaggle/prepare_data.py` show the same.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kronos.bars import CLOSE, HIGH, LOW, OPEN, VOLUME
from kronos.config import Config
from kronos.data import competition, ingest, price_files
from kronos.data.calendar import ALWAYS_OPEN
from kronos.data.columns import ROLES, shown
from kronos.data.policy import SPLIT_QUIET_BARS, SPLIT_RATIOS, SPLIT_TOLERANCE, Limits
from kronos.data.row_places import followers, name_of, owner_of
from kronos.data.survey import date_text
from kronos.errors import KitError

Status = Literal["ok", "warn", "fail", "skip"]

# Shares of the rows (bars, changes, tickers) above which a person should look.
MANY_MISSING = 0.05
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
FIRST_YEAR, LAST_YEAR = 1900, 2100


@dataclass(frozen=True)
class CheckResult:
    """The outcome of one check."""

    name: str
    status: Status
    found: str
    remedy: str = ""
    """What to do; empty when there is nothing to do."""

    @property
    def line(self) -> str:
        """One line: what was found and what to do about it."""
        return f"{self.name}: {self.found}" + (f"; {self.remedy}" if self.remedy else "")


@dataclass(frozen=True)
class Evidence:
    """What the files hold. A part is None when it was not given or could not be read; `problems` says why."""

    config: Config
    panel: ingest.Panel | None = None
    test: pl.DataFrame | None = None
    sample: pl.DataFrame | None = None
    problems: dict[str, str] = field(default_factory=dict)
    """Check -> the error that reading ended with."""


Finding = tuple[Status, str, str]
"""Status, what was found, what to do."""


def run_checks(config: Config) -> list[CheckResult]:
    """Read the files of a configuration and run every check."""
    evidence = gather(config)
    return [check(name, evidence) for name in CHECKS]


def check(name: str, evidence: Evidence) -> CheckResult:
    """Run one check of `CHECKS`. skip: what it judges was not given, or could not be read (another check says
    why).
    """
    needs, judge = CHECKS[name]
    if name in evidence.problems:
        return CheckResult(name, "fail", evidence.problems[name])
    absent = next((need for need in needs if getattr(evidence, need) is None), None)
    if absent:
        why = (
            "the price files could not be read"
            if absent == "panel"
            else f"no {absent} file that can be read was given"
        )
        return CheckResult(name, "skip", f"not run: {why}")
    try:
        return CheckResult(name, *judge(evidence))
    except KitError as error:
        return CheckResult(name, "fail", str(error))


# -- reading -------------------------------------------------------------------------------------------------
def gather(config: Config) -> Evidence:
    """Read what the checks judge. A user's error does not stop it: it becomes the result of the check that it
    belongs to.
    """
    problems: dict[str, str] = {}
    panel = test = sample = None
    try:
        paths = price_files.find_sources(config.data.data_path)
        for path in paths:
            ingest.open_prices(path, config.data.columns)
    except KitError as error:
        problems["columns"] = str(error)
    else:
        try:
            panel = ingest.read(paths, config.data)
        except KitError as error:
            problems[_belongs_to(str(error))] = str(error)
    if config.data.test_path:
        try:
            test = competition.read_test(config.data.test_path, config.data)
        except KitError as error:
            problems["test IDs known"] = str(error)
    if config.data.sample_submission_path:
        try:
            sample = competition.read_sample(config.data.sample_submission_path)
        except KitError as error:
            problems["sample matches test"] = str(error)
    return Evidence(config, panel, test, sample, problems)


def _belongs_to(message: str) -> str:
    """The check under which an error of reading is shown."""
    if "differs from the same bar" in message or "expected each ticker and date once" in message:
        return "duplicates"
    return (
        "dates"
        if re.search(r"parseable dates|expected (a date|dates|rows with a date)|day or month first", message)
        else "types"
    )


# -- the files' form -----------------------------------------------------------------------------------------
def columns(evidence: Evidence) -> Finding:
    """Which columns there are; the required ones are checked while reading."""
    panel = _panel(evidence)
    found = f"{', '.join(role for role in ROLES if role in panel.roles)}"
    if panel.ignored:
        found += f" (nothing reads {shown(panel.ignored)})"
    absent = [role for role in ("ticker", "volume") if role not in panel.roles]
    if not absent:
        return "ok", found, ""
    return (
        "warn",
        f"{found}; no {' and no '.join(absent)} column",
        "each file is taken as one ticker, missing volume as 0",
    )


def types(evidence: Evidence) -> Finding:
    """Every value is a number where one is expected; how many are missing or infinite."""
    panel = _panel(evidence)
    missing = ~np.isfinite(panel.values[:, :4]).all(axis=1)
    no_volume = ~np.isfinite(panel.values[:, VOLUME]) if "volume" in panel.roles else np.zeros(1, bool)
    bad, rows = int(missing.sum()) + panel.missing_key, max(panel.read, 1)
    volumes = int(no_volume.sum())
    found = f"{_share(bad, rows)} lack a ticker, a date or a finite price, {volumes:,} lack a volume"
    if not bad and not volumes:
        return "ok", found, ""
    return _severity(
        bad, rows, MANY_MISSING, found, "such rows are left out (volume: set to 0); look where they come from"
    )


def dates(evidence: Evidence) -> Finding:
    """Range, order and trading days of the dates."""
    panel = _panel(evidence)
    first, last = panel.sessions[0], panel.sessions[-1]
    found = f"{date_text(first)} to {date_text(last)}, {len(panel.sessions):,} dates, {panel.unsorted:,} rows out of order"
    year = panel.sessions.astype("datetime64[Y]").astype(int) + 1970
    if year[0] < FIRST_YEAR or year[-1] > LAST_YEAR:
        return "fail", found, f"expected years {FIRST_YEAR} to {LAST_YEAR}; correct the dates"
    closing = np.array([market.calendar != ALWAYS_OPEN for market in panel.markets])
    if closing.any():
        weekend = ~np.is_busday(panel.sessions.astype("datetime64[D]"))
        there = np.zeros(len(weekend), bool)
        there[panel.session[closing[panel.market].repeat(np.diff(panel.offsets))]] = True
        weekends = int((weekend & there).sum())
        if weekends:
            name = next(market.calendar for market in panel.markets if market.calendar != ALWAYS_OPEN)
            remedy = f"{name} is closed then; set data.calendar, or drop those rows"
            return "warn", f"{found}, {weekends:,} on a weekend", remedy
    return ("warn", found, "they are sorted") if panel.unsorted else ("ok", found, "")


def duplicates(evidence: Evidence) -> Finding:
    """Rows that repeat a ticker and a date, and whether they agree."""
    panel = _panel(evidence)
    rows = followers(panel.offsets)
    rows = rows[panel.session[rows] == panel.session[rows - 1]]
    if not len(rows):
        return "ok", "every ticker and date once", ""
    a, b = panel.values[rows], panel.values[rows - 1]
    differ = ~((a == b) | (np.isnan(a) & np.isnan(b))).all(axis=1)
    found = f"{len(rows):,} rows repeat a ticker and a date, e.g. {_example(panel, rows[np.argmax(differ)])}"
    if differ.any():
        return (
            "fail",
            f"{found}; {int(differ.sum()):,} with other numbers",
            "decide which are right (data.cleaning.duplicate)",
        )
    return "warn", found, "identical copies are dropped"


# -- the bars ------------------------------------------------------------------------------------------------
def ohlc_order(evidence: Evidence) -> Finding:
    """High is the highest and Low the lowest of the four prices; only among rows whose prices are all
    positive.
    """
    panel = _panel(evidence)
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
    found = f"{_share(len(rows), total)} have Open or Close outside High and Low beyond rounding, e.g. {_example(panel, rows[0])}"
    return _severity(
        len(rows), total, MANY_IMPOSSIBLE, found, "repaired by default (data.cleaning.inconsistent_bar)"
    )


def zero_prices(evidence: Evidence) -> Finding:
    """Prices of 0 or below."""
    panel = _panel(evidence)
    rows = np.flatnonzero((panel.values[:, :4] <= 0).any(axis=1))
    if not len(rows):
        return "ok", "all prices are positive", ""
    closes = int((panel.values[rows, CLOSE] <= 0).sum())
    found = f"{_share(len(rows), len(panel.session))} have a price <= 0 ({closes:,} the Close), e.g. {_example(panel, rows[0])}"
    remedy = (
        "repaired from the row's other prices, left out when Close is bad (data.cleaning.non_positive_price)"
    )
    return _severity(len(rows), len(panel.session), MANY_ZERO_PRICES, found, remedy)


def gaps(evidence: Evidence) -> Finding:
    """Pauses inside a ticker that are longer than a window may cross."""
    panel, limit = _panel(evidence), evidence.config.data.cleaning.max_gap
    rows = followers(panel.offsets)
    own = panel.own_session()
    missing = own[rows] - own[rows - 1] - 1
    long = missing > limit
    if not long.any():
        return "ok", f"no ticker pauses for more than {limit} trading days", ""
    tickers = len(np.unique(owner_of(panel.offsets, rows[long])))
    worst = rows[np.argmax(missing)]
    found = f"{int(long.sum()):,} gaps of more than {limit} trading days in {_share(tickers, len(panel.tickers), 'tickers')}"
    found += f", the longest {int(missing.max()):,} days before {_example(panel, worst)}"
    return _severity(
        tickers, len(panel.tickers), MANY_TICKERS, found, "windows do not cross them (data.cleaning.max_gap)"
    )


def jumps(evidence: Evidence) -> Finding:
    """Moves of the close that are larger than what is taken as real."""
    panel, limit = _panel(evidence), _max_jump(evidence)
    rows, ratio = _close_ratios(panel)
    large = np.abs(ratio - 1) > limit
    if not large.any():
        return "ok", f"no close moves by more than {limit:.0%}", ""
    worst = rows[np.argmax(np.abs(np.log(ratio)))]
    found = f"{_share(int(large.sum()), len(rows), 'moves')} are larger than {limit:.0%}, the worst {_example(panel, worst)}"
    return _severity(
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
    panel = _panel(evidence)
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
    found = f"{silent:,} jumps near a simple ratio (1:2, 3:1, ...) without a recorded split, e.g. {_example(panel, first)}"
    return "warn", found, "look whether the prices are adjusted (data.cleaning.unadjusted_split)"


# -- the question --------------------------------------------------------------------------------------------
def test_ids_known(evidence: Evidence) -> Finding:
    """Test IDs that have a history."""
    panel, test = _panel(evidence), _test(evidence)
    known = test["ID"].is_in(panel.tickers)
    unknown = test["ID"].filter(~known).to_list()
    if not unknown:
        return "ok", f"all {len(test):,} test IDs have prices", ""
    found = f"{_share(len(unknown), len(test), 'test IDs')} have no prices, e.g. {unknown[0]}"
    return _severity(
        len(unknown),
        len(test),
        evidence.config.inference.max_fallback_ratio,
        found,
        "they get the base rate's answer",
    )


def sample_matches_test(evidence: Evidence) -> Finding:
    """The sample submission asks for the rows of the test file."""
    test, sample = _test(evidence)["ID"].to_list(), _sample(evidence)["ID"].to_list()
    if test == sample:
        return "ok", f"the same {len(test):,} IDs in the same order", ""
    if set(test) == set(sample):
        return "warn", f"the same {len(test):,} IDs in another order", "the submission follows the sample"
    odd = sorted(set(test) ^ set(sample))
    found = f"{len(set(test) - set(sample)):,} IDs only in the test file, {len(set(sample) - set(test)):,} only in the sample"
    return "fail", f"{found}, e.g. {odd[0]}", "use the two files of one competition"


def one_as_of_day(evidence: Evidence) -> Finding:
    """Everything is asked about one date, and every ticker's history ends on one day before it."""
    panel, test = _panel(evidence), _test(evidence)
    asked = test["Date"].to_numpy().astype("datetime64[s]")
    later = int(
        np.bincount(panel.session, minlength=len(panel.sessions))[panel.sessions >= asked.min()].sum()
    )
    if later:
        found = f"{later:,} bars are dated on or after the first test date {date_text(asked.min())}"
        return "fail", found, "training on them would leak the answer; cut the price file before that date"
    last = _last_sessions(panel, test)
    if not len(last):
        return "fail", "no test ID has a bar", "use the price file that belongs to the test file"
    market = panel.market[_positions(panel, test)]
    newest = np.zeros(len(panel.markets), last.dtype)
    np.maximum.at(newest, market, last)  # a share ends on a Friday where a coin goes on
    early = int((last < newest[market]).sum())
    found = f"test date {date_text(asked.min())}, history until {date_text(panel.sessions[last.max()])}"
    if early:
        found += f", {_share(early, len(last), 'test tickers')} end earlier, the first on {date_text(panel.sessions[last.min()])}"
        limit = evidence.config.inference.max_fallback_ratio
        return _severity(early, len(last), limit, found, "their horizon is counted from their own last bar")
    if len(np.unique(asked)) > 1:
        return (
            "warn",
            f"{found}, {len(np.unique(asked)):,} test dates",
            "each row is forecast as of its own date",
        )
    return "ok", found, ""


def enough_history(evidence: Evidence) -> Finding:
    """Tickers with a full lookback: those of the test file, or all when there is none."""
    panel, need = _panel(evidence), evidence.config.window
    lengths = np.diff(panel.offsets)
    trainable = int((lengths >= need).sum())
    if not trainable:
        return "fail", f"no ticker has {need} bars", "shorten data.lookback_window or bring longer histories"
    asked = lengths if evidence.test is None else lengths[_positions(panel, evidence.test)]
    short = int((asked < evidence.config.data.lookback_window).sum())
    found = f"{int(lengths.min()):,} to {int(lengths.max()):,} bars per ticker (median {int(np.median(lengths)):,})"
    if not short:
        return "ok", found, ""
    what = "tickers" if evidence.test is None else "test tickers"
    found += (
        f"; {_share(short, len(asked), what)} have fewer than {evidence.config.data.lookback_window} bars"
    )
    return _severity(
        short, len(asked), evidence.config.inference.max_fallback_ratio, found, "shorten data.lookback_window"
    )


def class_balance(evidence: Evidence) -> Finding:
    """Share of rises from bar to bar, year by year. A year far from one half is a data error more often than
    a market.
    """
    panel = _panel(evidence)
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


Check = tuple[Sequence[str], Callable[[Evidence], Finding]]
CHECKS: dict[str, Check] = {
    "columns": (["panel"], columns),
    "types": (["panel"], types),
    "dates": (["panel"], dates),
    "duplicates": (["panel"], duplicates),
    "OHLC order": (["panel"], ohlc_order),
    "zero prices": (["panel"], zero_prices),
    "gaps": (["panel"], gaps),
    "jumps": (["panel"], jumps),
    "splits": (["panel"], splits),
    "test IDs known": (["panel", "test"], test_ids_known),
    "sample matches test": (["test", "sample"], sample_matches_test),
    "one as-of day": (["panel", "test"], one_as_of_day),
    "enough history": (["panel"], enough_history),
    "class balance by year": (["panel"], class_balance),
}
"""Name -> (the evidence that it needs, the function)."""


# -- shared figures ------------------------------------------------------------------------------------------
def _severity(bad: int, total: int, many: float, found: str, remedy: str) -> Finding:
    """fail above a share of `many`, else warn."""
    return ("fail" if bad > many * total else "warn"), found, remedy


def _share(count: int, total: int, what: str = "rows") -> str:
    share = count / max(total, 1)
    return f"{count:,} of {total:,} {what} ({'below 0.01%' if 0 < share < 1e-4 else f'{share:.2%}'})"


def _panel(evidence: Evidence) -> ingest.Panel:
    assert evidence.panel is not None, "CHECKS names what a check needs"
    return evidence.panel


def _test(evidence: Evidence) -> pl.DataFrame:
    assert evidence.test is not None, "CHECKS names what a check needs"
    return evidence.test


def _sample(evidence: Evidence) -> pl.DataFrame:
    assert evidence.sample is not None, "CHECKS names what a check needs"
    return evidence.sample


def _close_ratios(panel: ingest.Panel) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rows (n,) and close / previous close (n,), where both are positive and finite."""
    rows = followers(panel.offsets)
    close = np.ascontiguousarray(panel.values[:, CLOSE])
    good = np.isfinite(close) & (close > 0)
    rows = rows[good[rows] & good[rows - 1]]
    return rows, close[rows].astype(np.float64) / close[rows - 1]


def _max_jump(evidence: Evidence) -> float:
    return Limits.of(evidence.config.data.cleaning, _panel(evidence).frequency).max_jump


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


def _example(panel: ingest.Panel, row: np.int64) -> str:
    ticker = name_of(panel.offsets, panel.tickers, row)
    return f"{ticker} on {date_text(panel.sessions[panel.session[row]])}"


def _positions(panel: ingest.Panel, test: pl.DataFrame) -> NDArray[np.int64]:
    """Positions of the test tickers that have a row."""
    place = {name: k for k, name in enumerate(panel.tickers) if panel.offsets[k + 1] > panel.offsets[k]}
    return np.array([place[name] for name in test["ID"] if name in place], dtype=np.int64)


def _last_sessions(panel: ingest.Panel, test: pl.DataFrame) -> NDArray[np.int32]:
    return panel.session[panel.offsets[_positions(panel, test) + 1] - 1]
