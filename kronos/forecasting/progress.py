"""How far a long forecast is: a bar on a terminal, a plain line a minute elsewhere.

In: how much there is to do. Out: a function to call with what was just done. Speed and time left are those of the whole run.
"""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator

from tqdm import tqdm

log = logging.getLogger(__name__)

EVERY = 60.0
"""Seconds between two plain lines."""


@contextlib.contextmanager
def progress(total: int, what: str, unit: str = "series") -> Iterator[Callable[[int], None]]:
    """Show progress on `total` things; call the result with the number just finished."""
    shown = sys.stderr.isatty() or "KIT_PROGRESS" in os.environ
    with tqdm(total=total, desc=what, unit=f" {unit}", disable=not shown) as bar:
        yield bar.update if shown else _lines(total, what, unit)  # type: ignore[misc]


def _lines(total: int, what: str, unit: str) -> Callable[[int], None]:
    started = said = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, said
        done += count
        if (now := time.monotonic()) - said >= EVERY:
            said, rate = now, done / (now - started)
            left = tqdm.format_interval((total - done) / rate)
            log.info("%s: %d of %d %s, %.1f %s/s, %s left", what, done, total, unit, rate, unit, left)

    return advance
