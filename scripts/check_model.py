#!/usr/bin/env python3
"""Check a packaged model: FOLDER, e.g. models/NAME/v1.2.0. With --against, also whether it is as good and as
fast as another version.

One line per gate (docs/models.md); exit 1 when one does not pass. Nothing is changed.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, without an installation

from kronos import cli


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    arguments.add_argument("folder", metavar="FOLDER", help="a version's folder, or a link to one")
    arguments.add_argument("--against", metavar="FOLDER", help="the version to compare with")
    arguments.add_argument("--state", metavar="DIR", help="the service's state folder: replay kept requests")
    arguments.add_argument(
        "--report", metavar="FILE", help="a backtest's report.json that scored both networks"
    )
    arguments.add_argument("--device", default="cpu", help="where networks are tried (default: cpu)")
    args = arguments.parse_args()
    cli.setup_logging()

    from kronos.delivery import gates

    folder = Path(args.folder).resolve()
    found = gates.to_staging(folder)
    if args.against and not found.refused:
        asked = gates.Asked(
            Path(args.report) if args.report else None,
            Path(args.state) if args.state else None,
            device=args.device,
        )
        more = gates.against(folder, Path(args.against).resolve(), asked)
        found = gates.Gates(found.lines + more.lines, more.refused)
    for line in found.lines:
        print(f"passed   {line}")
    for line in found.refused:
        print(f"REFUSED  {line}")
    if found.refused:
        sys.exit(1)
    print(f"{folder}: sound")


if __name__ == "__main__":
    cli.run(main)
