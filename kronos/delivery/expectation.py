"""What a run's backtest lets expect of a submission: its accuracy with an interval, as `backtest/report.json` states it.

In: the run's folder, the submission's manifest. Out: a short text, or in words why there is none. The report's form:
docs/evaluation.md.
"""

import json
import logging
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

NONE = "no backtest"


def expectation(run: str, manifest: dict[str, Any]) -> str:
    """The accuracy over many dates that the run's backtest found, with its 95 % interval, or why it is not known."""
    report = read_report(Path(run)) if run else None
    if report is None:
        return NONE
    tested = {model.get("digest") for model in report.get("models", [])}
    sent = manifest.get("model", {}).get("digest")
    if sent and tested and sent not in tested:
        return "no backtest of these weights"
    return shown(main_figure(report, "accuracy")) or NONE


def read_report(run: Path) -> dict[str, Any] | None:
    """A run's backtest, None where there is none that says something about the model: no report, or one of a control."""
    path = run / "backtest" / "report.json"
    if not path.is_file():
        return None
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        main_figure(report, "accuracy")
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        log.warning("%s: expected a backtest's report, found %r; it is left out", path, error)
        return None
    if report.get("control"):
        log.warning("%s: a control (%s), not the model; it is left out", path, report["control"])
        return None
    return report


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
