"""What a data check says, and the evidence that it judges.

In: files that were read, as far as they could be. Out: `Evidence`, `CheckResult`, and the words that all checks
share.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import polars as pl

from kronos.config import Config
from kronos.data.price_panel import Panel
from kronos.data.row_places import name_of
from kronos.data.survey import date_text

Status = Literal["ok", "warn", "fail", "skip"]
Finding = tuple[Status, str, str]
"""Status, what was found, what to do."""


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
    panel: Panel | None = None
    test: pl.DataFrame | None = None
    sample: pl.DataFrame | None = None
    problems: dict[str, str] = field(default_factory=dict)
    """Check -> the error that reading ended with."""


def severity(bad: int, total: int, many: float, found: str, remedy: str) -> Finding:
    """fail above a share of `many`, else warn."""
    return ("fail" if bad > many * total else "warn"), found, remedy


def share(count: int, total: int, what: str = "rows") -> str:
    """A count as a share of a total, in words."""
    share = count / max(total, 1)
    return f"{count:,} of {total:,} {what} ({'below 0.01%' if 0 < share < 1e-4 else f'{share:.2%}'})"


def panel_of(evidence: Evidence) -> Panel:
    """The panel of a check that needs one."""
    assert evidence.panel is not None, "CHECKS names what a check needs"
    return evidence.panel


def test_of(evidence: Evidence) -> pl.DataFrame:
    """The test file of a check that needs one."""
    assert evidence.test is not None, "CHECKS names what a check needs"
    return evidence.test


def sample_of(evidence: Evidence) -> pl.DataFrame:
    """The sample submission of a check that needs one."""
    assert evidence.sample is not None, "CHECKS names what a check needs"
    return evidence.sample


def example(panel: Panel, row: np.int64) -> str:
    """Ticker and date of a row."""
    ticker = name_of(panel.offsets, panel.tickers, row)
    return f"{ticker} on {date_text(panel.sessions[panel.session[row]])}"
