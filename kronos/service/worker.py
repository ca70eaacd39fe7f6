"""A worker: claims chunks, computes them with the package that their job names, writes the answers.

In: the jobs of a state folder, the folder of a model's versions. Out: result files. It may be killed at any
time, and several run at once; see `jobs`.
"""

import logging
import os
import re
import secrets
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from pydantic_core import to_json

from kronos.errors import KitError
from kronos.service.database import DiskFull
from kronos.service.jobs import Jobs
from kronos.service.lease import Chunk, LeaseLost
from kronos.service.schema import Limits, PredictRequest, read_request

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
"""How often a worker without work looks for some."""
GRACE_SECONDS = 15.0
"""How long a chunk may go on after the worker was asked to end; then its lease is given back."""
CHUNK_LIMITS = Limits(series=10_000, bars=100_000, path_bars=10**12)
"""A chunk was cut to what fits; what a job may ask for was checked when it came."""
NAMED = re.compile(r"stock_data\[(\d+)\]")

Answers = list[dict[str, Any]]


class Model(Protocol):
    """What a worker needs of a loaded package."""

    digest: str

    def forecast(self, request: PredictRequest) -> dict[str, Any]:
        """The whole answer to a checked request."""


class Keeper(Protocol):
    """Where forecasts are kept for `quality`."""

    def of_chunk(self, chunk: Chunk, series: Answers, answers: Answers) -> Callable[..., None]:
        """Write the chunk's forecasts; what is returned enters them in the index, inside a transaction."""


class Models:
    """The loaded package that chunks name; the last one stays loaded."""

    def __init__(self, load: Callable[[str, str], Model]) -> None:
        """load: version and digest -> the loaded package; raises KitError where it is not there."""
        self.load = load
        self._loaded: tuple[str, Model] | None = None

    def get(self, version: str, digest: str) -> Model:
        """The package of a digest. Raises KitError."""
        if self._loaded is None or self._loaded[0] != digest:
            self._loaded = None  # before the next is loaded: the memory may hold only one
            self._loaded = (digest, self.load(version, digest))
        return self._loaded[1]

    def take(self, digest: str, model: Model) -> None:
        """Have a package that is loaded already."""
        self._loaded = (digest, model)


class Worker:
    """Works on chunks until it is told to stop."""

    def __init__(
        self,
        jobs: Jobs,
        models: "Models",
        *,
        device: str = "cpu",
        keeper: Keeper | None = None,
    ) -> None:
        """models: packages by version and digest. device: only said of this worker."""
        self.jobs, self.models, self.device, self.keeper = jobs, models, device, keeper
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
        self.stop = threading.Event()

    def run(self, until_idle: bool = False) -> None:
        """Work until `stop` is set. until_idle: return, too, when no chunk is waiting or lent."""
        while not self.stop.is_set():
            if self.run_once():
                continue
            if until_idle and self.jobs.idle():
                return
            self.stop.wait(POLL_SECONDS)

    def run_once(self) -> bool:
        """Work on the next chunk; whether there was one."""
        try:
            chunk = self.jobs.claim(self.name, self.device)
        except DiskFull as error:
            log.error("%s", error)
            return False
        if chunk is None:
            return False
        self.work(chunk)
        return True

    def work(self, chunk: Chunk) -> None:
        """Compute one chunk and write what became of it."""
        with Heart(self.jobs, chunk, self.stop):
            try:
                self._finish(chunk)
            except LeaseLost as lost:
                log.warning("%s", lost)
            except DiskFull as error:
                log.error("%s", error)
                self._say_no_room(chunk, error)
            except Exception as error:  # whatever it is, it is written down and said
                log.exception("%s, chunk %d", chunk.job, chunk.number)
                self._blame(chunk, f"{type(error).__name__}: {error}")

    def _finish(self, chunk: Chunk) -> None:
        try:
            model = self.models.get(chunk.version, chunk.digest)
        except KitError as error:
            self.jobs.fail_job(chunk.job, str(error))
            return
        series = self.jobs.read(chunk)
        answers = answer(model, chunk.options, series)
        also = None if self.keeper is None else self.keeper.of_chunk(chunk, series, answers)
        self.jobs.finish(chunk, answers, also)

    def _blame(self, chunk: Chunk, reason: str) -> None:
        try:
            self.jobs.fail(chunk, reason)
        except LeaseLost as lost:
            log.warning("%s", lost)

    def _say_no_room(self, chunk: Chunk, error: DiskFull) -> None:
        try:
            self.jobs.no_room(chunk, error)
        except (LeaseLost, DiskFull) as again:
            log.error("%s", again)


