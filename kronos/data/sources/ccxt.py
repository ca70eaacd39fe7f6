"""Candles of about a hundred crypto exchanges through ccxt (pip install ccxt). No key for prices. Never asked
from here.

In: source.path, the exchange (kraken), and its symbols (BTC/USDT). Out: one table a symbol, in UTC, without
the candle that was not over when it was asked for.
"""

import json
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial

import numpy as np
import polars as pl

from kronos.data.frequency import SECONDS
from kronos.data.sources.fetch import Refused
from kronos.data.sources.packages import USUAL_ERRORS, keep_asked, needed, span
from kronos.data.sources.protocol import COIN_STEPS, Asked, BaseSource, Facts, Table
from kronos.errors import KitError

STEPS = COIN_STEPS | {"monthly": "1M"}
LONGEST_MONTH = 31 * 86_400
"""Seconds after which a candle of any month is over."""
PAGE = 1000
MOST_PAGES = 10_000
FIRST = "2010-01-01"


class Ccxt(BaseSource):
    """fetch_ohlcv of one exchange."""

    calendar = "24/7"
    frequencies = tuple(STEPS)
    wants = "source.symbols: ccxt expects pairs such as BTC/USDT,ETH/USDT, found none"

    def facts(self, asked: Asked) -> Facts:
        """Units, currency, adjustment and time zone of this source."""
        return Facts("base currency", "quote currency", "none: coins have no splits", "UTC")

    def check(self, asked: Asked) -> None:
        """Refuse at once what this source cannot give. Raises KitError."""
        ccxt = needed("ccxt", "ccxt")
        known = list(getattr(ccxt, "exchanges", []))
        if asked.settings.path not in known:
            raise KitError(
                f"source.path: ccxt expects an exchange such as {', '.join(known[:3])}, found {asked.settings.path!r}"
            )

    def download_data(self, asked: Asked) -> None:
        """Ask for the prices and keep the answers as they came. Raises KitError where too much fails."""
        ccxt = needed("ccxt", "ccxt")
        exchange = getattr(ccxt, asked.settings.path)({"enableRateLimit": True})
        errors = (*USUAL_ERRORS, ccxt.BaseError)
        for symbol in asked.each():
            keep_asked(asked, symbol, f"{span(asked)}.json", errors, partial(_pages, asked, exchange, symbol))

    def process_raw_data(self, asked: Asked) -> Iterable[Table]:
        """The kept answers as tables of bars, one after another."""
        seconds = SECONDS[asked.settings.frequency]
        if asked.settings.frequency == "monthly":
            seconds = LONGEST_MONTH
        length = 1000 * seconds
        for symbol, path in asked.kept(f"{span(asked)}.json"):
            tree = json.loads(path.read_bytes())
            whole = [row for row in tree["rows"] if row[0] + length <= tree["asked_ms"]]
            if not whole:
                continue
            columns = dict(
                zip(
                    ("date", "open", "high", "low", "close", "volume"), zip(*whole, strict=True), strict=False
                )
            )
            dates = pl.Series("date", np.array(columns.pop("date"), dtype=np.int64).astype("datetime64[ms]"))
            yield pl.DataFrame({"ticker": [symbol] * len(whole), "date": dates, **columns}, strict=False)


def _pages(asked: Asked, exchange: object, symbol: str) -> bytes:
    """All candles from source.begin to source.end, page after page, each of them once."""
    settings = asked.settings
    since = _milliseconds(settings.begin or FIRST)
    end = _milliseconds(settings.end) + 86_400_000 if settings.end else None
    rows: list[list[float]] = []
    asked_ms = int(time.time() * 1000)
    for _ in range(MOST_PAGES):
        page = exchange.fetch_ohlcv(symbol, STEPS[settings.frequency], since, PAGE)  # type: ignore[attr-defined]
        page = [row for row in page if not rows or row[0] > rows[-1][0]]
        rows += page
        if not page or (end is not None and rows[-1][0] >= end):
            break
        since = int(rows[-1][0]) + 1
        time.sleep(settings.pause)
    if not rows:
        raise Refused("the exchange knows no candles of this pair in these days")
    return json.dumps({"asked_ms": asked_ms, "rows": rows}).encode()


def _milliseconds(day: str) -> int:
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1000)
