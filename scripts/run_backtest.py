#!/usr/bin/env python3
"""Score a trained model on past dates, beside every baseline, with error bars over dates.

Writes report.html and report.json to RUN/backtest (or --output) and prints the verdict and the table.
docs/evaluation.md explains every figure. Exit code 1: a negative control found skill, or forecasts changed
with the future.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, without an installation

from kronos import cli


def read_arguments() -> argparse.Namespace:
    """The command line."""
    arguments = cli.parser(__doc__ or "")
    dates = arguments.add_mutually_exclusive_group()
    dates.add_argument(
        "--origins", metavar="N", help="as-of dates to score, evenly spread; sets evaluation.origins"
    )
    dates.add_argument(
        "--every", metavar="DAYS", help="trading days between two as-of dates; sets evaluation.every"
    )
    arguments.add_argument("--horizon", metavar="H", help="trading days ahead; sets evaluation.horizon")
    arguments.add_argument("--output", metavar="DIR", default="", help="folder of the report")
    arguments.add_argument(
        "--model", action="append", default=[], metavar="RUN", help="run folder; repeat to blend several"
    )
    arguments.add_argument(
        "--allow-incomplete", action="store_true", help="use networks whose training has not ended"
    )
    arguments.add_argument(
        "--save", action="store_true", help="leave decisions and evidence in RUN/decisions for the submission"
    )
    arguments.add_argument(
        "--no-network", action="store_true", help="score what needs no predictor, and the run's head"
    )
    what = arguments.add_mutually_exclusive_group()
    what.add_argument(
        "--shuffle-labels",
        action="store_const",
        dest="control",
        const="shuffle-labels",
        help="negative control",
    )
    what.add_argument(
        "--future-noise", action="store_const", dest="control", const="future-noise", help="negative control"
    )
    what.add_argument(
        "--refit", action="store_true", help="train anew before each fold of the dates (evaluation.folds)"
    )
    return arguments.parse_args()


def main() -> int:
    args = read_arguments()
    cli.setup_logging()

    from kronos import configfile
    from kronos.evaluation.backtest import Options, run_backtest

    given = {
        "evaluation.origins": args.origins,
        "evaluation.every": args.every,
        "evaluation.horizon": args.horizon,
    }
    overrides = [*args.overrides, *(f"{key}={value}" for key, value in given.items() if value)]
    overrides += ["evaluation.every=null"] if args.origins else []
    options = Options(
        models=tuple(args.model),
        output=args.output,
        control=args.control,
        refit=args.refit,
        allow_incomplete=args.allow_incomplete,
        save=args.save,
        network=not args.no_network,
    )
    done = run_backtest(configfile.load(args.config, overrides), options)
    saved = f"\nDecisions and evidence: {done.saved}" if done.saved else ""
    print(f"\n{done.text()}\nReport: {done.path.with_suffix('.html')} and {done.path.name}{saved}")
    return int(done.failed_control)


if __name__ == "__main__":
    cli.run(main)
