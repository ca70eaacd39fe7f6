"""What a stage came to, as a table at its end.

In: the stage's records and its progress. Out: lines of text.
"""

import math
import statistics
from pathlib import Path
from typing import Any

from kronos.training.checkpoint import Progress
from kronos.training.curves import uniform_loss
from kronos.training.log import clock

Records = list[dict[str, Any]]
HIDDEN = ("weight", "history_weight", "s1_uniform", "s2_uniform")


def table(folder: Path, title: str, metric: str, records: Records, progress: Progress) -> list[str]:
    """The stage's values before training, at its best and at its last validation, and where everything lies.

    metric: the value that chose the best network; it comes first.
    """
    validations = [r for r in records if r["kind"] == "validation"]
    first = next((r for r in validations if r["step"] == 0), {})
    best = progress.best or {"step": "-", "values": {}}
    last = next((r for r in reversed(validations) if r["step"] > 0), {"step": "-"})
    columns = (first, best["values"], last, uniform_values(records, metric))
    heads = ("before", f"best ({best['step']})", f"last ({last['step']})", "knowing nothing")
    names = [n for n in {metric: 0, **best["values"]} if n not in HIDDEN]
    rows = [(name, *(_shown(column.get(name)) for column in columns)) for name in names]
    lines = [title, _line(("validation (step)", *heads)), *(_line(row) for row in rows)]
    if not first:
        lines.append("  before: not measured, the weights were random")
    return lines + _verdict(metric, progress) + _speed(records, progress) + _places(folder)


def uniform_values(records: Records, metric: str) -> dict[str, float]:
    """What a predictor that knows nothing would reach, by name of the value."""
    seen = next((r for r in reversed(records) if r["kind"] == "validation" and "s1_uniform" in r), None)
    loss = uniform_loss(records)
    if seen is None or loss is None:
        return {}
    parts = {"s1": seen["s1_uniform"], "s2": seen["s2_uniform"]}
    return {metric: loss, **parts, **{f"{name}_perplexity": math.exp(value) for name, value in parts.items()}}


def worse_than_start(progress: Progress) -> bool | None:
    """Whether the best network is no better than the pretrained one it started from; None where that was not
    measured.
    """
    if progress.start_value is None or progress.best is None:
        return None
    return progress.best["value"] >= progress.start_value


def _verdict(metric: str, progress: Progress) -> list[str]:
    worse = worse_than_start(progress)
    if worse is None or progress.best is None:
        return []
    reached = min(progress.history, default=progress.best["value"])
    found = f"best {metric} {reached:.6g}, before training {progress.start_value:.6g}"
    if worse:
        advice = "best_model is the start, unchanged; a smaller learning rate (1e-5 or below) usually helps"
        return [f"  fine-tuning made it WORSE than the pretrained weights: {found}; {advice}"]
    return [f"  better than the pretrained weights: {found}"]


def _speed(records: Records, progress: Progress) -> list[str]:
    rates = [r["windows_per_s"] for r in records if r["kind"] == "train" and r.get("windows_per_s")]
    speed = f", {statistics.median(rates):,.0f} windows/s (median of the logged)" if rates else ""
    skipped = f", {progress.skipped} steps skipped by the loss scaler" if progress.skipped else ""
    return [f"  {progress.step} steps in {clock(progress.seconds)}{speed}{skipped}"]


def _places(folder: Path) -> list[str]:
    places = ("best_model", "metrics.jsonl", "loss.png", "tensorboard", "summary.json")
    return [f"  in {folder}: " + ", ".join(name for name in places if (folder / name).exists())]


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:.5g}"


def _line(cells: tuple[str, ...]) -> str:
    return f"  {cells[0]:<22}" + "".join(f"{cell:>18}" for cell in cells[1:])
