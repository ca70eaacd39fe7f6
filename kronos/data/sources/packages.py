"""Sources that a package of its own asks: what they share.

The package is imported when it is needed; where it is missing one line says what to install. What it returns
is kept as it is, as JSON or CSV, so that processing needs neither the package nor a network.
"""

import importlib
import io
import time
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import polars as pl

from kronos.data.sources.fetch import BACK_OFF, TRIES, Refused
from kronos.data.sources.protocol import Asked
from kronos.errors import KitError

USUAL_ERRORS = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError)
"""What packages raise when a service answers nothing or something new: they mostly trip over the missing
parts of an answer.
"""


def needed(name: str, source: str, install: str = "") -> ModuleType:
    """The package `name`. Raises KitError, one line, where it is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise KitError(
                f"{source}: the package {name} lacks {error.name}; run: pip install {error.name}"
            ) from error
        raise KitError(
            f"{source}: expected the package {name}, found none; run: pip install {install or name}"
        ) from error


def keep_asked(
    asked: Asked, symbol: str, suffix: str, errors: tuple[type[BaseException], ...], ask: Callable[[], bytes]
) -> bool:
    """As `Asked.keep_made`, with the answer of a package, which raises `errors` where it has none."""
    return asked.keep_made(symbol, suffix, partial(tried, asked, errors, ask))


def tried(asked: Asked, errors: tuple[type[BaseException], ...], ask: Callable[[], bytes]) -> bytes:
    """What `ask` returns, with the pause before it and more tries after an error of the package. Raises
    `Refused`.
    """
    for attempt in range(TRIES):
        time.sleep(asked.settings.pause)
        try:
            return ask()
        except errors as error:
            if attempt == TRIES - 1:
                raise Refused(f"{type(error).__name__}: {error}"[:200]) from error
            time.sleep(BACK_OFF * 2**attempt)
    raise AssertionError("the last try returns or raises")


def csv_of(frame: Any) -> bytes:
    """A pandas frame as CSV with its index, the form in which it is kept. Raises `Refused` where it has no
    rows.
    """
    if frame is None or not len(frame):
        raise Refused("the service knows no bars of this symbol in these days")
    text: str = frame.to_csv()
    return text.encode()


def read_kept(path: Any) -> pl.DataFrame:
    """A kept CSV, all columns as text."""
    return pl.read_csv(io.BytesIO(path.read_bytes()), infer_schema=False)


def span(asked: Asked) -> str:
    """The part of a kept file's name that says which bars it holds."""
    settings = asked.settings
    return f".{settings.frequency}.{asked.adjust}.{settings.begin or 'first'}.{settings.end or 'last'}"
