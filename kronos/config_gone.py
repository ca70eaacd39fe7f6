"""Settings that earlier versions had and that went: what holds now.

In: the tree of a configuration. Out: the tree without them, and lines about them. A user's file that gives such
a setting another value than the one that holds now is refused (`kronos.configfile`). A saved configuration is read
all the same, and the line is logged: what was trained or forecast with it stays readable.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Gone:
    """A setting that went."""

    values: tuple[Any, ...]
    """Values that change nothing: with these the setting is left out. (): all of them."""
    now: str
    """What holds now, and what to set instead where there is something."""


ONE_DECISION = (
    "inference.calibration says for the backtest, too, whether answers are decided by earlier dates"
)
GONE: dict[str, Gone] = {
    "evaluation.calibration": Gone(("auto", "temperature", "platt", "isotonic"), ONE_DECISION),
    "evaluation.calibration_share": Gone((0.3,), "decisions are fitted on the first 30 % of the days"),
    "evaluation.embargo": Gone((0,), "the horizon alone lies between fit, calibration and test"),
    "evaluation.fitted_weights": Gone((True,), "each blend is scored with fitted weights, too"),
    "evaluation.fit_every": Gone((5,), "fitted answerers learn from every fifth trading day"),
    "evaluation.baseline_rows": Gone((1_000_000,), "a fitted answerer learns from at most 1,000,000 samples"),
    "evaluation.seed": Gone((42,), "the backtest takes training.seed"),
}
"""Every setting that went, as section.key."""


def without_gone(tree: Any) -> tuple[Any, list[str], list[str]]:
    """A configuration without the settings that went.

    Returns (the tree, remarks, others). remarks: at most one line, with all that were left out because their value
    changes nothing. others: a line for each that asks for something that is no longer there.
    """
    if not isinstance(tree, dict):
        return tree, [], []
    result, left_out, others = dict(tree), [], []
    for name, gone in GONE.items():
        section, key = name.split(".")
        own = result.get(section)
        if not isinstance(own, dict) or key not in own:
            continue
        value = own[key]
        result[section] = {other: own[other] for other in own if other != key}
        if not gone.values or value in gone.values:
            left_out.append(name)
        else:
            others.append(f"{name}: expected no such setting any more, found {value!r}; {gone.now}")
    remarks = []
    if left_out:
        remarks.append(f"settings that went are left out, their values still hold: {', '.join(left_out)}")
    return result, remarks, others
