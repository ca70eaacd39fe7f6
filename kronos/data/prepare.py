"""From price files to prepared data: read, clean, check, write; or reuse what is there when nothing changed.

In: a `Config` (`data.data_path`, `data.cleaning`, `data.frequency`, `data.store`). Out: an open `BarStore`,
and one table in the log of what was read, repaired and dropped. The same content, cleaning and frequency give
the same store; lookback and horizon do not enter it.
"""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronos import records
from kronos.bars import FEATURES
from kronos.config import Config
from kronos.data import cleaning, competition, ingest, members, policy, price_files, sources
from kronos.data.column_roles import shown
from kronos.data.publish import locked, recover
from kronos.data.store import MANIFEST, BarStore, settings_of
from kronos.data.store_writer import writing
from kronos.data.text_pieces import crc32_of
from kronos.errors import KitError

log = logging.getLogger(__name__)


def prepare(config: Config) -> BarStore:
    """Prepare `config.data` and open it. An up-to-date store is reused; another process preparing it is
    waited for.

    Raises KitError when the files cannot be used, when no run of bars holds one window, or when no row of the
    test file has a history. The store that was there before stays untouched then.
    """
    data = config.data
    if config.market.generate:
        from kronos.data.market_files import ensure_market  # only a demonstration needs it

        ensure_market(config.market, data)
    if config.source.skip:
        return _as_it_is(config)
    if config.has_source:
        sources.gather(config)
    return _prepared(config)


def _as_it_is(config: Config) -> BarStore:
    """The store that is there, for source.skip."""
    store = BarStore.open(config.data.store)
    log.info("%s: taken as it is (source.skip)", store.path)
    return store


def _prepared(config: Config) -> BarStore:
    """The store made from the price files that are there, or the one that was made from them before."""
    data = config.data
    if data.pool_path:
        members.digest(data.pool_path)  # says at once that there is no such file
    paths = price_files.find_sources(data.data_path)
    store, _ = _up_to_date(config, paths)
    if store is None:
        with locked(Path(data.store)):
            recover(Path(data.store))
            store, reason = _up_to_date(config, paths)  # whoever held the lock may have done the work
            if store is None:
                if reason:
                    log.info("%s is prepared again: %s", data.store, reason)
                _build(config, paths)
                store = BarStore.open(data.store)
    for remark in _check_usable(config, store.tickers, store.segments):
        log.info(remark)
    return store


def open_store(config: Config) -> BarStore:
    """The prepared data, prepared now where it is missing or out of date.

    On a machine that has the store but not the price files it was made from, it is taken as it is.
    """
    given = config.data.data_path
    paths = given if isinstance(given, list) else [given]
    if config.source.skip:
        return _as_it_is(config)
    if config.has_source and Path(str(given)).exists():
        sources.check_current(config)
        return _prepared(config)
    if config.market.generate or all(path and Path(path).exists() for path in paths):
        return prepare(config)
    store = BarStore.open(config.data.store)
    log.info("%s: taken as it is, since its price files (data.data_path) are not here", store.path)
    return store


# -- reuse ---------------------------------------------------------------------------------------------------
def _up_to_date(config: Config, paths: list[Path]) -> tuple[BarStore | None, str]:
    """The store, if it was made from these files by these settings; else None and why not ('' when there is
    none).
    """
    path = Path(config.data.store)
    if not path.is_dir() or not any(path.iterdir()):
        return None, ""
    try:
        store = BarStore.open(path)
        manifest = store.manifest
        if manifest.get("settings") != settings_of(config):
            return None, "the settings of reading (data.cleaning, frequency, calendar, columns, ...) changed"
        records.check(manifest, _Prepared, str(path / MANIFEST), remedy="the prices are read again")
        if not _same_sources(manifest["sources"], paths):
            return None, "the price files changed"
    except KitError as error:
        return None, str(error)
    log.info("%s is up to date: %s", path, summary(manifest))
    return store, ""


@dataclass(frozen=True)
class _Source:
    """A price file, as it was read."""

    name: str
    bytes: int
    mtime_ns: int
    crc32: int