class Heart:
    """Prolongs the lease of one chunk while its block runs; gives it back where the worker has to end."""

    def __init__(self, jobs: Jobs, chunk: Chunk, stop: threading.Event) -> None:
        self.jobs, self.chunk, self.stop = jobs, chunk, stop
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> "Heart":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        """Every third of the lease, so that two beats may fail. A lost lease is found again by `finish`."""
        try:
            ending = 0.0
            while not self._over.wait(min(1.0, self.jobs.lease / 3)):
                ending = ending + min(1.0, self.jobs.lease / 3) if self.stop.is_set() else 0.0
                if ending > GRACE_SECONDS:
                    self.jobs.release(self.chunk)
                    log.warning("%s, chunk %d: given back", self.chunk.job, self.chunk.number)
                    os._exit(0)  # the computation cannot be interrupted
                self.jobs.beat(self.chunk)
        except (LeaseLost, DiskFull) as error:
            log.warning("%s", error)
        finally:
            self.jobs.database.close()


def as_request(options: dict[str, Any], series: Answers) -> PredictRequest:
    """The checked request of some series of a job. Raises Refused."""
    return read_request(to_json({**options, "stock_data": series}), CHUNK_LIMITS)


def answer(model: Model, options: dict[str, Any], series: Answers) -> Answers:
    """What a model says of each series: a prediction, or `failed` with the reason.

    A series that cannot be forecast fails alone: the others are computed without it.
    """
    try:
        found = model.forecast(as_request(options, series))
    except KitError as error:
        return _without_the_bad(model, options, series, error)
    return list(found["predictions"])


def _without_the_bad(model: Model, options: dict[str, Any], series: Answers, error: KitError) -> Answers:
    """The same after an error: for the series that it names alone, or for halves where it names none."""
    if len(series) == 1:
        return [{"series_id": series[0]["series_id"], "failed": str(error)}]
    reasons = _named(error, len(series))
    if not reasons or len(reasons) == len(series):
        half = len(series) // 2
        return answer(model, options, series[:half]) + answer(model, options, series[half:])
    good = [one for place, one in enumerate(series) if place not in reasons]
    rest = iter(answer(model, options, good))
    answers: Answers = []
    for place, one in enumerate(series):
        if place in reasons:
            answers.append({"series_id": one["series_id"], "failed": reasons[place]})
        else:
            answers.append(next(rest))
    return answers


def _named(error: KitError, count: int) -> dict[int, str]:
    """Positions of the series that an error's problems name, and what is wrong with each."""
    reasons: dict[int, str] = {}
    for problem in getattr(error, "problems", []):
        found = NAMED.match(problem.where)
        if found is None or int(found[1]) >= count:
            return {}
        reasons.setdefault(
            int(found[1]), f"expected {problem.expected}, found {problem.found}; {problem.remedy}"
        )
    return reasons


def load_package(folder: Path, device: str) -> tuple[str, Model]:
    """Digest and networks of a packaged version. Raises KitError."""
    from kronos.service.served import Served  # torch: not needed by who only sends chunks away

    found = Served.load(folder, device)
    return found.digest, found


def packages(root: Path, device: str, alias: str = "") -> Models:
    """Packages below `root` (models/NAME, or one version itself). alias: the one that is loaded at once; it is
    said where that is not there."""

    def load(version: str, digest: str) -> Model:
        folder = root / version
        if not folder.is_dir():
            folder = root
        found, model = load_package(folder, device)
        if found != digest:
            raise KitError(
                f"{folder}: expected the package with the digest {digest[:12]}, for which the job was submitted, "
                f"found {found[:12]}; submit the job again"
            )
        return model

    models = Models(load)
    if alias:
        try:
            models.take(*load_package(root / alias, device))
        except KitError as error:
            log.warning("%s", error)
    return models
