"""Kept requests of a service asked again, of two packages: how much would change for those who use it?

In: STATE/forecasts/*.json, which the service leaves, and two loaded packages. Out: `Replayed`: the share of
series whose direction changes, how much wider the bands are, and what the candidate could not answer.

Of a kept file one key is read, `request`: the service's request with `sample_count` filled in. Whatever else
lies there is not looked at.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from kronos import records
from kronos.answers.bands import widened
from kronos.bars import CLOSE, calendar_stamps
from kronos.delivery.golden import Networks, forecaster_of
from kronos.delivery.package_facts import Facts
from kronos.errors import KitError
from kronos.forecasting.frames import completed
from kronos.forecasting.rows import series_keys
from kronos.progress import progress

log = logging.getLogger(__name__)

FOLDER = "forecasts"
MOST = 200
"""Requests that are replayed, the newest ones."""


@dataclass(frozen=True)
class KeptSeries:
    """The known bars of one series, as columns."""

    series_id: str
    timestamps: list[str]
    open: list[float]
    high: list[float]
    low: list[float]
    close: list[float]
    volume: list[float] | None = None
    amount: list[float] | None = None
    future_timestamps: list[str] | None = None


@dataclass(frozen=True)
class KeptRequest:
    """`request` of a kept forecast."""

    stock_data: list[KeptSeries]
    prediction_horizon: Annotated[int, "> 0"]
    sample_count: Annotated[int, "> 0"]
    confidence_level: Annotated[float, "0 to 1"] = 0.95
    seed: int = 0


@dataclass(frozen=True)
class Loaded:
    """A package in memory."""

    facts: Facts
    networks: Networks
    device: str = "cpu"


@dataclass(frozen=True)
class Replayed:
    """What changed from production to the candidate."""

    requests: int
    series: int
    """That both answered."""
    changed: float
    """Share of the series whose median close at the horizon lies on the other side of the last known one."""
    width: float
    """Geometric mean over the series of candidate's / production's width of the band at the horizon."""
    failed: list[str] = field(default_factory=list)
    """Why the candidate had no answer where production had one, one line a request."""

    def line(self) -> str:
        """For a person."""
        asked = f"{self.requests} requests, {self.series} series"
        return f"{asked}: {100 * self.changed:.1f} % change direction, bands {self.width:.2f} times as wide"


@dataclass(frozen=True)
class _Kept:
    request: KeptRequest | None = None


def read_kept(state: str | Path, most: int = MOST) -> list[KeptRequest]:
    """The newest kept requests, newest first. Raises KitError for a state folder that is none, or a kept file
    that is not what it should be."""
    folder = Path(state) / FOLDER
    if not Path(state).is_dir():
        raise KitError(f"{state}: expected the state folder of a service (serve.py --state), found no folder")
    paths = sorted(
        folder.rglob("*.json"), key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True
    )
    requests: list[KeptRequest] = []
    without = 0
    for path in paths:
        if len(requests) == most:
            break
        kept = records.read(path, _Kept, remedy="remove the file")
        if kept.request is None:
            without += 1
        else:
            requests.append(kept.request)
    if without:
        log.warning("%s: %d files hold no request; they are not replayed", folder, without)
    return requests


def replay(candidate: Loaded, production: Loaded, requests: list[KeptRequest]) -> Replayed:
    """Ask both packages every request. A request that production cannot answer any more is left out, and said."""
    changed, widths, failed = [], [], []
    answered = 0
    with progress("replay", len(requests), "requests") as bar:
        for request in requests:
            bar.update(1)
            try:
                before = _answer(production, request)
            except KitError as error:
                log.warning("%s has no answer to a kept request: %s", production.facts.version, error)
                continue
            try:
                after = _answer(candidate, request)
            except KitError as error:
                failed.append(str(error))
                continue
            answered += 1
            changed.append(before.rises != after.rises)
            widths.append(np.log(after.width / before.width))
    if not changed:
        return Replayed(answered, 0, 0.0, 1.0, failed)
    flat = np.concatenate(widths)
    share = float(np.concatenate(changed).mean())
    return Replayed(answered, len(flat), share, float(np.exp(flat.mean())), failed)


@dataclass(frozen=True)
class _Answer:
    rises: NDArray[np.bool_]
    """(B,) median close at the horizon above the last known one."""
    width: NDArray[np.float64]
    """(B,) of the band at the horizon, relative to the last known close."""


def _answer(package: Loaded, request: KeptRequest) -> _Answer:
    """What a package answers. Raises KitError where a series cannot be forecast, or is not finite."""
    facts, steps = package.facts, request.prediction_horizon
    bars, stamps, future = [], [], []
    for series in request.stock_data:
        known, dates = _known(series)
        ahead = facts.next_sessions(dates, steps, series.series_id)
        if series.future_timestamps is not None:
            ahead = np.array(series.future_timestamps, dtype="datetime64[s]")
        bars.append(known[-facts.lookback :])
        stamps.append(calendar_stamps(dates[-facts.lookback :]))
        future.append(calendar_stamps(ahead))
    forecaster = forecaster_of(
        facts,
        package.networks,
        device=package.device,
        sample_count=request.sample_count,
        seed=request.seed,
    )
    keys = series_keys([series.series_id for series in request.stock_data])
    found = forecaster.forecast(bars, stamps, np.stack(future), keys)
    if not found.finite.all():
        raise KitError(
            f"{facts.folder}: expected finite forecasts, found none for {int((~found.finite).sum())}"
        )
    closes = found.paths[:, :, -1, CLOSE]
    decision = facts.decisions.get(steps)
    if decision is not None:
        closes = widened(closes, decision.width)
    beyond = (1 - request.confidence_level) / 2
    low, high = np.quantile(closes.astype(np.float64), [beyond, 1 - beyond], axis=1)
    width = np.maximum((high - low) / found.last_close, np.finfo(np.float32).eps)
    return _Answer(np.median(closes, axis=1) > found.last_close, width)


def _known(series: KeptSeries) -> tuple[NDArray[np.float32], NDArray[np.datetime64]]:
    """Bars (L, 6) and dates (L,). Raises KitError where columns have other lengths."""
    length = len(series.timestamps)
    columns = [series.open, series.high, series.low, series.close]
    optional = [column for column in (series.volume, series.amount) if column is not None]
    if not length or {len(column) for column in columns + optional} != {length}:
        raise KitError(f"kept request, {series.series_id}: expected columns of one length, found others")
    prices = np.array(columns, dtype=np.float64).T
    volume, amount = (
        None if column is None else np.array(column, dtype=np.float64)
        for column in (series.volume, series.amount)
    )
    return completed(prices, volume, amount), np.array(series.timestamps, dtype="datetime64[s]")
