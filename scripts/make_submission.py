#!/usr/bin/env python3
"""Answer the test rows and write a submission file with its manifest.

Who answers: --answer auto (default) takes what the evidence of `run_backtest.py --save` prefers, --answer
NAME one by name (network, boosting, "all rise", ...), --answer blend:A+B the mean of the ranks of two.
The file goes to submissions/EXP_NAME-TIME.csv unless --output names it; the line that submits it is printed.
Under `accelerate launch --multi_gpu --num_processes N` N processes (or GPUs) share the rows; the file stays
the same.
"""

import logging
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, without an installation

from kronos import cli


def main() -> None:
    arguments = cli.parser(__doc__ or "")
    arguments.add_argument("--output", metavar="PATH", help="write this .csv file, replacing it if it exists")
    arguments.add_argument(
        "--horizon", metavar="N", help="trading days from the last known bar; sets inference.horizon"
    )
    arguments.add_argument(
        "--answer", metavar="NAME", help="auto, a name or blend:A+B; sets inference.answer"
    )
    arguments.add_argument(
        "--refit", action="store_true", help="fit before each date of the test file; sets inference.refit"
    )
    arguments.add_argument(
        "--allow-incomplete", action="store_true", help="use networks whose training has not ended"
    )
    args = arguments.parse_args()
    cli.setup_logging()
    if os.environ.get("RANK", "0") != "0":
        logging.disable(logging.INFO)

    from kronos import configfile
    from kronos.launch.ending import is_competition
    from kronos.submission import make_submission

    given = {"inference.horizon": args.horizon, "inference.answer": args.answer}
    if args.refit:
        given["inference.refit"] = "true"
    overrides = [*args.overrides, *(f"{key}={value}" for key, value in given.items() if value)]
    config = configfile.load(args.config, overrides)
    made = make_submission(config, args.output, args.allow_incomplete)
    print(f"{made.path}\n{made.table()}")
    if is_competition(config):  # Kaggle takes no answers to a synthetic market or to rows of one's own
        print(f"Submit it with:\n  {made.command}")


if __name__ == "__main__":
    cli.run(main)
