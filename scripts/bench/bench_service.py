#!/usr/bin/env python3
"""What the service costs and gains, in one run and as ratios: seconds of a shared machine wander.

    python scripts/bench/bench_service.py                       nano and mini, random weights, 256 bars + 30 steps
    python scripts/bench/bench_service.py --presets nano --requests 10000

For each preset a package is made of random weights (one optimiser step). Measured, one after the other and in
turn; seconds of the processor stand beside those of the clock, which a busy machine stretches:
* ready: from exec of scripts/serve.py to a healthy /health/ready, beside `import torch` alone.
* http: one client, one series, 33 paths and 1 path: requests over HTTP minus the library on the same series.
* batching: 32 clients of one series each, one path, against the same service with --batch-series 1.
* horizons: the same with 32 horizons, 5 to 36.
* memory: of the service, before and after --requests requests.
* storm: 2,000 requests at once: how many got which status, seconds of /health/live meanwhile.
Every answer of batching and horizons is compared with the library's alone. The last line is JSON.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a clone, without an installation

import numpy as np
import psutil

from kronos import cli, configfile
from kronos.config import Config
from kronos.data.store_writer import store_from_dict
from kronos.delivery.package import package_model
from kronos.service.schema import PredictRequest, read_request
from kronos.service.served import Served
from kronos.training.stages import run_stage

BARS, STEPS, CLIENTS = 256, 30, 32
WATCH = """
import json, select, sys, time, urllib.request
took = []
while not select.select([sys.stdin], [], [], 0.01)[0]:
    begun = time.perf_counter()
    urllib.request.urlopen(sys.argv[1] + "/health/live", timeout=600).read()
    took.append(time.perf_counter() - begun)
