"""What a run's backtest lets expect of a submission: its accuracy with an interval, as `backtest/report.json` states it.

In: the run's folder, the digest of its predictor. Out: the report of these very weights, or in words why there is none: a run
that is trained anew keeps the report of the weights before. The report's form: docs/evaluation.md.
"""

import json
import logging
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

NONE = "no backtest"
OTHERS = "no backtest of these weights"


def expectation(run: str, manifest: dict[str, Any]) -> str:
    """The accuracy over many dates that the run's backtest found, with its 95 % interval, or why it is not known."""
    if not run:
        return NONE
    report, why = report_of(Path(run), manifest.get("model", {}).get("digest") or "")
    return why or shown(main_figure(report or {}, "accuracy")) or NONE


def report_of(run: Path, weights: str | None) -> tuple[dict[str, Any] | None, str]:
    """(a run's backtest, '') or (None, why it says nothing about these weights).

    weights: the predictor's digest, '' where it is not known; None: the run has no weights of its own that could have changed.
    """
    path = run / "backtest" / "report.json"
    if not path.is_file():
        return None, NONE
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        main_figure(report, "accuracy")
        tested = {model["digest"] for model in report["models"]}
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        log.warning("%s: expected a backtest's report, found %r; it is left out", path, error)
        return None, f"{NONE} (unreadable)"
    if report.get("control"):
        return None, f"{NONE} (a control: {report['control']})"
    if weights is not None and weights not in tested:
        return None, OTHERS
    return report, ""


def main_figure(report: dict[str, Any], figure: str) -> dict[str, Any] | None:
    """{value, low, high, p, dates} of the entry that the report's verdict is about, None where it has no such figure."""
    main = next(entry for entry in report["entries"] if entry["name"] == report["main"])
    found = main["figures"].get(figure)
    return dict(found) if found and found.get("value") is not None else None


def shown(interval: dict[str, Any] | None) -> str:
    """51.2% (50.3-52.1%, 40 dates); '' for None."""
    if interval is None:
        return ""
    width = "no interval" if interval["low"] is None else f"{interval['low']:.1%}-{interval['high']:.1%}".replace("%-", "-")
    return f"{interval['value']:.1%} ({width}, {interval['dates']} dates)"
