"""Sina: daily bars of US stocks; bars of A-shares by day and minute, adjusted by Sina's own factors. No
package, no key.

In: symbols. US: AAPL. A-shares: sh600519, 600519.SH, SH600519 or 600519. Out: one table a symbol. The service
is not documented: form and limits are those that public code relies on (docs/sources.md). It was never asked
from where this was written.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import polars as pl

from kronos.data.sources.answers import json_of, rows_of
from kronos.data.sources.fetch import Refused
from kronos.data.sources.protocol import A_SHARE_LEVELS, Asked, BaseSource, Facts, Table
from kronos.errors import KitError

US = "https://stock.finance.sina.com.cn/usstock/api/json_v2.php/US_MinKService.getDailyK"
CN = "https://quotes.sina.cn/cn/api/json_v2.php/CN_MarketData.getKLineData"
FACTORS = "https://finance.sina.com.cn/realstock/company"
REFERER = {"Referer": "https://finance.sina.com.cn/"}
MINUTES = {"5min": 5, "15min": 15, "30min": 30, "60min": 60, "daily": 240, "weekly": 1200}
MOST_BARS = 1970
"""Bars of an A-share in one answer; there is no way to ask for earlier ones."""
FACTOR = {
    "none": "",
    "qfq": " (price / Sina's qfq factor); volume as traded",
    "hfq": " (price x Sina's hfq factor); volume as traded",
}
US_KEYS, CN_KEYS = ("d", "o", "h", "l", "c", "v"), ("day", "open", "high", "low", "close", "volume")
A_SHARE = re.compile(
    r"(?:(?P<before>sh|sz|bj)(?P<code>\d{6})|(?P<alone>\d{6})(?:\.(?P<after>sh|sz|bj|ss))?)", re.IGNORECASE
)


def only_a_shares(asked: Asked, code: Callable[[str], str | None], example: str) -> None:
    """Raise KitError for a symbol that `code` knows no A-share of."""
    other = [symbol for symbol in asked.symbols if code(symbol) is None]
    if other:
        name = asked.settings.name
        raise KitError(f"source.symbols: {name} expects A-shares such as {example}, found {other[0]}")


class Sina(BaseSource):
    """Sina's chart services."""

    frequencies = tuple(MINUTES)
    adjustments = ("none", "qfq", "hfq")
    wants = (
        "source.symbols: sina expects what to ask for, found none; give a CSV with a column symbol, or a list such as "
        "AAPL,MSFT (US, daily) or sh600519,sz000001 (A-shares)"
    )

    def facts(self, asked: Asked) -> Facts:
        """Units, currency, adjustment and time zone of this source."""
        done = A_SHARE_LEVELS[asked.adjust] + FACTOR[asked.adjust]
        if _all_chinese(asked):
            return Facts("shares", "CNY", done, "Asia/Shanghai")
        unsaid = " (as far as is known: Sina says nothing of it)"
        return Facts("shares", "USD", done + unsaid, "America/New_York")

    def check(self, asked: Asked) -> None:
        """Refuse at once what this source cannot give. Raises KitError."""
        chinese = _all_chinese(asked)
        if not chinese and asked.settings.frequency != "daily":
            raise KitError(
                f"source.frequency: sina has daily bars of US stocks, found {asked.settings.frequency}; set daily"
            )
        if not chinese and asked.adjust != "none":
            raise KitError(f"source.adjust: sina has no factors of US stocks, found {asked.adjust}; set none")

    def download_data(self, asked: Asked) -> None:
        """Ask for the prices and keep the answers as they came. Raises KitError where too much fails."""
        for symbol in asked.each():
            code = a_share(symbol)
            if code is None:
                asked.keep(
                    symbol, _suffix(asked), US, {"symbol": symbol.upper(), "___qn": "3n"}, REFERER, _check_us
                )
                continue
            scale = str(MINUTES[asked.settings.frequency])
            question = {"symbol": code, "scale": scale, "ma": "no", "datalen": str(MOST_BARS)}
            if (
                asked.keep(symbol, _suffix(asked), CN, question, REFERER, _check_cn)
                and asked.adjust != "none"
            ):
                asked.keep(
                    symbol,
                    f".{asked.adjust}.js",
                    f"{FACTORS}/{code}/{asked.adjust}.js",
                    None,
                    REFERER,
                    factors_of,
                )

    def process_raw_data(self, asked: Asked) -> Iterable[Table]:
        """The kept answers as tables of bars, one after another."""
        full = 0
        for symbol, path in asked.kept(_suffix(asked)):
            if symbol in asked.failed:  # its factors did not come
                continue
            chinese = a_share(symbol) is not None
            rows = rows_of(path.read_bytes(), CN_KEYS if chinese else US_KEYS)
            full += chinese and len(rows) >= MOST_BARS
            frame = _frame(symbol, rows, CN_KEYS if chinese else US_KEYS)
            yield (
                frame
                if asked.adjust == "none"
                else _adjusted(frame, asked.path(symbol, f".{asked.adjust}.js"), asked.adjust)
            )
        if full:
            asked.remark(
                f"{full:,} symbols have {MOST_BARS:,} bars, all that Sina gives: their earlier ones are missing"
            )


