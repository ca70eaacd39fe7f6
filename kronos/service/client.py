"""Jobs from the command line: a price file becomes a request, a service or this process answers it.

In: the arguments of scripts/forecast_job.py and scripts/update_actuals.py. Out: a result file, known bars.
"""

import argparse
import json
import logging
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kronos import cli, files, records
from kronos.bars import CLOSE, HIGH, LOW, OPEN
from kronos.config import Config
from kronos.data.prepare import prepare
from kronos.data.store import MANIFEST, BarStore
from kronos.delivery.package_facts import read_facts
from kronos.errors import KitError
from kronos.service import results
from kronos.service.jobs import Jobs
from kronos.service.kept import Kept, texts
from kronos.service.schema import JOB_BYTES, PredictRequest, parse
from kronos.service.submit import JOB_LIMITS, select, submit
from kronos.service.worker import Worker, packages

log = logging.getLogger(__name__)

ASK_SECONDS = 0.5
"""How often a job is asked for its state."""
BARS_AT_ONCE = 50_000
"""Known bars of one message to the service."""
EXIT_FAILED = 3


def run(given: argparse.Namespace) -> int:
    """Submit, and with --wait or --local fetch the result. Returns an exit code: 0, or 3 for a job that failed."""
    with tempfile.TemporaryDirectory(prefix="forecast-job-") as folder:
        store = store_of(given.file, Path(folder))
        tickers = None
        if given.tickers:
            tickers = given.tickers.split(",")
        chosen = select(store, tickers, cli_day(given.date), _lookback(given))
        log.info(
            "%d series as of %s; %d tickers without a bar on that day are left out",
            *(len(chosen.series), chosen.asof, chosen.left_out),
        )
        body = {
            "stock_data": chosen.series,
            "prediction_horizon": given.horizon,
            "confidence_level": given.level,
            "sample_count": given.paths,
            "seed": given.seed,
        }
        if given.local:
            return run_here(given, body, Path(folder) / "state")
        return run_there(given, body)


def _lookback(given: argparse.Namespace) -> int:
    """Known bars that the model takes: more would be sent for nothing."""
    if given.local:
        if not given.model:
            raise KitError("--model: expected a version (models/NAME/production) with --local, found nothing")
        return read_facts(given.model).lookback
    return int(Service(given.url, given.api_key).json("GET", "/v1/models")["lookback"])


def cli_day(text: str) -> str | None:
    """A day of the command line, checked; None for none. Raises KitError."""
    return cli.day(text, "--date") or None


def store_of(path: str, folder: Path) -> BarStore:
    """A prepared store, or the one that is made of a price file in `folder`. Raises KitError."""
    if (Path(path) / MANIFEST).is_file():
        return BarStore.open(path)
    config = Config()
    data = replace(
        config.data, data_path=path, store=str(folder / "store"), lookback_window=2, predict_window=1
    )
    return prepare(replace(config, data=data))


# -- here ----------------------------------------------------------------------------------------------------
def run_here(given: argparse.Namespace, body: dict[str, Any], state: Path) -> int:
    """Compute the job in this process."""
    if not given.model:
        raise KitError(
            "--model: expected a packaged version (models/NAME/latest) with --local, found nothing"
        )
    from kronos.service.served import Served

    served = Served.load(given.model, given.device)
    request = parse(json.dumps(body).encode(), PredictRequest, JOB_LIMITS)
    jobs = Jobs(state)
    name = submit(jobs, served, request)
    models = packages(Path(given.model), given.device)
    models.take(served.digest, served)
    worker = Worker(jobs, models, device=given.device)
    worker.run(until_idle=True)
    found = jobs.find(name)
    if found["state"] == "done":
        output = Path(given.output or f"{name}.json")
        make = results.as_json
        if output.suffix == ".parquet":
            make = results.as_parquet
        shutil.copyfile(make(jobs, name), output)
        log.info("%s: %d series, %d failed", output, found["done"], found["failed"])
    return ended(found)


def ended(found: dict[str, Any]) -> int:
    """The exit code of a job, and the reason of a failure."""
    if found["state"] == "done":
        return 0
    log.error("%s: %s%s", found["id"], found["state"], f": {found['reason']}" if found["reason"] else "")
    return EXIT_FAILED


# -- there ---------------------------------------------------------------------------------------------------
def run_there(given: argparse.Namespace, body: dict[str, Any]) -> int:
    """Let a service compute the job."""
    service = Service(given.url, given.api_key)
    headers = {}
    if given.key:
        headers["Idempotency-Key"] = given.key
    found = service.json("POST", "/v1/jobs", {**body, "priority": given.priority}, headers)
    log.info(
        "%s: %s, %d series (%s/v1/jobs/%s)",
        found["id"],
        found["state"],
        found["series"],
        given.url,
        found["id"],
    )
    if not given.wait:
        return 0
    told = ""
    while found["state"] in ("queued", "running"):
        time.sleep(ASK_SECONDS)
        found = service.json("GET", f"/v1/jobs/{found['id']}")
        line = f"{found['done'] + found['failed']} of {found['series']} series"
        if line != told and found["eta_s"] is not None:
            log.info("%s, about %.0f s left", line, found["eta_s"])
        told = line
    if found["state"] == "done":
        output = Path(given.output or f"{found['id']}.json")
        form = output.suffix.removeprefix(".")
        service.fetch(f"/v1/jobs/{found['id']}/result?format={form}", output)
        log.info("%s: %d series, %d failed", output, found["done"], found["failed"])
    return ended(found)


