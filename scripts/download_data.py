#!/usr/bin/env python3
"""Download the competition's files from Kaggle into the folder that the configuration reads them from.

Needs a Kaggle token and the rules accepted on the competition's page. Run it again after an interruption: it
goes on where it stopped, and fetches nothing that is there. Sizes and digests: download.json beside the
files. See docs/kaggle.md.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, without an installation

from kronos import cli


def main() -> None:
    arguments = cli.parser(__doc__ or "")
    arguments.add_argument(
        "--again", action="store_true", help="fetch everything anew and replace what is there"
    )
    arguments.add_argument(
        "--patience", type=float, metavar="S", help="seconds that Kaggle may stay silent (default: 120)"
    )
    args = arguments.parse_args()
    cli.setup_logging()

    from kronos import configfile
    from kronos.delivery.client import PATIENCE
    from kronos.delivery.download import download_data

    patience = PATIENCE if args.patience is None else args.patience
    print(download_data(configfile.load(args.config, args.overrides), args.again, patience).table())


if __name__ == "__main__":
    cli.run(main)
