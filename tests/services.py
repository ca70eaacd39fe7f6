"""A tiny packaged model and services that serve it, for the tests of kronos/service."""

import contextlib
import functools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import requests
import uvicorn
from tiny import tiny_config, tiny_store

from kronos.delivery.package import package_model
from kronos.service.run import configuration
from kronos.service.schema import PredictRequest, read_request
from kronos.service.state import Settings, State, build
from kronos.training.stages import run_stage

ROOT = Path(__file__).resolve().parents[1]
JSON = {"Content-Type": "application/json"}


@functools.cache
def tiny_models() -> Path:
    """models/tiny with v1.0.0 and v1.0.1 (other weights), made once in a test session; `production` is
    v1.0.0.
    """
    holder = tempfile.TemporaryDirectory(prefix="kit-models-")
    _holders.append(holder)
    folder = Path(holder.name)
    for number in range(2):
        short = {
            "training__tokenizer_epochs": 1,
            "training__basemodel_epochs": 1,
            "training__samples_per_epoch": 4,
        }
        config = tiny_config(folder / str(number), training__seed=number, **short)
        store = tiny_store(Path(config.data.store))
        for stage in ("tokenizer", "basemodel"):
            assert run_stage(config, stage, store) == "complete"
        package_model(config, folder / "models", "tiny")
    root = folder / "models" / "tiny"
    point(root, "production", "v1.0.0")
    return root


_holders: list[tempfile.TemporaryDirectory[str]] = []
"""Kept until the session ends."""


def point(root: Path, alias: str, version: str) -> None:
    """Let an alias name a version, in one step."""
    beside = root / f".{alias}.new"
    beside.unlink(missing_ok=True)
    beside.symlink_to(version)
    beside.replace(root / alias)


def series(name: str, bars: int = 30, seed: int = 0, **more: Any) -> dict[str, Any]:
    """One series of a request: a random walk on weekdays of 2024."""
    rng = np.random.default_rng(seed)
    days = np.datetime64("2024-01-01") + np.arange(2 * bars + 10)
    days = days[np.is_busday(days)][:bars]
    close = 50 * np.exp(np.cumsum(rng.normal(0, 0.02, bars)))
    columns = {"open": close * 0.999, "high": close * 1.01, "low": close * 0.99, "close": close}
    volume = rng.lognormal(10, 0.3, bars)
    tree = {name: values.tolist() for name, values in {**columns, "volume": volume}.items()}
    return {"series_id": name, "timestamps": [str(day) for day in days], **tree, **more}


def tree(count: int = 1, first: int = 0, **settings: Any) -> dict[str, Any]:
    """A request of `count` series, as JSON."""
    own = [series(f"S{number}", seed=number) for number in range(first, first + count)]
    return {"stock_data": own, "prediction_horizon": 3, **settings}


def asked(count: int = 1, first: int = 0, **settings: Any) -> PredictRequest:
    """A request of `count` series, read."""
    return read_request(json.dumps(tree(count, first, **settings)).encode())


@dataclass
class Local:
    """A service in a thread of this process."""

    url: str
    state: State

    def post(self, path: str = "/v1/predict", body: Any = None, **settings: Any) -> requests.Response:
        """POST JSON (or bytes as they are)."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return requests.post(self.url + path, **{"data": data, "headers": JSON, "timeout": 60, **settings})

    def get(self, path: str, **settings: Any) -> requests.Response:
        """GET"""
        return requests.get(self.url + path, timeout=60, **settings)


@contextlib.contextmanager
def local(model: Path, **settings: Any) -> Iterator[Local]:
    """Serve `model` from a thread, on a free port."""
    state = build(replace(Settings(model=model), **settings))
    server = uvicorn.Server(configuration(state))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Local(f"http://127.0.0.1:{port}", state)
    finally:
        server.should_exit = True
        thread.join(30)


@dataclass
class Process:
    """scripts/serve.py."""

    running: "subprocess.Popen[str]"
    url: str
    lines: list[str]

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.running.send_signal(number)
        return self.running.wait(60)


@contextlib.contextmanager
def process(model: Path, *arguments: str) -> Iterator[Process]:
    """scripts/serve.py on a free port, from its ready line on; killed in the end where it still runs."""
    command = [sys.executable, str(ROOT / "scripts" / "serve.py"), "--model", str(model), "--port", "0"]
    running = subprocess.Popen(
        [*command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    lines: list[str] = []
    assert running.stdout is not None
    try:
        for line in running.stdout:
            lines.append(line)
            if found := re.match(r"ready: (http://\S+)", line):
                threading.Thread(target=lambda: lines.extend(running.stdout or []), daemon=True).start()
                yield Process(running, found[1], lines)
                break
        else:
            raise AssertionError("".join(lines))
    finally:
        if running.poll() is None:
            running.kill()
        running.wait()


def wait_for(holds: Any, seconds: float = 120) -> None:
    """Return when `holds()` does; fails after `seconds`."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)
