#!/usr/bin/env python3
"""Which weight should bars inside the lookback have in the predictor's loss, and how many bars should a
window predict?

    python scripts/study/study_history_loss.py --folder runs/study-history --settings 1:1 0.1:8 --seeds 1 2 3

Trains the predictor of --config once per setting WEIGHT:PREDICT_WINDOW, signal and seed, each seed on a
market of its own, all settings of a market on one tokenizer, and forecasts dates after the training. A row:
the forecast's mean drift over --horizon days regressed on the normalised level of the last close (in a market
with signal 0 the truth is 0) with its t, accuracy after 1 and after H days beside the best attainable, Brier
score, cross entropy of the next bars on windows common to all settings. Errors are clustered by date; those
of the summary are over independent markets. A finished training is not repeated. One JSON line last.
docs/findings.md says what came out.
"""

import json
import logging
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a clone, without an installation

import numpy as np

from kronos import cli, configfile
from kronos.config import Config
from kronos.data.market import attainable, rise_probability
from kronos.data.store import BarStore
from kronos.forecasting.pair import find_pair, load_forecaster
from scripts.study import beliefs

COLUMNS = (
    "signal",
    "weight",
    "predict",
    "seed",
    "slope",
    "t",
    "hit_1",
    "hit_h",
    "best_1",
    "best_h",
    "brier_h",
    "loss",
)


def main() -> None:
    parser = cli.parser(__doc__ or "", "configs/demo.yaml")
    parser.add_argument(
        "--folder", default="runs/study-history", help="where markets and runs go (default: %(default)s)"
    )
    parser.add_argument(
        "--settings",
        nargs="+",
        default=["1:1", "0.1:8"],
        metavar="WEIGHT:PREDICT",
        help="(default: %(default)s)",
    )
    parser.add_argument(
        "--signals", nargs="+", type=float, default=[0.0, 0.4], metavar="S", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[1], metavar="N", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--horizon", type=int, default=5, metavar="H", help="days ahead (default: %(default)s)"
    )
    arguments = parser.parse_args()
    cli.setup_logging()
    logging.getLogger("kronos").setLevel(logging.WARNING)
    base = configfile.load(arguments.config, arguments.overrides)
    print("  ".join(f"{name:>8}" for name in COLUMNS), flush=True)
    rows = []
    for seed in arguments.seeds:
        for signal in arguments.signals:
            for setting in arguments.settings:
                weight, predict = setting.split(":")
                config = variant(base, Path(arguments.folder), signal, seed, float(weight), int(predict))
                rows.append(measure(config, beliefs.train(config), arguments.horizon))
                print("  ".join(f"{rows[-1][name]:8.4g}" for name in COLUMNS), flush=True)
    for line in summary(rows):
        print(line)
    print(json.dumps({"horizon": arguments.horizon, "rows": rows}))


def variant(base: Config, folder: Path, signal: float, seed: int, weight: float, predict: int) -> Config:
    """One training: on the market's first tokenizer, with parts that are the same for all settings."""
    market = folder / f"market-{signal:g}-{seed}"
    config = beliefs.on_market(base, market, signal, seed)
    run = market / f"weight-{weight:g}-predict-{predict}"
    first = next(iter(sorted(market.glob("weight-*/tokenizer"))), run / "tokenizer").parent
    config = replace(
        config,
        data=replace(config.data, predict_window=predict),
        training=replace(config.training, history_loss_weight=weight),
    )
    return beliefs.in_folder(config, run, first)


def measure(config: Config, store: BarStore, horizon: int) -> dict[str, float]:
    """One row of the table, on dates that neither stage has read."""
    origins = beliefs.held_out(config, store, horizon)
    belief = beliefs.believe(load_forecaster(config, find_pair(config)), origins)
    drift = beliefs.slope(belief.drift[:, -1], origins.level, origins.date)
    right = (belief.prob_up > 0.5) == origins.rise
    hits = [beliefs.mean(right[:, step], origins.date) for step in (0, -1)]
    return {
        "signal": config.market.signal,
        "weight": config.training.history_loss_weight,
        "predict": config.data.predict_window,
        "seed": config.training.seed,
        "slope": drift.value,
        "t": drift.t,
        "hit_1": hits[0].value,
        "hit_1_error": hits[0].error,
        "hit_h": hits[1].value,
        "hit_h_error": hits[1].error,
        "best_1": attainable(rise_probability(config.market.signal, 1)),
        "best_h": attainable(rise_probability(config.market.signal, horizon)),
        "brier_h": float(np.square(belief.prob_up[:, -1] - origins.rise[:, -1]).mean()),
        "loss": beliefs.next_bar_loss(config, store, horizon),
        "origins": len(origins),
        "dates": len(np.unique(origins.date)),
    }


def summary(rows: list[dict[str, float]]) -> list[str]:
    """Mean and standard error over seeds of each setting."""
    lines = []
    for key in dict.fromkeys((r["signal"], r["weight"], r["predict"]) for r in rows):
        same = [r for r in rows if (r["signal"], r["weight"], r["predict"]) == key]
        told = []
        for name in ("slope", "hit_1", "hit_h", "brier_h", "loss"):
            values = np.array([r[name] for r in same])
            error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
            told.append(f"{name} {values.mean():.4f} +- {error:.4f}")
        lines.append(
            f"signal {key[0]:g} weight {key[1]:g} predict {key[2]:g} over {len(same)} seeds: "
            + ", ".join(told)
        )
    return lines


if __name__ == "__main__":
    cli.run(main)
