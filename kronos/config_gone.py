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
    "training.decay_norms_and_biases": Gone((False,), "norms and biases never decay"),
    "training.tokenizer_grad_clip": Gone((2.0,), "the tokenizer's gradient norm is cut at 2"),
    "training.predictor_grad_clip": Gone((3.0,), "the predictor's gradient norm is cut at 3"),
    "training.tf32": Gone((True,), "TF32 is on where a GPU has it; NVIDIA_TF32_OVERRIDE=0 switches it off"),
    "distributed.use_ddp": Gone((), "several processes follow from distributed.num_processes"),
}
"""Every setting that went, as section.key."""


def without_gone(tree: Any) -> tuple[Any, list[str], list[str]]:
    """A configuration without the settings that went.

    Returns (the tree, remarks, others). remarks: one line with all that are left out because their value holds, and
    one for each whose value no longer matters. others: a line for each that asks for what is no longer there.
    """
    if not isinstance(tree, dict):
        return tree, [], []
    result = dict(tree)
    left_out: list[str] = []
    remarks: list[str] = []
    others: list[str] = []
    for name, gone in GONE.items():
        section, key = name.split(".")
        own = result.get(section)
        if not isinstance(own, dict) or key not in own:
            continue
        value = own[key]
        result[section] = {other: own[other] for other in own if other != key}
        if not gone.values:
            remarks.append(f"{name} is left out: {gone.now}")
        elif value in gone.values:
            left_out.append(name)
        else:
            others.append(f"{name}: expected no such setting any more, found {value!r}; {gone.now}")
    if left_out:
        remarks.append(f"settings that went are left out, their values still hold: {', '.join(left_out)}")
    return result, remarks, others
