#!/usr/bin/env python3
"""List all runs under model_paths.base_path, best first: changed settings, losses, backtest figures with
intervals, time, cost.

--against A B compares two of them date by date, on the dates that both backtests have.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, without an installation

from kronos import cli


def main() -> None:
    arguments = cli.parser(__doc__ or "")
    arguments.add_argument(
        "--price", type=float, metavar="P", help="price of an hour of training, for the column cost"
    )
    arguments.add_argument(
        "--against", nargs=2, metavar=("A", "B"), help="two runs, by name under base_path or by folder"
    )
    args = arguments.parse_args()
    cli.setup_logging()

    from kronos import configfile
    from kronos.delivery.runs import against, find_runs, read_run, runs_table

    base = Path(configfile.load(args.config, args.overrides).model_paths.base_path)
    if args.against:
        folders = [base / name if (base / name).is_dir() else Path(name) for name in args.against]
        print(against(read_run(folders[0]), read_run(folders[1])))
    else:
        print(runs_table(find_runs(base), args.price))


if __name__ == "__main__":
    cli.run(main)
