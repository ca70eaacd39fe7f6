#!/usr/bin/env python3
"""How long answers take without sampling: a submission by head, and a backtest of head and fits.

    python scripts/bench/bench_answers.py [--rows 256] [--dates 4] [--threads N]

* submission: a head on `mini` tokens of 256 bars, measured on --rows rows and scaled to 5,000 (budget 100 s in
  float32).
* backtest: 1,230 tickers on 120 dates by a head on `nano` tokens of 64 bars, measured on --dates dates and scaled by rows;
  fits of ridge, logistic regression and boosting before each of 4 folds, and their answers, each measured once and
  scaled (budget 300 s together). A fit is not scaled: with fewer --tickers it has fewer samples, which are printed.
Weights and prices are random: the time is that of any. A share is measured and scaled, since rows cost alike; the
last line is JSON and says by how much. With a busy machine the figures are of that machine.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a clone, without an installation

import numpy as np
import torch

from kronos import cli
from kronos.answers.answerer import Answerer, Rows
from kronos.answers.fitted import Fitting, as_rows, bars_on, fitters
from kronos.answers.head import HeadAnswerer
from kronos.data.channels import CHANNELS, FIGURES
from kronos.data.store import BarStore
from kronos.forecasting.frames import Known
from kronos.networks import Kronos, KronosTokenizer, preset
from kronos.networks.head import Head
from kronos.predictor import store_of

ROWS, TICKERS, DATES, FOLDS, HORIZON = 5000, 1230, 120, 4, 30
DAYS = 4400
"""Trading days of the market: 120 dates 30 days apart, and a few years before them."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows", type=int, default=256, metavar="N", help="measured of 5,000 (default: %(default)s)"
    )
    parser.add_argument(
        "--dates", type=int, default=4, metavar="N", help="measured of 120 (default: %(default)s)"
    )
    parser.add_argument("--tickers", type=int, default=TICKERS, metavar="N", help="of the market")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="of torch; 0: as it takes")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    store = market(given.tickers)
    figures: dict[str, Any] = {"machine": cli_machine(), "threads": torch.get_num_threads()}
    figures |= submission(store, given.rows) | backtest(store, given.dates)
    for name, value in figures.items():
        print(f"{name:<28} {value}")
    print(json.dumps(figures))


def cli_machine() -> str:
    """What the processor calls itself."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def market(tickers: int) -> BarStore:
    """Random walks of tickers that are all there on every day."""
    rng = np.random.default_rng(0)
    days = np.arange("1995-01-01", "2030-01-01", dtype="datetime64[D]")
    days = days[np.is_busday(days)][:DAYS].astype("datetime64[s]")
    known = []
    for _ in range(tickers):
        close = 50 * np.exp(np.cumsum(rng.normal(0, 0.02, DAYS)))
        volume = rng.lognormal(10, 0.3, DAYS)
        bars = np.stack([close, close * 1.01, close * 0.99, close, volume, volume * close], axis=1)
        known.append(Known(bars.astype(np.float32), days, days[:0], days[:0]))  # type: ignore[arg-type]
    return store_of(known, [f"T{number:04d}" for number in range(tickers)])


def head_of(size: str, lookback: int) -> HeadAnswerer:
    """A head with random weights on a preset's tokens."""
    torch.manual_seed(0)
    tokenizer, predictor = preset(size)
    head = Head.on(
        Kronos(**predictor),
        KronosTokenizer(**tokenizer),
        inputs="tokens",
        horizons=[1, 5, 10, 20, HORIZON],
        asked=HORIZON,
        lookback=250,
        patch=5,
        channels=len(CHANNELS),
        figures=len(FIGURES),
        width=64,
        layers=3,
        heads=4,
        ff_dim=128,
        dropout_p=0.1,
        token_lookback=lookback,
        clip=5.0,
        norm_epsilon="absolute",
        frozen=False,
    )
    return HeadAnswerer(head, torch.device("cpu"))


def rows_on(store: BarStore, sessions: np.ndarray) -> Rows:
    row, date = bars_on(store, sessions)
    return as_rows(store, row, sessions[date], HORIZON)


def took(who: Answerer, store: BarStore, rows: Rows) -> float:
    """Seconds of an answer, after a small one that loads what is loaded once."""
    who.answer(store, rows.only(np.arange(min(8, len(rows)))))
    began = time.perf_counter()
    who.answer(store, rows)
    return time.perf_counter() - began


def submission(store: BarStore, rows: int) -> dict[str, Any]:
    asked = rows_on(store, np.array([DAYS - 1]))
    asked = asked.only(np.arange(min(rows, len(asked))))
    seconds = took(head_of("mini", 256), store, asked)
    return {
        "submission_rows_measured": len(asked),
        "submission_s_of_5000": round(seconds * ROWS / len(asked), 1),
    }


def backtest(store: BarStore, dates: int) -> dict[str, Any]:
    sessions = np.arange(DAYS - 1 - HORIZON, 0, -HORIZON)[:DATES][::-1]
    asked = rows_on(store, sessions[-dates:])
    head = took(head_of("nano", 64), store, asked) * TICKERS * DATES / len(asked)
    found = {"backtest_dates_measured": dates, "backtest_head_s": round(head, 1)}
    total = head
    everyone = rows_on(store, sessions)
    for fitter in fitters(Fitting()):
        began = time.perf_counter()
        model = fitter.fit(store, int(sessions[-1]), HORIZON)
        fit = time.perf_counter() - began
        began = time.perf_counter()
        model.answer(store, everyone)
        answer = (time.perf_counter() - began) * TICKERS * DATES / len(everyone)
        found |= {f"{fitter.name}_fit_s": round(fit, 1), f"{fitter.name}_answers_s": round(answer, 1)}
        found[f"{fitter.name}_samples"] = model.recipe.samples
        total += FOLDS * fit + answer
    return found | {"backtest_s": round(total, 1)}


if __name__ == "__main__":
    cli.run(main)
