"""A-shares and the members of CSI 300 through baostock (pip install baostock). Free; its own protocol on port
10030, without TLS. Never asked from here.

In: codes (sh.600000, sh600000, 600000), or source.pool csi300. Out: one table a symbol, without its suspended
days; membership by the lists of the first day of each month.
"""

import json
from collections.abc import Iterable
from datetime import date, timedelta
from functools import partial
from types import ModuleType
from typing import Any

import polars as pl

from kronos.data.markets import LONG_BARS
from kronos.data.sources.fetch import Refused
from kronos.data.sources.packages import USUAL_ERRORS, keep_asked, needed, span
from kronos.data.sources.protocol import A_SHARE_LEVELS, Asked, BaseSource, Facts, Table
from kronos.data.sources.sina import a_share, only_a_shares
from kronos.errors import KitError

DAILY = "date,code,open,high,low,close,volume,amount,adjustflag,tradestatus,isST"
WEEKLY = "date,code,open,high,low,close,volume,amount,adjustflag"
MINUTES = {"5min": "5", "15min": "15", "30min": "30", "60min": "60"}
INTRADAY = "date,time,code,open,high,low,close,volume,amount,adjustflag"
FLAGS = {"hfq": "1", "qfq": "2", "none": "3"}
FIRST = "1990-12-19"
INDEX = "csi300"


class Baostock(BaseSource):
    """baostock's query_history_k_data_plus and query_hs300_stocks."""

    calendar = "XSHG"
    frequencies = (*LONG_BARS, *MINUTES)
    adjustments = ("hfq", "qfq", "none")

    def facts(self, asked: Asked) -> Facts:
        """Units, currency, adjustment and time zone of this source."""
        return Facts("shares", "CNY", A_SHARE_LEVELS[asked.adjust], "Asia/Shanghai")

    def check(self, asked: Asked) -> None:
        """Refuse at once what this source cannot give. Raises KitError."""
        settings = asked.settings
        if settings.pool and (settings.pool != INDEX or asked.symbols):
            raise KitError(
                f"source.pool: baostock knows {INDEX}, and takes it in place of source.symbols; found {settings.pool!r}"
            )
        if settings.pool and not settings.begin:
            raise KitError("source.begin: baostock expects the first day of a pool, found none")
        only_a_shares(asked, _code, "sh.600000")
        needed("baostock", "baostock")

    def download_data(self, asked: Asked) -> None:
        """Ask for the prices and keep the answers as they came. Raises KitError where too much fails."""
        baostock = needed("baostock", "baostock")
        answer = baostock.login()
        if answer.error_code != "0":
            raise KitError(
                f"baostock: expected a login, found {answer.error_code}: {answer.error_msg}; try later"
            )
        try:
            if asked.settings.pool:
                self._download_members(asked, baostock)
            for symbol in asked.each():
                ask = partial(_bars_of, asked, baostock, str(_code(symbol)))
                keep_asked(asked, symbol, f"{span(asked)}.json", USUAL_ERRORS, ask)
        finally:
            baostock.logout()

    def _download_members(self, asked: Asked, baostock: ModuleType) -> None:
        """The index's members on the first day of each month; they are then the symbols to ask for."""
        months = _months(asked)
        monthly = Asked(
            asked.settings, asked.folder, [f"{INDEX}-{day}" for day in months], failed=asked.failed
        )
        for name, day in zip(monthly.symbols, months, strict=True):
            keep_asked(monthly, name, ".json", USUAL_ERRORS, partial(_members_on, baostock, day))
        asked.requests += monthly.requests
        asked.symbols = sorted({code for members in self._members(asked).values() for code in members})

    def _members(self, asked: Asked) -> dict[date, list[str]]:
        """The codes of each month's list that is kept."""
        found = {}
        for day in _months(asked):
            path = asked.path(f"{INDEX}-{day}", ".json")
            if path.is_file():
                found[day] = [row["code"] for row in _rows(path.read_bytes())]
        return found

    def pool(self, asked: Asked) -> pl.DataFrame | None:
        """Members of the asked index with the days on which they were in it; None: none is asked for."""
        if not asked.settings.pool:
            return None
        members = self._members(asked)
        days = sorted(members)
        ends = [
            *(following - timedelta(days=1) for following in days[1:]),
            (days[-1] + timedelta(days=32)).replace(day=1),
        ]
        rows = [
            (code, first, last) for first, last in zip(days, ends, strict=True) for code in members[first]
        ]
        return pl.DataFrame(
            rows, schema={"ticker": pl.String, "first": pl.Date, "last": pl.Date}, orient="row"
        )

    def process_raw_data(self, asked: Asked) -> Iterable[Table]:
        """The kept answers as tables of bars, one after another."""
        suspended = 0
        for symbol, path in asked.kept(f"{span(asked)}.json"):
            frame = pl.DataFrame(_rows(path.read_bytes()))
            if "tradestatus" in frame.columns:
                suspended += int((frame["tradestatus"] == "0").sum())
                frame = frame.filter(pl.col("tradestatus") != "0")
            if "time" in frame.columns:  # 20240131093500000, the end of the bar
                time = pl.col("time").str
                day = pl.concat_str(time.slice(0, 4), time.slice(4, 2), time.slice(6, 2), separator="-")
                frame = frame.with_columns(
                    date=pl.concat_str(
                        day, pl.lit(" "), time.slice(8, 2), pl.lit(":"), time.slice(10, 2), pl.lit(":00")
                    )
                )
            yield frame.with_columns(ticker=pl.lit(symbol))
        if suspended:
            asked.remark(f"{suspended:,} rows of suspended days (tradestatus 0) left out")


def _code(symbol: str) -> str | None:
    """baostock's name, such as sh.600000."""
    name = a_share(symbol.replace(".", "", 1) if symbol[:3].lower() in ("sh.", "sz.", "bj.") else symbol)
    return None if name is None else f"{name[:2]}.{name[2:]}"


def _months(asked: Asked) -> list[date]:
    first = date.fromisoformat(asked.settings.begin).replace(day=1)
    last = date.fromisoformat(asked.settings.end) if asked.settings.end else date.today()
    found = []
    while first <= last:
        found.append(first)
        first = (first + timedelta(days=32)).replace(day=1)
    return found


def _bars_of(asked: Asked, baostock: ModuleType, code: str) -> bytes:
    settings = asked.settings
    usual = {"daily": ("d", DAILY), "weekly": ("w", WEEKLY), "monthly": ("m", WEEKLY)}
    step, names = usual.get(settings.frequency) or (MINUTES[settings.frequency], INTRADAY)
    return _kept_form(
        baostock.query_history_k_data_plus(
            code,
            names,
            start_date=settings.begin or FIRST,
            end_date=settings.end or None,
            frequency=step,
            adjustflag=FLAGS[asked.adjust],
        )
    )


def _members_on(baostock: ModuleType, day: date) -> bytes:
    return _kept_form(baostock.query_hs300_stocks(str(day)))


def _kept_form(answer: Any) -> bytes:
    """A result set of baostock as JSON. Raises `Refused` for its errors and where there are no rows."""
    if answer.error_code != "0":
        raise Refused(f"{answer.error_code}: {answer.error_msg}")
    rows = []
    while answer.next():
        rows.append(answer.get_row_data())
    if not rows:
        raise Refused("the service knows no bars of this symbol in these days")
    return json.dumps({"fields": answer.fields, "rows": rows}, ensure_ascii=False).encode()


def _rows(body: bytes) -> list[dict[str, str]]:
    tree = json.loads(body)
    return [dict(zip(tree["fields"], row, strict=True)) for row in tree["rows"]]
