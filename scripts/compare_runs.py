#!/usr/bin/env python3
"""List all runs under model_paths.base_path, best first: changed settings, losses, backtest figures with
intervals, time, cost; and what their portfolios earned (scripts/run_portfolio.py).

--against A B compares two of them date by date, on the dates that both backtests have, and their portfolios
day by day.
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
        print(_portfolios_against(folders))
    else:
        runs = find_runs(base)
        print(runs_table(runs, args.price))
        print(_portfolios([run.folder for run in runs]))


def _portfolios(folders: list[Path]) -> str:
    """A table of what the runs' portfolios earned; empty without any."""
    from kronos.delivery.tables import table
    from kronos.portfolio.pairs import earnings_rows, owned

    found = [kept for kept in map(owned, folders) if kept is not None]
    if not found:
        return ""
    note = (
        "Excess over each portfolio's own benchmark, a year; in brackets 95 % intervals over blocks of days."
    )
    return f"\nPortfolios\n{table(earnings_rows(found))}\n{note}"


def _portfolios_against(folders: list[Path]) -> str:
    """Two runs' portfolios day by day; a line where one of them has none."""
    from kronos.delivery.tables import table
    from kronos.portfolio.pairs import owned, pairs_of

    one, other = owned(folders[0]), owned(folders[1])
    if one is None or other is None:
        missing = folders[0] if one is None else folders[1]
        return f"\nPortfolios: {missing.name} has none; scripts/run_portfolio.py makes it"
    rows, said = pairs_of(one, other)
    lines = [table(rows)] if rows else []
    note = "Excess after cost over each one's benchmark; the difference is that of returns after cost on common days."
    return "\n".join(["\nPortfolios", *lines, note, *said])


if __name__ == "__main__":
    cli.run(main)
