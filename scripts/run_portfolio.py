#!/usr/bin/env python3
"""What a signal would have earned, after costs, beside a benchmark and a band of luck.

The signal is a file (--signal-file CSV with date, ticker, score, known in the evening of the date) or what
the backtest of this configuration's run left (--answer NAME, --signal last). Writes portfolio.html, .json, .csv
and orders.csv to RUN/portfolio and a section into the backtest's report. docs/portfolio.md explains every
figure. Exit code 1: with --future-noise, where something later decided a deal.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, without an installation

from kronos import cli


def main() -> int:
    args = parser().parse_args()
    cli.setup_logging()

    from kronos import configfile
    from kronos.data.prepare import open_store
    from kronos.evaluation.predictions import PREDICTIONS
    from kronos.portfolio.earnings import run_portfolio
    from kronos.portfolio.kept import money_of, tries_of_others
    from kronos.portfolio.outcome import Request
    from kronos.portfolio.section import add_to_report
    from kronos.portfolio.strategies import TopkDropout

    config = configfile.load(args.config, args.overrides)
    tried, runs = tries_of_others(config.run_dir.parent, config.run_dir)
    request = Request(
        signal_file=args.signal_file,
        predictions=str(config.run_dir / "backtest" / PREDICTIONS),
        answer=args.answer,
        signals=tuple(args.signal),
        plan=TopkDropout(args.topk, args.drop, args.hold, args.account, args.deal),
        every=args.every,
        market=args.market,
        cost_bp=args.cost_bp,
        benchmark=args.benchmark,
        start=cli.day(args.start, "--start"),
        end=cli.day(args.end, "--end"),
        pool=args.pool or config.data.pool_path,
        least_price=args.least_price,
        least_amount=args.least_amount,
        quantiles=args.quantiles,
        money=args.money or money_of(str(config.data.data_path)),
        future_noise=args.future_noise,
        tried=tried,
        other_runs=runs,
    )
    folder = Path(args.output) if args.output else config.run_dir / "portfolio"
    report = run_portfolio(open_store(config), request, folder)
    where = f"Report: {folder / 'portfolio.html'}, portfolio.csv, orders.csv"
    if not args.signal_file and not args.output:
        section = add_to_report(config.run_dir, report.tree)
        where += f"; a section of {section}" if section else ""
    print("\n".join([report.table(), "", *report.lines, "", where]))
    return int(report.leaks)


def parser() -> argparse.ArgumentParser:
    made = cli.parser(__doc__ or "")
    add_signal(made)
    add_dealing(made)
    add_scope(made)
    return made


def add_signal(made: argparse.ArgumentParser) -> None:
    """What is dealt."""
    made.add_argument(
        "--signal-file", default="", metavar="CSV", help="date, ticker, score; needs only the prepared prices"
    )
    made.add_argument("--answer", default="", metavar="NAME", help="one answer of the run's backtest")
    made.add_argument(
        "--signal",
        action="append",
        default=[],
        metavar="NAME",
        help="of a network's paths: last, mean, max, min, median or prob, NAME.z in the original's units; may be repeated",
    )
    made.add_argument("--topk", type=int, default=50, help="stocks that are held (default: 50)")
    made.add_argument("--drop", type=int, default=5, help="stocks exchanged a day at most (default: 5)")
    made.add_argument("--hold", type=int, default=5, help="days that a stock is held at least (default: 5)")
    made.add_argument(
        "--every", type=int, default=1, metavar="N", help="use every n-th day with scores (default: 1)"
    )
    made.add_argument("--quantiles", type=int, default=5, metavar="N", help="groups by score (default: 5)")


def add_dealing(made: argparse.ArgumentParser) -> None:
    """Under which rules."""
    made.add_argument(
        "--market", default="none", metavar="NAME", help="rules: CN, US, qlib or none (default: none)"
    )
    made.add_argument(
        "--cost-bp", type=float, metavar="BP", help="basis points a side, in place of the market's costs"
    )
    made.add_argument(
        "--deal", default="open", choices=["open", "close", "vwap"], help="price of a deal (default: open)"
    )
    made.add_argument("--account", type=float, default=1e8, help="money at the start (default: 1e8)")
    made.add_argument(
        "--money", default="", metavar="NAME", help="currency of the amounts (default: as the source says)"
    )
    made.add_argument(
        "--future-noise",
        action="store_true",
        help="control: deal again with noise after each deal; nothing may change",
    )


def add_scope(made: argparse.ArgumentParser) -> None:
    """Who, when, beside what, and where the report goes."""
    made.add_argument(
        "--benchmark", default="equal", metavar="NAME", help="equal, a ticker, or a CSV (default: equal)"
    )
    made.add_argument("--start", default="", metavar="D", help="first day, e.g. 2020-01-31")
    made.add_argument("--end", default="", metavar="D", help="last day")
    made.add_argument(
        "--pool", default="", metavar="CSV", help="membership: ticker, first, last (default: data.pool_path)"
    )
    made.add_argument("--least-price", type=float, default=0.0, metavar="P", help="smallest close of a stock")
    made.add_argument(
        "--least-amount",
        type=float,
        default=0.0,
        metavar="M",
        help="least money dealt a day, mean of 20 days",
    )
    made.add_argument(
        "--output", default="", metavar="DIR", help="folder of the report (default: RUN/portfolio)"
    )


if __name__ == "__main__":
    cli.run(main)
