"""Kept forecasts and their quality over HTTP, and the thread that looks at them.

In: a running service's `State`. Out: what it keeps, and the routes.
"""

import asyncio
import functools
import logging
import re
import threading
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Request
from numpy.typing import NDArray
from prometheus_client import Gauge
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, model_validator
from starlette.responses import Response

from kronos.delivery.package_facts import read_facts
from kronos.errors import KitError
from kronos.service import guard
from kronos.service.database import DiskFull
from kronos.service.jobs_routes import inline, told
from kronos.service.kept import Kept, UnknownForecast, seconds
from kronos.service.promise import Promise
from kronos.service.quality import Quality
from kronos.service.schema import Name, Number, Problem, Refused, Stamps, dates_of, parse, raise_all
from kronos.service.state import State

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
"""How often is looked whether more is known."""
NAME = re.compile(r"[A-Za-z0-9_.]{1,100}")
Column = Annotated[list[Number], Field(min_length=1, fail_fast=True)]


class Bars(BaseModel):
    """Known bars of one series; only the close has to be."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    series_id: Name
    timestamps: Annotated[Stamps, Field(min_length=1, max_length=100_000)]
    open: Column | None = None
    high: Column | None = None
    low: Column | None = None
    close: Column

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> "Bars":
        _, problems = dates_of(self.timestamps, "timestamps")
        for name in ("open", "high", "low", "close"):
            column = getattr(self, name)
            if column is not None and len(column) != len(self.timestamps):
                found = f"{len(column)} for {len(self.timestamps)} timestamps"
                problems.append(
                    Problem(name, "one number per timestamp", found, "make all columns equally long")
                )
        if min(self.close) <= 0:
            problems.append(Problem("close", "prices above 0", "one that is not", "drop the bar"))
        raise_all(problems)
        return self

    def prices(self) -> NDArray[np.float64]:
        """(n, 4) open, high, low, close; NaN for a column that was not sent."""
        columns = [self.open, self.high, self.low, self.close]
        missing = [np.nan] * len(self.timestamps)
        return np.array([missing if column is None else column for column in columns], np.float64).T


class Actuals(BaseModel):
    """What happened."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    actuals: Annotated[list[Bars], Field(min_length=1, max_length=100_000)]


class Watched:
    """What the service keeps of its answers, and what is known of them: `State.kept`."""

    def __init__(self, folder: Path, root: Path) -> None:
        """root: models/NAME."""
        self.kept = Kept(folder)
        self.quality = Quality(self.kept, lambda version: promise_of(root, version))
        self.keep, self.measured = self.kept.keep, self.quality.measured
        self._lines: set[str] = set()
        threading.Thread(target=self._look, name="quality", daemon=True).start()

    def _look(self) -> None:
        """Compute anew whenever more is known, and say each alert once. The first look waits, too: it must not
        hold up the start.
        """
        pause = threading.Event()
        while not pause.wait(LOOK_SECONDS):
            try:
                lines = set(self.quality.refresh())
            except DiskFull as error:
                log.warning("%s", error)
                lines = self._lines
            for line in sorted(lines - self._lines):
                log.warning("quality: %s", line)
            self._lines = lines


def promise_of(root: Path, version: str) -> Promise:
    """What a version's package promises; nothing where it is no longer there."""
    folder = root
    if (root / version).is_dir():
        folder = root / version
    try:
        facts = read_facts(folder)
    except KitError as error:
        log.warning("%s: its forecasts are compared with no promise: %s", version, error)
        return Promise()
    if facts.version != version:
        log.warning("%s is not in %s: its forecasts are compared with no promise", version, root)
        return Promise()
    return Promise.of(facts.train_end, facts.backtest)


def open(state: State) -> None:
    """Put the kept forecasts into a state, and their figures into the metrics."""
    assert state.settings.folder is not None
    watched = Watched(state.settings.folder, state.settings.model)
    state.kept = watched
    for name, text in (
        ("accuracy", "Within-date accuracy"),
        ("brier", "Mean squared error of P(rise)"),
        ("coverage", "Coverage of the served level at the last known step"),
        ("dates", "Dates of which something is known"),
        ("alert", "1 where the version left what its backtest promised"),
    ):
        gauge = Gauge(f"kronos_quality_{name}", f"{text}, newest version", registry=state.metrics.registry)
        gauge.set_function(functools.partial(newest, watched.quality, name))


def newest(quality: Quality, name: str) -> float:
    """A figure of the version that forecast last; NaN where nothing is known."""
    reports = quality.shown()
    if not reports:
        return float("nan")
    report = reports[0]
    if name == "dates":
        return float(report["dates"])
    if name == "alert":
        return float(report["alert"] is not None)
    value = report.get(name)
    if name == "coverage":
        value = None
        if report["coverage"]:
            value = report["coverage"][-1]
    if value is None or value["value"] is None:
        return float("nan")
    return float(value["value"])


def router(state: State) -> APIRouter:
    """The routes."""
    routes, watched = APIRouter(), state.kept
    body = {"required": True, "content": {"application/json": {"schema": inline(Actuals)}}}

    @routes.get("/v1/forecasts", operation_id="forecasts")
    def list_forecasts(series_id: str | None = None, version: str | None = None) -> Response:
        """The newest 200 forecasts, of one series or version or of all."""
        return State.json({"forecasts": watched.kept.newest(series_id, version)})

    @routes.get("/v1/forecasts/{name}", operation_id="forecast")
    def show_forecast(name: str) -> Response:
        """One forecast, with the bars before it and, where they are known, after it."""
        if NAME.fullmatch(name) is None:
            raise Refused(404, "not_found", "forecasts: expected the id of one; GET /v1/forecasts lists them")
        try:
            return State.json(watched.kept.show(name))
        except UnknownForecast as error:
            raise Refused(404, "not_found", str(error)) from None

    @routes.put(
        "/v1/actuals",
        operation_id="actuals",
        openapi_extra={"requestBody": body},
        responses={507: {"description": "The disk is full"}},
    )
    async def put_actuals(request: Request) -> Response:
        """Enter bars that have become known."""
        raw = await guard.body(request)
        return State.json(await asyncio.to_thread(_learn, state, raw))

    @routes.get("/v1/quality", operation_id="quality")
    def quality() -> Response:
        """How good the forecasts of each version turned out, beside what its backtest promised."""
        return State.json(watched.quality.report())

    return routes


def _learn(state: State, raw: bytes) -> dict[str, Any]:
    asked = parse(raw, Actuals, state.settings.limits)
    touched = bars = 0
    for one in asked.actuals:
        bars += len(one.timestamps)
        dates = seconds(one.timestamps)
        touched += told(functools.partial(state.kept.kept.learn, one.series_id, dates, one.prices()))
    return {"series": len(asked.actuals), "bars": bars, "forecasts": touched}
