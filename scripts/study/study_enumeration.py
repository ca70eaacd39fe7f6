#!/usr/bin/env python3
"""How many values of the next bar have to be listed (inference.enumeration_pairs, enumeration_mass)?

    python scripts/study/study_enumeration.py --config runs/real/pipeline_config.json

For origins after the training part, evenly spread: the likeliest values of the next bar are listed up to
--most, and P(rise) from the first N of them is compared with that of the whole list. One JSON line last.
docs/findings.md says what came out.
"""

import json
import logging
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a clone, without an installation

import numpy as np
from numpy.typing import NDArray

from kronos import cli, configfile
from kronos.bars import calendar_stamps
from kronos.config import Config
from kronos.data.prepare import open_store
from kronos.data.windows import WindowIndex
from kronos.forecasting.forecaster import Forecaster
from kronos.forecasting.next_step import Enumeration, listed, next_step
from kronos.forecasting.pair import find_pair, load_forecaster
from scripts.study import beliefs

LISTED = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
MASSES = (0.9, 0.95, 0.99, 0.995)
TIMED = 64


def main() -> None:
    parser = cli.parser(__doc__ or "", "configs/demo.yaml")
    parser.add_argument(
        "--origins", type=int, default=400, metavar="N", help="evenly spread (default: %(default)s)"
    )
    parser.add_argument(
        "--most",
        type=int,
        default=1 << 14,
        metavar="N",
        help="longest list (default: %(default)s, all of nano)",
    )
    arguments = parser.parse_args()
    cli.setup_logging()
    logging.getLogger("kronos").setLevel(logging.WARNING)
    config = configfile.load(arguments.config, arguments.overrides)
    forecaster = load_forecaster(config, find_pair(config))
    bars, stamps = origins(config, arguments.origins)
    parts = [
        mass_and_rises(forecaster, bars[i : i + 4], stamps[i : i + 4], arguments.most)
        for i in range(0, len(bars), 4)
    ]
    mass, rises = (np.concatenate(column) for column in zip(*parts, strict=True))
    whole = rises[:, -1] / mass[:, -1]
    row = {"origins": len(bars), "most": arguments.most, "least_mass": float(mass[:, -1].min())}
    row |= {
        f"values_for_{share}": np.percentile((mass < share).sum(axis=1) + 1, [50, 90, 100]).tolist()
        for share in MASSES
    }
    for count in (n for n in LISTED if n < mass.shape[1]):
        found = rises[:, count - 1] / mass[:, count - 1]
        off, flips = np.abs(found - whole), ((found > 0.5) != (whole > 0.5)).mean()
        row[f"first_{count}"] = {
            "mean_mass": float(mass[:, count - 1].mean()),
            "error_mean": float(off.mean()),
            "error_95": float(np.percentile(off, 95)),
            "error_most": float(off.max()),
            "other_answer": float(flips),
            "ms": milliseconds(forecaster, bars[:TIMED], stamps[:TIMED], count),
        }
    print("\n".join(f"{name:<16} {value}" for name, value in row.items()))
    print(json.dumps(row))


def origins(config: Config, count: int) -> tuple[NDArray, NDArray]:
    """Known bars (n, L, 6) and their stamps (n, L, 5) of windows after the training part."""
    store, lookback = open_store(config), config.data.lookback_window
    index = WindowIndex.build(store, lookback, 1, beliefs.unseen_part(config, store))
    where = index.rows(np.linspace(0, len(index) - 1, min(count, len(index))).astype(np.int64))[
        :, None
    ] + np.arange(lookback)
    return store.bars[where], calendar_stamps(store.dates(where))


def mass_and_rises(
    forecaster: Forecaster, bars: NDArray, stamps: NDArray, most: int
) -> tuple[NDArray, NDArray]:
    """Probability of the first N values and of those among them that rise, for every N; each (B, most)
    float64.
    """
    pairs, up, finite = listed(forecaster, bars, stamps, Enumeration(1.0, most))
    assert finite.all(), "the networks gave something that is not finite"
    wide = pairs.probability.double().cpu()
    sums = (np.cumsum(x.numpy(), axis=1) for x in (wide, wide * up.cpu()))
    mass, rises = (np.pad(x, ((0, 0), (0, most - x.shape[1])), mode="edge") for x in sums)
    return mass, rises


def milliseconds(forecaster: Forecaster, bars: NDArray, stamps: NDArray, count: int) -> float:
    """Time per series of `next_step` with lists of `count`, sixteen series at once."""
    begun = time.perf_counter()
    for first in range(0, len(bars), 16):
        next_step(forecaster, bars[first : first + 16], stamps[first : first + 16], Enumeration(1.0, count))
    return round((time.perf_counter() - begun) / len(bars) * 1e3, 2)


if __name__ == "__main__":
    cli.run(main)
