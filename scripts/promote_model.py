#!/usr/bin/env python3
"""Let a version of a model be served: --model models/NAME --to staging, then --to production. What a gate
refuses stays as it was.

--rollback: production becomes what it was before; --forward takes that back; --status shows what leads where
(docs/models.md).
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, without an installation

from kronos import cli
from kronos.errors import KitError


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    arguments.add_argument("--model", required=True, metavar="DIR", help="a model's folder, models/NAME")
    arguments.add_argument("--to", choices=("staging", "production"), help="what the version shall be")
    arguments.add_argument(
        "--version", metavar="vX.Y.Z", help="default: latest for staging, staging for production"
    )
    arguments.add_argument("--rollback", action="store_true", help="to what production was before, and end")
    arguments.add_argument("--forward", action="store_true", help="take the last rollback back, and end")
    arguments.add_argument("--status", action="store_true", help="show what leads where, and end")
    arguments.add_argument(
        "--alias", choices=("staging", "production"), default="production", help="of --rollback and --forward"
    )
    arguments.add_argument("--state", metavar="DIR", help="the service's state folder: replay kept requests")
    arguments.add_argument(
        "--report", metavar="FILE", help="a backtest's report.json that scored both networks"
    )
    arguments.add_argument(
        "--skip", action="append", default=[], metavar="GATE", help="leave out comparison, latency or replay"
    )
    arguments.add_argument("--why", default="", metavar="TEXT", help="the reason, for the history")
    arguments.add_argument("--device", default="cpu", help="where networks are tried (default: cpu)")
    args = arguments.parse_args()
    if sum((bool(args.to), args.rollback, args.forward, args.status)) != 1:
        raise KitError("expected exactly one of --to, --rollback, --forward, --status; see --help")
    cli.setup_logging()

    from kronos.delivery import registry
    from kronos.delivery.package_facts import check_sums

    if args.status:
        print("\n".join(registry.status_lines(args.model)))
        return
    if args.to:
        from kronos.delivery import gates  # loads torch, which a rollback does not wait for

        asked = gates.Asked(
            Path(args.report) if args.report else None,
            Path(args.state) if args.state else None,
            tuple(args.skip),
            args.why,
            args.device,
        )
        change = gates.promote(args.model, args.to, args.version, asked)
    else:
        move = registry.rollback if args.rollback else registry.forward
        change = move(args.model, args.alias, args.why or "asked for", check_sums)
    print(f"{change.alias} is now {change.after} (before: {change.before or 'none'})")


if __name__ == "__main__":
    cli.run(main)
