"""Jobs over HTTP: submit, watch, cancel, resume, fetch.

In: a running service's `State`. Out: its table of jobs and the routes. A caller names series, or tickers of the
store that the service was started with; never a file.
"""

import asyncio
import functools
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from fastapi import APIRouter, Query, Request
from prometheus_client import Gauge
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationInfo, model_validator
from starlette.responses import FileResponse, Response

from kronos.data.store import BarStore
from kronos.errors import KitError
from kronos.service import guard, results
from kronos.service.database import DiskFull
from kronos.service.jobs import Conflict, Jobs, Unknown
from kronos.service.jobview import JobState, Priority
from kronos.service.schema import PredictRequest, Problem, Refused, Series, parse, raise_all, read_request
from kronos.service.state import State, dumps
from kronos.service.submit import JOB_LIMITS, Selection, select, submit

log = logging.getLogger(__name__)

KEY = re.compile(r"[\x21-\x7e]{1,200}")
NAME = re.compile(r"job_[0-9a-f]{1,40}")
FORMATS = ("json", "parquet")
Found = TypeVar("Found")


class StoreTickers(BaseModel):
    """Series of the prepared store that the service was started with."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    tickers: Literal["all"] | Annotated[list[str], Field(min_length=1, max_length=100_000)] = "all"
    date: Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")] | None = None
    """Last known day; null: the store's last."""


class JobRequest(PredictRequest):
    """Series to forecast in the background: of the request itself, or of the store."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        use_attribute_docstrings=True,
        json_schema_extra={"example": {"store": {"tickers": "all"}, "prediction_horizon": 10}},
    )

    stock_data: Annotated[list[Series], Field(default_factory=list)]
    store: StoreTickers | None = None
    priority: Priority = "normal"

    @model_validator(mode="after")
    def _check_source(self, info: ValidationInfo) -> "JobRequest":
        problems = []
        if bool(self.stock_data) == (self.store is not None):
            found = "neither"
            if self.stock_data:
                found = "both"
            problems.append(Problem("body", "stock_data or store", found, "send one of them"))
        if "deadline_s" in self.model_fields_set:
            remedy = "leave it out; cancel the job when nobody needs it any more"
            problems.append(Problem("deadline_s", "none: a job waits for its turn", "one", remedy))
        raise_all(problems)
        return self


def open(state: State) -> None:
    """Put the table of jobs into a state, and count its jobs in the metrics."""
    assert state.settings.folder is not None
    jobs = Jobs(state.settings.folder)
    if orphans := jobs.sweep():
        log.info("%d folders of jobs that were never submitted are removed", orphans)
    state.jobs = jobs
    by_state = Gauge("kronos_jobs", "Jobs by state", ["state"], registry=state.metrics.registry)
    for name in get_args(JobState):
        by_state.labels(name).set_function(functools.partial(_count_of, jobs, name))
    retries = Gauge(
        "kronos_chunk_retries", "Claims of chunks beyond their first", registry=state.metrics.registry
    )
    retries.set_function(jobs.retries)
    silent = Gauge(
        "kronos_worker_silent_seconds",
        "Seconds since the worker that was silent longest (of ten minutes) was seen",
        registry=state.metrics.registry,
    )
    silent.set_function(lambda: max((one["silent_s"] for one in jobs.workers()), default=0.0))


def _count_of(jobs: Jobs, state: str) -> float:
    return float(jobs.counts()[state])


def _described_by_hand() -> dict[str, Any]:
    """Of a job's request, for openapi.json: the body is read as bytes, so the routes cannot tell its form."""
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": inline(JobRequest)}}},
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "schema": {"type": "string", "pattern": "^[!-~]{1,200}$"},
            }
        ],
    }


