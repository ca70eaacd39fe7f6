"""Forecasts that were given, and what became of them: one JSON file a request, an index of their series.

In: requests with their answers, chunks of jobs, known bars. Out: rows for `quality`, and what the page shows.
NumPy and the standard library. Forecasts of jobs stay in the job's own result files; the index names them.

Letters: H steps ahead.
"""

import json
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronos import files, records
from kronos.errors import KitError
from kronos.service import jobfiles
from kronos.service.database import Database, check_room, full_disk_said
from kronos.service.jobview import when
from kronos.service.lease import Chunk

log = logging.getLogger(__name__)

KEPT_SERIES = 200_000
"""Series in the index; beyond it the oldest forecasts leave."""
KEPT_BYTES = 2 * 2**30
"""Bytes of the files of requests; beyond it the oldest leave. Their series stay in the index."""
HISTORY = 120
"""Known bars that are shown in front of a forecast."""
FOLDER = "forecasts"
PRICES = ("open", "high", "low", "close")

SCHEMA = """
CREATE TABLE IF NOT EXISTS forecasts (
    id TEXT NOT NULL, place INTEGER NOT NULL, created REAL NOT NULL, job TEXT, series TEXT NOT NULL,
    name TEXT NOT NULL, version TEXT NOT NULL, digest TEXT NOT NULL, asof INTEGER NOT NULL, horizon INTEGER NOT NULL,
    level REAL NOT NULL, last_close REAL NOT NULL, prob_up REAL, dates BLOB NOT NULL, lower BLOB NOT NULL,
    upper BLOB NOT NULL, closes BLOB, asof_close REAL, PRIMARY KEY (id, place));
CREATE INDEX IF NOT EXISTS of_series ON forecasts (series, asof);
CREATE INDEX IF NOT EXISTS by_age ON forecasts (created);
CREATE TABLE IF NOT EXISTS requests (id TEXT PRIMARY KEY, created REAL NOT NULL, bytes INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS actuals (
    series TEXT NOT NULL, date INTEGER NOT NULL, open REAL, high REAL, low REAL, close REAL NOT NULL,
    PRIMARY KEY (series, date)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""
"""Dates are seconds since 1970 of the exchange's wall time; dates, lower, upper and closes hold H numbers."""


class UnknownForecast(KitError):
    """There is no such forecast, or it is no longer kept."""


