"""From a source to the files that `prepare` reads: download, process, and say what was done.

In: a `Config` with a source. Out: beside data.data_path (data/NAME/bars.parquet) the folder raw/ with the
service's answers, pool.csv (ticker, first, last: who may be asked about when), test.csv (who is in the pool
on the last day, to be forecast), benchmark.csv (date, close of the index, where the source has it) and
source.json (units, adjustment, zone, failed symbols, digests). Killed at any moment, the same command goes
on.
"""

import hashlib
import importlib.util
import logging
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from kronos import files, records
from kronos.config import Config
from kronos.data.calendar import TradingCalendar
from kronos.data.markets import LONG_BARS
from kronos.data.sources.protocol import Asked, BaseSource, Table, symbols_of
from kronos.errors import KitError

log = logging.getLogger(__name__)

BUILT_IN = {
    "qlib": "kronos.data.sources.qlib:Qlib",
    "sina": "kronos.data.sources.sina:Sina",
    "binance": "kronos.data.sources.binance:Binance",
    "yahoo": "kronos.data.sources.yahoo:Yahoo",
    "akshare": "kronos.data.sources.akshare:Akshare",
    "baostock": "kronos.data.sources.baostock:Baostock",
    "ccxt": "kronos.data.sources.ccxt:Ccxt",
}
POOL, TEST, BENCHMARK, RECEIPT = "pool.csv", "test.csv", "benchmark.csv", "source.json"
PRICES = ("open", "high", "low", "close")
COLUMNS = ("ticker", "date", *PRICES, "volume")
IGNORED = {"pause", "max_failed", "skip"}
"""Settings that change nothing about the data."""


@dataclass(frozen=True)
class Receipt:
    """source.json, as far as it is read back."""

    settings: dict[str, Any]
    """The section `source`, but for IGNORED, and the days to forecast."""
    inputs: str
    """SHA-256 over names, sizes and times of change of all files that the tables were made from."""
    digests: dict[str, str]
    """SHA-256 of bars.parquet and pool.csv."""
    failed: dict[str, str]
    remarks: list[str]


def gather(config: Config) -> None:
    """Make data.data_path current: ask for what is missing, process what is kept. Raises KitError when that
    cannot be done.
    """
    source, asked = opened(config)
    with files.locked(asked.folder / ".source.lock", f"another process fills {asked.folder}: waiting for it"):
        source.download_data(asked)
        log.info(
            "%s: %s",
            config.source.name,
            f"{asked.requests:,} answers asked for" if asked.requests else "nothing to ask for",
        )
        inputs = _inputs(source, asked)
        if _current(config, asked, inputs):
            log.info("%s is up to date", config.data.data_path)
            return
        _process(config, source, asked, inputs)


def check(config: Config) -> None:
    """What can be checked before a long run and without the network. Raises KitError."""
    opened(config)


def check_current(config: Config) -> None:
    """Raise KitError when data.data_path was not made as the section `source` says. Reads no prices and asks
    no service.
    """
    folder = Path(str(config.data.data_path)).parent
    receipt = _receipt(folder)
    if receipt is None or receipt.settings != _settings(config):
        raise KitError(
            f"{folder / RECEIPT}: expected prices of the section source as it is now, found others; run kaggle/prepare_data.py, "
            "or pass --skip-data-process to take the prepared store as it is"
        )


def opened(config: Config) -> tuple[BaseSource, Asked]:
    """The source and what it is asked for, checked. Raises KitError."""
    settings = config.source
    source = _source(config)
    asked = Asked(settings, Path(str(config.data.data_path)).parent, symbols_of(settings))
    asked.usual_adjustment = source.adjustments[0]
    if source.wants and not asked.symbols and not settings.pool:
        raise KitError(source.wants)
    if settings.frequency not in source.frequencies:
        raise KitError(
            f"source.frequency: {settings.name} has {', '.join(source.frequencies)} bars, found {settings.frequency}; choose one"
        )
    if asked.adjust not in source.adjustments:
        raise KitError(
            f"source.adjust: {settings.name} has {', '.join(source.adjustments)}, found {asked.adjust}; choose one"
        )
    source.check(asked)
    if source.calendar and source.calendar != config.data.calendar:
        log.warning(
            "data.calendar is %s, and %s follows %s", config.data.calendar, settings.name, source.calendar
        )
    return source, asked


def _source(config: Config) -> BaseSource:
    name, plugin = config.source.name, config.source.plugin
    if plugin:
        return _plugged_in(Path(plugin))
    if name not in BUILT_IN:
        raise KitError(
            f"source.name: expected csv, {', '.join(BUILT_IN)}, or source.plugin beside it, found {name!r}"
        )
    module, _, attribute = BUILT_IN[name].partition(":")
    kind = getattr(importlib.import_module(module), attribute)
    made: BaseSource = kind()
    return made