def a_share(symbol: str) -> str | None:
    """Sina's name of an A-share, such as sh600519; None for any other symbol."""
    match = A_SHARE.fullmatch(symbol)
    if match is None:
        return None
    code = match["code"] or match["alone"]
    exchange = (match["before"] or match["after"] or _exchange(code)).lower()
    return f"{'sh' if exchange == 'ss' else exchange}{code}"


def _exchange(code: str) -> str:
    """Where a bare code is listed: 6 and 9 in Shanghai, 4, 8 and 92 in Beijing, the others in Shenzhen."""
    if code.startswith("92") or code[0] in "48":
        return "bj"
    return "sh" if code[0] in "569" else "sz"


def _all_chinese(asked: Asked) -> bool:
    """Whether all symbols are A-shares; KitError where some are: one file has one currency and one
    calendar.
    """
    chinese = [symbol for symbol in asked.symbols if a_share(symbol) is not None]
    if chinese and len(chinese) < len(asked.symbols):
        other = next(symbol for symbol in asked.symbols if a_share(symbol) is None)
        raise KitError(
            f"source.symbols: expected US stocks or A-shares, found both ({chinese[0]}, {other}); ask for them apart"
        )
    return bool(chinese)


def _suffix(asked: Asked) -> str:
    return f".{asked.settings.frequency}.json"


def _check_us(body: bytes) -> None:
    rows_of(body, US_KEYS)


def _check_cn(body: bytes) -> None:
    rows_of(body, CN_KEYS)


def _frame(symbol: str, rows: list[dict[str, Any]], keys: tuple[str, ...]) -> pl.DataFrame:
    names = dict(zip(keys, ("date", "open", "high", "low", "close", "volume"), strict=True))
    if all("amount" in row for row in rows):
        names["amount"] = "amount"
    columns = {
        new: pl.Series(new, [row.get(old) for row in rows], dtype=pl.String, strict=False)
        for old, new in names.items()
    }
    return pl.DataFrame(columns).with_columns(ticker=pl.lit(symbol))


def factors_of(body: bytes) -> list[tuple[str, float]]:
    """(day, factor) from {"data": [{"d": day, "f": factor}, ...]}, oldest first. Raises `Refused`."""
    tree = json_of(body)
    rows = tree.get("data") if isinstance(tree, dict) else None
    if not isinstance(rows, list) or not rows:
        raise Refused("expected adjustment factors, found none")
    try:
        factors = sorted((str(row["d"])[:10], float(row["f"])) for row in rows)
    except (KeyError, TypeError, ValueError) as error:
        raise Refused(f"expected adjustment factors with d and f, found {error!r}") from error
    if not all(0 < factor < 1e9 for _, factor in factors):
        raise Refused("expected adjustment factors above 0")
    return factors


def _adjusted(frame: pl.DataFrame, path: Path, adjust: str) -> pl.DataFrame:
    """Prices divided by the qfq factor, or multiplied by the hfq factor, that holds from its day on."""
    days, values = zip(*factors_of(path.read_bytes()), strict=True)
    table = pl.DataFrame({"day": pl.Series(days).str.to_date(), "factor": pl.Series(values)})
    dated = frame.with_columns(day=pl.col("date").str.head(10).str.to_date()).sort("day", maintain_order=True)
    joined = dated.join_asof(table, on="day", strategy="backward")
    factor = pl.col("factor").fill_null(values[0])
    scaled = [
        pl.col(name).cast(pl.Float64) / factor if adjust == "qfq" else pl.col(name).cast(pl.Float64) * factor
        for name in ("open", "high", "low", "close")
    ]
    return joined.with_columns(scaled).drop("day", "factor")
