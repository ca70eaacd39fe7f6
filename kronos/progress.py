"""How far a long step is: a bar on a terminal, a plain line a minute elsewhere. KIT_PROGRESS=1 or 0: bars
everywhere, nowhere.

In: how much there is to do. Out: a tqdm bar, to be told what was just done. Speed and time left are those of
the whole step.
"""

import logging
import os
import sys
import textwrap
from typing import Any

from tqdm import tqdm

from kronos.errors import KitError

log = logging.getLogger(__name__)

EVERY = 60.0
"""Seconds between two plain lines, at least."""


def bars_wanted() -> bool:
    """Whether steps show bars. A notebook's `!` gives commands a pseudo-terminal, whose bars fill its output:
    it sets 0.

    Raises KitError when KIT_PROGRESS is neither 0 nor 1.
    """
    asked = os.environ.get("KIT_PROGRESS", "")
    if asked not in ("", "0", "1"):
        raise KitError(f"KIT_PROGRESS: expected 0 (plain lines) or 1 (bars), found {asked!r}")
    return asked == "1" if asked else sys.stderr.isatty()


def progress(what: str, total: float | None, unit: str, scaled: bool = False) -> "tqdm[Any]":
    """A bar for `total` units of work (None: not known yet), to be used in a `with`. scaled: 2.1G for
    2,100,000,000.
    """
    kind = tqdm if bars_wanted() else _Lines
    return kind(total=total, desc=what, unit=f" {unit}", unit_scale=scaled, leave=False)


class _Lines(tqdm):
    """A bar that is written as lines of the log."""

    def __init__(self, **settings: Any) -> None:
        line = "{desc}: {n_fmt} of {total_fmt}{unit}, {rate_noinv_fmt}, {remaining} left"
        super().__init__(**settings, bar_format=line, mininterval=EVERY, delay=EVERY, miniters=1)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Called by tqdm when a line is due, and once more with an empty one to clear the terminal."""
        if msg is None:
            log.info("%s", str(self))


LINE = 118
"""Columns of a line in the log."""


def in_lines(text: str) -> str:
    """The text in lines of at most `LINE` columns, cut between words; what follows the first is indented."""
    return textwrap.fill(text, LINE, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def duration(seconds: float) -> str:
    """Hours and minutes as one says them: 3 h 20 min, 5 min, 40 s."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{max(round(seconds), 0)} s"
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def clock(seconds: float) -> str:
    """h:mm:ss."""
    whole = max(round(seconds), 0)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
