#!/usr/bin/env python3
"""Enter what happened, so that kept forecasts can be judged: from a price file or a prepared store (docs/jobs.md).

python scripts/update_actuals.py --file prices.parquet --since 2026-01-01                to a running service
python scripts/update_actuals.py --file data/store --state service                       without one
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, without an installation

from kronos import cli
from kronos.service.arguments import parser


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--since", default="", metavar="D", help="first day (default: all)")
    arguments.add_argument("--state", default="", metavar="DIR", help="state folder, in place of --url")
    given = arguments.parse_args()
    cli.setup_logging()
    from kronos.service import client

    return client.update(given)


if __name__ == "__main__":
    cli.run(main)