@dataclass(frozen=True)
class _Columns:
    read: list[str]
    ignored: list[str]


@dataclass(frozen=True)
class _Market:
    calendar: str
    zone: str | None
    tickers: int
    sessions: int


@dataclass(frozen=True)
class _Dates:
    first: str
    last: str
    count: int


@dataclass(frozen=True)
class _Prepared:
    """What a preparation writes into a store's manifest and others show or compare."""

    sources: list[_Source]
    columns: _Columns
    frequency: str
    markets: list[_Market]
    rows: dict[str, int]
    dates: _Dates
    tickers_kept: int
    limits: dict[str, Any]
    cleaning: dict[str, dict[str, int]]


def _same_sources(known: list[dict[str, Any]], paths: list[Path]) -> bool:
    """Same names, sizes and times of change, or the same bytes. A file moved elsewhere is the same file."""
    if len(known) != len(paths):
        return False
    for entry, path in zip(known, paths, strict=True):
        now = price_files.describe(path) if path.exists() else {}
        if any(entry[name] != now.get(name) for name in ("name", "bytes")):
            return False
        if entry["mtime_ns"] != now["mtime_ns"] and entry["crc32"] != crc32_of(path):
            return False
    return True


# -- building ------------------------------------------------------------------------------------------------
def _build(config: Config, paths: list[Path]) -> None:
    data = config.data
    with writing(data.store) as writer:  # refuses a folder that holds something else before any work is done
        panel = ingest.read(paths, data)
        with writer.growing("bars", len(FEATURES)) as append:
            cleaned = cleaning.clean(panel, data.cleaning, panel.frequency, append)
        kept = np.flatnonzero(np.diff(cleaned.offsets))
        tickers = [panel.tickers[k] for k in kept.tolist()]
        offsets = np.append(cleaned.offsets[kept], cleaned.offsets[-1])
        _check_usable(config, tickers, cleaned.segments)
        writer.save("session", panel.session if cleaned.keep.all() else panel.session[cleaned.keep])
        for name, array in (
            ("sessions", panel.sessions),
            ("offsets", offsets),
            ("segments", cleaned.segments),
        ):
            writer.save(name, array)
        if data.pool_path:
            writer.save("members", members.read(data.pool_path, tickers, panel.sessions))
        if cleaned.ordinals is not None:
            writer.save("market", panel.market[kept])
            writer.save("ordinals", cleaned.ordinals)
        manifest = _manifest(config, panel, cleaned, kept)
        writer.finish(tickers, manifest)
    log.info("prepared %s: %s", data.store, summary(manifest))
    for line in remarks(manifest):
        log.info(line)
    for line in policy.table(cleaned.tally, cleaned.limits):
        log.info(line)


def _manifest(
    config: Config, panel: ingest.Panel, cleaned: cleaning.Cleaned, some: NDArray[np.int64]
) -> dict[str, Any]:
    """Everything that was decided, for whoever asks later. some: positions of the tickers that kept a row."""
    kept = int(cleaned.offsets[-1])
    read = panel.read
    assert read == kept + cleaned.tally.dropped, "rows read = rows kept + rows dropped"
    limits = {name: value for name, value in asdict(cleaned.limits).items() if name != "actions"}
    return {
        "settings": settings_of(config),
        "sources": panel.sources,
        "columns": {"read": sorted(panel.roles), "ignored": panel.ignored},
        "frequency": panel.frequency,
        "markets": _markets(panel, cleaned, some),
        "rows": {"read": read, "kept": kept, "dropped": cleaned.tally.dropped},
        "dates": {
            "first": str(panel.sessions[0]),
            "last": str(panel.sessions[-1]),
            "count": len(panel.sessions),
        },
        "tickers_read": len(panel.tickers),
        "tickers_kept": len(some),
        "segments": len(cleaned.segments),
        "limits": limits,
        "cleaning": cleaned.tally.counts,
    }


