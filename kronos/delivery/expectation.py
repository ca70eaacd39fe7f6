"""What a backtest lets expect of a submission: its accuracy over dates with an interval.

In: the run's folder, the submission's manifest. Out: words. The manifest knows what was expected of its
answerer; for a manifest that does not say, the run's report of these very weights is read.
"""

import logging
from pathlib import Path
from typing import Any

from kronos import records
from kronos.answers.findings import Figure
from kronos.errors import KitError
from kronos.runfolder import NO_BACKTEST, RunFolder

log = logging.getLogger(__name__)


def expectation(run: str, manifest: dict[str, Any]) -> str:
    """The accuracy over many dates that a backtest found, with its 95 % interval, or why it is not known."""
    answer = manifest.get("answer")
    if isinstance(answer, dict):
        return _of_answer(answer)
    if not run:
        return NO_BACKTEST
    model = manifest.get("model")
    digest = model.get("digest") if isinstance(model, dict) else None
    report, why = RunFolder(Path(run)).report(str(digest or ""))
    return why or shown(main_figure(report or {}, "accuracy")) or NO_BACKTEST


def _of_answer(answer: dict[str, Any]) -> str:
    name = answer.get("name", "")
    if answer.get("expected") is None:
        return f"{NO_BACKTEST} of {name}"
    try:
        found = records.check(answer["expected"], Figure, "the manifest's answer.expected")
    except KitError as error:
        log.warning("%s", error)
        return f"{NO_BACKTEST} (unreadable)"
    return f"{shown(vars(found))} by {name}"


def main_figure(report: dict[str, Any], figure: str) -> dict[str, Any] | None:
    """{value, low, high, p, dates} of the entry that the report's verdict is about, None where it has no such
    figure.
    """
    main = next(entry for entry in report["entries"] if entry["name"] == report["main"])
    found = main["figures"].get(figure)
    return dict(found) if found and found.get("value") is not None else None


def shown(interval: dict[str, Any] | None) -> str:
    """51.2% (50.3-52.1%, 40 dates); '' for None."""
    if interval is None:
        return ""
    width = (
        "no interval"
        if interval["low"] is None
        else f"{interval['low']:.1%}-{interval['high']:.1%}".replace("%-", "-")
    )
    return f"{interval['value']:.1%} ({width}, {interval['dates']} dates)"
