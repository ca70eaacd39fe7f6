"""A synthetic market as the competition's files, beside the truth about it.

In: `MarketConfig` and the paths of `DataConfig`. Out: train.csv, test.csv, sample_submission.csv,
solution.csv and market.json, which holds the truth. A file that the kit did not write is never written over.
"""

import hashlib
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from kronos import files, records
from kronos.config import DataConfig, MarketConfig
from kronos.data.market import (
    COMMON,
    STAY,
    VOLATILITY_LEVELS,
    VOLATILITY_MOVE,
    VOLUME_NOISE,
    VOLUME_STEP,
    Market,
    attainable,
    attainable_within_date,
    rise_probability,
    simulate,
)
from kronos.errors import KitError

log = logging.getLogger(__name__)


def market_path(data: DataConfig) -> Path:
    """Where the truth is written: beside the solution, or beside the prices when no solution is asked for."""
    return Path(data.solution_path or _single(data)).parent / RECORD


RECORD = "market.json"
ROLES = ("data_path", "test_path", "sample_submission_path", "solution_path")
"""The settings of `data` that name generated files."""


@dataclass(frozen=True)
class Record:
    """What the kit notes about the files that it generated: market.json."""

    settings: dict[str, Any]
    prices_sha256: str
    files: dict[str, list[str]] | None = None
    """Role (see ROLES) -> SHA-256 of what the kit wrote there; two while it is at work: the old content and
    the new.
    """


def ensure_market(config: MarketConfig, data: DataConfig) -> dict[str, Any]:
    """The truth of the generated files; writes them when they are missing or were generated with other
    settings.

    Raises KitError, before anything is written, when one of the four files is there and is not the kit's own.
    """
    prices = Path(_single(data))
    known = _up_to_date(config, data)
    if known is None:
        busy = f"another process is writing {prices}: waiting for it"
        with files.locked(
            prices.parent / f".{prices.name}.lock", busy
        ):  # else one takes away what the other has just written
            known = _up_to_date(config, data)
            known = write_market(config, data) if known is None else known
    return known


def check_market(config: MarketConfig, data: DataConfig) -> None:
    """What `ensure_market` refuses, without writing anything. Raises KitError."""
    _check_names(data)
    _up_to_date(config, data)


def _up_to_date(config: MarketConfig, data: DataConfig) -> dict[str, Any] | None:
    """The truth of the files that are there; None where they are to be written. Raises KitError as
    `ensure_market`.
    """
    truth = market_path(data)
    record = None
    if truth.is_file():
        record = records.read(
            truth,
            Record,
            remedy=f"if {truth} is not the kit's, name another data.solution_path; else remove it",
        )
    _check_foreign(config, data, record)
    missing = [path for path in _places(data).values() if not path.exists()]
    if record is None or missing or record.settings != _settings(config, data):
        return None
    return records.read_json(truth)


def _check_foreign(config: MarketConfig, data: DataConfig, record: Record | None) -> None:
    """Refuse to write over a file that the kit did not generate."""
    there = {role: path for role, path in _places(data).items() if path.exists()}
    if not there:
        return
    known = (record.files if record else None) or {}
    if (
        record and record.files is None
    ):  # written before the record held all four: what the same settings give again is known
        known = _content_digests(_old_config(config, record), data) | {"data_path": [record.prices_sha256]}
    for role, path in there.items():
        if path.is_dir() or files.digest(path) not in known.get(role, []):
            raise KitError(
                f"data.{role}: {path}: expected no file, or the one that market.generate wrote, found another, which is left as "
                f"it is; set market.generate to false to use your own files, or name another data.{role}"
                + _nearest(data)
            )


def _nearest(data: DataConfig) -> str:
    """That the prices are missing, and what is there under a similar name: '' when they are there."""
    prices = Path(_single(data))
    if prices.exists():
        return ""
    near = files.near_name(prices)
    return f". data.data_path: {prices} does not exist" + (f"; {near} does, is that meant?" if near else "")


def _check_names(data: DataConfig) -> None:
    """Refuse to generate prices beside a file of nearly the same name: the path is mistyped, then."""
    prices = Path(_single(data))
    near = None if prices.exists() else files.near_name(prices)
    if near is not None and near not in _places(data).values():
        raise KitError(
            f"data.data_path: expected a price file, found none at {prices}; {near} is there, is that meant? (market.generate "
            "would write a synthetic market; for that choose a name that is not so alike)"
        )


def _places(data: DataConfig) -> dict[str, Path]:
    """Role -> path of the files to generate."""
    named = {role: getattr(data, role) for role in ROLES}
    return {role: Path(path) for role, path in named.items() if path}


def _old_config(config: MarketConfig, record: Record) -> MarketConfig:
    """The market that an older record describes."""
    names = asdict(config).keys() & record.settings.keys()
    return replace(config, **{name: record.settings[name] for name in names})


