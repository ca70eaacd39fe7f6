#!/usr/bin/env python3
"""Submit a file to the competition, wait for its score and log it in submissions/ledger.csv.

The file is checked against the sample first. The same content is sent once only, unless --again. Killed or
out of time while waiting, the same command looks the score up. Needs a Kaggle token; see docs/kaggle.md.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, without an installation

from kronos import cli


def main() -> None:
    arguments = cli.parser(__doc__ or "")
    arguments.add_argument("--file", required=True, metavar="X.csv", help="the submission (ID, Pred)")
    arguments.add_argument(
        "--message", required=True, metavar="TEXT", help="what tells it from others; Kaggle shows it"
    )
    arguments.add_argument(
        "--dry-run", action="store_true", help="check and show what would be sent, without network"
    )
    arguments.add_argument(
        "--again", action="store_true", help="submit although the same content was submitted before"
    )
    arguments.add_argument("--no-wait", action="store_true", help="do not wait for the score")
    arguments.add_argument(
        "--timeout",
        type=float,
        metavar="S",
        help="seconds to wait for the score (default: 600; 0: not at all)",
    )
    arguments.add_argument(
        "--patience", type=float, metavar="S", help="seconds that Kaggle may stay silent (default: 120)"
    )
    arguments.add_argument("--ledger", metavar="F", help="the log (default: submissions/ledger.csv)")
    args = arguments.parse_args()
    cli.setup_logging()

    from kronos import configfile
    from kronos.delivery import submit
    from kronos.delivery.client import PATIENCE
    from kronos.delivery.ledger import Ledger
    from kronos.delivery.parcel import pack

    parcel = pack(configfile.load(args.config, args.overrides), args.file, args.message)
    ledger = Ledger(args.ledger or submit.LEDGER)
    if args.dry_run:
        known = submit.last(parcel, ledger)
        print(f"Would be sent:\n{parcel.table()}\n{submit.told(known) if known else 'Not submitted before.'}")
        return
    print(parcel.table())
    wait = 0.0 if args.no_wait else submit.WAIT if args.timeout is None else args.timeout
    try:
        submit.submit(parcel, ledger, args.again, wait, PATIENCE if args.patience is None else args.patience)
    finally:
        print(ledger.table())


if __name__ == "__main__":
    cli.run(main)
