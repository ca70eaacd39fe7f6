#!/usr/bin/env python3
"""Enter what happened, so that kept forecasts can be judged: from a price file or a prepared store (docs/jobs.md).

python scripts/update_actuals.py --file prices.parquet --since 2026-01-01                to a running service
python scripts/update_actuals.py --file data/store --state service                       without one
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, without an installation

from kronos import cli


def main() -> int:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    arguments.add_argument(
        "--file", required=True, metavar="FILE", help="CSV or Parquet, or a prepared store"
    )
    arguments.add_argument("--since", default="", metavar="D", help="first day (default: all)")
    arguments.add_argument("--state", default="", metavar="DIR", help="state folder, in place of --url")
    arguments.add_argument("--url", default="http://127.0.0.1:7070", help="of the service")
    arguments.add_argument(
        "--api-key", default="", metavar="FILE", help="file with the key, where one is asked for"
    )
    given = arguments.parse_args()
    cli.setup_logging()
    from kronos.service import client

    return client.update(given)


if __name__ == "__main__":
    cli.run(main)
