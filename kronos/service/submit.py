"""From a request, or a prepared store, to a job: which series, in chunks of which size.

In: a checked request without or with series, a loaded package, a store. Out: the id of a job. NumPy, pydantic.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronos.bars import AMOUNT, CLOSE, HIGH, LOW, OPEN, VOLUME
from kronos.data.store import BarStore
from kronos.errors import KitError
from kronos.networks.cost import predictor_flops, total
from kronos.service.jobs import Jobs
from kronos.service.jobview import Priority
from kronos.service.schema import Limits, PredictRequest
from kronos.service.served import Served

CHUNK_SECONDS = 2.0
"""Work of a chunk: what a killed worker costs, and how long an urgent job waits for a worker."""
OPERATIONS = {"cpu": 5e10, "cuda": 5e13}
"""Floating-point operations a second that a device is taken to do. A number, not a measurement: equal requests
give equal chunks, and so equal bytes."""
COLUMNS = {"open": OPEN, "high": HIGH, "low": LOW, "close": CLOSE, "volume": VOLUME, "amount": AMOUNT}
JOB_LIMITS = Limits(series=100_000, path_bars=10**12)
"""A job is computed in chunks: no one holds all of its paths."""


@dataclass(frozen=True)
class Selection:
    """Series of a store as of one session."""

    series: list[dict[str, Any]]
    asof: str
    left_out: int
    """Tickers without a bar on that session, or with fewer than two in all."""


def submit(
    jobs: Jobs, served: Served, request: PredictRequest, priority: Priority = "normal", key: str | None = None
) -> str:
    """Write a job down and return its id. Raises as `Jobs.submit`."""
    series = request.model_dump(mode="json", include={"stock_data"})["stock_data"]
    return jobs.submit(
        series,
        options_of(request),
        model=(served.name, served.version, served.digest),
        size=chunk_size(served, request),
        priority=priority,
        key=key,
    )


def options_of(request: PredictRequest) -> dict[str, Any]:
    """What all series of a job share; the number of paths is settled."""
    return {
        "prediction_horizon": request.prediction_horizon,
        "confidence_level": request.confidence_level,
        "sample_count": request.paths,
        "seed": request.seed,
    }


def chunk_size(served: Served, request: PredictRequest) -> int:
    """Series of a chunk: one batch of the networks, and not more than about `CHUNK_SECONDS` of work."""
    forecaster = served.forecaster
    longest = max(len(series.timestamps) for series in request.stock_data)
    length = max(2, min(longest, served.facts.lookback))
    once = total(predictor_flops(forecaster.model.config, forecaster.tokenizer.config, length)).forward
    operations = once * (1 + request.paths * request.prediction_horizon / length)
    by_time = int(CHUNK_SECONDS * OPERATIONS[forecaster.device.type] / operations)
    return max(1, min(served.most_series(request), by_time))


def select(store: BarStore, tickers: Sequence[str] | None, date: str | None, length: int) -> Selection:
    """The last `length` bars of a store's tickers up to a day (None: its last), as series of a request.

    tickers: None for all. Those without a bar on the newest session up to that day are left out and counted.
    Raises KitError for a name that the store does not have, for a day before its first session, and where no
    ticker is left.
    """
    session = _session(store, date)
    names = list(store.tickers) if tickers is None else list(tickers)
    places = store.index_of(names)
    unknown = [name for name, place in zip(names, places, strict=True) if place < 0]
    if unknown:
        raise KitError(
            f"store.tickers: expected names of the store ({len(store.tickers):,} of them), found {len(unknown)} others; "
            "the first is at position "
            f"{names.index(unknown[0])}"
        )
    series = []
    for name, place in zip(names, places.tolist(), strict=True):
        rows = _rows(store, place, session, length)
        if rows is not None:
            series.append(_columns(name, store, rows))
    (asof,) = _texts(store.sessions[session : session + 1])
    if not series:
        raise KitError(f"store: expected tickers with a bar on {asof}, found none; choose another date")
    return Selection(series, asof, len(names) - len(series))


def _session(store: BarStore, date: str | None) -> int:
    """Position of the newest session up to the end of a day."""
    if date is None:
        return len(store.sessions) - 1
    end = np.datetime64(date, "D").astype("datetime64[s]") + np.timedelta64(86_399, "s")
    place = int(np.searchsorted(store.sessions, end, side="right")) - 1
    if place < 0:
        raise KitError(f"store.date: expected a day from {store.sessions[0]} on, found {date}")
    return place


def _rows(store: BarStore, ticker: int, session: int, length: int) -> slice | None:
    """Rows of a ticker's last bars, the last one on `session`; None where it has no bar there."""
    first, stop = store.offsets[ticker], store.offsets[ticker + 1]
    end = first + int(np.searchsorted(store.session[first:stop], session, side="right"))
    if end - first < 2 or store.session[end - 1] != session:
        return None
    return slice(max(first, end - length), end)


def _columns(name: str, store: BarStore, rows: slice) -> dict[str, Any]:
    bars = np.asarray(store.bars[rows])
    columns: dict[str, Any] = {
        "series_id": name,
        "timestamps": list(_texts(store.sessions[store.session[rows]])),
    }
    for column, place in COLUMNS.items():
        # The fewest digits that mean the same float32: half as many bytes.
        columns[column] = [float(text) for text in bars[:, place].astype(str).tolist()]
    return columns


def _texts(dates: NDArray[np.datetime64]) -> Iterator[str]:
    days = dates.astype("datetime64[D]")
    if (days == dates).all():
        dates = days
    for date in dates:
        yield str(date)
