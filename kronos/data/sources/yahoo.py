"""Yahoo's prices through yfinance (pip install yfinance). Unofficial, limited in speed, no key. Never asked
from here.

In: Yahoo's symbols (AAPL, 0700.HK, BTC-USD). Out: one table a symbol, dates in the exchange's local time.
"""

from collections.abc import Iterable
from datetime import date, timedelta
from functools import partial
from types import ModuleType
from typing import Any

import polars as pl

from kronos.data.markets import LONG_BARS
from kronos.data.sources.packages import USUAL_ERRORS, csv_of, keep_asked, needed, read_kept, span
from kronos.data.sources.protocol import Asked, BaseSource, Facts, Table

STEPS = {
    "daily": "1d",
    "weekly": "1wk",
    "monthly": "1mo",
    "1min": "1m",
    "2min": "2m",
    "5min": "5m",
    "15min": "15m",
    "30min": "30m",
    "60min": "60m",
    "90min": "90m",
}
FIRST = "1900-01-01"


class Yahoo(BaseSource):
    """yfinance's Ticker.history."""

    frequencies = tuple(STEPS)
    adjustments = ("qfq", "none")

    def facts(self, asked: Asked) -> Facts:
        """Units, currency, adjustment and time zone of this source."""
        done = {
            "qfq": "for splits and dividends, to the last day's level",
            "none": "for splits, not for dividends",
        }
        return Facts(
            "shares, adjusted for splits", "the exchange's currency", done[asked.adjust], "the exchange's own"
        )

    def check(self, asked: Asked) -> None:
        """Refuse at once what this source cannot give. Raises KitError."""
        needed("yfinance", "yahoo")

    def download_data(self, asked: Asked) -> None:
        """Ask for the prices and keep the answers as they came. Raises KitError where too much fails."""
        yfinance = needed("yfinance", "yahoo")
        settings = asked.settings
        after_end = (
            str(date.fromisoformat(settings.end) + timedelta(days=1)) if settings.end else None
        )  # its end is exclusive
        short = settings.frequency not in LONG_BARS
        question = {
            "interval": STEPS[settings.frequency],
            "auto_adjust": asked.adjust == "qfq",
            "actions": False,
        }
        if settings.begin or not short:
            question |= {"start": settings.begin or FIRST, "end": after_end}
        else:
            question |= {"period": "max"}  # days or weeks, as Yahoo has it
        for symbol in asked.each():
            ask = partial(_history, yfinance, symbol, question)
            keep_asked(asked, symbol, f"{span(asked)}.csv", USUAL_ERRORS, ask)

    def process_raw_data(self, asked: Asked) -> Iterable[Table]:
        """The kept answers as tables of bars, one after another."""
        for symbol, path in asked.kept(f"{span(asked)}.csv"):
            frame = read_kept(path)
            names = {name: name.strip().lower() for name in frame.columns}
            frame = frame.rename(names)
            local = pl.col("date" if "date" in frame.columns else "datetime").str.slice(
                0, 19
            )  # without the offset: local time
            yield frame.select(
                pl.lit(symbol).alias("ticker"), local.alias("date"), "open", "high", "low", "close", "volume"
            )


def _history(yfinance: ModuleType, symbol: str, question: dict[str, Any]) -> bytes:
    return csv_of(yfinance.Ticker(symbol).history(**question))
