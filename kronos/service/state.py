"""What the parts of one running service share.

In: settings. Out: `State`, which the routes get; no global variable holds anything.
"""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.responses import Response

from kronos.service.batcher import Batcher
from kronos.service.follower import Follower
from kronos.service.metrics import Metrics
from kronos.service.schema import JOB_BYTES, Limits

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True)
class Settings:
    """How the service was started."""

    model: Path
    """models/NAME, or a packaged folder."""
    alias: str = "production"
    folder: Path | None = None
    """Where jobs and kept forecasts lie (--state); None: there are none."""
    store: Path | None = None
    """A prepared store (--store), for jobs that name tickers of it."""
    host: str = "127.0.0.1"
    port: int = 7070
    names: tuple[str, ...] = LOOPBACK
    """Host names that a request may give."""
    keys: tuple[str, ...] = ()
    """SHA-256 of the keys, hexadecimal; empty: no key is asked for."""
    limits: Limits = field(default_factory=Limits)
    body_bytes: int = 16 * 2**20
    job_bytes: int = JOB_BYTES
    drain_s: float = 25
    stuck_s: float = 300
    """A call that computes for longer makes the service not ready."""
    workers: int = 0
    batch_series: int | None = None
    """Series of one call at most; None: as memory and processor take."""


@dataclass
class State:
    """One running service."""

    settings: Settings
    models: Follower
    batcher: Batcher
    metrics: Metrics
    draining: bool = False
    active: int = 0
    """Requests that are being answered, but for health and metrics."""
    started: float = field(default_factory=time.time)
    jobs: Any = None
    """The table of jobs (`jobs_routes.open`)."""
    kept: Any = None
    """The kept forecasts (`quality_routes.open`)."""
    notes: list[str] = field(default_factory=list)
    """Why the service is degraded, beside what it finds itself."""

    @staticmethod
    def json(tree: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
        """A JSON answer. A NaN in it is a bug (ValueError), never sent."""
        return Response(dumps(tree), status, headers, "application/json")


def dumps(tree: Any) -> bytes:
    """Compact JSON in UTF-8; NaN and infinity are refused (ValueError)."""
    return json.dumps(tree, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def build(settings: Settings, device: str = "cpu") -> State:
    """Load the model and wire the parts. Raises KitError where the model may not serve."""
    metrics = Metrics()
    models = Follower(settings.model, settings.alias, device)
    batcher = Batcher(most_series=settings.batch_series)
    batcher.seen.batch = metrics.batch.observe
    batcher.seen.seconds = lambda part, seconds: metrics.seconds.labels(part).observe(seconds)
    batcher.seen.rejected = lambda reason: metrics.rejected.labels(reason).inc()
    metrics.waiting.set_function(lambda: batcher.waiting)
    state = State(settings, models, batcher, metrics)
    models.on_swap = lambda done: _swapped(state, done)
    _swapped_to(state)
    return state


def _swapped(state: State, done: bool) -> None:
    state.metrics.swaps.labels("done" if done else "refused").inc()
    if done:
        _swapped_to(state)


def _swapped_to(state: State) -> None:
    current = state.models.current
    state.metrics.model.clear()
    state.metrics.model.labels(current.name, current.version, current.digest).set(1)
