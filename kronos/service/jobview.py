"""What a caller is told of a job.

In: a job's row. Out: a tree for JSON. Standard library only.
"""

import sqlite3
from datetime import UTC, datetime
from typing import Any, Literal, get_args

Priority = Literal["high", "normal", "low"]
JobState = Literal["queued", "running", "done", "failed", "cancelled"]
PRIORITIES: tuple[Priority, ...] = get_args(Priority)


def shown(row: sqlite3.Row, now: float) -> dict[str, Any]:
    """id, state, priority, numbers of series, times, `eta_s` (seconds; None before the first chunk is done),
    the reason of a failure, the model. attempts: claims of all its chunks, so more than chunks says that some
    were tried again."""
    finished = row["done"] + row["failed"]
    eta = None
    if row["state"] == "running" and finished and row["started"] is not None:
        eta = round((row["series"] - finished) * (now - row["started"]) / finished, 1)
    return {
        "id": row["id"],
        "state": row["state"],
        "priority": PRIORITIES[row["priority"]],
        "series": row["series"],
        "done": row["done"],
        "failed": row["failed"],
        "attempts": row["attempts"],
        "created": when(row["created"]),
        "started": when(row["started"]),
        "finished": when(row["finished"]),
        "eta_s": eta,
        "reason": row["reason"],
        "model": {key: row[key] for key in ("name", "version", "digest")},
    }


def when(seconds: float | None) -> str | None:
    """Seconds since 1970 as a time of UTC, 2024-01-31T12:00:00Z."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
