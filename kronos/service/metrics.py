"""What an operator sees: counters and gauges in the form that Prometheus reads.

In: what the service tells as it happens. Out: the text of `GET /metrics`. Each application has a registry of
its own, so that two in one process do not mix.
"""

from typing import Any

import psutil
import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
SERIES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
GPU_PARTS = ("allocated", "reserved", "free")


class Metrics:
    """All of them; `registry` takes more (jobs, quality)."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("kronos_requests", "Answers by route and status", ["route", "status"], **own)
        self.seconds = Histogram(
            "kronos_request_seconds",
            "Seconds of a predict request: waiting (queue), the networks (compute), all of it (total)",
            ["part"],
            buckets=SECONDS,
            **own,
        )
        self.batch = Histogram("kronos_batch_series", "Series of one computed call", buckets=SERIES, **own)
        self.waiting = Gauge("kronos_waiting_series", "Series that wait", **own)
        self.rejected = Counter("kronos_rejected", "Requests without an answer, by reason", ["reason"], **own)
        self.swaps = Counter("kronos_swaps", "Versions that took over, or were refused", ["result"], **own)
        self.model = Gauge(
            "kronos_model", "1 for the version that serves", ["name", "version", "digest"], **own
        )
        self.workers = Counter("kronos_worker_restarts", "Workers that ended and were started again", **own)
        self.memory = Gauge("kronos_resident_bytes", "Memory of this process", **own)
        self.gpu = Gauge("kronos_gpu_bytes", "Memory of the GPU, by part", ["part"], **own)
        for result in ("done", "refused"):
            self.swaps.labels(result)
        for reason in ("queue full", "deadline", "client left", "draining"):
            self.rejected.labels(reason)

    def text(self) -> bytes:
        """All values now."""
        self.memory.set(resident_bytes())
        for part, value in gpu_bytes().items():
            self.gpu.labels(part).set(value)
        return generate_latest(self.registry)


def resident_bytes() -> int:
    """Memory of this process."""
    return int(psutil.Process().memory_info().rss)


def gpu_bytes() -> dict[str, int]:
    """Bytes of the GPU by part; empty where no GPU is in use."""
    if not (torch.cuda.is_available() and torch.cuda.is_initialized()):
        return {}
    free, _ = torch.cuda.mem_get_info()
    values = (torch.cuda.memory_allocated(), torch.cuda.memory_reserved(), free)
    return dict(zip(GPU_PARTS, map(int, values), strict=True))