def write_market(config: MarketConfig, data: DataConfig) -> dict[str, Any]:
    """Simulate and write all files, each atomically. Returns the truth, as in market.json.

    First the record says which contents are the kit's, the old ones and the new; then the old prices go, and
    the new ones come
    last: whoever is killed in between leaves files without prices, all of them known as the kit's own, which
    `ensure_market` writes again, and never prices of one market beside the truth of another. Does not look at
    what is there.
    """
    prices, record = Path(_single(data)), market_path(data)
    market = simulate(config, data.calendar)
    truth = _truth(market, _settings(config, data))
    contents = _contents(market, data)
    digests = {role: hashlib.sha256(content).hexdigest() for role, content in contents.items()}
    final = truth | {
        "prices_sha256": digests["data_path"],
        "files": {role: [digest] for role, digest in digests.items()},
    }
    before = {role: [files.digest(path)] for role, path in _places(data).items() if path.is_file()}
    both = {role: [*before.get(role, []), digest] for role, digest in digests.items()}
    files.write_json(record, final | {"files": both})
    prices.unlink(missing_ok=True)
    for role, content in contents.items():
        if role != "data_path":
            _write(_places(data)[role], content)
    _write(prices, contents["data_path"])
    files.write_json(record, final)
    log.info(
        "synthetic market: %d tickers x %d days in %s; best attainable accuracy %d day(s) ahead: %.1f %%",
        config.tickers, config.days, prices, config.horizon, 100 * truth["attainable_accuracy"],
    )  # fmt: skip
    return final


def _contents(market: Market, data: DataConfig) -> dict[str, bytes]:
    """Role -> the bytes of the file, for the files that are asked for."""
    ids = sorted(market.tickers)  # lexicographic, as in the competition
    day = str(market.sessions[-1].astype("datetime64[D]"))
    labels = dict(zip(market.tickers, market.labels[-1].astype(int).tolist(), strict=True))
    frames = {
        "data_path": _training_frame(market),
        "test_path": pl.DataFrame({"ID": ids, "Date": [day] * len(ids)}),
        "sample_submission_path": pl.DataFrame({"ID": ids, "Pred": [0] * len(ids)}),
        "solution_path": pl.DataFrame({"ID": ids, "Label": [labels[name] for name in ids]}),
    }
    return {role: frames[role].write_csv().encode() for role in _places(data)}


def _content_digests(config: MarketConfig, data: DataConfig) -> dict[str, list[str]]:
    contents = _contents(simulate(config, data.calendar), data)
    return {role: [hashlib.sha256(content).hexdigest()] for role, content in contents.items()}


def _settings(config: MarketConfig, data: DataConfig) -> dict[str, Any]:
    """All that the files depend on, the constants of the process included."""
    process = {
        "stay": STAY,
        "common": COMMON,
        "volatility_levels": VOLATILITY_LEVELS.tolist(),
        "volatility_move": VOLATILITY_MOVE,
        "volume_step": VOLUME_STEP,
        "volume_noise": VOLUME_NOISE,
    }
    chosen = {key: value for key, value in asdict(config).items() if key != "generate"}
    return chosen | {"calendar": data.calendar, "process": process}


def _single(data: DataConfig) -> str:
    if not isinstance(data.data_path, str) or not data.data_path:
        raise KitError(
            f"data.data_path: expected the one CSV file that market.generate writes, found {data.data_path!r}"
        )
    return data.data_path


def _truth(market: Market, settings: dict[str, Any]) -> dict[str, Any]:
    last = market.config.days - 1
    rises = market.labels[-1]
    within, error = attainable_within_date(market)
    return {
        "about": "synthetic market with a planted signal far stronger than any real one; see kronos/data/market.py",
        "settings": settings,
        "last_training_day": str(market.sessions[last].astype("datetime64[D]")),
        "test_day": str(market.sessions[-1].astype("datetime64[D]")),
        "attainable_accuracy": attainable(market.prob_up[last]),
        "attainable_accuracy_all_dates": attainable(market.prob_up[: last + 1]),
        "attainable_accuracy_next_day": attainable(rise_probability(market.config.signal, 1)),
        "attainable_accuracy_within_date": within,
        "attainable_accuracy_within_date_error": error,
        "oracle_accuracy_on_test_day": float(((market.state[last] > 0) == rises).mean()),
        "rise_share_on_test_day": float(rises.mean()),
    }


def _training_frame(market: Market) -> pl.DataFrame:
    """Rows ordered by date and shuffled within a date, as in the competition's file."""
    days, tickers = market.config.days, market.config.tickers
    shuffled = np.random.default_rng([market.config.seed, 2]).random((days, tickers)).argsort(axis=1)
    day = np.arange(days)[:, None]
    columns = {
        name: getattr(market, name.lower())[day, shuffled].ravel()
        for name in ("Open", "High", "Low", "Close", "Volume")
    }
    dates = market.sessions[:days].astype("datetime64[D]").astype(str).repeat(tickers)
    names = np.array(market.tickers)[shuffled.ravel()]
    nothing = np.zeros(days * tickers)
    return pl.DataFrame(
        {"Ticker": names, "Date": dates, **columns, "Dividends": nothing, "Stock Splits": nothing}
    )


def _write(path: Path, content: bytes) -> None:
    with files.atomic(path) as temporary:
        temporary.write_bytes(content)