print(json.dumps(took))
"""
"""Seconds of /health/live until the input ends: a process of its own, since 2,000 threads share an interpreter."""
SERVE = Path(__file__).resolve().parents[1] / "serve.py"


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    arguments.add_argument(
        "--presets", nargs="+", default=["nano", "mini"], choices=("nano", "mini", "small", "base")
    )
    arguments.add_argument("--seconds", type=float, default=10, help="of each load (default: 10)")
    arguments.add_argument("--rounds", type=int, default=20, help="calls of http, each way (default: 20)")
    arguments.add_argument("--requests", type=int, default=1000, help="of memory (default: 1000)")
    given = arguments.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for preset in given.presets:
            model = packaged(Path(folder) / preset, preset)
            found[preset] = measured(model, given)
    print(json.dumps(found))


def packaged(folder: Path, preset: str) -> Path:
    """One packaged version of random weights."""
    rng = np.random.default_rng(0)
    days = np.datetime64("2010-01-01") + np.arange(5000)
    days = days[np.is_busday(days)]
    series = {}
    for number in range(4):
        close = 50 * np.exp(np.cumsum(rng.normal(0, 0.02, len(days))))
        columns = [close, close * 1.01, close * 0.99, close, np.full(len(days), 1e5), close * 1e5]
        series[f"T{number}"] = (days, np.stack(columns, axis=1).astype(np.float32))
    settings: dict[str, dict[str, Any]] = {
        "data": {
            "data_path": "unused",
            "store": str(folder / "store"),
            "lookback_window": BARS,
            "predict_window": STEPS,
        },
        "training": {
            "tokenizer_epochs": 1,
            "basemodel_epochs": 1,
            "samples_per_epoch": 2,
            "validation_samples": 2,
            "batch_size": 2,
            "num_workers": 0,
            "trackers": [],
        },
        "model_paths": {"base_save_path": str(folder / "run")},
        "experiment": {"pre_trained": False, "preset": preset},
        "device": {"use_cuda": False},
    }
    config = Config()
    for section, values in settings.items():
        config = replace(config, **{section: replace(getattr(config, section), **values)})
    config = configfile.derived_paths(config)
    store = store_from_dict(Path(config.data.store), series)
    for stage in ("tokenizer", "basemodel"):
        run_stage(config, stage, store)
    return package_model(config, folder / "models", preset)


def measured(model: Path, given: argparse.Namespace) -> dict[str, Any]:
    """All figures of one package, each said when it is known."""
    served = Served.load(model)
    figures: dict[str, Any] = {}

    def say(name: str, value: Any) -> None:
        figures[name] = value
        print(f"{model.parent.name} {name}: {json.dumps(value)}", flush=True)

    say("import_torch", child([sys.executable, "-c", "import torch"]))
    begun = time.perf_counter()
    with running(model) as service:
        say("exec_to_ready", {"s": round(time.perf_counter() - begun, 2), "cpu_s": round(service.cpu(), 2)})
        for paths in (1, 33):
            say(f"http_{paths}_paths", http(service, served, paths, given.rounds))
        with running(model, "--batch-series", "1") as alone:
            pair = (service, alone)
            say("batching", batching(pair, served, [STEPS] * CLIENTS, given.seconds))
            say("horizons", batching(pair, served, list(range(5, 5 + CLIENTS)), given.seconds))
        say("memory", memory(service, given.requests))
        say("storm", storm(service))
    return figures


@dataclass(frozen=True)
class Service:
    """A running scripts/serve.py."""

    url: str
    process: psutil.Process

    def cpu(self) -> float:
        """Seconds of the processor that it has used."""
        used = self.process.cpu_times()
        return float(used.user + used.system)

    def ready(self) -> dict[str, Any]:
        return dict(json.loads(get(self.url, "/health/ready")))


def child(command: list[str]) -> dict[str, float]:
    """Seconds of a process, from exec to its end."""
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"s": round(time.perf_counter() - begun, 2), "cpu_s": round(cpu, 2)}


def http(service: Service, served: Served, paths: int, rounds: int) -> dict[str, float]:
    """Milliseconds at the median, of the library and over HTTP, called in turn."""
    body = request_of(0, STEPS, paths)
    asked = read_request(body)
    library, over = [], []
    for _ in range(2):
        served.forecast(asked)
        post(service.url, body)
    used, own = service.cpu(), 0.0
    for _ in range(rounds):
        begun = time.process_time()
        library.append(timed(lambda: served.forecast(asked)))
        own += time.process_time() - begun
        over.append(timed(lambda: post(service.url, body)))
    alone, through = statistics.median(library), statistics.median(over)
    added, added_cpu = 1000 * (through - alone), 1000 * (service.cpu() - used - own) / rounds
    return {
        "library_ms": round(1000 * alone, 2),
        "http_ms": round(1000 * through, 2),
        "added_ms": round(added, 2),
        "added_share": round(added / (1000 * alone), 4),
        "library_cpu_ms": round(1000 * own / rounds, 2),
        "added_cpu_ms": round(added_cpu, 2),
        "library_p99_ms": round(1000 * float(np.quantile(library, 0.99)), 2),
        "http_p99_ms": round(1000 * float(np.quantile(over, 0.99)), 2),
    }


def batching(
    services: tuple[Service, Service], served: Served, horizons: list[int], seconds: float
) -> dict[str, float]:
    """Requests per second of 32 clients, with batching and without, in turn; and the largest difference from
    the library alone. services: with, without.
    """
    bodies = [request_of(client, steps, 1) for client, steps in enumerate(horizons)]
    expected = [served.forecast(read_request(body)) for body in bodies]
    answers, used, took, worst = [0, 0], [0.0, 0.0], [0.0, 0.0], 0.0
    latencies: list[float] = []
    for _ in range(2):
        for place, one in enumerate(services):
            before, begun = one.cpu(), time.perf_counter()
            times, difference = load(one.url, bodies, expected, seconds / 2)
            took[place] += time.perf_counter() - begun
            used[place] += one.cpu() - before
            answers[place] += len(times)
            worst = max(worst, difference)
            if place == 0:
                latencies += times
    rates = [count / elapsed for count, elapsed in zip(answers, took, strict=True)]
    per_cpu = [count / cpu for count, cpu in zip(answers, used, strict=True)]
    return {
        "batched_per_s": round(rates[0], 2),
        "alone_per_s": round(rates[1], 2),
        "ratio": round(rates[0] / rates[1], 2),
        "cpu_ratio": round(per_cpu[0] / per_cpu[1], 2),
        "p50_ms": round(1000 * statistics.median(latencies), 1),
        "largest_difference": worst,
    }


def load(
    url: str, bodies: list[bytes], expected: list[dict[str, Any]], seconds: float
) -> tuple[list[float], float]:
    """One client per body, who asks again for `seconds`: seconds of every answer, and the largest difference
    from what was expected.
    """
    until, lock = time.perf_counter() + seconds, threading.Lock()
    times: list[float] = []
    worst = [0.0]

    def client(number: int) -> None:
        while time.perf_counter() < until:
            begun = time.perf_counter()
            answer = post(url, bodies[number])
            ended = time.perf_counter()
            one = difference(answer, expected[number])
            with lock:
                worst[0] = max(worst[0], one)
                times.append(ended - begun)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times, worst[0]


def difference(answer: dict[str, Any], expected: dict[str, Any]) -> float:
    """The largest relative difference of a median; infinity for another series."""
    own, other = answer["predictions"][0], expected["predictions"][0]
    if own["series_id"] != other["series_id"] or own["timestamps"] != other["timestamps"]:
        return float("inf")
    pairs = (np.array([list(one["median"].values()) for one in (own, other)])).astype(np.float64)
    return float((np.abs(pairs[0] - pairs[1]) / np.maximum(np.abs(pairs[1]), 1e-12)).max())


def memory(service: Service, requests: int) -> dict[str, float]:
    """Megabytes of the service before and after so many requests, by 8 clients."""
    bodies = [request_of(client, 2, 1) for client in range(8)]
    for body in bodies * 25:
        post(service.url, body)
    before, used = service.ready()["memory_mb"], service.cpu()

    def client(body: bytes) -> None:
        for _ in range(requests // len(bodies)):
            post(service.url, body)

    threads = [threading.Thread(target=client, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = service.ready()["memory_mb"]
    return {
        "requests": requests,
        "before_mb": before,
        "after_mb": after,
        "growth_mb": round(after - before, 1),
        "cpu_s": round(service.cpu() - used, 1),
    }


def storm(service: Service, requests: int = 2000) -> dict[str, Any]:
    """Answers by status of so many requests at once, and /health/live meanwhile."""
    body, lock = request_of(0, 2, 1), threading.Lock()
    statuses: dict[str, int] = {}
    before = service.ready()["memory_mb"]

    def ask() -> None:
        try:
            post(service.url, body)
            status = "200"
        except urllib.error.HTTPError as error:
            status = str(error.code)
        except OSError as error:
            status = type(error).__name__
        with lock:
            statuses[status] = statuses.get(status, 0) + 1

    command = [sys.executable, "-c", WATCH, service.url]
    watcher = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    threads = [threading.Thread(target=ask) for _ in range(requests)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told, _ = watcher.communicate()
    lives = json.loads(told)
    return {
        "statuses": statuses,
        "live_p50_ms": round(1000 * statistics.median(lives), 1),
        "live_p99_ms": round(1000 * float(np.quantile(lives, 0.99)), 1),
        "live_most_ms": round(1000 * max(lives), 1),
        "growth_mb": round(service.ready()["memory_mb"] - before, 1),
    }


# -- what they share -----------------------------------------------------------------------------------------
@contextmanager
def running(model: Path, *flags: str) -> Iterator[Service]:
    """scripts/serve.py on a free port, ready."""
    command = [sys.executable, "-u", str(SERVE), "--model", str(model), "--port", "0", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    try:
        url = ""
        for line in process.stdout:
            if line.startswith("ready: "):
                url = line.split()[1]
                break
        service = Service(url, psutil.Process(process.pid))
        if service.ready()["status"] != "healthy":
            raise SystemExit("the service is not healthy")
        yield service
    finally:
        process.terminate()
        process.wait()


def request_of(client: int, steps: int, paths: int) -> bytes:
    """A request of one series."""
    rng = np.random.default_rng(client)
    days = np.datetime64("2022-01-03") + np.arange(2 * BARS)
    days = days[np.is_busday(days)][:BARS]
    close = 50 * np.exp(np.cumsum(rng.normal(0, 0.02, BARS)))
    one = {"series_id": f"S{client}", "timestamps": [str(day) for day in days]}
    for name, factor in (("open", 1.0), ("high", 1.01), ("low", 0.99), ("close", 1.0)):
        one[name] = (close * factor).tolist()
    tree = {"stock_data": [one], "prediction_horizon": steps, "sample_count": paths, "deadline_s": 600}
    body = json.dumps(tree).encode()
    assert isinstance(read_request(body), PredictRequest)
    return body


def post(url: str, body: bytes) -> Any:
    """The answer to a predict request. Raises on anything but 200."""
    request = urllib.request.Request(url + "/v1/predict", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as answer:
        return json.loads(answer.read())


def get(url: str, path: str) -> bytes:
    with urllib.request.urlopen(url + path, timeout=60) as answer:
        return bytes(answer.read())


def timed(work: Any) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    cli.run(main)
