"""Binance's public archive: spot candles as zip files by month, the last weeks by day. No package, no key.

In: pairs such as BTCUSDT. Out: one table a file, in UTC. Each zip is compared with the archive's own SHA-256.
Times are milliseconds until 2024 and microseconds since; volume is in the base currency, amount in the quote
currency.
"""

import csv
import hashlib
import io
import re
import shutil
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from functools import partial

import numpy as np
import polars as pl

from kronos.data.archive import unpack
from kronos.data.sources.fetch import Refused
from kronos.data.sources.protocol import COIN_STEPS, Asked, BaseSource, Facts, Table

BASE = "https://data.binance.vision/data/spot"
STEPS = COIN_STEPS | {"monthly": "1mo"}
OLDEST = date(2017, 8, 1)
"""Binance's first month."""
LARGEST = 2**30
"""Bytes that may come out of one zip."""
COLUMNS = ("date", "open", "high", "low", "close", "volume", "close_time", "amount")
MICROSECONDS_FROM = 10**14
"""Epochs above it are microseconds: as milliseconds it would be the year 5138."""


class Binance(BaseSource):
    """data.binance.vision."""

    calendar = "24/7"
    frequencies = tuple(STEPS)
    wants = "source.symbols: binance expects pairs such as BTCUSDT,ETHUSDT, found none"

    def facts(self, asked: Asked) -> Facts:
        """Units, currency, adjustment and time zone of this source."""
        return Facts(
            "base currency (BTC of BTCUSDT)",
            "quote currency (USDT of BTCUSDT)",
            "none: coins have no splits",
            "UTC",
        )

    def download_data(self, asked: Asked) -> None:
        """Ask for the prices and keep the answers as they came. Raises KitError where too much fails."""
        for symbol in asked.each():
            self._download(asked, symbol)

    def _download(self, asked: Asked, symbol: str) -> None:
        """All months from the pair's first one on. A month before it is answered with 404, which is no
        failure.
        """
        found = False
        for kind, day in periods(asked):
            suffix = f".{_name(asked, kind, day)}"
            if asked.path(symbol, f"{suffix}.zip").is_file():
                found = True
                continue
            if asked.path(symbol, f"{suffix}.none").is_file():
                continue
            try:
                body = self._zip(
                    asked, symbol, f"{kind}/klines/{symbol}/{STEPS[asked.settings.frequency]}", suffix
                )
            except Refused as refused:
                if not str(refused).startswith("HTTP 404"):
                    asked.fail(symbol, str(refused))
                    return
                if not found and kind == "monthly":  # before the pair was listed: it will never be there
                    asked.keep_made(symbol, f"{suffix}.none", partial(bytes, b"HTTP 404"))
                continue
            found = True
            asked.keep_made(symbol, f"{suffix}.zip", partial(bytes, body))
        if not found:
            asked.fail(symbol, "no file of this pair in these months")

    def _zip(self, asked: Asked, symbol: str, folder: str, suffix: str) -> bytes:
        asked.requests += 1
        url = f"{BASE}/{folder}/{symbol}-{STEPS[asked.settings.frequency]}-{suffix.rsplit('.', 1)[1]}.zip"
        wanted = asked.fetcher.get(f"{url}.CHECKSUM", check=_check_digest).split()[0].decode("ascii").lower()

        def check(body: bytes) -> None:
            if hashlib.sha256(body).hexdigest() != wanted:
                raise Refused("the zip differs from the archive's own SHA-256", again=True)

        return asked.fetcher.get(url, check=check)

    def process_raw_data(self, asked: Asked) -> Iterable[Table]:
        """The kept answers as tables of bars, one after another."""
        for symbol in asked.symbols:
            if symbol in asked.failed:
                continue
            missing = 0
            for kind, day in periods(asked):
                path = asked.path(symbol, f".{_name(asked, kind, day)}.zip")
                if path.is_file():
                    yield from self._tables(asked, symbol, path.name)
                elif kind == "monthly" and not path.with_suffix(".none").is_file():
                    missing += 1
            if missing:
                asked.remark(f"{symbol}: {missing:,} months are not in the archive")

    def _tables(self, asked: Asked, symbol: str, name: str) -> Iterator[Table]:
        aside = asked.folder / ".unpacked"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        for inside in unpack(asked.raw / name, aside, {name: LARGEST}, (), lambda count: None):
            yield table_of(symbol, (aside / inside).read_bytes())
        shutil.rmtree(aside)


def _check_digest(body: bytes) -> None:
    """Raises `Refused` unless the bytes begin with a whole SHA-256."""
    if not re.match(rb"\s*[0-9a-fA-F]{64}(\s|$)", body):
        raise Refused("the archive's own SHA-256 is no whole one", again=True)


def periods(asked: Asked) -> list[tuple[str, date]]:
    """('monthly', first day) of the whole months asked for, then ('daily', day) of the days of the month that
    is not over.
    """
    today = datetime.now(UTC).date()
    begin = date.fromisoformat(asked.settings.begin) if asked.settings.begin else OLDEST
    end = min(
        date.fromisoformat(asked.settings.end) if asked.settings.end else today, today - timedelta(days=1)
    )
    found = []
    month = max(begin, OLDEST).replace(day=1)
    while month <= end:
        following = (month + timedelta(days=32)).replace(day=1)
        if following <= today:
            found.append(("monthly", month))
        elif asked.settings.frequency not in ("weekly", "monthly"):
            found += [("daily", month + timedelta(days=i)) for i in range((end - month).days + 1)]
        month = following
    return found


def _name(asked: Asked, kind: str, day: date) -> str:
    """The part of a kept file's name that says which bars it holds."""
    return (
        f"{asked.settings.frequency}.{day:%Y-%m}"
        if kind == "monthly"
        else f"{asked.settings.frequency}.{day:%Y-%m-%d}"
    )


def table_of(symbol: str, text: bytes) -> pl.DataFrame:
    """The candles of one CSV file, with or without a header."""
    rows = [row for row in csv.reader(io.StringIO(text.decode("ascii"))) if row and row[0].strip().isdigit()]
    columns = {
        name: [row[place] for row in rows] for place, name in enumerate(COLUMNS) if name != "close_time"
    }
    times = np.array(columns.pop("date"), dtype=np.int64)
    milliseconds = np.where(times > MICROSECONDS_FROM, times // 1000, times)
    dates = pl.Series("date", milliseconds.astype("datetime64[ms]"))
    return pl.DataFrame({"ticker": [symbol] * len(rows), "date": dates, **columns})
