"""What a source is, and what it is given.

A source has two methods, kept apart on purpose: `download_data` keeps the service's own answers in a folder,
each of them once; `process_raw_data` makes tables from what is kept, without any network. What it is asked
for is an `Asked`.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl

from kronos import files
from kronos.config import SourceConfig
from kronos.data import competition
from kronos.data.sources.fetch import LARGEST, Fetcher, Refused
from kronos.errors import KitError
from kronos.progress import progress

log = logging.getLogger(__name__)

RAW = "raw"
COIN_STEPS = {
    "1min": "1m", "3min": "3m", "5min": "5m", "15min": "15m", "30min": "30m", "60min": "1h", "120min": "2h",
    "240min": "4h", "360min": "6h", "480min": "8h", "720min": "12h", "daily": "1d", "weekly": "1w",
}  # fmt: skip
"""Frequencies as exchanges of coins call them; a month differs."""
A_SHARE_LEVELS = {
    "qfq": "for splits and dividends, to the last day's level",
    "hfq": "for splits and dividends, to the first day's level",
    "none": "none: as traded, with a jump at every split and dividend",
}
"""What prices of A-shares are adjusted for, by `source.adjust`."""
Table = pl.DataFrame | Mapping[str, Sequence[Any]]
"""Columns ticker, date, open, high, low, close, volume and perhaps amount. Dates: date, datetime, or text
such as 2024-01-31 or 2024-01-31 09:30:00; with a time zone they are converted to the source's. Numbers may be
text."""


@dataclass(frozen=True)
class Facts:
    """What the numbers of a source mean; written to source.json."""

    volume: str
    """Unit of the volume: shares, lots of 100 shares, base currency."""
    money: str
    """Currency of prices and amounts."""
    adjustment: str
    """What the prices are adjusted for, in words."""
    zone: str
    """Time zone of the dates, such as Asia/Shanghai."""


class BaseSource(ABC):
    """A service or a folder that prices come from; built in (see `sources.BUILT_IN`) or the `Source` of a
    plug-in.
    """

    calendar = ""
    """The exchange whose trading days its dates are, where it has only one; one of `data.calendar`."""
    frequencies: tuple[str, ...] = ("daily",)
    """What source.frequency may be."""
    adjustments: tuple[str, ...] = ("none",)
    """What source.adjust may be; the first one is meant by auto."""
    wants = "source.symbols: expected a list, names with commas between them, or a CSV with a column symbol, found none"
    """What to say when no symbols are given; empty: they may be left out."""

    @abstractmethod
    def facts(self, asked: "Asked") -> Facts:
        """What the numbers mean, given what was asked for."""

    @abstractmethod
    def download_data(self, asked: "Asked") -> None:
        """Keep the service's answers (`asked.keep`). What is kept already is not asked for again."""

    @abstractmethod
    def process_raw_data(self, asked: "Asked") -> Iterable[Table]:
        """Tables from what is kept, in any order. No network."""

    def check(self, asked: "Asked") -> None:  # noqa: B027 (most sources need none)
        """Raise KitError for what this source cannot be asked for. No network; called before a long run."""

    def pool(self, asked: "Asked") -> pl.DataFrame | None:
        """Membership: ticker, first, last (dates), an interval a row. None: from a symbol's first bar to its
        last.
        """
        return None

    def benchmark(self, asked: "Asked") -> pl.DataFrame | None:
        """The index itself, where the source has it: date, close."""
        return None

    def inputs(self, asked: "Asked") -> list[Path]:
        """Files outside `asked.raw` that the tables are made from."""
        return []


