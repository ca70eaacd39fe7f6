"""What a run's backtest lets expect of a submission: its accuracy with an interval, as `backtest/report.json` states it.

In: the run's folder, the submission's manifest. Out: a short text, or in words why there is none.
"""

from typing import Any

NONE = "no backtest"


def expectation(run: str, manifest: dict[str, Any]) -> str:
    """The accuracy over many dates that the run's backtest found, with its interval, or why it is not known."""
    return NONE
