#!/usr/bin/env python3
"""How fast the kit reads, checks and stores a competition file, beside pandas.read_csv on the same file.

    python scripts/bench/bench_data.py                  21 million rows in the competition's layout (2.3 GB for a while)
    python scripts/bench/bench_data.py --rows 1000000   a quick look
    python scripts/bench/bench_data.py --repeat 3       three measurements of each, in turns

Each measurement runs in its own process: wall time from start to exit, imports included, and peak resident
memory of that process; then scripts/bench/bench_windows.py. The last line is one JSON object with the ratios.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a clone, without an installation

import numpy as np
import polars as pl

from kronos import cli
from kronos.data.store import BarStore

ROOT = Path(__file__).resolve().parents[2]
WINDOWS = ROOT / "scripts" / "bench_windows.py"
PANDAS = "import sys, pandas; print(len(pandas.read_csv(sys.argv[1])))"


def panel(rows: int, tickers: int, seed: int = 0) -> Iterator[pl.DataFrame]:
    """The competition's layout and dirt: by date, unordered within a date, 17-digit prices, Open = 0 in early
    years.
    """
    rng = np.random.default_rng(seed)
    days = max(int(3.75 * rows / tickers), 2)  # the mean history is 27 % of the longest, as in the real file
    length = np.maximum((days * rng.beta(0.9, 2.45, tickers)).astype(int), 2)
    start = days - np.round(length * rows / length.sum()).astype(int).clip(2, days)
    names = np.array([f"ticker_{k + 1}" for k in range(tickers)])
    close = rng.lognormal(2.5, 1.2, tickers)
    idle = rng.random(tickers) < 0.1
    dates = np.datetime64("2024-09-23") - np.arange(days)[::-1] * 7 // 5
    piece: list[dict[str, Any]] = []
    for day in range(days):
        at = rng.permutation(np.flatnonzero(start <= day))
        piece.append(_one_day(rng, names, close, idle, at, dates[day], early=day < 0.35 * days))
        if sum(len(p["Open"]) for p in piece) > 400_000 or day == days - 1:
            yield pl.concat([pl.DataFrame(p) for p in piece])
            piece = []


def _one_day(
    rng: np.random.Generator,
    names: np.ndarray,
    close: np.ndarray,
    idle: np.ndarray,
    at: np.ndarray,
    day: np.datetime64,
    early: bool,
) -> dict[str, Any]:
    n = len(at)
    opened = close[at] * np.exp(np.where(idle[at], 0, 0.01 * rng.standard_normal(n)))
    closed = opened * np.exp(np.where(idle[at], 0, 0.02 * rng.standard_normal(n)))
    close[at] = closed
    wick = np.where(idle[at], 1, 1 + 0.01 * rng.random((2, n)))
    return {
        "Ticker": names[at],
        "Date": np.full(n, day, dtype="datetime64[D]"),
        "Open": np.zeros(n) if early else opened,
        "High": np.maximum(opened, closed) * wick[0],
        "Low": np.minimum(opened, closed) / wick[1],
        "Close": closed,
        "Volume": np.where(idle[at], 0.0, np.round(rng.lognormal(12, 2, n))),
        "Dividends": np.zeros(n),
        "Stock Splits": np.where(rng.random(n) < 1e-4, 2.0, 0.0),
    }


def write_panel(path: Path, rows: int, tickers: int) -> int:
    """Write the generated file; returns its number of rows."""
    count = 0
    with path.open("wb") as handle:
        for frame in panel(rows, tickers):
            frame.write_csv(handle, include_header=count == 0)
            count += len(frame)
    return count


def measure(command: list[str]) -> dict[str, float]:
    """Run a command; wall seconds, processor seconds, and peak resident memory in GB of that process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"bench: {command[:4]} failed with status {status}")
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_gb": usage.ru_maxrss * 1024 / 1e9,
    }


def bench_prepare(
    folder: Path, rows: int, tickers: int, config: str, overrides: list[str], repeat: int
) -> dict[str, Any]:
    """Generate the file, measure pandas.read_csv and kaggle/prepare_data.py on it in turns, and the reopening
    of the store.
    """
    source = folder / "train.csv"
    rows = write_panel(source, rows, tickers)
    print(f"generated {rows:,} rows, {source.stat().st_size / 1e9:.2f} GB, {tickers:,} tickers", flush=True)
    os.sync()  # nobody's time goes into writing the generated file
    measure(
        [sys.executable, "-c", f"open({str(source)!r}, 'rb').read()"]
    )  # both find the file in the page cache
    sets = [f"data.data_path={source}", "data.test_path=", "data.sample_submission_path=", *overrides]
    runs: list[dict[str, Any]] = []
    for _ in range(repeat):
        pandas = measure([sys.executable, "-c", PANDAS, str(source)])
        shutil.rmtree(folder / "store", ignore_errors=True)
        flags = [part for text in (*sets, f"data.store={folder / 'store'}") for part in ("--set", text)]
        kit = measure([sys.executable, str(ROOT / "kaggle" / "prepare_data.py"), "--config", config, *flags])
        runs.append(
            {"pandas_read_csv": pandas, "prepare_data": kit, "time_ratio": kit["seconds"] / pandas["seconds"]}
        )
        show(runs[-1])
    started = time.perf_counter()
    BarStore.open(folder / "store")
    return {
        "rows": rows,
        "bytes": source.stat().st_size,
        "tickers": tickers,
        "runs": runs,
        "time_ratio": statistics.median(run["time_ratio"] for run in runs),
        "reopen_ms": 1000 * (time.perf_counter() - started),
    }


def show(run: dict[str, Any]) -> None:
    """One measurement of both, for people."""
    for name in ("pandas_read_csv", "prepare_data"):
        wall, cpu, peak = run[name].values()
        print(f"{name:<18} {wall:>8.1f} s {cpu:>8.1f} CPU-s {peak:>8.2f} GB peak")
    print(f"{'ratio':<18} {run['time_ratio']:>8.2f}", flush=True)


def machine() -> str:
    """Processor, cores, versions and day: what a figure needs beside it."""
    processor = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "?",
    )
    versions = f"Python {sys.version.split()[0]}, polars {pl.__version__}, numpy {np.__version__}, pandas {version('pandas')}"
    return f"{processor}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {versions}; {date.today()}"


def main() -> None:
    parser = cli.parser(__doc__ or "", str(ROOT / "configs" / "kaggle.yaml"))
    parser.add_argument("--rows", type=int, default=21_000_000)
    parser.add_argument("--tickers", type=int, default=5_000)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument(
        "--folder", default=None, help="where the temporary files go (about 3.5 GB; default: the system's)"
    )
    arguments = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        given = (arguments.rows, arguments.tickers, arguments.config, arguments.overrides, arguments.repeat)
        result = bench_prepare(Path(folder), *given)
    print(f"windows: see {WINDOWS.name}", flush=True)
    shown = subprocess.run(
        [sys.executable, str(WINDOWS), "--config", arguments.config],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    print(shown.stdout, end="")
    result["windows"] = json.loads(shown.stdout.splitlines()[-1])
    ratio, reopening = result["time_ratio"], result["reopen_ms"]
    print(
        f"{'median ratio':<18} {ratio:>8.2f}      (goal: at most 0.8, and 1.2 GB)   reopening {reopening:.0f} ms"
    )
    print(json.dumps(result))


if __name__ == "__main__":
    cli.run(main)
