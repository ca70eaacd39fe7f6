"""A-shares from Eastmoney through akshare (pip install akshare). No key. Never asked from here.

In: six-digit codes, also as sh600519 or 600519.SH. Out: one table a symbol. Eastmoney's functions of akshare
are used and not Sina's, which decode answers by running JavaScript; Sina itself is a built-in source
(`sina`).
"""

from collections.abc import Iterable
from functools import partial
from types import ModuleType

import polars as pl

from kronos.data.markets import LONG_BARS
from kronos.data.sources.packages import USUAL_ERRORS, csv_of, keep_asked, needed, read_kept, span
from kronos.data.sources.protocol import A_SHARE_LEVELS, Asked, BaseSource, Facts, Table
from kronos.data.sources.sina import a_share, only_a_shares

MINUTES = {"1min": "1", "5min": "5", "15min": "15", "30min": "30", "60min": "60"}
NAMES = {
    "开盘": "open",
    "最高": "high",
    "最低": "low",
    "收盘": "close",
    "成交量": "volume",
    "成交额": "amount",
}
SHARES_PER_LOT = 100
FIRST, LAST = "19900101", "20991231"


class Akshare(BaseSource):
    """akshare's stock_zh_a_hist and stock_zh_a_hist_min_em."""

    calendar = "XSHG"
    frequencies = (*LONG_BARS, *MINUTES)
    adjustments = ("qfq", "hfq", "none")

    def facts(self, asked: Asked) -> Facts:
        """Units, currency, adjustment and time zone of this source."""
        volume = "shares (Eastmoney's lots x 100)"
        return Facts(volume, "CNY", A_SHARE_LEVELS[asked.adjust], "Asia/Shanghai")

    def check(self, asked: Asked) -> None:
        """Refuse at once what this source cannot give. Raises KitError."""
        only_a_shares(asked, a_share, "600519 or sz000001")
        needed("akshare", "akshare")

    def download_data(self, asked: Asked) -> None:
        """Ask for the prices and keep the answers as they came. Raises KitError where too much fails."""
        akshare = needed("akshare", "akshare")
        for symbol in asked.each():
            keep_asked(
                asked, symbol, f"{span(asked)}.csv", USUAL_ERRORS, partial(_bars_of, asked, akshare, symbol)
            )

    def process_raw_data(self, asked: Asked) -> Iterable[Table]:
        """The kept answers as tables of bars, one after another."""
        for symbol, path in asked.kept(f"{span(asked)}.csv"):
            frame = read_kept(path)
            date = "日期" if "日期" in frame.columns else "时间"
            lots = pl.col("成交量").cast(pl.Float64) * SHARES_PER_LOT
            yield frame.with_columns(lots).rename(NAMES | {date: "date"}).with_columns(ticker=pl.lit(symbol))


def _bars_of(asked: Asked, akshare: ModuleType, symbol: str) -> bytes:
    settings, code = asked.settings, str(a_share(symbol))[2:]
    adjust = "" if asked.adjust == "none" else asked.adjust
    if settings.frequency in MINUTES:
        frame = akshare.stock_zh_a_hist_min_em(
            symbol=code,
            period=MINUTES[settings.frequency],
            start_date=f"{settings.begin or '1990-01-01'} 00:00:00",
            end_date=f"{settings.end or '2099-12-31'} 23:59:59",
            adjust=adjust,
        )
        return csv_of(frame)
    begin, end = settings.begin.replace("-", "") or FIRST, settings.end.replace("-", "") or LAST
    frame = akshare.stock_zh_a_hist(
        symbol=code, period=settings.frequency, start_date=begin, end_date=end, adjust=adjust
    )
    return csv_of(frame)
