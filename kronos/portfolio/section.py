"""A portfolio in the report of the backtest that its signals come from.

In: the tree of portfolio.json, a run's folder. Out: the part `portfolio` of report.json, and report.html drawn
anew.
"""

from pathlib import Path
from typing import Any

from kronos import files, records
from kronos.errors import KitError

REPORT = Path("backtest") / "report.json"
VERSION = 2
"""Of report.json: the first version that may have the part."""
CURVES = {"excess by day", "return by day", "compounded by day", "turnover by day"}
"""Stay in portfolio.json."""


def section_of(tree: dict[str, Any]) -> dict[str, Any]:
    """The part `portfolio` of report.json: all but the curves that its figure does not need."""
    signals = []
    for signal in tree["signals"]:
        own = {name: value for name, value in signal.items() if name not in CURVES}
        groups = {name: value for name, value in signal["facts"]["quantiles"].items() if name != "curves"}
        signals.append(own | {"facts": signal["facts"] | {"quantiles": groups}})
    return tree | {"signals": signals}


def add_to_report(run: Path, tree: dict[str, Any]) -> Path | None:
    """Write the section into a run's report. Returns the page's path; None where the run has no report.

    Raises KitError for a report of an earlier version, or one that cannot be read.
    """
    path = run / REPORT
    if not path.is_file():
        return None
    report = records.read(path, dict[str, Any], remedy="run the backtest again")
    if report.get("version") != VERSION:
        raise KitError(
            f"{path}: expected version {VERSION} to add the portfolio to, found {report.get('version')}; run the backtest again"
        )
    report["portfolio"] = section_of(tree)
    files.write_json(path, report)
    from kronos.evaluation.report import write_page  # matplotlib takes a second to load

    return write_page(report, path.with_suffix(".html"))
