"""The routes: what is asked over HTTP, and what is answered.

In: a `State`. Out: an ASGI application behind its guard. No route takes a path or an address that a caller
names, and none loads a model.
"""

import asyncio
import contextlib
import importlib
import importlib.util
import logging
import os
import secrets
import statistics
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic.json_schema import models_json_schema
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp

from kronos.delivery.package_facts import read_facts
from kronos.errors import KitError
from kronos.service import guard, metrics, page
from kronos.service.refusals import Problem, ProblemAnswer, Refused, refused
from kronos.service.schema import PredictAnswer, PredictRequest, read_request
from kronos.service.state import State, dumps

log = logging.getLogger(__name__)

TITLE = "Kronos forecasts"
EXTENSIONS = ("jobs_routes", "quality_routes")
FREE_BYTES = 50 * 2**20
"""Less free disk makes the service not ready: a kept forecast or a job would be cut short."""
STATUSES = (400, 401, 403, 404, 405, 408, 413, 415, 422, 429, 500, 503, 504)


def create_app(state: State) -> ASGIApp:
    """The guarded application of one service."""
    app = FastAPI(
        title=TITLE,
        version="1",
        lifespan=lambda _: _running(state),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses={status: {"model": ProblemAnswer} for status in STATUSES},
    )
    app.add_exception_handler(Refused, _on_refused)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_parameter)
    app.add_exception_handler(Exception, _on_bug)
    _predict_routes(app, state)
    _model_routes(app, state)
    _health_routes(app, state)
    page.add_routes(app)
    for name in EXTENSIONS:
        module = _extension(name)
        if module is not None and state.settings.folder is not None:
            module.open(state)
            app.include_router(module.router(state))
    app.openapi = lambda: _openapi(app, state)  # type: ignore[method-assign]
    return guard.Guard(app, state)


@contextlib.asynccontextmanager
async def _running(state: State) -> AsyncIterator[None]:
    state.batcher.start()
    follows = asyncio.create_task(state.models.follow())
    yield
    follows.cancel()
    await state.batcher.stop()


def _extension(name: str) -> Any:
    """A module with routes of its own, where it is there."""
    whole = f"kronos.service.{name}"
    return importlib.import_module(whole) if importlib.util.find_spec(whole) else None


# -- predict -------------------------------------------------------------------------------------------------
def _predict_routes(app: FastAPI, state: State) -> None:
    body = {"required": True, "content": {"application/json": {"schema": _ref("PredictRequest")}}}

    async def predict(request: Request) -> Response:
        """Forecast up to 256 series and wait for the answer."""
        begun = time.perf_counter()
        raw = await guard.body(request)
        state.batcher.check_room()  # before it is parsed: that costs time and memory
        asked = await state.batcher.aside(len(raw) >> 14, read_request, raw, state.settings.limits)
        del raw
        work = state.batcher.forecast(state.models.current, asked)
        answer = {"id": new_id("fc"), **await guard.while_connected(request, work)}
        if state.kept is not None:
            _add_measured(answer, state)
        sent = await state.batcher.aside(len(asked.stock_data), dumps, answer)
        state.metrics.seconds.labels("total").observe(time.perf_counter() - begun)
        keep = None if state.kept is None else BackgroundTask(_keep, state, asked, answer)
        return Response(sent, media_type="application/json", background=keep)

    settings: dict[str, Any] = {"methods": ["POST"], "openapi_extra": {"requestBody": body}}
    settings |= {"responses": {200: {"model": PredictAnswer}}}
    app.add_api_route("/v1/predict", predict, operation_id="predict", **settings)
    app.add_api_route("/predict", predict, operation_id="predict_short", **settings)


def _add_measured(answer: dict[str, Any], state: State) -> None:
    """What kept forecasts of this version and later bars say of the coverage, where they are."""
    measured = state.kept.measured(answer["model"]["version"], answer["confidence_level"], answer["horizon"])
    for prediction in answer["predictions"]:
        prediction["measured_coverage"] = measured


def _keep(state: State, asked: PredictRequest, answer: dict[str, Any]) -> None:
    """Keep an answered forecast. The caller has the answer: what fails here is said and counted."""
    try:
        state.kept.keep(asked, answer)
    except (KitError, OSError) as error:
        state.metrics.rejected.labels("not kept").inc()
        log.warning("a forecast is not kept: %s", error)


def new_id(kind: str) -> str:
    """An id that sorts by time: KIND_ and 22 hexadecimal digits."""
    return f"{kind}_{time.time_ns() // 1_000_000:011x}{secrets.token_hex(6)[:11]}"


# -- models --------------------------------------------------------------------------------------------------
def _model_routes(app: FastAPI, state: State) -> None:
    known: dict[str, dict[str, Any]] = {}

    @app.get("/v1/models", operation_id="models")
    def models() -> Response:
        """The version that serves, all versions that lie here, and which alias names which."""
        root = state.settings.model
        folders, aliases = [state.models.current.facts.folder], {}
        if not state.models.fixed:
            folders = sorted(path for path in root.glob("v*.*.*") if path.is_dir())
            links = sorted(path for path in root.glob("*") if path.is_symlink() and path.is_dir())
            aliases = {path.name: path.resolve().name for path in links if not path.name.startswith(".")}
        for folder in folders:
            if folder.name not in known:
                known[folder.name] = _described(folder)
        current = state.models.current
        return State.json(
            {
                "serves": current.identity,
                "alias": None if state.models.fixed else state.settings.alias,
                "refused": state.models.refusal or None,
                "aliases": aliases,
                "on": {"jobs": state.jobs is not None, "kept": state.kept is not None},
                "lookback": current.facts.lookback,
                "frequency": current.facts.frequency,
                "calendar": current.facts.markets[0].calendar,
                "horizon": current.facts.horizon,
                "versions": [known[folder.name] for folder in folders],
            }
        )


