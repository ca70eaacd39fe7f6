#!/usr/bin/env python3
"""How long a portfolio of many tickers takes, and how much memory.

    python scripts/bench/bench_portfolio.py --tickers 1230 --days 4000

Writes a market of random walks and a file of scores for every ticker and day, then does what
scripts/run_portfolio.py does with them: read the file, deal, 20 portfolios of noise, figures, page. The last
line is one JSON object: seconds (wall clock), cpu_seconds, peak_gb (the most memory that the process had,
in GiB).
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a clone, without an installation

import numpy as np
import polars as pl

from kronos import cli
from kronos.data.store import BarStore
from kronos.data.store_writer import write_store
from kronos.portfolio.earnings import run_portfolio
from kronos.portfolio.outcome import Request
from kronos.portfolio.strategies import TopkDropout


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tickers", type=int, default=1230, help="(default: %(default)s)")
    parser.add_argument("--days", type=int, default=4000, help="(default: %(default)s)")
    parser.add_argument("--market", default="US", help="rules of scripts/run_portfolio.py (default: US)")
    arguments = parser.parse_args()
    cli.setup_logging()
    with tempfile.TemporaryDirectory() as folder:
        made(Path(folder), arguments.tickers, arguments.days)
        print(
            f"market and scores written: {arguments.tickers:,} tickers, {arguments.days:,} days", flush=True
        )
        wall, cpu = time.perf_counter(), time.process_time()
        request = Request(
            signal_file=str(Path(folder) / "scores.csv"), market=arguments.market, plan=TopkDropout()
        )
        report = run_portfolio(BarStore.open(Path(folder) / "store"), request, Path(folder) / "out")
        found = {
            "tickers": arguments.tickers,
            "days": arguments.days,
            "seconds": round(time.perf_counter() - wall, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
            "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        }
    print(report.table())
    print(json.dumps(found))


def made(folder: Path, count: int, days: int) -> None:
    """A store of random walks, and a score a day for every ticker that changes as slowly as a forecast."""
    rng = np.random.default_rng(0)
    dates = np.datetime64("2005-01-03") + np.arange(days)
    tickers = [f"T{number:05d}" for number in range(count)]
    bars = np.empty((count, days, 6), np.float32)
    for number in range(count):
        close = 30 * np.exp(np.cumsum(rng.normal(0, 0.02, days)))
        bars[number, :, :4] = close[:, None] * np.exp(rng.normal(0, 0.002, (days, 4)))
        bars[number, :, 4] = 1e5
        bars[number, :, 5] = 1e5 * close
    write_store(
        folder / "store",
        bars=bars.reshape(-1, 6),
        session=np.tile(np.arange(days, dtype=np.int32), count),
        sessions=dates.astype("datetime64[s]"),
        offsets=np.arange(count + 1) * days,
        tickers=tickers,
        manifest={"frequency": "daily"},
    )
    del bars
    with (folder / "scores.csv").open("wb") as file:
        file.write(b"date,ticker,score\n")
        score = rng.normal(size=count)
        for day in dates:
            score = 0.9 * score + 0.44 * rng.normal(size=count)
            part = pl.DataFrame({"date": [str(day)] * count, "ticker": tickers, "score": score})
            part.write_csv(file, include_header=False, float_precision=6)


if __name__ == "__main__":
    cli.run(main)
