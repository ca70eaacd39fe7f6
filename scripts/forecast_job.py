#!/usr/bin/env python3
"""Forecast every ticker of a price file in the background: submit a job, watch it, fetch the result (docs/jobs.md).

    python scripts/forecast_job.py --file prices.parquet --horizon 30 --level 0.9 --priority high --wait
    python scripts/forecast_job.py --file prices.parquet --model models/NAME/production --local   without a server

The file is read and cleaned as for training. The result is JSON, or a Parquet table (--output NAME.parquet).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, without an installation

from kronos import cli
from kronos.errors import KitError
from kronos.service.arguments import parser


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--tickers", default="", metavar="A,B", help="some of them (default: all)")
    arguments.add_argument(
        "--date", default="", metavar="D", help="last known day (default: the file's last)"
    )
    arguments.add_argument("--horizon", type=int, default=10, help="steps ahead (default: 10)")
    arguments.add_argument("--level", type=float, default=0.95, help="of the intervals (default: 0.95)")
    arguments.add_argument(
        "--paths", type=int, metavar="N", help="sampled paths (default: what the level needs)"
    )
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--priority", default="normal", choices=["high", "normal", "low"])
    arguments.add_argument("--key", default="", help="idempotency key: the same key and content is one job")
    arguments.add_argument("--wait", action="store_true", help="wait for the end and fetch the result")
    arguments.add_argument(
        "--output", default="", metavar="FILE", help=".json or .parquet (default: JOB.json in this folder)"
    )
    arguments.add_argument("--local", action="store_true", help="compute here; needs --model")
    arguments.add_argument("--model", default="", metavar="DIR", help="models/NAME/production, for --local")
    arguments.add_argument("--device", default="cpu", help="for --local (default: cpu)")
    given = arguments.parse_args()
    cli.setup_logging()
    if given.output and Path(given.output).suffix not in (".json", ".parquet"):
        raise KitError(f"--output: expected a name that ends in .json or .parquet, found {given.output!r}")
    from kronos.service import client

    return client.run(given)


if __name__ == "__main__":
    cli.run(main)
