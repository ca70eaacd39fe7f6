"""The loss curves of a stage as a picture.

In: metrics.jsonl. Out: loss.png beside it, written atomically. matplotlib is loaded here only; a machine
without it trains without a picture, and says so.
"""

import importlib.util
import logging
from pathlib import Path
from typing import Any

from kronos import files
from kronos.palette import BLUE, GREY, INK

log = logging.getLogger(__name__)

PICTURE = "loss.png"


def draw(folder: Path, records: list[dict[str, Any]], metric: str) -> None:
    """Write loss.png of a stage's records.

    metric: the validation value that chooses the best network. The tokenizer's training loss subtracts an
    entropy and may be negative, so where training reports the metric, too, that is the training curve.
    """
    if importlib.util.find_spec("matplotlib") is None:
        log.info("matplotlib is not installed: no %s", folder / PICTURE)
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(
        title=f"{folder.parent.name}: {folder.name}", xlabel="optimiser step", ylabel=metric.replace("_", " ")
    )
    styles: dict[str, dict[str, Any]] = {
        "train": {"color": BLUE, "linewidth": 1},
        "validation": {"color": INK, "marker": "o", "markersize": 4},
    }
    for kind, style in styles.items():
        points = [(r["step"], r[metric]) for r in records if r["kind"] == kind and r.get(metric) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), label=kind, **style)
    if (uniform := uniform_loss(records)) is not None:
        axes.axhline(uniform, color=GREY, linestyle="--", label=f"knowing nothing ({uniform:.2f} nats)")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    with files.atomic(folder / PICTURE) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def uniform_loss(records: list[dict[str, Any]]) -> float | None:
    """The predictor's loss if all tokens were equally likely; None where a stage has none."""
    for record in reversed(records):
        if record["kind"] == "validation" and "s1_uniform" in record:
            return (record["s1_uniform"] + record["s2_uniform"]) / 2
    return None
