"""Which column of a price file plays which role.

In: a file's column names, and `data.columns` for the names that nobody could guess. Out: `Layout`, or one
line that says what is missing and how to name it. Names that services use are known, whatever their case and
order.
Sources of the names: the competition's data page, the guide, and the exports of the services listed in
docs/data.md.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kronos.errors import KitError

Tiers = tuple[tuple[str, ...], ...]

TICKS = ("tick volume", "tickvol", "tickvolume")
"""Names of a count of price changes, which stands in for a volume where there is none (MetaTrader)."""
OTHERS = {
    "date": ("datum", "fecha", "дата", "tarih", "日付", "日付け", "일자", "날짜", "交易日"),
    "open": (
        "eröffnung", "eröffn.", "erster", "apertura", "abertura", "ouv.", "otwarcie", "откр.", "açılış", "始値", "시가",
        "開盤價", "開盤",
    ),
    "high": (
        "hoch", "tageshoch", "máximo", "máxima", "massimo", "plus haut", "hoog", "najwyzszy", "najwyższy", "max.", "макс.",
        "yüksek", "高値", "고가", "最高價", "高",
    ),
    "low": (
        "tief", "tagestief", "mínimo", "mínima", "minimo", "plus bas", "laag", "najnizszy", "najniższy", "min.", "мин.",
        "düşük", "安値", "저가", "最低價", "低",
    ),
    "close": (
        "schluss", "schlusskurs", "cierre", "zamkniecie", "zamknięcie", "clôture", "終値", "종가", "收盤價", "收盤",
    ),
    "last": ("zuletzt", "último", "ultimo", "dernier", "laatste", "ostatnio", "цена", "şimdi"),
    "volume": ("wolumen", "wol.", "stücke", "stuecke", "объём", "hac.", "出来高", "거래량", "交易量", "成交股數"),
}  # fmt: skip
"""Names in German, Spanish, Portuguese, Italian, French, Dutch, Polish, Russian, Turkish, Japanese, Korean and
traditional Chinese exports."""

ROLES: dict[str, Tiers] = {
    "ticker": (
        ("ticker", "symbol", "股票代码", "证券代码"),
        (
            "code", "ts code", "stock code", "security code", "securities code", "securitiescode", "instrument", "secid",
            "sec id", "wind code", "order book id", "代码", "stock symbol", "ticker symbol", "trading symbol",
            "tradingsymbol", "instrument id", "instrument name", "ric", "tic", "stock", "asset id", "tckrsymb",
        ),
        ("name", "asset", "pair", "coin", "security", "company", "股票名称", "名称"),
    ),
    "date": (
        (
            "date", "timestamps", "timestamp", "datetime", "date time", "trade date", "tradedate", "trading date", "日期",
            "交易日期", "gmt time", "local time", "dtyyyymmdd", "price date", "datadate", "day", "window start",
            "date1", "date/time", "exchange date", "traddt", "begins at", "time key", *OTHERS["date"],
        ),
        ("data",),
        ("time", "时间", "交易时间", "open time", "opentime", "bar time", "candle begin time"),
        ("unix", "unix timestamp", "unix time", "epoch", "ts"),
        ("d", "t"),
    ),
    "time": (("time", "时间", "交易时间", "time of day"),),
    "open": (
        ("open", "开盘", "开盘价", "open price", "opening price", *OTHERS["open"]),
        ("px open", "price open", "opnpric"),
        ("o",),
    ),
    "high": (
        ("high", "最高", "最高价", "high price", "day high", *OTHERS["high"]),
        ("px high", "price high", "hghpric"),
        ("h",),
    ),
    "low": (
        ("low", "最低", "最低价", "low price", "day low", *OTHERS["low"]),
        ("px low", "price low", "lwpric"),
        ("l",),
    ),
    "close": (
        ("close", "收盘", "收盘价", "close price", "closing price", *OTHERS["close"]),
        ("price close", "clspric"),
        ("price", "last", "close/last", "last price", "px last", "最新价", *OTHERS["last"]),
        ("c",),
    ),
    "volume": (
        (
            "volume", "vol", "vol.", "成交量", "total volume", "traded volume", "trading volume", "trade volume",
            "volume traded", "total traded quantity", "shares traded",
            *OTHERS["volume"], "ttl trd qnty",
        ),
        # "Volumen" of German brokers is the money where "Stücke" stands beside it.
        ("volumen", "px volume", "tottrdqty", "ttltradgvol", "number of shares", "no.of shares"),
        (*TICKS, "base volume"),
        ("v",),
    ),
    "amount": (
        (
            "amount", "成交额", "成交金额", "amt", "money", "quote volume", "quote asset volume", "quote av", "turnover value",
            "traded value", "trade value", "成交金額", "tottrdval", "ttltrfval", "turnovervalue", "total turnover",
            "total turnover (rs.)",
        ),
        ("turnover",),
    ),
    "split": (("stock splits", "split"),),
    "market": ((),),
}  # fmt: skip
"""Role -> names in lower case, surest first: a name of a later tier counts where no earlier one is there. The
first name of all is the competition's or the guide's."""
UNNAMED = ("", "unnamed: 0", "index level 0")
PRICES = ("open", "high", "low", "close")
REQUIRED = ("date", *PRICES)
NUMBERS = (*PRICES, "volume", "amount", "split")
_QUOTED_IN = re.compile(r"volume \(?(usd[tc]?|busd|eur|gbp|jpy|cny|krw|inr|aud|try)\)?")
_TRADED_IN = re.compile(r"volume \(?[a-z0-9]{2,8}\)?")


@dataclass(frozen=True)
class Layout:
    """The columns of one price file: `names` as written, `roles` {role: position}."""

    names: tuple[str, ...]
    roles: dict[str, int]
    mapped: frozenset[str] = field(default_factory=frozenset)
    """Roles whose column `data.columns` names."""
    groups: tuple[tuple[str, dict[str, int]], ...] = ()
    """Tickers side by side: each one's name and the roles of its columns. Empty for one ticker a row."""

    @property
    def ignored(self) -> list[str]:
        """Names of the columns that nothing reads."""
        used = {*self.roles.values(), *(p for _, roles in self.groups for p in roles.values())}
        return [name for position, name in enumerate(self.names) if position not in used and name]

    @property
    def ticks(self) -> int | None:
        """The column that counts price changes, where another one that nobody named is the volume."""
        if "volume" not in self.roles or "volume" in self.mapped:
            return None
        free = [p for p, name in enumerate(self.names) if plain(name) in TICKS and p != self.roles["volume"]]
        return free[0] if free else None

    @property
    def is_doubtful_amount(self) -> bool:
        """Whether the amount is called turnover, which also means a ratio: its size has to tell."""
        return (
            "amount" in self.roles
            and "amount" not in self.mapped
            and plain(self.names[self.roles["amount"]]) in ROLES["amount"][1]
        )


