"""How good the served forecasts turned out, of all versions: computed when something new is known.

In: kept forecasts and the bars that came (`kept`), packages' promises. Out: the figures of each version
(`figures`), and the coverage that goes into later answers.
"""

import sqlite3
import threading
from collections.abc import Callable
from typing import Any

from kronos.service.kept import Kept
from kronos.service.outcomes import Outcomes, outcomes, report
from kronos.service.promise import Promise


class Quality:
    """Figures of all versions; computed again only when something new is known."""

    def __init__(self, kept: Kept, promise: Callable[[str], Promise]) -> None:
        """promise: what is known of a version's package."""
        self.kept, self.promise = kept, promise
        self._seen = -1
        self._lock = threading.Lock()
        self._report: list[dict[str, Any]] = []
        self._measured: dict[tuple[str, float, int], dict[str, Any]] = {}

    def report(self) -> dict[str, Any]:
        """Everything that is known, newest version first, and what was dropped."""
        self._refresh()
        return {"versions": self._report, "dropped": self.kept.counters()}

    def shown(self) -> list[dict[str, Any]]:
        """What was computed last, newest version first: never waits."""
        return self._report

    def measured(self, version: str, level: float, step: int) -> dict[str, Any] | None:
        """`measured_coverage` of an answer: level, step, value, interval, dates; None while nothing is known.

        Looks up what `report` computed last: it never waits.
        """
        return self._measured.get((version, round(level, 6), step))

    def refresh(self) -> list[str]:
        """Compute anew what has changed. Returns the lines of all alerts."""
        self._refresh()
        return [entry["alert"] for entry in self._report if entry["alert"]]

    def _refresh(self) -> None:
        with self._lock:  # the watching thread and a route may both ask
            self._compute()

    def _compute(self) -> None:
        seen = self.kept.revision()
        if seen == self._seen:
            return
        found, measured = [], {}
        for version in versions(self.kept.database.connection()):
            promise = self.promise(version)
            known = outcomes(self.kept.database.connection(), version, promise.train_end)
            found.append(_figures(version, known, promise))
            for row in found[-1]["coverage"]:
                key = (version, round(row["level"], 6), row["step"])
                measured[key] = {
                    "level": row["level"],
                    "step": row["step"],
                    "value": row["value"],
                    "interval": None if row["low"] is None else [row["low"], row["high"]],
                    "dates": row["dates"],
                }
        self._report, self._measured, self._seen = found, measured, seen


def versions(connection: sqlite3.Connection) -> list[str]:
    """Versions that made forecasts, the one with the newest first."""
    rows = connection.execute(
        "SELECT version, max(created) AS newest FROM forecasts GROUP BY version ORDER BY newest DESC"
    )
    return [row["version"] for row in rows]


def _figures(version: str, known: Outcomes, promise: Promise) -> dict[str, Any]:
    """All figures of a version."""
    if not len(known.asof):
        return report(version, known, promise)
    # Late: SciPy and scikit-learn take as long as the rest of the service's start.
    from kronos.service.figures import figures

    return figures(version, known, promise)
