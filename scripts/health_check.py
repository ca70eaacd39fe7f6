#!/usr/bin/env python3
"""Ask a service whether it is ready: URL, e.g. http://127.0.0.1:7070. --expect v1.2.0 also demands the version,
--forecasts 20 --package models/NAME/v1.2.0 also asks for so many forecasts.

Exit 0: ready (healthy or degraded: the line says which). Exit 1: not ready, another version, no answer.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, without an installation

from kronos import cli
from kronos.errors import KitError


def main() -> int:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    arguments.add_argument("url", metavar="URL", help="of the service, e.g. http://127.0.0.1:7070")
    arguments.add_argument("--expect", metavar="vX.Y.Z", help="the version that it has to serve")
    arguments.add_argument("--strict", action="store_true", help="degraded counts as not ready")
    arguments.add_argument(
        "--wait", type=float, default=0.0, metavar="S", help="seconds to wait until it is (default: 0)"
    )
    arguments.add_argument("--forecasts", type=int, default=0, metavar="N", help="ask for so many forecasts")
    arguments.add_argument("--package", metavar="DIR", help="with --forecasts: a version's folder")
    arguments.add_argument("--key-file", metavar="F", help="a file that holds the service's key")
    arguments.add_argument("--timeout", type=float, default=10.0, metavar="S", help="seconds for one call")
    args = arguments.parse_args()
    if bool(args.forecasts) != bool(args.package):
        raise KitError("expected --forecasts together with --package, found one of the two")

    from kronos.delivery.health import service_at, try_forecasts

    service = service_at(args.url, args.key_file, args.timeout)
    try:
        found = service.wait(args.expect, args.wait)
        print(found.line(args.url))
        if args.strict and found.status != "healthy":
            raise KitError(f"{args.url}: expected a healthy service, found a degraded one")
        if args.forecasts:
            print(try_forecasts(service, args.package, args.forecasts, args.expect))
    except KitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    cli.run(main)