@dataclass
class Asked:
    """What a source is asked for, where it keeps answers, and what failed so far."""

    settings: SourceConfig
    folder: Path
    """data/NAME: raw/, bars.parquet, pool.csv, test.csv, source.json."""
    symbols: list[str]
    failed: dict[str, str] = field(default_factory=dict)
    """Why there is nothing of a symbol."""
    remarks: list[str] = field(default_factory=list)
    """What else a reader of the data should know; written to source.json."""
    usual_adjustment: str = "none"
    requests: int = 0
    """Answers asked for by this call."""

    def __post_init__(self) -> None:
        self.fetcher = Fetcher(self.settings.pause)

    @property
    def adjust(self) -> str:
        """source.adjust, auto replaced by what the source usually gives."""
        return self.usual_adjustment if self.settings.adjust == "auto" else self.settings.adjust

    @property
    def raw(self) -> Path:
        """The folder of the service's own answers."""
        return self.folder / RAW

    def path(self, symbol: str, suffix: str) -> Path:
        """Where the answer about a symbol is kept: its name, letters that mean something to a file system
        written as %XX.
        """
        return self.raw / f"{quote(symbol, safe='').replace('.', '%2E')}{suffix}"

    def each(self) -> Iterator[str]:
        """The symbols, with a progress bar."""
        with progress(f"{self.settings.name}: download", len(self.symbols), "symbols") as bar:
            for symbol in self.symbols:
                yield symbol
                bar.update(1)

    def kept(self, suffix: str) -> Iterator[tuple[str, Path]]:
        """(symbol, file) of the answers that are there."""
        for symbol in self.symbols:
            path = self.path(symbol, suffix)
            if path.is_file():
                yield symbol, path

    def keep(
        self,
        symbol: str,
        suffix: str,
        url: str,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        check: Callable[[bytes], object] | None = None,
        largest: int = LARGEST,
    ) -> bool:
        """Keep the answer of `url` about a symbol, unless it is kept already. False where it failed, which is
        counted and said.

        check: raises `Refused` for bytes that are no answer. Raises KitError when too many symbols have
        failed.
        """
        return self.keep_made(symbol, suffix, lambda: self.fetcher.get(url, params, headers, check, largest))

    def keep_made(self, symbol: str, suffix: str, make: Callable[[], bytes]) -> bool:
        """As `keep`, with bytes from `make`, which raises `Refused` where there are none."""
        path = self.path(symbol, suffix)
        if path.is_file():
            return True
        self.requests += 1
        try:
            body = make()
        except Refused as refused:
            self.fail(symbol, str(refused))
            return False
        with files.atomic(path) as temporary:
            temporary.write_bytes(body)
        return True

    def fail(self, symbol: str, reason: str) -> None:
        """Count and say that there is nothing of a symbol. Raises KitError when more than source.max_failed
        have failed.
        """
        self.failed[symbol] = " ".join(reason.split())
        log.warning("%s: %s: %s", self.settings.name, symbol, self.failed[symbol])
        allowed = self.settings.max_failed * len(self.symbols)
        if len(self.failed) > allowed:
            raise KitError(
                f"{self.settings.name}: expected at most {int(allowed)} of {len(self.symbols):,} symbols to fail "
                f"(source.max_failed {self.settings.max_failed:g}), found {len(self.failed)}, the last one {symbol}: "
                f"{self.failed[symbol]}; what arrived is kept in {self.raw}, the same command goes on from there"
            )

    def remark(self, text: str) -> None:
        """Say something about the data, in the log and in source.json."""
        log.info("%s: %s", self.settings.name, text)
        self.remarks.append(text)


def symbols_of(settings: SourceConfig) -> list[str]:
    """The symbols of a configuration, each once, in order: from a list, a text with commas, or a CSV's column
    `symbol`.

    Raises KitError when the file cannot be read.
    """
    given = settings.symbols
    if isinstance(given, str) and given.lower().endswith((".csv", ".txt")):
        path = Path(given)
        if not path.is_file():
            raise KitError(f"source.symbols: expected a CSV file with a column symbol, found no file {path}")
        given = competition.read_columns(path, ("symbol",))["symbol"].to_list()
    if isinstance(given, str):
        given = given.split(",")
    names = [name.strip() for name in given]
    return list(dict.fromkeys(name for name in names if name))