def _plugged_in(path: Path) -> BaseSource:
    """The class `Source` of a file of the user's own, which is run as it is."""
    if not path.is_file():
        raise KitError(f"source.plugin: expected a Python file, found none at {path}")
    spec = importlib.util.spec_from_file_location("kronos_source_plugin", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    log.info(
        "source.plugin: the code of %s is run; the kit does not check it (sha256 %s)",
        path,
        files.digest(path)[:16],
    )
    spec.loader.exec_module(module)
    kind = getattr(module, "Source", None)
    if not (isinstance(kind, type) and issubclass(kind, BaseSource)):
        raise KitError(
            f"{path}: expected a class Source(BaseSource), found none; docs/sources.md has an example"
        )
    made: BaseSource = kind()
    return made


# -- is there anything to do? --------------------------------------------------------------------------------
def _settings(config: Config) -> dict[str, Any]:
    """What the files depend on besides the answers."""
    kept = {name: value for name, value in asdict(config.source).items() if name not in IGNORED}
    plugin = Path(config.source.plugin)
    code = files.digest(plugin) if config.source.plugin and plugin.is_file() else ""
    return {
        **kept,
        "symbols": symbols_of(config.source),
        "plugin": code,
        "horizon": config.data.predict_window,
        "calendar": config.data.calendar,
    }


def _inputs(source: BaseSource, asked: Asked) -> str:
    """A digest of what the folders show of all files that are read."""
    total = hashlib.sha256()
    inside = sorted(path for path in asked.raw.rglob("*") if path.is_file()) if asked.raw.is_dir() else []
    for path in [*inside, *sorted(source.inputs(asked))]:
        state = path.stat()
        total.update(f"{path}\n{state.st_size}\n{state.st_mtime_ns}\n".encode())
    return total.hexdigest()


def _receipt(folder: Path) -> Receipt | None:
    path = folder / RECEIPT
    if not path.is_file():
        return None
    return records.read(path, Receipt, remedy="remove it and run kaggle/prepare_data.py again")


def _current(config: Config, asked: Asked, inputs: str) -> bool:
    """Whether the files were made from these inputs as the settings say, and are still what was written."""
    receipt = _receipt(asked.folder)
    if receipt is None or receipt.settings != _settings(config) or receipt.inputs != inputs:
        return False
    if set(receipt.failed) != set(asked.failed):
        return False
    paths = {name: asked.folder / name for name in receipt.digests}
    return all(path.is_file() and files.digest(path) == receipt.digests[name] for name, path in paths.items())


# -- processing ----------------------------------------------------------------------------------------------
def _process(config: Config, source: BaseSource, asked: Asked, inputs: str) -> None:
    bars_path = Path(str(config.data.data_path))
    facts = source.facts(asked)
    (asked.folder / RECEIPT).unlink(
        missing_ok=True
    )  # what is written from here on belongs to no receipt until the end
    bars = _joined(asked, [_tidy(asked, table, facts.zone) for table in source.process_raw_data(asked)])
    pool = source.pool(asked)
    if pool is None:
        pool = bars.group_by("ticker").agg(
            pl.col("date").min().alias("first"), pl.col("date").max().alias("last")
        )
    pool = pool.select(pl.col("ticker"), pl.col("first", "last").cast(pl.Date)).sort("ticker", "first")
    _say_pool(asked, bars, pool)
    with files.atomic(bars_path) as temporary:
        bars.write_parquet(temporary)
    with files.atomic(asked.folder / POOL) as temporary:
        pool.write_csv(temporary)
    benchmark = source.benchmark(asked)
    if benchmark is not None:
        with files.atomic(asked.folder / BENCHMARK) as temporary:
            benchmark.write_csv(temporary)
    asked_about = _write_test(config, asked.folder / TEST, bars, pool)
    digests = {path.name: files.digest(path) for path in (bars_path, asked.folder / POOL)}
    files.write_json(
        asked.folder / RECEIPT,
        {
            "source": config.source.name,
            "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
            **asdict(facts),
            "plugin": config.source.plugin,
            "rows": len(bars),
            "tickers": bars["ticker"].n_unique(),
            "dates": [str(bars["date"].min()), str(bars["date"].max())],
            "asked_about_in_test": asked_about,
            "failed": asked.failed,
            "remarks": asked.remarks,
            "settings": _settings(config),
            "inputs": inputs,
            "digests": digests,
            "raw": {path.name: files.digest(path) for path in _raw_files(asked)},
        },
    )
    log.info("%s: %s rows of %s tickers", bars_path, f"{len(bars):,}", f"{bars['ticker'].n_unique():,}")


def _raw_files(asked: Asked) -> Iterator[Path]:
    """The answers themselves; an unpacked archive stands for its files."""
    if asked.raw.is_dir():
        yield from sorted(path for path in asked.raw.iterdir() if path.is_file())


def _tidy(asked: Asked, table: Table, zone: str) -> pl.DataFrame:
    """A source's table with the kit's columns and types, cut to source.begin and source.end."""
    frame = table if isinstance(table, pl.DataFrame) else pl.DataFrame(dict(table))
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise KitError(
            f"{asked.settings.name}: expected a table with {', '.join(COLUMNS)}, found no {missing[0]}"
        )
    wanted = [name for name in (*COLUMNS, "amount") if name in frame.columns]
    try:
        frame = frame.select(wanted).with_columns(
            pl.col("ticker").cast(pl.String),
            _dates(frame["date"], zone),
            *[_numbers(frame[name]) for name in wanted[2:]],
        )
    except pl.exceptions.PolarsError as error:
        named = frame["ticker"][0] if len(frame) else "no ticker"
        raise KitError(
            f"{asked.settings.name}: {named}: expected dates and numbers, found {' '.join(str(error).split())}"
        ) from error
    if asked.settings.frequency in LONG_BARS:
        frame = frame.with_columns(pl.col("date").cast(pl.Date))
    day = pl.col("date").cast(pl.Date)
    if asked.settings.begin:
        frame = frame.filter(day >= pl.lit(asked.settings.begin).str.to_date())
    if asked.settings.end:
        frame = frame.filter(day <= pl.lit(asked.settings.end).str.to_date())
    return frame


def _dates(values: pl.Series, zone: str) -> pl.Series:
    """Dates as Datetime without a zone, in the local time of `zone`."""
    if values.dtype == pl.String:
        text = values.str.strip_chars()
        longest = int(text.str.len_chars().max() or 0)  # type: ignore[arg-type]
        form = "%Y-%m-%d" if longest <= len("YYYY-MM-DD") else "%Y-%m-%d %H:%M:%S"
        return text.str.to_datetime(form, time_unit="ms").alias("date")
    if isinstance(values.dtype, pl.Datetime) and values.dtype.time_zone is not None:
        return values.dt.convert_time_zone(zone).dt.replace_time_zone(None).cast(pl.Datetime("ms"))
    return values.cast(pl.Datetime("ms"))


def _numbers(values: pl.Series) -> pl.Series:
    if values.dtype == pl.String:
        text = values.str.strip_chars()
        return text.set(text == "", None).cast(pl.Float64)
    return values if values.dtype == pl.Float32 else values.cast(pl.Float64)


def _joined(asked: Asked, frames: list[pl.DataFrame]) -> pl.DataFrame:
    """All tables as one, by ticker and date. `amount` stays where every table has it."""
    frames = [frame for frame in frames if len(frame)]
    if not frames:
        settings = asked.settings
        span = f" from {settings.begin or 'the first day'} to {settings.end or 'the last day'}"
        raise KitError(f"{settings.name}: expected bars{span}, found none in what is kept in {asked.raw}")
    have = sum("amount" in frame.columns for frame in frames)
    if 0 < have < len(frames):
        asked.remark(f"amount left out: only {have:,} of {len(frames):,} tables have it")
    names = (*COLUMNS, "amount") if have == len(frames) else COLUMNS
    bars = pl.concat([frame.select(names) for frame in frames], how="vertical_relaxed").sort("ticker", "date")
    missing = [symbol for symbol in asked.symbols if symbol not in asked.failed]
    without = sorted(set(missing) - set(bars["ticker"].unique()))
    if without:
        asked.remark(
            f"{len(without):,} of {len(asked.symbols):,} symbols have no bar in these days, e.g. {without[0]}"
        )
    return bars


def _say_pool(asked: Asked, bars: pl.DataFrame, pool: pl.DataFrame) -> None:
    """What a reader should know of the membership."""
    last, ends = _newest(bars["date"]), _newest(pool["last"])
    if asked.settings.pool and ends < last:
        asked.remark(
            f"the pool {asked.settings.pool} is known until {ends}: later days, to {last}, are asked about by nobody"
        )
    absent = sorted(set(pool["ticker"].unique()) - set(bars["ticker"].unique()))
    if absent:
        asked.remark(f"{len(absent):,} members of the pool have no bars, e.g. {absent[0]}")


def _write_test(config: Config, path: Path, bars: pl.DataFrame, pool: pl.DataFrame) -> int:
    """The question of the next forecast, in the competition's form: who is in the pool on the last day that
    it is known for, and the day predict_window sessions after the last bar. Returns the number of rows."""
    sessions = bars["date"].unique().sort().cast(pl.Datetime("ms")).to_numpy().astype("datetime64[s]")
    calendar = TradingCalendar(sessions, config.data.calendar, config.source.frequency)
    target = calendar.future(sessions[-1], config.data.predict_window)[-1]
    day = np.datetime_as_string(target, unit="D")
    shown = (
        day
        if config.source.frequency in LONG_BARS
        else np.datetime_as_string(target, unit="s").replace("T", " ")
    )
    newest = min(_newest(pool["last"]), _newest(bars["date"]))
    members = pool.filter((pl.col("first") <= newest) & (pl.col("last") >= newest))["ticker"].unique().sort()
    recent = bars.filter(pl.col("ticker").is_in(members.to_list()))["ticker"].unique().sort()
    with files.atomic(path) as temporary:
        pl.DataFrame({"ID": recent, "Date": [str(shown)] * len(recent)}).write_csv(temporary)
    return len(recent)


def _newest(dates: pl.Series) -> date:
    """The last day of a column that is not empty."""
    found = dates.cast(pl.Date).max()
    assert isinstance(found, date)
    return found
