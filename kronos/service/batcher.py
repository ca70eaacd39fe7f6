"""Concurrent callers in one forecaster call, without waiting for anybody.

In: prepared requests. Out: their answers. One thread computes; whenever it is free it takes the oldest request
and all others that share a call with it (`Served.shares`), at most as many series as memory and processor take
at once. The queue is bounded; what nobody waits for any more, or what is too late, is dropped before it is
computed. Everything here but the computation runs in the event loop, so there is no lock.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from kronos.errors import KitError
from kronos.service.schema import PredictRequest, Problem, Refused
from kronos.service.served import Computed, Prepared, Served

log = logging.getLogger(__name__)

MOST_WAITING = 1024
"""Series that may wait."""
INLINE = 8
"""Series that are prepared and answered in the event loop; more would hold it up for too long."""

Made = TypeVar("Made")


@dataclass(eq=False)
class Ticket:
    """A part of a request that waits for, or is in, one call."""

    served: Served
    prepared: Prepared
    done: "asyncio.Future[Computed]"
    most: int
    """Series that one call may have with it."""
    started: float = math.nan
    """time.perf_counter() seconds"""
    ended: float = math.nan
    batch: int = 0
    """Series of the call that it was computed in."""

    @property
    def series(self) -> int:
        """Series that were asked about."""
        return len(self.prepared.bars)


@dataclass
class Seen:
    """What a metric is told: does nothing by itself."""

    batch: Callable[[int], None] = lambda series: None
    seconds: Callable[[str, float], None] = lambda part, seconds: None
    rejected: Callable[[str], None] = lambda reason: None
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=100))
    """Seconds of the latest calls."""


class Batcher:
    """The queue and its one computing thread. Use it inside a running event loop: `start`, `stop`."""

    def __init__(self, most_waiting: int = MOST_WAITING, most_series: int | None = None) -> None:
        """most_series: of one call at most; None: as memory and processor take; 1: no batching."""
        self.most_waiting, self.most_series = most_waiting, most_series
        self.seen = Seen()
        self.busy_since: float | None = None
        """When the call under way began, time.perf_counter() seconds."""
        self._queues: tuple[deque[Ticket], deque[Ticket]] = (deque(), deque())
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "compute")
        self._side = ThreadPoolExecutor(1, "answers")
        self._task: asyncio.Task[None] | None = None
        self._per_series = 0.1
        """Seconds that a series took lately."""
        self._computed: list[Ticket] = []
        """Those of the call under way."""

    # -- for callers -----------------------------------------------------------------------------------------
    async def forecast(
        self, served: Served, request: PredictRequest, *, urgent: bool = True
    ) -> dict[str, Any]:
        """The answer to a request, as `Served.forecast` gives it, with `timing`.

        urgent: before everything that is not. Cancelling drops it from the queue. Raises Refused: 422 as
        `prepare` and `answer` do, 429 where the queue is full, 504 past the request's deadline.
        """
        arrived = time.perf_counter()
        prepared = await self.aside(len(request.stock_data), served.prepare, request)
        tickets = self._enqueue(served, prepared, urgent)
        expiry = asyncio.get_running_loop().call_at(
            asyncio.get_running_loop().time() + request.deadline_s - (time.perf_counter() - arrived),
            self._expire,
            tickets,
            request.deadline_s,
        )
        try:
            parts = await asyncio.gather(*(ticket.done for ticket in tickets))
        finally:
            expiry.cancel()
            for ticket in tickets:
                ticket.done.cancel()
        computed = _joined(parts)
        answer = await self.aside(len(prepared.bars), served.answer, request, prepared, computed)
        queue, compute = tickets[0].started - arrived, tickets[-1].ended - tickets[0].started
        self.seen.seconds("queue", queue)
        self.seen.seconds("compute", compute)
        answer["timing"] = {
            "queue_ms": round(1000 * queue, 3),
            "compute_ms": round(1000 * compute, 3),
            "batch_series": max(ticket.batch for ticket in tickets),
        }
        return answer

    async def aside(self, series: int, work: Callable[..., Made], *given: Any) -> Made:
        """`work(*given)`: at once where it is about few series, else in a thread beside the event loop."""
        if series <= INLINE:
            return work(*given)
        return await asyncio.get_running_loop().run_in_executor(self._side, work, *given)

    @property
    def waiting(self) -> int:
        """Series that wait."""
        return sum(ticket.series for ticket in self._all())

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is computed."""
        return self.busy_since is None and self.waiting == 0

    def start(self) -> None:
        """Begin to compute."""
        self._task = asyncio.create_task(self._run())

    def give_up(self) -> None:
        """Tell everybody who waits, or whose call is under way, that there will be no answer (503)."""
        for ticket in [*self._all(), *self._computed]:
            if not ticket.done.done():
                refused = Refused(503, "draining", "the service ended before the answer; ask again")
                refused.headers = {"Retry-After": "5"}
                ticket.done.set_exception(refused)

    async def stop(self) -> None:
        """End the computing task; whoever still waits gets a 503."""
        self.give_up()
        if self._task is not None:
            self._task.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._side.shutdown(wait=False, cancel_futures=True)

    # -- the queue -------------------------------------------------------------------------------------------
    def _enqueue(self, served: Served, prepared: Prepared, urgent: bool) -> list[Ticket]:
        """Put a request into the queue, in parts of at most one call. Raises Refused (429) where it is full."""
        count = len(prepared.bars)
        self.check_room(count)
        size = self._most(served, prepared)
        loop = asyncio.get_running_loop()
        tickets = []
        for first in range(0, count, size):
            part = prepared.part(slice(first, first + size))
            tickets.append(Ticket(served, part, loop.create_future(), size))
        self._queues[0 if urgent else 1].extend(tickets)
        self._wake.set()
        return tickets

    def check_room(self, count: int = 1) -> None:
        """Raise Refused (429) where so many series would not fit into the queue."""
        waiting = self.waiting
        if waiting + count > self.most_waiting:
            self.seen.rejected("queue full")
            seconds = min(60, max(1, math.ceil(waiting * self._per_series)))
            problem = Problem(
                "queue",
                f"room for {count} series beside at most {self.most_waiting} that wait",
                f"{waiting} waiting",
                f"ask again in {seconds} s",
            )
            raise Refused(429, "queue_full", problem.line(), [problem], {"Retry-After": str(seconds)})

    def _most(self, served: Served, prepared: Prepared) -> int:
        """Series of one call."""
        planned = served.at_once(prepared.length, prepared.steps, prepared.paths)
        return min(planned, self.most_series or planned)

    def _expire(self, tickets: list[Ticket], seconds: float) -> None:
        """Drop what has not been begun by the deadline."""
        late = [ticket for ticket in tickets if math.isnan(ticket.started) and not ticket.done.done()]
        if not late:
            return
        self.seen.rejected("deadline")
        problem = Problem(
            "deadline_s", f"an answer within {seconds:g} s", "more work before it", "raise it, or ask later"
        )
        late[0].done.set_exception(Refused(504, "deadline", problem.line(), [problem]))

    def _all(self) -> Iterator[Ticket]:
        """What waits and is still wanted."""
        for queue in self._queues:
            for ticket in queue:
                if not ticket.done.done():
                    yield ticket

    def _take(self) -> list[Ticket]:
        """The oldest ticket and all that share a call with it; those nobody waits for leave the queue."""
        for queue in self._queues:
            wanted = [ticket for ticket in queue if not ticket.done.done()]
            queue.clear()
            queue.extend(wanted)
        first = next(self._all(), None)
        if first is None:
            return []
        taken, total, most = [first], first.series, first.most
        for ticket in self._all():
            if ticket is first or ticket.served is not first.served:
                continue
            both = min(most, ticket.most)
            if total + ticket.series > both:
                continue
            if all(first.served.shares(ticket.prepared, other.prepared) for other in taken):
                taken.append(ticket)
                total, most = total + ticket.series, both
        chosen = set(map(id, taken))
        for queue in self._queues:
            left = [ticket for ticket in queue if id(ticket) not in chosen]
            queue.clear()
            queue.extend(left)
        return taken

    # -- computing -------------------------------------------------------------------------------------------
    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            batch = self._take()
            if not batch:
                self._wake.clear()
                continue
            await self._compute(batch)

    async def _compute(self, batch: list[Ticket]) -> None:
        """One call; where it fails and several shared it, one call each: nobody pays for another's series."""
        series = sum(ticket.series for ticket in batch)
        self.busy_since = started = time.perf_counter()
        for ticket in batch:
            ticket.started, ticket.batch = started, series
        served, self._computed = batch[0].served, batch
        try:
            found = await asyncio.get_running_loop().run_in_executor(
                self._thread, served.compute, [ticket.prepared for ticket in batch]
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to the callers
            await self._apart(batch, error)
            return
        finally:
            self.busy_since, self._computed = None, []
        ended = time.perf_counter()
        self._per_series = 0.7 * self._per_series + 0.3 * (ended - started) / series
        self.seen.batch(series)
        self.seen.recent.append(ended - started)
        for ticket, computed in zip(batch, found, strict=True):
            ticket.ended = ended
            if not ticket.done.done():
                ticket.done.set_result(computed)

    async def _apart(self, batch: list[Ticket], error: Exception) -> None:
        if len(batch) > 1:
            log.warning("a call of %d requests failed (%s): each is computed apart", len(batch), _line(error))
            for ticket in batch:
                await self._compute([ticket])
            return
        ticket = batch[0]
        if not ticket.done.done():
            ticket.done.set_exception(error)


def _line(error: Exception) -> str:
    """What a log may say of an error: a KitError's line; of others the kind only, they may hold data."""
    return str(error) if isinstance(error, KitError) else type(error).__name__


def _joined(parts: list[Computed]) -> Computed:
    if len(parts) == 1:
        return parts[0]
    paths = np.concatenate([part.paths for part in parts])
    listed = [part.listed for part in parts if part.listed is not None]
    return Computed(paths, np.concatenate(listed) if listed else None)
