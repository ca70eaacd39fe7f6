#!/usr/bin/env python3
"""What the service costs and gains, in one run and as ratios: seconds of a shared machine wander.

    python scripts/bench/bench_service.py                       nano and mini, random weights, 256 bars + 30 steps
    python scripts/bench/bench_service.py --presets nano --requests 10000

For each preset a package is made of random weights (one optimiser step). Measured, one after the other and in
turn:
* http: one client, one series, 33 paths and 1 path: requests over HTTP minus the library on the same series.
* batching: 32 clients of one series each, one path, against the same service with --batch-series 1.
* horizons: the same with 32 horizons, 5 to 36.
* ready: from exec of scripts/serve.py to a healthy /health/ready.
* memory: of the service, before and after --requests requests.
Every answer of batching and horizons is compared with the library's alone. The last line is JSON.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a clone, without an installation

import numpy as np

from kronos import cli, configfile
from kronos.config import Config
from kronos.data.store import store_from_dict
from kronos.delivery.package import package_model
from kronos.service.schema import PredictRequest, read_request
from kronos.service.served import Served
from kronos.training.stages import run_stage

BARS, STEPS, CLIENTS = 256, 30, 32
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

    begun = time.perf_counter()
    with running(model) as url:
        say("exec_to_ready_s", round(time.perf_counter() - begun, 2))
        for paths in (1, 33):
            say(f"http_{paths}_paths", http(url, served, paths, given.rounds))
        with running(model, "--batch-series", "1") as alone:
            say("batching", batching(url, alone, served, [STEPS] * CLIENTS, given.seconds))
            say("horizons", batching(url, alone, served, list(range(5, 5 + CLIENTS)), given.seconds))
        say("memory", memory(url, given.requests))
    return figures


def http(url: str, served: Served, paths: int, rounds: int) -> dict[str, float]:
    """Milliseconds at the median, of the library and over HTTP, called in turn."""
    body = request_of(0, STEPS, paths)
    asked = read_request(body)
    library, over = [], []
    for _ in range(rounds + 2):
        library.append(timed(lambda: served.forecast(asked)))
        over.append(timed(lambda: post(url, body)))
    alone, through = statistics.median(library[2:]), statistics.median(over[2:])
    added = 1000 * (through - alone)
    return {
        "library_ms": round(1000 * alone, 2),
        "http_ms": round(1000 * through, 2),
        "added_ms": round(added, 2),
        "added_share": round(added / (1000 * alone), 4),
        "http_p99_ms": round(1000 * float(np.quantile(over[2:], 0.99)), 2),
    }


def batching(url: str, alone: str, served: Served, horizons: list[int], seconds: float) -> dict[str, float]:
    """Requests per second of 32 clients, with batching and without, in turn; and the largest difference from
    the library alone.
    """
    bodies = [request_of(client, steps, 1) for client, steps in enumerate(horizons)]
    expected = [served.forecast(read_request(body)) for body in bodies]
    counts = {url: 0.0, alone: 0.0}
    worst, latencies = 0.0, []
    for _ in range(2):
        for one in (url, alone):
            done, difference, times = load(one, bodies, expected, seconds / 2)
            counts[one] += done
            worst = max(worst, difference)
            if one == url:
                latencies += times
    return {
        "batched_per_s": round(counts[url] / seconds, 2),
        "alone_per_s": round(counts[alone] / seconds, 2),
        "ratio": round(counts[url] / counts[alone], 2),
        "p50_ms": round(1000 * statistics.median(latencies), 1),
        "largest_difference": worst,
    }


def load(
    url: str, bodies: list[bytes], expected: list[dict[str, Any]], seconds: float
) -> tuple[int, float, list[float]]:
    """Answers within `seconds` of one client per body, their largest difference, and each one's seconds."""
    until, times, worst, lock = time.perf_counter() + seconds, [], [0.0], threading.Lock()

    def client(number: int) -> None:
        while time.perf_counter() < until:
            begun = time.perf_counter()
            answer = post(url, bodies[number])
            ended = time.perf_counter()
            one = difference(answer, expected[number])
            with lock:
                worst[0] = max(worst[0], one)
                if ended <= until:
                    times.append(ended - begun)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(times), worst[0], times


def difference(answer: dict[str, Any], expected: dict[str, Any]) -> float:
    """The largest relative difference of a median; infinity for another series."""
    own, other = answer["predictions"][0], expected["predictions"][0]
    if own["series_id"] != other["series_id"] or own["timestamps"] != other["timestamps"]:
        return float("inf")
    pairs = (np.array([list(one["median"].values()) for one in (own, other)])).astype(np.float64)
    return float((np.abs(pairs[0] - pairs[1]) / np.maximum(np.abs(pairs[1]), 1e-12)).max())


def memory(url: str, requests: int) -> dict[str, float]:
    """Megabytes of the service before and after so many requests, by 8 clients."""
    bodies = [request_of(client, 2, 1) for client in range(8)]
    for body in bodies * 25:
        post(url, body)
    before = json.loads(get(url, "/health/ready"))["memory_mb"]

    def client(body: bytes) -> None:
        for _ in range(requests // len(bodies)):
            post(url, body)

    threads = [threading.Thread(target=client, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = json.loads(get(url, "/health/ready"))["memory_mb"]
    return {
        "requests": requests,
        "before_mb": before,
        "after_mb": after,
        "growth_mb": round(after - before, 1),
    }


# -- what they share -----------------------------------------------------------------------------------------
@contextmanager
def running(model: Path, *flags: str) -> Iterator[str]:
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
        if json.loads(get(url, "/health/ready"))["status"] != "healthy":
            raise SystemExit("the service is not healthy")
        yield url
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