class Kept:
    """The forecasts of one state folder."""

    def __init__(self, folder: str | Path, clock: Callable[[], float] = time.time) -> None:
        """Raises DiskFull."""
        self.folder, self.clock = Path(folder), clock
        self.database = Database(folder, SCHEMA)
        (self.folder / FOLDER).mkdir(mode=0o700, exist_ok=True)

    # -- keeping ---------------------------------------------------------------------------------------------
    def keep(self, request: Any, answer: dict[str, Any]) -> None:
        """Keep an answered `PredictRequest`. Raises DiskFull, with nothing kept."""
        name, created = str(answer["id"]), self.clock()
        asked = {**request.model_dump(mode="json"), "sample_count": request.paths}
        tree = {
            "id": name,
            "created": when(created),
            "request": asked,
            "answer": answer,
        }
        path = self.folder / FOLDER / f"{name}.json"
        with full_disk_said(self.folder):
            check_room(self.folder)
            files.write_text(path, json.dumps(tree, ensure_ascii=False, allow_nan=False))
        asof = [series["timestamps"][-1] for series in asked["stock_data"]]
        with self.database.writing() as connection:
            size = path.stat().st_size
            connection.execute("INSERT OR REPLACE INTO requests VALUES (?, ?, ?)", (name, created, size))
            _enter(connection, _rows(name, None, created, answer, asof))
            self._drop_oldest(connection)

    def of_chunk(
        self, chunk: Chunk, series: list[dict[str, Any]], answers: list[dict[str, Any]]
    ) -> Callable[[sqlite3.Connection], None]:
        """What enters a job's chunk in the index, inside the transaction that finishes it."""
        good = [place for place, answer in enumerate(answers) if "failed" not in answer]
        whole = {
            "model": {"name": chunk.name, "version": chunk.version, "digest": chunk.digest},
            "confidence_level": chunk.options["confidence_level"],
            "predictions": [answers[place] for place in good],
        }
        asof = [series[place]["timestamps"][-1] for place in good]
        rows = _rows(f"{chunk.job}.{chunk.number}", chunk.job, self.clock(), whole, asof, good)

        def enter(connection: sqlite3.Connection) -> None:
            _enter(connection, rows)
            self._drop_oldest(connection)

        return enter

    def _drop_oldest(self, connection: sqlite3.Connection) -> None:
        """Remove what is beyond the bounds, oldest first, and count it."""
        count = connection.execute("SELECT count(*) FROM forecasts").fetchone()[0]
        if count > KEPT_SERIES:
            dropped = connection.execute(
                "DELETE FROM forecasts WHERE rowid IN (SELECT rowid FROM forecasts ORDER BY created, id, place LIMIT ?)",
                (count - KEPT_SERIES,),
            )
            _count(connection, "series dropped", dropped.rowcount)
        total = connection.execute("SELECT coalesce(sum(bytes), 0) FROM requests").fetchone()[0]
        if total <= KEPT_BYTES:
            return
        for row in connection.execute("SELECT * FROM requests ORDER BY created").fetchall():
            connection.execute("DELETE FROM requests WHERE id = ?", (row["id"],))
            (self.folder / FOLDER / f"{row['id']}.json").unlink(missing_ok=True)
            _count(connection, "files dropped", 1)
            total -= row["bytes"]
            if total <= KEPT_BYTES:
                return

    # -- what became of them ---------------------------------------------------------------------------------
    def learn(self, series: str, dates: NDArray[np.int64], prices: NDArray[np.float64]) -> int:
        """Enter known bars of a series: dates (n,) seconds, prices (n, 4) open, high, low, close (NaN where only
        the close is known). A bar that is known already is replaced. Returns how many forecasts they touch.
        """
        rows = [
            (series, int(date), *(None if np.isnan(p) else float(p) for p in row))
            for date, row in zip(dates, prices, strict=True)
        ]
        with self.database.writing() as connection:
            connection.executemany("INSERT OR REPLACE INTO actuals VALUES (?, ?, ?, ?, ?, ?)", rows)
            return _settle(connection, series)

    def revision(self) -> int:
        """Rises whenever more becomes known of a forecast."""
        return self.counters().get("revision", 0)

    def counters(self) -> dict[str, int]:
        """series dropped, files dropped, revision: where they are not 0."""
        rows = self.database.connection().execute("SELECT * FROM counters")
        return {row["name"]: row["value"] for row in rows}

    # -- showing ---------------------------------------------------------------------------------------------
    def newest(
        self, series: str | None = None, version: str | None = None, most: int = 200
    ) -> list[dict[str, Any]]:
        """The newest forecasts, of one series or version or of all."""
        rows = self.database.connection().execute(
            "SELECT * FROM forecasts WHERE (series = ? OR ? IS NULL) AND (version = ? OR ? IS NULL) "
            "ORDER BY created DESC, id, place LIMIT ?",
            (series, series, version, version, most),
        )
        return [
            {
                "id": row["id"],
                "series_id": row["series"],
                "version": row["version"],
                "created": when(row["created"]),
                "last_date": texts(np.array([row["asof"]]))[0],
                "horizon": row["horizon"],
                "confidence_level": row["level"],
            }
            for row in rows
        ]

    def show(self, name: str) -> dict[str, Any]:
        """One forecast with the bars before it, and those that came after it where they are known. Raises
        UnknownForecast."""
        rows = self.database.connection().execute(
            "SELECT * FROM forecasts WHERE id = ? ORDER BY place", (name,)
        )
        found = rows.fetchall()
        if not found:
            raise UnknownForecast(
                f"forecasts: expected the id of one that is kept, found {name!r}; GET /v1/forecasts lists them"
            )
        asked, told = self._contents(found[0])
        series = [
            {
                "series_id": row["series"],
                "history": _history(asked[row["place"]]),
                "prediction": told[row["place"]],
                "actual": self._actual(row["series"], np.frombuffer(row["dates"], np.int64)),
            }
            for row in found
        ]
        head = {"id": name, "version": found[0]["version"], "confidence_level": found[0]["level"]}
        return {**head, "created": when(found[0]["created"]), "series": series}

    def _contents(self, row: sqlite3.Row) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Series and predictions of the request or chunk that a row belongs to."""
        gone = UnknownForecast(
            f"{row['id']}: expected its file, found that it is no longer kept; its figures are"
        )
        if row["job"] is None:
            path = self.folder / FOLDER / f"{row['id']}.json"
            if not path.is_file():
                raise gone
            tree = records.read_json(path)
            return tree["request"]["stock_data"], tree["answer"]["predictions"]
        folder = self.folder / "jobs" / row["job"]
        number = int(row["id"].rpartition(".")[2])
        chunk = self.database.connection().execute(
            "SELECT * FROM chunks WHERE job = ? AND number = ?", (row["job"], number)
        )
        place = chunk.fetchone()
        if place is None:
            raise gone
        count = place["stop"] - place["first"]
        asked = jobfiles.read_input(folder / jobfiles.INPUT, place["offset"], place["skip"], count)
        return asked, list(jobfiles.lines_of(jobfiles.result_of(folder, number)))

    def _actual(self, series: str, dates: NDArray[np.int64]) -> dict[str, Any] | None:
        """Known bars of a series on the dates of a forecast, as columns; None where there is none."""
        rows = self.database.connection().execute(
            "SELECT * FROM actuals WHERE series = ? AND date BETWEEN ? AND ? ORDER BY date",
            (series, int(dates[0]), int(dates[-1])),
        )
        asked = set(dates.tolist())
        known = [row for row in rows if row["date"] in asked]
        if not known:
            return None
        stamps = texts(np.array([row["date"] for row in known]))
        return {"timestamps": stamps, **{name: [row[name] for row in known] for name in PRICES}}


# -- rows ----------------------------------------------------------------------------------------------------
def seconds(texts: Sequence[str]) -> NDArray[np.int64]:
    """(n,) dates such as 2024-01-31 or 2024-01-31T09:30:00 as seconds since 1970."""
    return np.array(texts, dtype="datetime64[s]").astype(np.int64)


def texts(dates: NDArray[np.int64]) -> list[str]:
    """Seconds (n,) as dates, with a time of day where one is not midnight."""
    stamps = dates.astype("datetime64[s]")
    if (stamps == stamps.astype("datetime64[D]")).all():
        return [str(stamp) for stamp in stamps.astype("datetime64[D]")]
    return [str(stamp) for stamp in stamps]


def _rows(
    name: str,
    job: str | None,
    created: float,
    answer: dict[str, Any],
    asof: Sequence[str],
    places: Sequence[int] | None = None,
) -> list[tuple[Any, ...]]:
    """Rows of the index of one answer. asof: last known bar of each series."""
    model, rows = answer["model"], []
    known: dict[str, bytes] = {}  # most series of an answer have the same dates
    for place, one in enumerate(answer["predictions"]):
        stamps = one["timestamps"]
        key = "".join(stamps)
        if key not in known:
            known[key] = seconds(stamps).tobytes()
        bounds = _bounds(one)
        where = place if places is None else places[place]
        about = (
            name,
            where,
            created,
            job,
            one["series_id"],
            model["name"],
            model["version"],
            model["digest"],
        )
        last = (int(seconds([asof[place]])[0]), len(stamps), answer["confidence_level"], one["last_close"])
        rows.append((*about, *last, one["prob_up"], known[key], *bounds))
    return rows


def _bounds(prediction: dict[str, Any]) -> list[bytes]:
    """Lower and upper bounds of the close, H numbers each; NaN where the paths were too few for the level."""
    band = prediction["confidence_intervals"].get("close")
    if band is None:
        return [np.full(len(prediction["timestamps"]), np.nan).tobytes()] * 2
    return [np.array(band[side], np.float64).tobytes() for side in ("lower", "upper")]


def _enter(connection: sqlite3.Connection, rows: list[tuple[Any, ...]]) -> None:
    """Enter rows in the index, with what is known already of their dates."""
    connection.executemany(
        "INSERT OR REPLACE INTO forecasts (id, place, created, job, series, name, version, digest, asof, horizon, level, "
        f"last_close, prob_up, dates, lower, upper) VALUES ({', '.join('?' * 16)})",
        rows,
    )
    if connection.execute("SELECT EXISTS (SELECT 1 FROM actuals)").fetchone()[0]:
        for series in {row[4] for row in rows}:
            _settle(connection, series)


def _settle(connection: sqlite3.Connection, series: str) -> int:
    """Write the known closes of a series to its forecasts: NaN where one is not known. Returns how many
    forecasts changed."""
    found = connection.execute("SELECT date, close FROM actuals WHERE series = ?", (series,))
    closes = {row["date"]: row["close"] for row in found}
    rows = connection.execute("SELECT * FROM forecasts WHERE series = ?", (series,)).fetchall()
    changed = []
    for row in rows:
        dates = np.frombuffer(row["dates"], np.int64).tolist()
        known = np.array([closes.get(date, np.nan) for date in dates])
        if np.isnan(known).all():
            continue
        blob, base = known.tobytes(), closes.get(row["asof"])
        if blob != row["closes"] or base != row["asof_close"]:
            changed.append((blob, base, row["id"], row["place"]))
    connection.executemany(
        "UPDATE forecasts SET closes = ?, asof_close = ? WHERE id = ? AND place = ?", changed
    )
    if changed:
        _count(connection, "revision", 1)
    return len(changed)


def _history(series: dict[str, Any]) -> dict[str, Any]:
    """The last known bars of a series as columns."""
    return {name: series[name][-HISTORY:] for name in ("timestamps", *PRICES)}


def _count(connection: sqlite3.Connection, name: str, more: int) -> None:
    connection.execute(
        "INSERT INTO counters VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
        (name, more),
    )