class Service:
    """A running service, as a caller sees it."""

    def __init__(self, url: str, key_file: str = "") -> None:
        """key_file: file that holds the key, where the service asks for one."""
        if not url.startswith(("http://", "https://")):
            raise KitError(f"--url: expected http://HOST:PORT, found {url!r}")
        self.url, self.headers = url.rstrip("/"), {"Content-Type": "application/json"}
        if key_file:
            self.headers["Authorization"] = f"Bearer {Path(key_file).read_text(encoding='utf-8').strip()}"

    def json(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """The tree that an address answers. Raises KitError with the service's own line."""
        data = None
        if body is not None:
            data = json.dumps(body, allow_nan=False).encode()
        with self._open(method, path, data, headers or {}) as answer:
            return dict(records.parse(answer.read(), f"{self.url}{path}"))

    def fetch(self, path: str, target: Path) -> None:
        """Write what an address answers to a file."""
        with self._open("GET", path, None, {}) as answer, files.atomic(target) as temporary:
            temporary.write_bytes(answer.read())

    def _open(self, method: str, path: str, data: bytes | None, headers: dict[str, str]) -> Any:
        asked = urllib.request.Request(self.url + path, data, {**self.headers, **headers}, method=method)
        try:
            return urllib.request.urlopen(asked)
        except urllib.error.HTTPError as error:
            raise KitError(f"{self.url}{path}: {_detail(error)}") from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, ConnectionResetError | BrokenPipeError) and data is not None:
                raise KitError(
                    f"{self.url}{path}: expected at most {JOB_BYTES >> 20} MB, found {len(data) >> 20} MB and the connection "
                    "closed on the way; send fewer tickers (--tickers), or name tickers of the service's store"
                ) from None
            raise KitError(
                f"{self.url}: expected a running service, found {error.reason}; start scripts/serve.py, or use --local"
            ) from None


def _detail(error: urllib.error.HTTPError) -> str:
    """What the service says is wrong."""
    text = error.read()
    if "json" not in str(error.headers.get("content-type")):
        return f"expected an answer, found {error.code} {error.reason}; is this the service's address?"
    tree = records.parse(text, "the service's answer")
    problems = [
        f"{p['where']}: expected {p['expected']}, found {p['found']}; {p['remedy']}"
        for p in tree["problems"][:3]
    ]
    return f"{error.code} {tree['detail']} {' | '.join(problems)}".strip()


# -- known bars ----------------------------------------------------------------------------------------------
def update(given: argparse.Namespace) -> int:
    """Enter the bars of a store or price file, from a day on, where forecasts are kept."""
    with tempfile.TemporaryDirectory(prefix="update-actuals-") as folder:
        store = store_of(given.file, Path(folder))
        bars = touched = 0
        if given.state:
            kept = Kept(given.state)
            for name, dates, prices in _known(store, cli_day(given.since)):
                touched += kept.learn(name, dates, prices)
                bars += len(dates)
        else:
            service = Service(given.url, given.api_key)
            for batch in _batches(store, cli_day(given.since)):
                found = service.json("PUT", "/v1/actuals", {"actuals": batch})
                bars, touched = bars + found["bars"], touched + found["forecasts"]
    log.info("%d bars entered; more is known of %d forecasts", bars, touched)
    return 0


def _known(store: BarStore, since: str | None) -> Iterator[tuple[str, Any, Any]]:
    """Name, dates (n,) seconds and prices (n, 4) of each ticker from a day on."""
    dates = store.sessions.astype("datetime64[s]").astype(np.int64)
    first = -np.inf
    if since is not None:
        first = float(np.datetime64(since, "s").astype(np.int64))
    for place, name in enumerate(store.tickers):
        rows = slice(store.offsets[place], store.offsets[place + 1])
        own = dates[store.session[rows]]
        new = own >= first
        prices = np.asarray(store.bars[rows], np.float64)[new][:, [OPEN, HIGH, LOW, CLOSE]]
        if new.any():
            yield name, own[new], prices


def _batches(store: BarStore, since: str | None) -> Iterator[list[dict[str, Any]]]:
    """The same as bodies of `PUT /v1/actuals`, of a bounded number of bars."""
    batch: list[dict[str, Any]] = []
    held = 0
    for name, dates, prices in _known(store, since):
        for first in range(0, len(dates), BARS_AT_ONCE):
            part = slice(first, first + BARS_AT_ONCE)
            columns = dict(zip(("open", "high", "low", "close"), prices[part].T.tolist(), strict=True))
            batch.append({"series_id": name, "timestamps": texts(dates[part]), **columns})
            held += len(dates[part])
            if held >= BARS_AT_ONCE:
                yield batch
                batch, held = [], 0
    if batch:
        yield batch
