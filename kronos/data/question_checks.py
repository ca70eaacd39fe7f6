"""Data checks of the question: test file and sample beside the prices.

In: `Evidence`. Out: a `Finding` a check.
"""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kronos.data.check_result import Evidence, Finding, panel_of, sample_of, severity, share, test_of
from kronos.data.price_panel import Panel
from kronos.data.survey import date_text


def test_ids_known(evidence: Evidence) -> Finding:
    """Test IDs that have a history."""
    panel, test = panel_of(evidence), test_of(evidence)
    known = test["ID"].is_in(panel.tickers)
    unknown = test["ID"].filter(~known).to_list()
    if not unknown:
        return "ok", f"all {len(test):,} test IDs have prices", ""
    found = f"{share(len(unknown), len(test), 'test IDs')} have no prices, e.g. {unknown[0]}"
    return severity(
        len(unknown),
        len(test),
        evidence.config.inference.max_fallback_ratio,
        found,
        "they get the base rate's answer",
    )


def sample_matches_test(evidence: Evidence) -> Finding:
    """The sample submission asks for the rows of the test file."""
    test, sample = test_of(evidence)["ID"].to_list(), sample_of(evidence)["ID"].to_list()
    if test == sample:
        return "ok", f"the same {len(test):,} IDs in the same order", ""
    if set(test) == set(sample):
        return "warn", f"the same {len(test):,} IDs in another order", "the submission follows the sample"
    odd = sorted(set(test) ^ set(sample))
    found = f"{len(set(test) - set(sample)):,} IDs only in the test file, {len(set(sample) - set(test)):,} only in the sample"
    return "fail", f"{found}, e.g. {odd[0]}", "use the two files of one competition"


def one_as_of_day(evidence: Evidence) -> Finding:
    """Everything is asked about one date, and every ticker's history ends on one day before it."""
    panel, test = panel_of(evidence), test_of(evidence)
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
        found += f", {share(early, len(last), 'test tickers')} end earlier, the first on {date_text(panel.sessions[last.min()])}"
        limit = evidence.config.inference.max_fallback_ratio
        return severity(early, len(last), limit, found, "their horizon is counted from their own last bar")
    if len(np.unique(asked)) > 1:
        return (
            "warn",
            f"{found}, {len(np.unique(asked)):,} test dates",
            "each row is forecast as of its own date",
        )
    return "ok", found, ""


def enough_history(evidence: Evidence) -> Finding:
    """Tickers with a full lookback: those of the test file, or all when there is none."""
    panel, need = panel_of(evidence), evidence.config.window
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
    found += f"; {share(short, len(asked), what)} have fewer than {evidence.config.data.lookback_window} bars"
    return severity(
        short, len(asked), evidence.config.inference.max_fallback_ratio, found, "shorten data.lookback_window"
    )


def _positions(panel: Panel, test: pl.DataFrame) -> NDArray[np.int64]:
    """Positions of the test tickers that have a row."""
    place = {name: k for k, name in enumerate(panel.tickers) if panel.offsets[k + 1] > panel.offsets[k]}
    return np.array([place[name] for name in test["ID"] if name in place], dtype=np.int64)


def _last_sessions(panel: Panel, test: pl.DataFrame) -> NDArray[np.int32]:
    return panel.session[panel.offsets[_positions(panel, test) + 1] - 1]
