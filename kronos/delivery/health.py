"""Is a service there, does it serve the version that it should, and does it answer?

In: the address of a service, optionally the version and a package whose golden series is asked. Out: lines
for a person, or a KitError. No torch.
"""

import http.client
import json
import statistics
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from kronos import records
from kronos.bars import FEATURES
from kronos.delivery.package_facts import read_golden
from kronos.errors import KitError

READY, PREDICT = "/health/ready", "/v1/predict"
LONGEST = 4 * 2**20
"""Bytes of an answer that are read."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Health:
    """The body of /health/ready, as far as it is read here."""

    status: Literal["healthy", "degraded"]
    version: str
    inference_time_ms: Annotated[float, ">= 0"] | None = None
    gpu_memory_mb: Annotated[float, ">= 0"] | None = None
    reasons: list[str] | None = None

    def line(self, url: str) -> str:
        """For a person."""
        said = [f"{url}: {self.status}, serves {self.version}"]
        if self.inference_time_ms is not None:
            said.append(f"inference {self.inference_time_ms:.0f} ms")
        if self.gpu_memory_mb is not None:
            said.append(f"GPU memory {self.gpu_memory_mb:,.0f} MB")
        return ", ".join(said + (self.reasons or []))


class NotReady(KitError):
    """The service is not there, not ready, or serves another version."""


@dataclass(frozen=True)
class Service:
    """A service at an address."""

    url: str
    key: str = ""
    """Sent as `Authorization: Bearer`, where the service asks for one."""
    timeout: float = 10.0
    """Seconds for one call."""

    def health(self, expect: str | None = None) -> Health:
        """What /health/ready says. Raises NotReady where it is not there or not ready, or where it serves
        another version than `expect`."""
        status, body = self._call(READY, None)
        where = f"{self.url}{READY}"
        if status != 200:
            raise NotReady(
                f"{where}: expected 200, found {status}: {_shown(body)}; look at the service's log"
            )
        health = records.check(records.parse(body, where), Health, where)
        if expect and health.version != expect:
            raise NotReady(f"{where}: expected version {expect}, found {health.version}")
        return health

    def wait(self, expect: str | None, seconds: float) -> Health:
        """`health`, asked again until it is as expected or the time is over (NotReady)."""
        end = time.monotonic() + seconds
        while True:
            try:
                return self.health(expect)
            except NotReady:
                if time.monotonic() >= end:
                    raise
            time.sleep(0.5)

    def forecast(self, body: dict[str, Any], expect: str | None = None) -> float:
        """Ask for a forecast; seconds until the whole answer was there. Raises KitError where it is no answer,
        or one by another version than `expect`."""
        start = time.monotonic()
        status, answer = self._call(PREDICT, json.dumps(body).encode())
        seconds = time.monotonic() - start
        where = f"{self.url}{PREDICT}"
        if status != 200:
            raise KitError(f"{where}: expected 200, found {status}: {_shown(answer)}")
        found = records.check(records.parse(answer, where), _Answer, where)
        if len(found.predictions) != len(body["stock_data"]):
            raise KitError(f"{where}: expected a prediction for each series, found {len(found.predictions)}")
        if expect and found.model.version != expect:
            raise KitError(f"{where}: expected an answer by {expect}, found one by {found.model.version}")
        return seconds

    def _call(self, path: str, body: bytes | None) -> tuple[int, bytes]:
        """Status and body. Raises NotReady where nobody answers."""
        request = urllib.request.Request(self.url + path, data=body, headers={"Accept": "application/json"})
        if body is not None:
            request.add_header("Content-Type", "application/json")
        if self.key:
            request.add_header("Authorization", f"Bearer {self.key}")
        try:
            with self._opener().open(request, timeout=self.timeout) as answer:
                return answer.status, answer.read(LONGEST)
        except urllib.error.HTTPError as error:
            return error.code, error.read(LONGEST)
        except (OSError, http.client.HTTPException) as error:
            reason = " ".join(str(getattr(error, "reason", error)).split())
            raise NotReady(f"{self.url}: expected a service, found none that answers ({reason})") from error

    def _opener(self) -> urllib.request.OpenerDirector:
        """Without the environment's proxy on this machine itself."""
        if urllib.parse.urlsplit(self.url).hostname in LOOPBACK:
            return urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return urllib.request.build_opener()


def service_at(url: str, key_file: str | None = None, timeout: float = 10.0) -> Service:
    """A service by its address. key_file: a file that holds the key. Raises KitError for another form."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise KitError(f"URL: expected http://HOST:PORT, found {url!r}")
    key = ""
    if key_file:
        path = Path(key_file)
        if not path.is_file():
            raise KitError(f"{path}: expected a file that holds the key, found no such file")
        key = path.read_text(encoding="utf-8").strip()
    return Service(f"{parts.scheme}://{parts.netloc}", key, timeout)


def try_forecasts(service: Service, package: str | Path, count: int, expect: str | None = None) -> str:
    """Ask for `count` forecasts of the package's golden series, each with a seed of its own. Returns a line.

    Raises KitError at the first one that is not answered.
    """
    golden = read_golden(package)
    columns = zip(FEATURES, zip(*golden.bars, strict=True), strict=True)
    length = len(golden.bars)
    series: dict[str, Any] = {"series_id": "golden", "timestamps": golden.dates[:length]}
    series |= {name: list(values) for name, values in columns}
    series["future_timestamps"] = golden.dates[length:]
    seconds = []
    for seed in range(count):
        body = {"stock_data": [series], "prediction_horizon": golden.horizon, "seed": seed}
        seconds.append(service.forecast(body, expect))
    return f"{count} forecasts answered, median {1000 * statistics.median(seconds):.0f} ms"


@dataclass(frozen=True)
class _Model:
    version: str


@dataclass(frozen=True)
class _Answer:
    model: _Model
    predictions: list[Any]


def _shown(body: bytes) -> str:
    text = " ".join(body[:200].decode("utf-8", "replace").split())
    return text or "no text"