def plain(name: str) -> str:
    """A name as the tables have it: lower case, without <>, $, _, a leading '1. ', a trailing currency, unit or
    star, or Yahoo's explanation of its closes.
    """
    text = re.sub(r"[\s_\-]+", " ", name.strip().strip("<>*$").lower()).strip()
    text = re.sub(r"^\d+[a-z]?\. ", "", text)
    text = re.sub(r"\s*[(（](元|股|手)[)）]$", "", text)
    text = re.sub(r"^((?:adj )?close) .*price adjusted for splits.*", r"\1", text)
    return text if text.startswith("volume") else re.sub(r" \((usd[tc]?|eur|cny|utc)\)$", "", text)


def layout_of(path: Path, names: Sequence[str], columns: Mapping[str, str | int] | None = None) -> Layout:
    """Find the roles among a file's column names, whatever their case and order.

    columns {role: name} as `data.columns`: that column has that role; an empty name: no column has it.
    Raises KitError naming file and column, with the `data.columns` that would mend it.
    """
    roles = _mapped_roles(path, names, columns or {})
    mapped = frozenset(columns or {})
    taken = set(roles.values())
    known = [plain(name) if position not in taken else "" for position, name in enumerate(names)]
    for role in ROLES:
        if role not in mapped:
            found = _of_role(path, role, names, known)
            if found is not None and found not in roles.values():
                roles[role] = found
    if "date" not in roles and "date" not in mapped:
        unnamed = [position for position, name in enumerate(known) if name.strip() in UNNAMED]
        if len(unnamed) == 1 and unnamed[0] not in taken:
            roles["date"] = unnamed[0]  # pandas writes a table's index, its dates, without a name
    missing = [role for role in REQUIRED if role not in roles]
    if missing:
        raise _missing(path, names, missing, roles)
    return Layout(tuple(names), roles, mapped)


