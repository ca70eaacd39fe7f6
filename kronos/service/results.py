"""The answers of a job as one file: JSON, or a Parquet table with a row a step.

In: a job that is done. Out: a file beside its chunks, made once. polars for Parquet only.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kronos import files
from kronos.bars import FEATURES
from kronos.service.database import check_room, full_disk_said
from kronos.service.jobs import Jobs

VIEWS = ("mean", "median")
BOUNDS = ("lower", "upper")
ROWS_AT_ONCE = 50_000


def as_json(jobs: Jobs, name: str) -> Path:
    """id, model, horizon, confidence_level, sample_count, predictions in the order of the series, and those
    that failed with their reasons. Raises Unknown, Conflict (not done yet), DiskFull."""
    return _once(jobs, name, "result.json", lambda path: _write_json(jobs, name, path))


def as_parquet(jobs: Jobs, name: str) -> Path:
    """A row a step: series_id, step (from 1), timestamp, mean_close, lower_close, ... , prob_up of the last
    step; a series that failed has one row, with the reason in `failed`. Raises as `as_json`."""
    return _once(jobs, name, "result.parquet", lambda path: _write_parquet(jobs, name, path))


def _once(jobs: Jobs, name: str, file: str, write: Callable[[Path], None]) -> Path:
    target = jobs.folder / "jobs" / name / file
    jobs.require_done(name)
    if target.is_file():
        return target
    with full_disk_said(jobs.folder):
        check_room(jobs.folder)
        with files.atomic(target) as temporary:
            write(temporary)
    return target


def _write_json(jobs: Jobs, name: str, path: Path) -> None:
    model, options = jobs.model_of(name)
    head = {
        "id": name,
        "model": model,
        "horizon": options["prediction_horizon"],
        "confidence_level": options["confidence_level"],
        "sample_count": options["sample_count"],
    }
    failed = []
    with path.open("w", encoding="utf-8") as out:
        out.write(json.dumps(head, ensure_ascii=False)[:-1] + ', "predictions": [')
        comma = ""
        for answer in jobs.answers(name):
            if "failed" in answer:
                failed.append(answer)
                continue
            out.write(comma + "\n" + json.dumps(answer, ensure_ascii=False, allow_nan=False))
            comma = ","
        out.write('],\n"failed": ' + json.dumps(failed, ensure_ascii=False) + "}\n")


def _write_parquet(jobs: Jobs, name: str, path: Path) -> None:
    import polars as pl

    tables, rows = [], []
    for answer in jobs.answers(name):
        rows += list(_table(answer))
        if len(rows) > ROWS_AT_ONCE:
            tables.append(pl.DataFrame(rows, schema=_columns()))
            rows = []
    tables.append(pl.DataFrame(rows, schema=_columns()))
    pl.concat(tables).write_parquet(path)


def _columns() -> dict[str, Any]:
    import polars as pl

    numbers = [f"{view}_{feature}" for view in (*VIEWS, *BOUNDS) for feature in FEATURES]
    first = {"series_id": pl.String, "step": pl.Int32, "timestamp": pl.String}
    rest = {"last_close": pl.Float64, "prob_up": pl.Float64, "failed": pl.String}
    return {**first, **dict.fromkeys(numbers, pl.Float64), **rest}


def _table(answer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows of one series."""
    if "failed" in answer:
        yield {"series_id": answer["series_id"], "failed": answer["failed"]}
        return
    intervals = answer["confidence_intervals"]
    for step, stamp in enumerate(answer["timestamps"]):
        row = {"series_id": answer["series_id"], "step": step + 1, "timestamp": stamp}
        row |= {"last_close": answer["last_close"], "prob_up": answer["prob_up"]}
        for feature in FEATURES:
            row |= {f"{view}_{feature}": answer[view][feature][step] for view in VIEWS}
            if feature in intervals:
                row |= {f"{bound}_{feature}": intervals[feature][bound][step] for bound in BOUNDS}
        yield row
