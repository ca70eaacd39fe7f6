"""Chunks on other machines, through Celery: the lease stays here, only the computing goes away.

In: the jobs of a state folder, a broker (RabbitMQ or Redis). Out: result files, written by the dispatcher.
celery (extra `celery`) here only; JSON only, nothing that is unpickled.

The broker is not trusted with anything but time. A chunk that it delivers twice is computed twice, to the same
answer, and the first one back is written; one that it loses is sent again. Which answer counts is decided by the
lease, as for a worker beside the table.
"""

import logging
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from celery import Celery
from celery.result import AsyncResult

from kronos.errors import KitError
from kronos.service.database import DiskFull
from kronos.service.jobs import Jobs
from kronos.service.lease import Chunk, LeaseLost
from kronos.service.worker import Keeper, Models, answer

log = logging.getLogger(__name__)

TASK, QUEUE = "kronos.chunk", "kronos.chunks"
PATIENCE = 4.0
"""Leases after which a chunk that was sent and not answered is sent anew. Until then the broker may hand it to
another worker by itself."""
POLL_SECONDS = 0.05
RESULT_SECONDS = 3600
"""How long an answer that nobody fetched stays with the broker."""


def application(url: str, lease: float) -> Celery:
    """Celery's side of both ends. lease: seconds after which Redis gives a chunk to another worker; RabbitMQ
    does it when the connection ends. Raises KitError for another kind of broker."""
    backend = {"amqp": "rpc://", "redis": url, "rediss": url}.get(url.partition(":")[0])
    if backend is None:
        kind = url.partition(":")[0]
        raise KitError(
            f"--broker: expected amqp://HOST or redis://HOST, found {kind!r}; docs/jobs.md has both"
        )
    app = Celery("kronos", broker=url, backend=backend, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        result_accept_content=["json"],
        task_default_queue=QUEUE,
        task_acks_late=True,
        task_track_started=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        result_expires=RESULT_SECONDS,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
    )
    if backend != "rpc://":
        app.conf.broker_transport_options = {
            "visibility_timeout": lease,
            "unacked_restore_interval": 2,
            "unacked_restore_throttle": 1,
        }
    return app


# -- the other machine ---------------------------------------------------------------------------------------
def serve(url: str, models: Models, lease: float) -> None:
    """Compute chunks that come from the broker, until a signal ends it."""
    app = application(url, lease)

    @app.task(name=TASK)
    def chunk(version: str, digest: str, options: dict[str, Any], series: list[dict[str, Any]]) -> Any:
        try:
            model = models.get(version, digest)
        except KitError as error:
            return {"refused": str(error)}
        return {"answers": answer(model, options, series)}

    # One process: a kill leaves no child that goes on with a chunk that somebody else has by then.
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    app.worker_main(["worker", "--pool=solo", "--loglevel=WARNING", *quiet])


# -- beside the table ----------------------------------------------------------------------------------------
@dataclass
class Flight:
    """A chunk that was sent and has not come back."""

    chunk: Chunk
    series: list[dict[str, Any]]
    result: AsyncResult
    sent: float = field(default_factory=time.monotonic)
    started: bool = False


class Dispatcher:
    """Claims chunks like a worker, and lets other machines compute them."""

    def __init__(self, jobs: Jobs, url: str, *, keeper: Keeper | None = None, in_flight: int = 4) -> None:
        """in_flight: chunks under way at once; a few more than there are machines. Raises KitError."""
        self.jobs, self.keeper, self.in_flight = jobs, keeper, in_flight
        self.app = application(url, jobs.lease)
        self._holds_results = not url.startswith(
            "amqp"
        )  # with RabbitMQ an answer is a message, gone when read
        self.name = f"broker-{id(self):x}"
        self.stop = threading.Event()
        self._flights: list[Flight] = []

    def run(self, until_idle: bool = False) -> None:
        """Send and receive until `stop` is set; what is under way is given back then."""
        beaten = time.monotonic()
        while not self.stop.is_set():
            sent = self._send()
            self._flights = [flight for flight in self._flights if not self._landed(flight)]
            if time.monotonic() - beaten > self.jobs.lease / 3:
                self._beat()
                beaten = time.monotonic()
            if until_idle and not self._flights and self.jobs.idle():
                return
            if not sent:
                self.stop.wait(POLL_SECONDS)
        for flight in self._flights:
            self._quietly(self.jobs.release, flight.chunk)

    def _send(self) -> bool:
        """Send the next chunk; whether there was one and room for it."""
        if len(self._flights) >= self.in_flight:
            return False
        try:
            chunk = self.jobs.claim(self.name, "broker")
        except DiskFull as error:
            log.error("%s", error)
            return False
        if chunk is None:
            return False
        series = self.jobs.read(chunk)
        result = self.app.send_task(
            TASK,
            args=(chunk.version, chunk.digest, chunk.options, series),
            expires=PATIENCE * self.jobs.lease,  # what is sent anew by then is not wanted from an old message
        )
        self._flights.append(Flight(chunk, series, result))
        return True

    def _landed(self, flight: Flight) -> bool:
        """Whether nothing more is awaited of a chunk; writes what has come."""
        state = flight.result.state
        flight.started = flight.started or state == "STARTED"
        if state == "SUCCESS":
            self._quietly(self._write, flight, flight.result.result)
        elif state in ("FAILURE", "REVOKED"):
            self._quietly(self.jobs.fail, flight.chunk, f"on another machine: {flight.result.result}")
        elif time.monotonic() - flight.sent > PATIENCE * self.jobs.lease:
            self._quietly(self._lost, flight)
        else:
            return False
        if self._holds_results:
            flight.result.forget()
        return True

    def _write(self, flight: Flight, told: dict[str, Any]) -> None:
        if "refused" in told:
            self.jobs.fail_job(flight.chunk.job, told["refused"])
            return
        also, answers = None, told["answers"]
        if self.keeper is not None:
            also = self.keeper.of_chunk(flight.chunk, flight.series, answers)
        try:
            self.jobs.finish(flight.chunk, answers, also)
        except DiskFull as error:
            self.jobs.no_room(flight.chunk, error)

    def _lost(self, flight: Flight) -> None:
        """Nothing came back. A chunk that some machine began may have ended it; another waited in vain."""
        if flight.started:
            self.jobs.fail(flight.chunk, "a worker on another machine went silent")
            return
        log.warning("%s, chunk %d: no machine took it; sent again", flight.chunk.job, flight.chunk.number)
        self.jobs.release(flight.chunk)

    def _beat(self) -> None:
        for flight in self._flights:
            self._quietly(self.jobs.beat, flight.chunk)

    def _quietly(self, call: Any, *given: Any) -> None:
        """Call; a lost lease or a full disk is said and costs only the chunk's next try."""
        try:
            call(*given)
        except (LeaseLost, DiskFull) as error:
            log.warning("%s", error)