def _mapped_roles(path: Path, names: Sequence[str], columns: Mapping[str, str | int]) -> dict[str, int]:
    unknown = sorted(set(columns) - set(ROLES))
    if unknown:
        raise KitError(f"data.columns: expected keys among {', '.join(ROLES)}; found {unknown[0]!r}")
    roles: dict[str, int] = {}
    lowered = [name.strip().lower() for name in names]
    for role, name in columns.items():
        if name == "":
            continue
        wanted = str(name).strip().lower()
        if lowered.count(wanted) != 1:
            raise KitError(
                f"{path}: data.columns.{role}: expected one column {str(name)!r}, found {shown(names)}"
            )
        position = lowered.index(wanted)
        if position in roles.values():
            raise KitError(
                f"{path}: data.columns: expected another column for each role, found {str(name)!r} twice"
            )
        roles[role] = position
    return roles


def _of_role(path: Path, role: str, names: Sequence[str], known: Sequence[str]) -> int | None:
    """Position of the column with a role; None where there is none. Raises KitError where two are as
    likely.
    """
    for tier in ROLES[role]:
        found = [position for position, name in enumerate(known) if name in tier]
        if len(found) > 1 and role != "time":
            _refuse_same_name(path, names)
            both = " and ".join(repr(names[position]) for position in found)
            raise KitError(
                f"{path}: expected one {role} column, found {both}; choose one: data.columns: {{{role}: {names[found[0]]}}}"
            )
        if found:
            return found[0]
    if role in ("volume", "amount"):
        return _by_currency(role, known)
    return None


def _by_currency(role: str, known: Sequence[str]) -> int | None:
    """'Volume BTC' is a volume and 'Volume USD' the money that was paid for it."""
    money = [position for position, name in enumerate(known) if _QUOTED_IN.fullmatch(name)]
    units = [p for p, name in enumerate(known) if _TRADED_IN.fullmatch(name) and p not in money]
    found = money if role == "amount" else units
    return found[0] if len(found) == 1 else None


def _refuse_same_name(path: Path, names: Sequence[str]) -> None:
    lowered = [name.strip().lower() for name in names]
    repeated = next((name for name in lowered if name and lowered.count(name) > 1), None)
    if repeated:
        first = names[lowered.index(repeated)]
        raise KitError(f"{path}: expected every column once, found {first!r} {lowered.count(repeated)} times")


def _missing(path: Path, names: Sequence[str], missing: Sequence[str], roles: Mapping[str, int]) -> KitError:
    """The line for columns that nobody knows: what is missing, what is there, and the mapping to write."""
    free = [name for position, name in enumerate(names) if position not in roles.values() and name]
    remedy = ""
    if "id" in [plain(name) for name in names] and len(names) <= 3:
        remedy = "; a test file or a submission? data.data_path is to name the price file alone"
    elif free:  # none of them is proposed by name: a pasted guess would be read as prices
        pairs = ", ".join(f"{role}: NAME" for role in missing)
        remedy = f"; where the file has it under another name: data.columns: {{{pairs}}}"
    plural = "s" * (len(missing) > 1)
    return KitError(f"{path}: expected the column{plural} {', '.join(missing)}; found {shown(names)}{remedy}")


def shown(names: Sequence[str]) -> str:
    """Column names for a message, shortened."""
    text = ", ".join(name if len(name) <= 40 else name[:37] + "..." for name in names) or "none"
    return text if len(text) <= 120 else text[:117] + "..."
