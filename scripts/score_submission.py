#!/usr/bin/env python3
"""Score a submission against known answers (data.solution_path), beside the baselines that any model has to
beat.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, without an installation

from kronos import cli


def main() -> None:
    arguments = cli.parser(__doc__ or "")
    arguments.add_argument("--file", required=True, metavar="X.csv", help="the submission (ID, Pred)")
    args = arguments.parse_args()
    cli.setup_logging()

    from kronos import configfile
    from kronos.scoring import score_submission

    print(score_submission(configfile.load(args.config, args.overrides), args.file).table())


if __name__ == "__main__":
    cli.run(main)