def _markets(panel: ingest.Panel, cleaned: cleaning.Cleaned, some: NDArray[np.int64]) -> list[dict[str, Any]]:
    """The store's markets: calendar, zone, tickers, sessions."""
    tickers = np.bincount(panel.market[some], minlength=len(panel.markets))
    sessions = [len(panel.sessions)] if cleaned.ordinals is None else cleaned.ordinals[:, -1].tolist()
    return [
        {"calendar": market.calendar, "zone": market.zone, "tickers": int(count), "sessions": int(days)}
        for market, count, days in zip(panel.markets, tickers, sessions, strict=True)
    ]


def remarks(manifest: dict[str, Any]) -> list[str]:
    """What a person should know of how the files were read: columns that were not, a missing volume, several
    markets.
    """
    lines = []
    read, ignored = manifest["columns"]["read"], manifest["columns"]["ignored"]
    if "volume" not in read:
        what = "volume = amount / mean price" if "amount" in read else "volume and amount are 0"
        lines.append(f"no volume column: {what}; data.columns: {{volume: NAME}} names one")
    if ignored:
        lines.append(f"columns not read: {shown(ignored)}")
    if len(manifest["markets"]) > 1:
        parts = [
            f"{m['calendar']} ({m['tickers']:,} tickers, {m['sessions']:,} sessions)"
            for m in manifest["markets"]
        ]
        lines.append(
            f"markets: {', '.join(parts)}; horizons, gaps and the embargo count each ticker's own sessions"
        )
    return lines


def summary(manifest: dict[str, Any]) -> str:
    """One line: rows, tickers, dates, frequency."""
    rows, dates = manifest["rows"], manifest["dates"]
    return (
        f"{rows['read']:,} rows read = {rows['kept']:,} kept + {rows['dropped']:,} dropped; "
        f"{manifest['tickers_kept']:,} tickers; "
        f"{dates['first'][:10]} to {dates['last'][:10]}, {dates['count']:,} dates; {manifest['frequency']} bars"
    )


# -- is it of use? -------------------------------------------------------------------------------------------
def _check_usable(config: Config, tickers: list[str], segments: NDArray[np.int64]) -> list[str]:
    """One window fits somewhere, and the test file asks about these tickers; else KitError. Returns remarks
    for the log.
    """
    data, length = config.data, segments[:, 1] - segments[:, 0]
    longest = int(length.max(initial=0))
    if longest < config.window:
        raise KitError(
            f"{_named(data.data_path)}: expected a run of at least {config.window} bars (data.lookback_window + "
            f"predict_window), the longest has {longest}; shorten the lookback or loosen data.cleaning"
        )
    fits = int((length >= config.window).sum())
    remarks = [f"{fits:,} of {len(segments):,} unbroken runs of bars hold a window of {config.window} bars"]
    names = competition.read_test(data.test_path)["ID"].to_list() if data.test_path else []
    unknown = sorted(set(names) - set(tickers))
    zeros = _lost_zeros(unknown, tickers)
    if names and len(unknown) == len(names):
        raise KitError(
            f"{data.test_path}: expected tickers of {_named(data.data_path)} as IDs, such as {tickers[0]!r}; found none of its "
            f"{len(names):,} IDs there, such as {unknown[0]!r}{zeros}; write the IDs as the price file writes its tickers"
        )
    if unknown:
        remarks.append(
            f"{data.test_path}: {len(unknown):,} of {len(names):,} IDs have no history, e.g. {unknown[0]}{zeros}"
        )
    return remarks


def _lost_zeros(unknown: list[str], tickers: list[str]) -> str:
    """A hint where unknown IDs are tickers but for zeros at the front; '' elsewhere."""
    bare = {name.lstrip("0") for name in tickers}
    lost = [name for name in unknown if name.startswith("0") and name.lstrip("0") in bare]
    if not lost:
        return ""
    return f"; {lost[0]} is {lost[0].lstrip('0')} in the price file, which lost its zeros: write its tickers as text"


def _named(data_path: str | list[str]) -> str:
    return data_path if isinstance(data_path, str) else ", ".join(data_path)
