#!/usr/bin/env python3
"""Should a forecast start from the true last close, or from the tokenizer's rendering of it
(inference.anchor)?

    python scripts/study/study_anchor.py --config runs/demo/pipeline_config.json

Forecasts dates of the test part twice with a trained run, the same tokens drawn, and prints for both:
accuracy, accuracy against the date's median, Brier score after 1 and after --horizon days, the slope of the
drift on the normalised level of the last close, and how far the mean next close is from the true one, as a
share of the price (beside the last price as a forecast). Errors are clustered by date; `gain` is the paired
difference. One JSON line last. docs/findings.md says what came out.
"""

import json
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a clone, without an installation

import numpy as np

from kronos import cli, configfile
from kronos.config import Config
from kronos.data.prepare import prepare
from kronos.forecasting.pair import find_pair, load_forecaster
from scripts.study import beliefs
from scripts.study.beliefs import Belief, Origins, Values


def main() -> None:
    parser = cli.parser(__doc__ or "", "configs/demo.yaml")
    parser.add_argument(
        "--horizon", type=int, default=5, metavar="H", help="days ahead (default: %(default)s)"
    )
    parser.add_argument("--every", type=int, metavar="N", help="days between two dates (default: H)")
    parser.add_argument("--tickers", type=int, metavar="N", help="only the first N tickers")
    arguments = parser.parse_args()
    cli.setup_logging()
    logging.getLogger("kronos").setLevel(logging.WARNING)
    config = configfile.load(arguments.config, arguments.overrides)
    origins = beliefs.held_out(config, prepare(config), arguments.horizon, arguments.every, arguments.tickers)
    report(origins, forecast(config, origins, "last_close"), forecast(config, origins, "none"))


def forecast(config: Config, origins: Origins, anchor: Literal["last_close", "none"]) -> Belief:
    config = replace(config, inference=replace(config.inference, anchor=anchor))
    return beliefs.believe(load_forecaster(config, find_pair(config)), origins)


def report(origins: Origins, anchored: Belief, plain: Belief) -> None:
    """Every measure for both, and the difference with its error."""
    dates = len(np.unique(origins.date))
    naive = (np.abs(origins.closes[:, 0] - origins.last) / origins.last).mean()
    print(
        f"{len(origins):,} origins on {dates} dates, {origins.closes.shape[1]} days ahead; the last price is off by {naive:.5f}"
    )
    ours, theirs = measures(origins, anchored), measures(origins, plain)
    rows = {}
    for name, values in ours.items():
        estimates = [beliefs.mean(v, origins.date) for v in (values, theirs[name], values - theirs[name])]
        rows[name] = {
            k: [e.value, e.error] for k, e in zip(("last_close", "none", "gain"), estimates, strict=True)
        }
    for key, belief in (("last_close", anchored), ("none", plain)):
        for step in (0, -1):
            drift = beliefs.slope(belief.drift[:, step], origins.level, origins.date)
            rows.setdefault(f"slope_{'1' if step == 0 else 'h'}", {})[key] = [drift.value, drift.error]
    for name, row in rows.items():
        print(
            f"{name:<12}" + "".join(f"  {k} {value:9.5f} +- {error:.5f}" for k, (value, error) in row.items())
        )
    print(json.dumps({"origins": len(origins), "dates": dates, "rows": rows}))


def measures(origins: Origins, belief: Belief) -> dict[str, Values]:
    """Each (n,), its mean is the measure."""
    result = {}
    for name, step in (("1", 0), ("h", -1)):
        up, rise = belief.prob_up[:, step], origins.rise[:, step]
        move = origins.closes[:, step] / origins.last - 1
        best = beliefs.within_date(move, origins.date) > 0
        result[f"hit_{name}"] = ((up > 0.5) == rise).astype(float)
        result[f"within_{name}"] = ((beliefs.within_date(up, origins.date) > 0) == best).astype(float)
        result[f"brier_{name}"] = np.square(up - rise)
    result["close_error"] = np.abs(belief.close[:, 0] - origins.closes[:, 0]) / origins.last
    return result


if __name__ == "__main__":
    cli.run(main)
