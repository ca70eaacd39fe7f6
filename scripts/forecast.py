#!/usr/bin/env python3
"""Forecast the next trading days of every ticker of the prepared data, with the networks of a run.

python scripts/forecast.py --config F                             # as many days as the run was trained to predict
python scripts/forecast.py --config F --days 10 --tickers A,B,C
python scripts/forecast.py --config F --pool pool.csv --group sector

It writes a folder: index.html (one page), forecast.csv (a line per ticker: P(rise), quantiles), bars.csv (a
line per ticker and day), forecast.json (who answered). It starts from the last trading day of the data: after
new prices, prepare them first (python kaggle/prepare_data.py --config F).
"""

import csv
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, without an installation

from kronos import cli
from kronos.errors import KitError

MOST_DAYS = 512


def main() -> None:
    arguments = cli.parser(__doc__ or "")
    arguments.add_argument(
        "--days",
        type=int,
        metavar="N",
        help="trading days ahead (default: inference.horizon, else data.predict_window)",
    )
    arguments.add_argument("--tickers", metavar="A,B,C", help="only these")
    arguments.add_argument("--pool", metavar="FILE", help="only those of a CSV file with a column ticker")
    arguments.add_argument("--group", metavar="COLUMN", help="a column of the pool's file, such as a sector")
    arguments.add_argument("--answer", metavar="NAME", help="who gives P(rise); sets inference.answer")
    arguments.add_argument(
        "--pictures", type=int, default=8, metavar="N", help="tickers with a picture (default: 8)"
    )
    arguments.add_argument("--output", metavar="DIR", help="a new folder (default: forecasts/EXP_NAME-TIME)")
    args = arguments.parse_args()
    cli.setup_logging()
    tickers, groups = chosen(args.tickers, args.pool, args.group)

    from kronos import configfile
    from kronos.outlook.ahead import look_ahead
    from kronos.outlook.ahead_page import write_outlook

    overrides = [*args.overrides]
    if args.answer:
        overrides.append(f"inference.answer={args.answer}")
    config = configfile.load(args.config, overrides)
    days = args.days
    if days is None:
        days = config.inference.horizon or config.data.predict_window
    if not 1 <= days <= MOST_DAYS:
        raise KitError(f"--days: expected 1 to {MOST_DAYS}, found {days}")
    if args.pictures < 0:
        raise KitError(f"--pictures: expected 0 or more, found {args.pictures}")
    made = look_ahead(config, days, tickers, groups, args.pictures)
    folder = Path("forecasts") / f"{config.model_paths.exp_name}-{time.strftime('%Y%m%d-%H%M%S')}"
    if args.output:
        folder = Path(args.output)
    write_outlook(made, folder)
    print(f"{folder / 'index.html'}")
    print(f"  {len(made.tickers):,} tickers, {days} trading days, mean P(rise) {made.prob_up.mean():.1%}")


def chosen(
    named: str | None, pool: str | None, column: str | None
) -> tuple[list[str] | None, dict[str, str]]:
    """The tickers asked for (None: all) and their groups. Raises KitError for a file without the columns."""
    if pool is None:
        if column is not None:
            raise KitError("--group: expected --pool FILE, whose column it names, found none")
        if named is None:
            return None, {}
        return [name.strip() for name in named.split(",") if name.strip()], {}
    if named is not None:
        raise KitError("expected --tickers or --pool, found both; put the tickers into the pool's file")
    with Path(pool).open(newline="", encoding="utf-8-sig") as handle:
        lines = list(csv.DictReader(handle))
    columns = list(lines[0]) if lines else []
    wanted = ["ticker"]
    if column is not None:
        wanted.append(column)
    for name in wanted:
        if name not in columns:
            raise KitError(f"{pool}: expected a column {name!r}, found {', '.join(columns) or 'no row'}")
    groups = {}
    if column is not None:
        groups = {line["ticker"]: line[column] or "" for line in lines}
    return [line["ticker"] for line in lines], groups


if __name__ == "__main__":
    cli.run(main)
