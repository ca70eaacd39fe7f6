#!/usr/bin/env python3
"""Throughput of a job beside that of one library call, same series, same process; one JSON line last.

    python scripts/bench/bench_jobs.py --model models/NAME/production --series 1000 --steps 30

Both in turn, `--repeat` times; the best of each counts. The job's time goes from its submission to its state
`done`, with one worker that has the model loaded: input and answers are written, flushed and entered in the table.
"""

import argparse
import functools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a clone, without an installation

import numpy as np

from kronos import cli
from kronos.bars import calendar_stamps
from kronos.service.jobs import Jobs
from kronos.service.kept import Kept
from kronos.service.schema import PredictRequest, parse
from kronos.service.served import Served
from kronos.service.state import dumps
from kronos.service.submit import JOB_LIMITS, chunk_size, submit
from kronos.service.worker import Worker, packages


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    arguments.add_argument("--model", required=True, metavar="DIR", help="a packaged version")
    arguments.add_argument("--series", type=int, default=1000)
    arguments.add_argument("--steps", type=int, default=30)
    arguments.add_argument("--paths", type=int, default=33)
    arguments.add_argument("--repeat", type=int, default=1)
    arguments.add_argument("--device", default="cpu")
    given = arguments.parse_args()
    served = Served.load(given.model, given.device)
    request = series_of(given, served.facts.lookback)
    library, job = [], []
    for _ in range(given.repeat):
        library.append(timed(functools.partial(call, served, request)))
        with tempfile.TemporaryDirectory() as folder:
            job.append(timed(functools.partial(run_job, served, request, given, Path(folder))))
    (wall, cpu), (job_wall, job_cpu) = (np.min(times, axis=0).tolist() for times in (library, job))
    found = {
        "series": given.series,
        "paths": given.paths,
        "steps": given.steps,
        "chunk": chunk_size(served, request),
        "library_s": round(wall, 2),
        "job_s": round(job_wall, 2),
        "ratio": round(wall / job_wall, 3),
        "library_cpu_s": round(cpu, 2),
        "job_cpu_s": round(job_cpu, 2),
        "cpu_ratio": round(cpu / job_cpu, 3),
    }
    print(json.dumps(found))


def series_of(given: argparse.Namespace, length: int) -> PredictRequest:
    """Random walks on weekdays."""
    rng = np.random.default_rng(0)
    days = np.datetime64("2020-01-01") + np.arange(2 * length)
    stamps = [str(day) for day in days[np.is_busday(days)][:length]]
    series = []
    for number in range(given.series):
        close = 50 * np.exp(np.cumsum(rng.normal(0, 0.02, length)))
        columns: dict[str, Any] = {"open": close, "high": close * 1.01, "low": close * 0.99, "close": close}
        columns["volume"] = rng.lognormal(10, 0.3, length)
        rounded = {name: np.round(values, 4).tolist() for name, values in columns.items()}
        series.append({"series_id": f"S{number}", "timestamps": stamps, **rounded})
    body = {"stock_data": series, "prediction_horizon": given.steps, "confidence_level": 0.8}
    return parse(dumps({**body, "sample_count": given.paths}), PredictRequest, JOB_LIMITS)


def call(served: Served, request: PredictRequest) -> None:
    """The library alone: `Forecaster.forecast` of all series."""
    prepared = served.prepare(request)
    sampling = replace(served.forecaster.sampling, sample_count=request.paths, seed=request.seed)
    forecaster = served.forecaster.using(sampling=sampling, batch_size=served.most_series(request))
    forecaster.forecast(prepared.bars, prepared.stamps, calendar_stamps(prepared.dates), prepared.keys)


def run_job(served: Served, request: PredictRequest, given: argparse.Namespace, folder: Path) -> None:
    """The same as a job."""
    jobs = Jobs(folder)
    models = packages(Path(given.model), given.device)
    models.take(served.digest, served)
    name = submit(jobs, served, request)
    Worker(jobs, models, keeper=Kept(folder)).run(until_idle=True)
    assert jobs.find(name)["done"] == given.series


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds on the clock and of the processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    cli.run(main)
