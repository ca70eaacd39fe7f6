"""How far a long step is: a bar on a terminal, a plain line a minute elsewhere (KIT_PROGRESS=1: the bar there, too).

In: how much there is to do. Out: a tqdm bar, to be told what was just done. Speed and time left are those of the whole step.
"""

import logging
import os
import sys
from typing import Any

from tqdm import tqdm

log = logging.getLogger(__name__)

EVERY = 60.0
"""Seconds between two plain lines, at least."""


def progress(what: str, total: float | None, unit: str, scaled: bool = False) -> "tqdm[Any]":
    """A bar for `total` units of work (None: not known yet), to be used in a `with`. scaled: 2.1G for 2,100,000,000."""
    kind = tqdm if sys.stderr.isatty() or "KIT_PROGRESS" in os.environ else _Lines
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