def _described(folder: Any) -> dict[str, Any]:
    """What a version says of itself; the error's line for one that cannot be read."""
    try:
        facts = read_facts(folder)
    except KitError as error:
        return {"version": folder.name, "error": str(error).replace(str(folder), folder.name)}
    return {
        "version": facts.version,
        "digest": facts.digest,
        "created": facts.created,
        "train_end": facts.train_end,
        "verdict": facts.verdict,
    }


# -- health --------------------------------------------------------------------------------------------------
def _health_routes(app: FastAPI, state: State) -> None:
    @app.get("/health/live", operation_id="live")
    async def live() -> Response:
        """The event loop turns."""
        return State.json({"status": "alive"})

    @app.get("/health/ready", operation_id="ready")
    async def ready() -> Response:
        """Whether a request would be answered now; 503 where not, with the reasons."""
        refusing, worries = reasons(state)
        said, status, headers = "healthy", 200, dict[str, str]()
        if worries:
            said = "degraded"
        if refusing:
            said, status, headers = "unavailable", 503, {"Retry-After": "5"}
        return State.json({"status": said} | health(state) | {"reasons": refusing + worries}, status, headers)

    @app.get("/metrics", operation_id="metrics")
    def prometheus() -> Response:
        """Counters and gauges in the text form of Prometheus."""
        return Response(state.metrics.text(), media_type="text/plain; version=0.0.4")


def health(state: State) -> dict[str, Any]:
    """The figures of `/health/ready`."""
    current, recent = state.models.current, state.batcher.seen.recent
    seconds = statistics.median(recent) if recent else current.golden_s
    gpu = metrics.gpu_bytes()
    return {
        "model": current.name,
        "version": current.version,
        "digest": current.digest,
        "inference_time_ms": round(1000 * seconds, 3),
        "gpu_memory_mb": round(gpu["reserved"] / 2**20, 1) if gpu else None,
        "memory_mb": round(metrics.resident_bytes() / 2**20, 1),
        "waiting_series": state.batcher.waiting,
        "golden_difference": current.difference,
        "up_s": round(time.time() - state.started, 1),
    }


def reasons(state: State) -> tuple[list[str], list[str]]:
    """Why nothing can be answered now, and what an operator should look at although it can."""
    refusing, worries = [], list(state.notes)
    if state.draining:
        refusing.append("the service is ending")
    busy = state.batcher.busy_since
    if busy is not None and time.perf_counter() - busy > state.settings.stuck_s:
        refusing.append(f"one call has computed for more than {state.settings.stuck_s:g} s")
    folder = state.settings.folder
    if folder is not None and not os.access(folder, os.W_OK):
        refusing.append("the state folder cannot be written to")
    elif folder is not None and _free(folder) < FREE_BYTES:
        refusing.append(f"less than {FREE_BYTES >> 20} MB of disk are free")
    if state.models.refusal:
        worries.append(f"a version was not swapped in: {state.models.refusal}")
    if state.batcher.waiting > 0.8 * state.batcher.most_waiting:
        worries.append("the queue is nearly full")
    return refusing, worries


def _free(folder: Any) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


# -- errors and the description ------------------------------------------------------------------------------
async def _on_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    tree = error.tree(request.scope["state"]["request_id"])
    return Response(dumps(tree), error.status, error.headers, "application/problem+json")


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = {404: ("not_found", "nothing is here"), 405: ("method", "this method is not for this address")}
    code, detail = said.get(error.status_code, ("refused", "the request cannot be answered"))
    problem = Refused(error.status_code, code, f"{detail}; /openapi.json lists what can be asked")
    problem.headers = dict(error.headers or {})
    return await _on_refused(request, problem)


async def _on_parameter(request: Request, error: Exception) -> Response:
    """A parameter of an address that FastAPI refuses."""
    assert isinstance(error, RequestValidationError)
    problems = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"][:2])
        problems.append(Problem(where, "a value of the form in /openapi.json", "another", "correct it"))
    return await _on_refused(request, refused(problems))


async def _on_bug(request: Request, error: Exception) -> Response:
    return await _on_refused(request, guard.internal())


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _openapi(app: FastAPI, state: State) -> dict[str, Any]:
    """The description of the routes, with the limits of this service in it."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    tree = FastAPI.openapi(app)
    _, own = models_json_schema([(PredictRequest, "validation")], ref_template="#/components/schemas/{model}")
    schemas = tree["components"]["schemas"]
    schemas |= own["$defs"]
    limits, asked = state.settings.limits, schemas["PredictRequest"]["properties"]
    asked["stock_data"]["maxItems"] = limits.series
    asked["prediction_horizon"]["maximum"] = limits.steps
    asked["sample_count"]["anyOf"][0]["maximum"] = limits.paths
    for name, column in schemas["Series"]["properties"].items():
        most = limits.steps if name == "future_timestamps" else limits.bars
        for part in (column, *column.get("anyOf", [])):
            if part.get("type") == "array":
                part["maxItems"] = most
    for path in tree["paths"].values():
        for operation in path.values():
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    answer["content"] = {"application/problem+json": {"schema": _ref("ProblemAnswer")}}
    return tree