def router(state: State) -> APIRouter:
    """The routes."""
    routes = APIRouter()
    jobs: Jobs = state.jobs
    one_by_one = asyncio.Lock()
    store = _store(getattr(state.settings, "store", None))
    problem: dict[int | str, dict[str, Any]] = {409: {"description": "Another state, or another content"}}

    @routes.post(
        "/v1/jobs",
        status_code=202,
        operation_id="submit",
        responses={**problem, 507: {"description": "The disk is full"}},
        openapi_extra=_described_by_hand(),
    )
    async def submit_job(request: Request) -> Response:
        """Take a job; it is there from the answer on, whatever happens to the service."""
        raw, given = await guard.body(request), request.headers.get("idempotency-key")
        async with one_by_one:  # a large job takes ten times its bytes while it is read
            shown = await asyncio.to_thread(_submit, state, store, raw, given)
        return State.json(shown, 202, {"Location": f"/v1/jobs/{shown['id']}"})

    @routes.get("/v1/jobs", operation_id="jobs")
    def list_jobs(state: Annotated[str | None, one_of(*get_args(JobState))] = None) -> Response:
        """The newest 200 jobs, of one state or of all."""
        check_one_of("state", state, get_args(JobState))
        return State.json({"jobs": jobs.all(state)})

    @routes.get("/v1/jobs/{name}", operation_id="job")
    def show_job(name: str) -> Response:
        """One job."""
        return State.json(told(lambda: jobs.find(_named(name))))

    @routes.post("/v1/jobs/{name}/cancel", operation_id="cancel", responses=problem)
    def cancel(name: str) -> Response:
        """Let no further chunk of a job start."""
        return State.json(told(lambda: jobs.cancel(_named(name))))

    @routes.post("/v1/jobs/{name}/resume", operation_id="resume", responses=problem)
    def resume(name: str) -> Response:
        """Queue what a cancelled or failed job left undone."""
        return State.json(told(lambda: jobs.resume(_named(name))))

    @routes.get(
        "/v1/jobs/{name}/result",
        operation_id="result",
        responses={**problem, 507: {"description": "The disk is full"}},
    )
    def result(name: str, format: Annotated[str, one_of(*FORMATS)] = "json") -> Response:
        """The forecasts of a job that is done."""
        check_one_of("format", format, FORMATS)
        if format == "parquet":
            path = told(lambda: results.as_parquet(jobs, _named(name)))
            return FileResponse(path, media_type="application/vnd.apache.parquet", filename=f"{name}.parquet")
        path = told(lambda: results.as_json(jobs, _named(name)))
        return FileResponse(path, media_type="application/json")

    return routes


def _store(path: Path | None) -> BarStore | None:
    if path is None:
        return None
    return BarStore.open(path)


def _submit(state: State, store: BarStore | None, raw: bytes, key: str | None) -> dict[str, Any]:
    """What a caller is told of a new job, or of the one that its key stands for."""
    if key is not None and KEY.fullmatch(key) is None:
        remedy = "use letters and digits"
        raise Refused(
            422,
            "invalid_request",
            f"Idempotency-Key: expected 1 to 200 printable characters without spaces; {remedy}",
        )
    limits = state.settings.limits
    own = type(limits)(JOB_LIMITS.series, limits.bars, limits.steps, limits.paths, JOB_LIMITS.path_bars)
    asked = parse(raw, JobRequest, own)
    served, left_out = state.models.current, 0
    options = {**asked.model_dump(mode="json", exclude={"stock_data", "store", "priority"})}
    request: PredictRequest = asked
    if asked.store is not None:
        selection = _selected(store, asked.store, served.facts.lookback)
        left_out = selection.left_out
        request = read_request(dumps({**options, "stock_data": selection.series}), own)
    name = told(lambda: submit(state.jobs, served, request, asked.priority, key))
    return {**state.jobs.find(name), "left_out": left_out}


def _selected(store: BarStore | None, asked: StoreTickers, length: int) -> Selection:
    """The series that a caller asks for by name."""
    if store is None:
        problem = Problem("store", "stock_data", "store", "start the service with --store DIR")
        raise Refused(422, "invalid_request", problem.line(), [problem])
    tickers = None
    if asked.tickers != "all":
        tickers = list(asked.tickers)
    return told(lambda: select(store, tickers, asked.date, length))


def told(call: Callable[[], Found]) -> Found:
    """What a call gives; its error as the answer that a caller gets."""
    try:
        return call()
    except Refused:
        raise
    except Unknown as error:
        raise Refused(404, "not_found", str(error)) from None
    except Conflict as error:
        raise Refused(409, "conflict", str(error)) from None
    except DiskFull:
        detail = "the service: expected room on its disk, found none; free some space, then send it again"
        raise Refused(507, "disk_full", detail) from None
    except KitError as error:
        raise Refused(422, "invalid_request", str(error)) from None


def one_of(*words: str) -> Any:
    """A parameter that is one of some words, for the description of the routes; `check_one_of` checks it."""
    return Query(json_schema_extra={"enum": list(words)})


def check_one_of(where: str, word: str | None, words: tuple[str, ...]) -> None:
    """Raise Refused where a parameter is given and is none of some words."""
    if word is not None and word not in words:
        problem = Problem(where, " or ".join(words), "another word", "correct or leave it out")
        raise Refused(422, "invalid_request", problem.line(), [problem])


def _named(name: str) -> str:
    """A name that can be a job's: it is never looked for elsewhere."""
    if NAME.fullmatch(name) is None:
        raise Refused(404, "not_found", "jobs: expected the id of a job; GET /v1/jobs lists them")
    return name


def inline(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a model without references."""
    tree = model.model_json_schema()
    parts = tree.pop("$defs", {})

    def resolved(node: Any) -> Any:
        if isinstance(node, list):
            return [resolved(one) for one in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return resolved(parts[node["$ref"].rpartition("/")[2]])
        return {name: resolved(value) for name, value in node.items()}

    return dict(resolved(tree))
